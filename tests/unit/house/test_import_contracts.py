"""The import contracts of pyproject.toml hold, and catch an import where it must not stand."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("rlvr", "verifiers/rlvr_verifiers", "sandboxes/rlvr_sandboxes")
PLANTED = [
    ("rlvr/commands/verify_file.py", "import ray", "only package that imports ray"),
    ("rlvr/commands/evaluate_server.py", "from ray import util", "only package that imports ray"),
    ("rlvr/commands/doctor.py", "import ray.util", "only package that imports ray"),
    ("rlvr/rollout/vllm/__init__.py", "import ray", "only package that imports ray"),
    ("rlvr/rollout/server_engine.py", "import vllm", "only package that imports vllm"),
    ("rlvr/rollout/build.py", "from vllm import LLM", "only package that imports vllm"),
    ("rlvr/run/ray/backend.py", "import vllm", "only package that imports vllm"),
    ("rlvr/cli.py", "import vllm", "only package that imports vllm"),
    ("rlvr/run/loop.py", "import rlvr.run.ray.backend", "a local run never reaches ray"),
    ("rlvr/learner/passes.py", "import rlvr.run.loop", "layers"),
    ("rlvr/run/step/buffer.py", "import rlvr.run.record.ledger", "layers of a run"),
    ("sandboxes/rlvr_sandboxes/inside/zygote.py", "import rlvr_sandboxes.outside.pool", "imports itself alone"),
    ("verifiers/rlvr_verifiers/codecheck/inside/wire.py", "import pydantic", "imports itself alone"),
    ("rlvr/config/sections/data.py", "import rlvr.config.recipe", "layers of the recipe"),
    ("rlvr/algorithms/losses.py", "import transformers", "algorithms are pure"),
    ("rlvr/records.py", "import torch", "no tensors in records"),
    ("rlvr/reward.py", "import rlvr_verifiers.countdown", "the core never names a concrete plugin"),
    ("verifiers/rlvr_verifiers/countdown.py", "import rlvr.config", "plugins see only"),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The product's sources and contracts, to plant imports in."""
    root = tmp_path_factory.mktemp("copy")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


def lint(root: Path) -> tuple[int, str]:
    """The exit code and the output of the linter on the sources below `root`."""
    paths = [str(root), str(root / "verifiers"), str(root / "sandboxes")]
    program = (
        f"import sys; sys.path[:0] = {paths!r}; from importlinter.cli import lint_imports_command; "
        "sys.argv = ['lint-imports', '--no-cache']; lint_imports_command()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_contracts_hold(copy: Path) -> None:
    code, output = lint(copy)
    assert code == 0, output


@pytest.mark.parametrize(("file", "line", "contract"), PLANTED)
def test_an_import_that_must_not_be_is_caught(copy: Path, file: str, line: str, contract: str) -> None:
    path = copy / file
    source = path.read_text(encoding="utf-8")
    try:
        path.write_text(f"{source}\n{line}\n", encoding="utf-8")
        code, output = lint(copy)
    finally:
        path.write_text(source, encoding="utf-8")
    assert code == 1, output
    broken = [text for text in output.splitlines() if " BROKEN" in text]
    assert any(contract in text for text in broken), output
