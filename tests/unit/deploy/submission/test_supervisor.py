"""The supervisor of a submitted run, with a script that plays `rlvr` and a socket that plays Ray's head."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlvr.deploy.submission.run_folder import Phase, RunFolder, Spec, State
from rlvr.deploy.submission.supervisor import HELD, Supervisor, Timing
from rlvr.errors import ClusterLost

QUICK = Timing(poll_s=0.02, pause_s=0.02, longest_pause_s=0.1, lost_s=0.5, shutdown_s=0.2)
# Attempt N does what line N of the script file says: save STEP, exit CODE, kill, wait (until SIGTERM, then exit 130).
FAKE = """
import json, os, pathlib, signal, sys, time
run = pathlib.Path(sys.argv[sys.argv.index("--run-dir") + 1])
here = pathlib.Path(__file__).parent
calls = here / "calls"
number = len(calls.read_text().splitlines()) if calls.exists() else 0
with calls.open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
(run / "rollouts").mkdir(parents=True, exist_ok=True)
(run / "checkpoints").mkdir(exist_ok=True)
(run / "recipe.yaml").touch()
for word in json.loads((here / "plan").read_text())[number].split(","):
    action, _, value = word.partition(" ")
    if action == "save":
        folder = run / "checkpoints" / f"step_{value}"
        folder.mkdir()
        (folder / "complete.json").write_text("{}")
    elif action == "exit":
        sys.exit(int(value))
    elif action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "term":
        signal.signal(signal.SIGTERM, lambda *_, code=int(value): sys.exit(code))
    elif action == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif action == "wait":
        (here / "waits").touch()
        while True:
            time.sleep(0.02)
"""


class Head:
    """Accepts connections while it is up."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self.port = 0
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", self.port), backlog=1000)
        self.port = self._socket.getsockname()[1]

    def stop(self) -> None:
        if self._socket is not None:
            self._socket.close()


@pytest.fixture
def head() -> Iterator[Head]:
    made = Head()
    yield made
    made.stop()


class Submitted:
    def __init__(self, folder: Path, head: Head) -> None:
        self.home = folder
        self.folder = RunFolder(folder / "submitted" / "r")
        self.folder.path.mkdir(parents=True)
        self.run_dir = folder / "runs" / "r"
        self.folder.write_spec(
            Spec(name="r", train=("tiny", "run.steps=9"), run_dir=str(self.run_dir), cwd=str(folder), head=head.address)
        )
        (folder / "fake_rlvr.py").write_text(FAKE)

    def supervisor(self, *plan: str) -> Supervisor:
        if plan:
            (self.home / "plan").write_text(json.dumps(plan))
        return Supervisor(self.folder, program=[sys.executable, str(self.home / "fake_rlvr.py")], timing=QUICK)

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.home / "calls").read_text().splitlines()]

    def logged(self, kind: str) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in (self.folder.path / "supervisor.jsonl").read_text().splitlines()]
        return [row for row in rows if row["kind"] == kind]

    @property
    def state(self) -> State:
        return self.folder.state()


@pytest.fixture
def run(tmp_path: Path, head: Head) -> Submitted:
    return Submitted(tmp_path, head)


