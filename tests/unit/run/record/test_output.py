"""Standard output that ends before the work: a run goes on in a file, any other command ends as a shell expects."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlvr.run.record.console import Console
from rlvr.run.record.stdout import SIGPIPE_EXIT_CODE, Output, OutputLost, written


class Failing(io.StringIO):
    """Accepts a number of writes and then fails."""

    def __init__(self, code: int, *, after: int = 0) -> None:
        super().__init__()
        self.code = code
        self.left = after

    def write(self, text: str) -> int:
        if self.left == 0:
            raise OSError(self.code, os.strerror(self.code))
        self.left -= 1
        return super().write(text)


@pytest.mark.parametrize("code", [errno.EPIPE, errno.ENOSPC, errno.EIO])
def test_a_run_goes_on_in_its_directory(code: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stream = Failing(code, after=7)
    console = Console(file=stream, width=80, is_terminal=False, is_steady=True)
    console.start(recipe_name="x", run_dir=tmp_path, model="m", rows=[], num_steps=2)
    for step in range(1, 9):
        console.step(step, {"reward/mean": 0.5})
    log = (tmp_path / "console.log").read_text(encoding="utf-8")
    seen = stream.getvalue() + log
    assert [f"step {step:>1}/2" in seen for step in range(1, 9)] == [True] * 8
    assert "step 8/2" in log
    assert len(caplog.records) == 1
    assert os.strerror(code) in caplog.text
    assert f"its lines go to {tmp_path}/console.log" in caplog.text


def test_before_there_is_a_directory_lines_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    console = Console(file=Failing(errno.EPIPE), width=80, is_terminal=False, is_steady=True)
    console.note("hello")
    assert "its lines are dropped" in caplog.text


def test_output_that_can_be_written_makes_no_file(tmp_path: Path) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=80, is_terminal=False, is_steady=True)
    console.start(recipe_name="x", run_dir=tmp_path, model="m", rows=[])
    assert "rlvr  x" in stream.getvalue()
    assert not list(tmp_path.iterdir())


def test_another_console_fails_as_its_output_does() -> None:
    console = Console(file=Failing(errno.ENOSPC), width=80, is_terminal=False)
    with pytest.raises(OutputLost):
        console.note("hello")
    with pytest.raises(OutputLost):
        Output(Failing(errno.EPIPE), is_steady=False).write("x")


@pytest.mark.parametrize(("code", "exit_code"), [(errno.EPIPE, SIGPIPE_EXIT_CODE), (errno.ENOSPC, 1)])
def test_the_exit_code_says_why_a_command_ended(
    code: int, exit_code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Failing(code))
    assert written(lambda: sys.stdout.write("hello")) == exit_code
    message = "rlvr: standard output cannot be written: No space left on device\n"
    assert capsys.readouterr().err == ("" if code == errno.EPIPE else message)


def test_an_error_of_a_commands_file_is_not_mistaken_for_an_output_error() -> None:
    with pytest.raises(FileNotFoundError):
        written(lambda: len(Path("/no/such/file").read_text()))
    with pytest.raises(SystemExit):
        written(lambda: sys.exit(3))
    assert written(lambda: 2) == 2


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("rlvr recipes >/dev/full", 1, "rlvr: standard output cannot be written: No space left"),
        ("rlvr recipes show tiny >/dev/full", 1, "rlvr: standard output cannot be written"),
        ("rlvr --help >/dev/full", 1, "rlvr: standard output cannot be written"),
        ("rlvr recipes >&-", 0, ""),
        ("rlvr trian 2>/dev/full", 2, ""),
        ("(sleep 0.2; rlvr recipes; echo $? >&2) | true", 0, "141"),
        ("(sleep 0.2; rlvr --help; echo $? >&2) | true", 0, "141"),
    ],
)
def test_a_shell_sees_the_usual_ends(command: str, code: int, message: str, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 1
