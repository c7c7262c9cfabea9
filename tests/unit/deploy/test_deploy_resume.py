"""The three places that decide whether a run directory can only be continued: submitted runs, KubeRay and Slurm."""

import re
import subprocess
from itertools import chain, combinations
from pathlib import Path

import pytest

from rlvr.deploy.choices import Target
from rlvr.deploy.submission.run_folder import has_begun
from tests.unit.deploy.deploy_cases import QUICKSTART, rendered

PARTS = ("recipe.yaml", "rollouts/", "checkpoints/", "metrics.jsonl")
CONDITION = re.compile(r"^if (\[ -e \"\$run_dir/recipe\.yaml\" \].*); then$", re.MULTILINE)


def condition(target: Target, file: str) -> str:
    """The test of the run directory in a rendered file."""
    text = rendered(QUICKSTART, target=target, is_cpu=True)[file]
    (found,) = CONDITION.findall(re.sub(r"^ +(?=if \[ -e)", "", text, flags=re.MULTILINE))
    return found


@pytest.fixture(scope="module")
def conditions() -> dict[str, str]:
    return {file: condition(target, file) for target, file in
            ((Target.KUBERAY, "rayjob.yaml"), (Target.SLURM, "job.sbatch"))}  # fmt: skip


@pytest.mark.parametrize(
    "parts", list(chain.from_iterable(combinations(PARTS, count) for count in range(len(PARTS) + 1)))
)
def test_a_run_is_continued_in_the_same_cases_wherever_it_was_started(
    tmp_path: Path, conditions: dict[str, str], parts: tuple[str, ...]
) -> None:
    for part in parts:
        if part.endswith("/"):
            (tmp_path / part).mkdir()
        else:
            (tmp_path / part).touch()
    for file, text in conditions.items():
        done = subprocess.run(["bash", "-c", f"run_dir=$1; {text}", "sh", str(tmp_path)], check=False)
        assert (done.returncode == 0) == has_begun(tmp_path), (file, parts)
