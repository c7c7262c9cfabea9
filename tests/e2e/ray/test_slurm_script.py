"""The sbatch script of `rlvr cluster render` with real Ray on this machine; srun and scontrol are stand-ins."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlvr.deploy.choices import Target
from tests.e2e.ray.ray_runs import environment
from tests.unit.deploy.deploy_cases import SCONTROL, SRUN, put_programs, rendered

pytestmark = pytest.mark.cluster
pytest.importorskip("ray")
SHORT = (
    "cluster.backend=ray", "rollout.engine=transformers", "run.steps=1", "cold_start.steps=2", "run.eval_prompts=8",
    "run.trackers=[]", "proof.at_start=false",
)  # fmt: skip


def test_a_job_starts_ray_with_a_token_in_a_file_trains_and_ends_ray(tmp_path: Path) -> None:
    rlvr = f'#!/bin/bash\nexec "{sys.executable}" -m rlvr.cli "$@"\n'
    programs = put_programs(tmp_path / "bin", {"srun": SRUN, "scontrol": SCONTROL, "rlvr": rlvr})
    script = tmp_path / "job.sbatch"
    script.write_text(rendered("tiny", *SHORT, target=Target.SLURM, is_cpu=True, parameters="1M")["job.sbatch"])
    variables = {
        **{name: value for name, value in environment().items() if not name.startswith("RAY_AUTH")},
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "99",
        "SLURM_JOB_NODELIST": "n",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "RLVR_PORT": "26379",
        "TMPDIR": str(tmp_path),  # too long for the path of a socket
    }
    done = subprocess.run(
        ["bash", str(script)], env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "accepts connections without a token" not in done.stderr
    assert (tmp_path / "runs" / "tiny-99" / "checkpoints" / "step_1" / "complete.json").exists()
    assert list((tmp_path / ".rlvr-slurm").iterdir()) == []
