"""The command line without a process of its own: a process spends seconds on importing torch and transformers.

Signals, exit codes and lost processes need a real process; what a command prints and writes does not.
"""

import contextlib
import io
import logging
import sys
from pathlib import Path
from unittest import mock

from rlvr import cli


def command_here(*arguments: str, cwd: Path) -> tuple[int, str]:
    """The exit code and the output of `rlvr ARGUMENTS`, called in `cwd`; an unexpected error is raised."""
    output = io.StringIO()
    warnings = logging.StreamHandler(output)
    warnings.setLevel(logging.WARNING)
    logging.getLogger().addHandler(warnings)
    try:
        with (
            contextlib.chdir(cwd),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
            mock.patch.object(sys, "argv", ["rlvr", *arguments]),
        ):
            code = cli._exit_code()
    finally:
        logging.getLogger().removeHandler(warnings)
    return code, output.getvalue()


def rlvr_here(*arguments: str, cwd: Path, expect: int = 0) -> str:
    """The output of `rlvr ARGUMENTS`, which must end with the exit code expected."""
    code, output = command_here(*arguments, cwd=cwd)
    assert code == expect, output
    return output
