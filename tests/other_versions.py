"""Runs tests with the newest or the lowest tested torch and transformers, in an environment of their own, without vLLM.

    python -m tests.other_versions upper      or lower; --python python3.12, --keep to run again in the environment

The locks stay at the versions for which pip finds CPU builds of torch and vLLM, and all tests run with those. Here run
the tests of what touches torch and transformers. pip's default index has only CUDA builds of most versions of torch,
which work on a CPU: about 6 GB of disk. Prints a row for the table under "Tested versions" in rlvr/README.md.
"""

import argparse
import datetime
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from rlvr.versions import TORCH, TRANSFORMERS

ROOT = Path(__file__).resolve().parents[1]

FOLDERS = ("tests/unit/learner", "tests/unit/models", "tests/unit/algorithms", "tests/contract/test_engine_contract.py")
MARKERS = "not slow and not gpu and not cluster and not fuzz and not image and not thorough"
EXTRAS = ("lora", "dev")


def requirements(end: str) -> list[str]:
    """What pyproject.toml asks for, with torch and transformers at this end of their windows."""
    pinned = {
        window.name: getattr(window, "newest" if end == "upper" else "lowest") for window in (TORCH, TRANSFORMERS)
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    names = [re.split(r"[<>=\[; ]", line)[0] for line in lines]
    return [f"{name}=={pinned[name]}" if name in pinned else line for name, line in zip(names, lines, strict=True)]


def main() -> int:
    """Builds the environment, runs the tests and prints the row; the exit code of the tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("end", choices=("upper", "lower"))
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--keep", action="store_true", help="use the environment as it is, if there is one")
    given = parser.parse_args()
    folder = ROOT / f".venv-{given.end}"
    python = str(folder / "bin" / "python")
    if not (given.keep and folder.exists()):
        subprocess.run([given.python, "-m", "venv", "--clear", str(folder)], check=True)
        install = [python, "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, "hatchling", "editables", *requirements(given.end)], check=True)
        subprocess.run([*install, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], check=True)
    tests = subprocess.run(
        [python, "-m", "pytest", "-q", "-m", MARKERS, *FOLDERS], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    sys.stdout.write(tests.stdout)
    show = (
        "import platform, torch, transformers as t; print(platform.python_version(), torch.__version__, t.__version__)"
    )
    shown = subprocess.run([python, "-c", show], check=True, capture_output=True, text=True).stdout.split()
    summary = re.sub(r" in [\d.]+s.*", "", tests.stdout.strip().splitlines()[-1]).strip("= ")
    sys.stdout.write(f"| {datetime.date.today()} | {' | '.join(shown)} | {summary} |\n")
    return tests.returncode


if __name__ == "__main__":
    sys.exit(main())