def until(met: Callable[[], bool], limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not met():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_run_that_ends_well_is_started_once(run: Submitted):
    assert run.supervisor("exit 0").supervise() is Phase.DONE
    assert run.calls == [["train", "tiny", "run.steps=9", "--run-dir", str(run.run_dir)]]
    assert (run.state.attempts, run.state.restarts, run.state.exit_code) == (1, 0, 0)


def test_a_lost_cluster_is_continued_with_resume(run: Submitted):
    plan = (f"save 3,exit {ClusterLost.exit_code}", f"save 6,exit {ClusterLost.exit_code}", "exit 0")
    assert run.supervisor(*plan).supervise() is Phase.DONE
    assert [call[-1] == "--resume" for call in run.calls] == [False, True, True]
    assert [(row["from_step"], row["number"]) for row in run.logged("restart")] == [(3, 1), (6, 2)]
    assert "continues from checkpoint 6" in run.folder.output.read_text()


@pytest.mark.parametrize(
    ("plan", "phase"), [("exit 2", Phase.REFUSED), ("exit 130", Phase.STOPPED), ("exit 1", Phase.FAILED)]
)
def test_an_end_that_the_cluster_did_not_cause_is_final(run: Submitted, plan: str, phase: Phase):
    assert run.supervisor(plan).supervise() is phase
    assert len(run.calls) == 1
    assert run.supervisor().supervise() is phase  # a supervisor that is started again leaves it as it is
    assert len(run.calls) == 1


def test_a_killed_driver_is_restarted(run: Submitted):
    assert run.supervisor("save 2,kill", "exit 0").supervise() is Phase.DONE
    assert run.logged("restart")[0]["reason"] == "the run was killed by SIGKILL"


def test_a_second_loss_without_a_new_checkpoint_ends_the_run(run: Submitted):
    assert run.supervisor("save 2,kill", "kill", "exit 0").supervise() is Phase.FAILED
    assert len(run.calls) == 2
    assert "no checkpoint was saved since the restart before" in run.state.message
    assert "rlvr cluster resume r" in run.state.message


def test_a_run_that_may_not_be_restarted_does_not_blame_its_checkpoints(run: Submitted):
    run.folder.write_spec(replace(run.folder.spec(), restarts_without_progress=0))
    assert run.supervisor("save 2,kill", "exit 0").supervise() is Phase.FAILED
    assert "killed by SIGKILL, and no restart is allowed (--restarts-without-progress 0)" in run.state.message
    assert "continues from checkpoint 2" in run.state.message


def test_pauses_grow(run: Submitted):
    run.supervisor("save 1,kill", "save 2,kill", "save 3,kill", "save 4,kill", "exit 0").supervise()
    assert [row["pause_s"] for row in run.logged("restart")] == [0.02, 0.04, 0.08, 0.1]


def test_a_failure_while_the_head_is_away_is_a_loss_and_waits_for_the_head(run: Submitted, head: Head):
    """`rlvr train` ends with 1 when Ray ends it; and it is killed if it does not end at all."""
    supervisor = run.supervisor("save 3,stubborn,wait", "exit 0")
    thread = threading.Thread(target=supervisor.supervise)
    thread.start()
    until((run.home / "waits").exists)
    head.stop()
    until(lambda: run.state.phase is Phase.WAITING)
    time.sleep(0.2)
    assert len(run.calls) == 1
    head.start()
    thread.join(20)
    assert run.state.phase is Phase.DONE
    assert len(run.logged("head_lost")) == 1
    assert run.calls[1][-1] == "--resume"


def test_a_head_that_answers_again_leaves_the_run_alone(run: Submitted, head: Head):
    thread = threading.Thread(target=run.supervisor("save 3,wait").supervise)
    thread.start()
    until((run.home / "waits").exists)
    head.stop()
    until(lambda: "head_lost" in (run.folder.path / "supervisor.jsonl").read_text())
    head.start()
    time.sleep(2 * QUICK.lost_s)
    assert run.logged("head_back")
    run.folder.stop.touch()
    thread.join(20)
    assert (run.state.phase, run.state.exit_code, run.state.restarts) == (Phase.STOPPED, 130, 0)


@pytest.mark.parametrize(
    ("code", "pause_s", "phase"), [(1, 2 * QUICK.lost_s, Phase.FAILED), (130, 0.0, Phase.STOPPED), (1, 0.0, Phase.DONE)]
)
def test_what_ends_a_run_after_a_silence_of_the_head(
    run: Submitted, head: Head, code: int, pause_s: float, phase: Phase
):
    """A failure soon after one is a loss and is restarted; a later one, and an interruption, is not."""
    thread = threading.Thread(target=run.supervisor(f"term {code},wait", "exit 0").supervise)
    thread.start()
    until((run.home / "waits").exists)
    head.stop()
    until(lambda: "head_lost" in (run.folder.path / "supervisor.jsonl").read_text())
    head.start()
    until(lambda: bool(run.logged("head_back")))
    time.sleep(pause_s)
    (child,) = Path(f"/proc/{os.getpid()}/task/{thread.native_id}/children").read_text().split()
    os.kill(int(child), signal.SIGTERM)  # not from the supervisor
    thread.join(20)
    assert run.state.phase is phase
    assert len(run.calls) == (2 if phase is Phase.DONE else 1)


class Refusing:
    """A shared folder that refuses everything while `is_refusing`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        self.is_refusing = False
        for owner, name in ((RunFolder, "write_state"), (RunFolder, "log"), (Path, "exists"), (Path, "open")):
            monkeypatch.setattr(owner, name, self._wrapped(getattr(owner, name), home))

    def _wrapped(self, work: Callable[..., Any], home: Path) -> Callable[..., Any]:
        def call(this: RunFolder | Path, *arguments: Any, **options: Any) -> Any:
            path = this.path if isinstance(this, RunFolder) else this
            if self.is_refusing and path.is_relative_to(home / "submitted"):
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return work(this, *arguments, **options)

        return call


def test_a_shared_folder_that_refuses_for_a_while_does_not_end_the_run(
    run: Submitted, monkeypatch: pytest.MonkeyPatch, head: Head
):
    refusing = Refusing(monkeypatch, run.home)
    thread = threading.Thread(target=run.supervisor("save 3,wait").supervise)
    thread.start()
    until((run.home / "waits").exists)
    refusing.is_refusing = True
    run.home.joinpath("submitted/r/stop").touch()
    head.stop()  # to be written to the log and the output
    time.sleep(0.2)
    head.start()
    assert thread.is_alive()
    refusing.is_refusing = False
    thread.join(20)
    assert (run.state.phase, run.state.exit_code, len(run.calls)) == (Phase.STOPPED, 130, 1)


def test_a_shared_folder_that_refuses_at_the_end_gets_the_last_state_later(
    run: Submitted, monkeypatch: pytest.MonkeyPatch
):
    refusing = Refusing(monkeypatch, run.home)
    thread = threading.Thread(target=run.supervisor("wait").supervise)
    thread.start()
    until((run.home / "waits").exists)
    until(lambda: run.state.phase is Phase.RUNNING)
    refusing.is_refusing = True
    (child,) = Path(f"/proc/{os.getpid()}/task/{thread.native_id}/children").read_text().split()
    os.kill(int(child), signal.SIGTERM)
    time.sleep(1.0)
    assert thread.is_alive()
    refusing.is_refusing = False
    thread.join(20)
    assert run.state.phase is Phase.STOPPED


def test_a_start_that_the_shared_folder_refuses_is_tried_again(run: Submitted, monkeypatch: pytest.MonkeyPatch):
    start, failures = subprocess.Popen, [OSError(errno.ESTALE, os.strerror(errno.ESTALE))] * 2

    def refused(*arguments: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return start(*arguments, **options)

    supervisor = run.supervisor("exit 0")
    monkeypatch.setattr(subprocess, "Popen", refused)
    assert supervisor.supervise() is Phase.DONE
    assert (run.state.attempts, len(run.logged("folder_refuses"))) == (1, 1)


def test_a_stop_request_saves_and_is_final(run: Submitted):
    thread = threading.Thread(target=run.supervisor("save 3,wait").supervise)
    thread.start()
    until((run.home / "waits").exists)
    run.folder.stop.touch()
    thread.join(20)
    assert (run.state.phase, run.state.exit_code) == (Phase.STOPPED, 130)


@pytest.mark.parametrize(("request_file", "phase"), [("stop", Phase.STOPPED), ("suspend", Phase.SUSPENDED)])
def test_a_run_that_fails_while_it_saves_on_request_says_so(run: Submitted, request_file: str, phase: Phase):
    thread = threading.Thread(target=run.supervisor("term 1,wait").supervise)
    thread.start()
    until((run.home / "waits").exists)
    (run.folder.path / request_file).touch()
    thread.join(20)
    assert (run.state.phase, run.state.exit_code) == (phase, 1)
    assert "`rlvr train` ended with exit code 1: the last steps may not be saved; see" in run.state.message


def test_a_stop_request_ends_the_wait_for_the_head(run: Submitted, head: Head):
    head.stop()
    thread = threading.Thread(target=run.supervisor("exit 0").supervise)
    thread.start()
    until(lambda: run.state.message.startswith("waiting for Ray's head"))
    run.folder.stop.touch()
    thread.join(20)
    assert run.state.phase is Phase.STOPPED


def test_a_shutdown_of_the_host_suspends_and_the_next_supervisor_continues(run: Submitted):
    supervisor = run.supervisor("save 3,exit 130", "exit 0")
    supervisor.end()  # what SIGTERM does; it may come before or after the run has ended
    assert supervisor.supervise() is Phase.SUSPENDED
    assert run.supervisor("exit 0").supervise() is Phase.DONE
    assert run.state.restarts == 0  # no loss


def test_a_host_that_rebooted_counts_as_a_loss(run: Submitted):
    run.folder.write_state(State(phase=Phase.RUNNING, attempts=1))
    (run.run_dir / "checkpoints" / "step_4").mkdir(parents=True)
    (run.run_dir / "checkpoints" / "step_4" / "complete.json").touch()
    (run.run_dir / "rollouts").mkdir()
    assert run.supervisor("exit 0").supervise() is Phase.DONE
    assert run.logged("restart")[0]["reason"] == "the host or the supervisor was restarted"
    assert run.calls[0][-1] == "--resume"


def test_a_reboot_during_a_pause_is_no_further_loss(run: Submitted):
    run.folder.write_state(State(phase=Phase.PAUSING, attempts=1, restarts=1, from_same=1, restart_step=0))
    assert run.supervisor("exit 0").supervise() is Phase.DONE
    assert run.state.restarts == 1


def test_one_supervisor_at_a_time_and_the_run_ends_with_it(run: Submitted):
    """As processes: the second one gives up after some seconds; a killed one takes the run along."""
    plan = run.home / "plan"
    plan.write_text(json.dumps(["wait"]))
    code = (
        "import sys; sys.argv[1:] = sys.argv[2:]\n"
        "from rlvr.deploy.submission import supervisor as s\n"
        "bound_command = s.bound_command\n"
        "s.bound_command = lambda _: bound_command('fake_rlvr')\n"
        "sys.exit(s.main())"
    )
    words = [sys.executable, "-c", code, "-", str(run.folder.path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(run.home), *filter(None, sys.path)])}
    first = subprocess.Popen(words, env=env)
    try:
        until((run.home / "waits").exists)
        assert run.folder.is_supervised()
        assert subprocess.run(words, env=env, timeout=30, check=False).returncode == HELD
        assert len(run.calls) == 1
        (child,) = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    until(lambda: not _is_live(int(child)))
    assert run.state.phase is Phase.RUNNING
    assert not run.folder.is_supervised()


def _is_live(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
