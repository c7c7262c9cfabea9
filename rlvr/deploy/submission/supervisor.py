"""Runs `rlvr train` until it is done, and again with --resume after its cluster, its process or its host was lost.

    python -m rlvr.deploy.submission.supervisor FOLDER

    rlvr train ends with              what follows
    0                                 done
    2 (call, recipe or data wrong)    refused
    130 (interrupted)                 stopped; suspended if this process was asked to end too, as in a shutdown
    75 (the cluster's head is gone)   restart
    a signal (SIGKILL, SIGSEGV, ...)  restart
    anything else                     restart if Ray's head stopped answering meanwhile; otherwise failed

A restart waits for the head. If a restart made no new checkpoint, the next loss ends the run (the number is
`Spec.restarts_without_progress`). What a supervisor that was killed, or a host that rebooted, left in phase `running`
counts as lost. Imports neither torch nor Ray.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from rlvr.deploy.submission.run_folder import Phase, RunFolder, has_begun, newest_checkpoint
from rlvr.errors import ClusterLost
from rlvr.processes.lifeline import bound_command


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """All in seconds.

    poll_s: between two looks at the run, the head and the requests.
    pause_s: before the first restart; doubles with each further one, up to longest_pause_s, and begins anew after an
        attempt of calm_s.
    lost_s: how long a run whose head was lost may take to end by itself before it is killed; Ray takes 60.
    shutdown_s: how long after an interruption this process waits for a signal that shows a shutdown of the host.
    """

    poll_s: float = 1.0
    pause_s: float = 5.0
    longest_pause_s: float = 300.0
    calm_s: float = 3600.0
    lost_s: float = 180.0
    shutdown_s: float = 2.0


class Supervisor:
    """One submitted run, on the head host."""

    def __init__(self, folder: RunFolder, *, program: Sequence[str] = (), timing: Timing | None = None) -> None:
        """Args: program: what `rlvr` is; default: this installation, ended with this process."""
        self._folder = folder
        self._spec = folder.spec()
        self._run_dir = Path(self._spec.run_dir)
        self._program = list(program) or bound_command("rlvr.cli")
        self._timing = timing or Timing()
        self._state = folder.state()
        self._is_ending = False  # this process was signalled
        self._pause_s = self._timing.pause_s

    def end(self, *_: object) -> None:
        """Asks the run to save and to end, because this process must; it continues with the next supervisor."""
        self._is_ending = True

    def supervise(self) -> Phase:
        """The phase in which the run was left."""
        if self._state.phase.is_final:
            return self._state.phase
        reason = ""
        if self._state.phase is Phase.RUNNING:  # a pause or a wait that was cut off is no further loss
            reason = "the host or the supervisor was restarted"
        self._folder.log("supervised", host=socket.gethostname(), pid=os.getpid(), after=self._state.phase)
        while True:
            if reason and not self._may_restart(reason):
                return self._state.phase
            reason = self._wait_and_run()
            if not reason:
                return self._state.phase

    def _may_restart(self, reason: str) -> bool:
        """Counts a restart and pauses before it; False when the run must end instead."""
        step = newest_checkpoint(self._run_dir)
        state = self._state
        is_stuck = step == state.restart_step
        count = state.from_same + 1 if is_stuck else 1
        where = f"checkpoint {step}" if step else "the start (there is no checkpoint yet)"
        if count > self._spec.restarts_without_progress:
            self._leave(
                Phase.FAILED,
                f"{reason}, and no checkpoint was saved since the restart before; not restarted again. Find the cause, "
                f"then `rlvr cluster resume {self._spec.name}` continues from {where}",
            )
            return False
        self._set(
            phase=Phase.PAUSING,
            restarts=state.restarts + 1,
            from_same=count,
            restart_step=step,
            message=f"{reason}; continuing from {where}",
        )
        self._folder.log("restart", reason=reason, from_step=step, number=state.restarts + 1, pause_s=self._pause_s)
        self._say(f"{reason}; restart {state.restarts + 1} continues from {where}")
        until = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, self._timing.longest_pause_s)
        while time.monotonic() < until and not self._asked:
            time.sleep(min(self._timing.poll_s, self._pause_s))
        return True

    def _wait_and_run(self) -> str:
        """Why the run must be restarted; "" when it was left in the phase that the state names."""
        if not self._wait_for_head():
            self._leave_on_request()
            return ""
        begun = time.monotonic()
        code, was_lost, was_asked = self._attempt()
        if time.monotonic() - begun > self._timing.calm_s:
            self._pause_s = self._timing.pause_s
        self._set(exit_code=code)
        self._folder.log("ended", exit_code=code, head_was_lost=was_lost, asked=was_asked, attempt=self._state.attempts)
        return self._judge(code, was_lost=was_lost)

    def _judge(self, code: int, *, was_lost: bool) -> str:
        if code == 0:
            self._leave(Phase.DONE, "")
        elif code == ClusterLost.exit_code or was_lost:
            if self._asked:
                self._leave_on_request()
                return ""
            return "the cluster was lost"
        elif code == 130:
            self._wait_for_shutdown()
            if self._asked:
                self._leave_on_request()
            else:
                self._leave(Phase.STOPPED, "the run was interrupted, or run.max_hours is over; it has saved")
        elif self._asked:
            self._leave_on_request()
        elif code == 2:
            self._leave(
                Phase.REFUSED, f"`rlvr train` refused the call, the recipe or the cluster; see {self._log_name}"
            )
        elif code < 0:
            return f"the run was killed by {signal.Signals(-code).name}"
        else:
            self._leave(Phase.FAILED, f"`rlvr train` ended with exit code {code}; see {self._log_name}")
        return ""

    def _wait_for_head(self) -> bool:
        """Waits until the head, and Ray on this host, accept connections; False when the run shall end instead."""
        is_first = True
        while not self._asked:
            if self._head_answers():
                return True
            if is_first:
                is_first = False
                self._set(phase=Phase.WAITING, message=f"waiting for Ray's head at {self._spec.head}")
                self._folder.log("waiting", head=self._spec.head)
                self._say(f"waiting for Ray's head at {self._spec.head}")
            time.sleep(self._timing.poll_s)
        return False

    def _attempt(self) -> tuple[int, bool, bool]:
        """(exit code; whether the head was lost meanwhile; whether the run was asked to end)."""
        resume = ["--resume"] if has_begun(self._run_dir) else []
        command = [*self._program, "train", *self._spec.train, "--run-dir", self._spec.run_dir, *resume]
        self._set(phase=Phase.RUNNING, attempts=self._state.attempts + 1, message="", host=socket.gethostname())
        self._folder.log("started", attempt=self._state.attempts, resume=bool(resume))
        with self._folder.output.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=self._spec.cwd,
                env={**os.environ, "RAY_ADDRESS": self._spec.head, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self._watch(process)

    def _watch(self, process: "subprocess.Popen[bytes]") -> tuple[int, bool, bool]:
        lost_at: float | None = None
        was_asked = False
        while process.poll() is None:
            if self._asked and not was_asked:
                was_asked = True
                self._say("asking the run to save and to end")
                process.terminate()
            if lost_at is None and not self._head_answers():
                lost_at = time.monotonic()
                self._folder.log("head_lost", head=self._spec.head)
                self._say(f"Ray's head at {self._spec.head} does not answer")
            if lost_at is not None and time.monotonic() - lost_at > self._timing.lost_s:
                self._say(f"the run has not ended {self._timing.lost_s:g} s after its head was lost; killing it")
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            time.sleep(self._timing.poll_s)
        # a run may notice before this process does
        return process.returncode, lost_at is not None or not self._head_answers(), was_asked

    def _head_answers(self) -> bool:
        return all(accepts(address) for address in (self._spec.head, self._spec.node) if address)

    @property
    def _asked(self) -> bool:
        return self._is_ending or self._folder.stop.exists() or self._folder.suspend.exists()

    def _wait_for_shutdown(self) -> None:
        until = time.monotonic() + self._timing.shutdown_s
        while not self._asked and time.monotonic() < until:
            time.sleep(0.05)

    def _leave_on_request(self) -> None:
        if self._folder.stop.exists():
            self._leave(Phase.STOPPED, "on request")
        else:
            self._leave(Phase.SUSPENDED, "the cluster or its head host was shut down; the run continues when it is up")

    def _leave(self, phase: Phase, message: str) -> None:
        self._set(phase=phase, message=message)
        self._folder.log(phase.value, message=message, step=newest_checkpoint(self._run_dir))
        self._say(f"{phase.value}{': ' if message else ''}{message}")

    def _set(self, **changes: Any) -> None:
        self._state = replace(self._state, **{"time": time.time(), **changes})
        self._folder.write_state(self._state)

    def _say(self, text: str) -> None:
        """A line for those who follow the run."""
        with self._folder.output.open("a", encoding="utf-8") as output:
            _write_line(output, text)

    @property
    def _log_name(self) -> str:
        return str(self._folder.output)


def accepts(address: str, *, deadline_s: float = 3.0) -> bool:
    """Whether something accepts connections at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=deadline_s):
            return True
    except (OSError, ValueError):
        return False


def _write_line(output: IO[str], text: str) -> None:
    output.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} supervisor: {text}\n")


def main() -> int:
    """Supervises the run of the folder that the command line names, unless another process does."""
    folder = RunFolder(Path(sys.argv[1]))
    with folder.locked() as is_ours:
        if not is_ours:
            return 0
        supervisor = Supervisor(folder)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, supervisor.end)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        supervisor.supervise()
    return 0


if __name__ == "__main__":
    sys.exit(main())
