"""Runs `rlvr train` until it is done, and again with --resume after its cluster, its process or its host was lost.

    python -m rlvr.deploy.submission.supervisor FOLDER

    rlvr train ends with              what follows
    0                                 done
    2 (call, recipe or data wrong)    refused
    130 (interrupted)                 stopped; suspended if this process was asked to end too, as in a shutdown
    75 (the cluster's head is gone)   restart
    a signal (SIGKILL, SIGSEGV, ...)  restart
    anything else                     restart if Ray's head was silent in the last minutes; otherwise failed

A restart waits for the head. If a restart made no new checkpoint, the next loss ends the run (the number is
`Spec.restarts_without_progress`). What a supervisor that was killed, or a host that rebooted, left in phase `running`
counts as lost. The end of this process ends the run too, so an error of the shared folder must not end it: what cannot
be read or written is tried again. Imports neither torch nor Ray.
"""

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from rlvr.deploy.submission.run_folder import Phase, RunFolder, has_begun, newest_checkpoint
from rlvr.errors import ClusterLost, RlvrError
from rlvr.processes.lifeline import bound_command

HELD = 3  # exit code of a supervisor that found another one at work
_SAVED_CODES = (0, 130)  # exit codes with which `rlvr train` has saved
_LOCK_S = 5.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """All in seconds.

    poll_s: between two looks at the run, the head and the requests.
    pause_s: before the first restart; doubles with each further one, up to longest_pause_s, and begins anew after an
        attempt of calm_s.
    lost_s: how long the head may be silent without a break before the run, which should have ended by itself, is
        killed; Ray takes 60. A failure of the run within this time after a silence counts as a loss of the cluster.
    shutdown_s: how long after an interruption this process waits for a signal that shows a shutdown of the host.
    save_s: how long the last state is tried to be written when the shared folder refuses it.
    """

    poll_s: float = 1.0
    pause_s: float = 5.0
    longest_pause_s: float = 300.0
    calm_s: float = 3600.0
    lost_s: float = 180.0
    shutdown_s: float = 2.0
    save_s: float = 600.0


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
        self._is_stopping = False  # a stop request was seen
        self._is_written = True  # state.json is the state
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
        self._log("supervised", host=socket.gethostname(), pid=os.getpid(), after=self._state.phase)
        while True:
            if reason and not self._may_restart(reason):
                return self._state.phase
            reason = self._wait_and_run()
            if not reason:
                return self._state.phase

    def _may_restart(self, reason: str) -> bool:
        """Counts a restart and pauses before it; False when the run must end instead."""
        step = self._insist(lambda: newest_checkpoint(self._run_dir))
        if step is None:
            self._leave_on_request()
            return False
        state = self._state
        is_stuck = step == state.restart_step
        count = state.from_same + 1 if is_stuck else 1
        where = f"checkpoint {step}" if step else "the start (there is no checkpoint yet)"
        if count > self._spec.restarts_without_progress:
            why = "no checkpoint was saved since the restart before" if is_stuck else "no restart is allowed"
            self._leave(
                Phase.FAILED,
                f"{reason}, and {why} (--restarts-without-progress {self._spec.restarts_without_progress}). Find the "
                f"cause, then `rlvr cluster resume {self._spec.name}` continues from {where}",
            )
            return False
        self._set(
            phase=Phase.PAUSING,
            restarts=state.restarts + 1,
            from_same=count,
            restart_step=step,
            message=f"{reason}; continuing from {where}",
        )
        self._log("restart", reason=reason, from_step=step, number=state.restarts + 1, pause_s=self._pause_s)
        self._say(f"{reason}; restart {state.restarts + 1} continues from {where}")
        until = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, self._timing.longest_pause_s)
        while time.monotonic() < until and not self._asked:
            self._sleep(min(self._timing.poll_s, self._pause_s))
        return True

    def _wait_and_run(self) -> str:
        """Why the run must be restarted; "" when it was left in the phase that the state names."""
        if not self._wait_for_head():
            self._leave_on_request()
            return ""
        begun = time.monotonic()
        started = self._insist(self._start)
        if started is None:
            self._leave_on_request()
            return ""
        process, is_resumed = started
        self._set(phase=Phase.RUNNING, attempts=self._state.attempts + 1, message="", host=socket.gethostname())
        self._log("started", attempt=self._state.attempts, resume=is_resumed)
        code, was_lost, was_asked = self._watch(process)
        if time.monotonic() - begun > self._timing.calm_s:
            self._pause_s = self._timing.pause_s
        self._set(exit_code=code)
        self._log("ended", exit_code=code, head_was_lost=was_lost, asked=was_asked, attempt=self._state.attempts)
        return self._judge(code, was_lost=was_lost)

    def _judge(self, code: int, *, was_lost: bool) -> str:
        if code == 0:
            self._leave(Phase.DONE, "")
        elif code == ClusterLost.exit_code or was_lost:
            if self._asked:
                self._leave_on_request(code)
                return ""
            return "the cluster was lost"
        elif code == 130:
            self._wait_for_shutdown()
            if self._asked:
                self._leave_on_request(code)
            else:
                self._leave(Phase.STOPPED, "the run was interrupted, or run.max_hours is over; it has saved")
        elif self._asked:
            self._leave_on_request(code)
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
                self._log("waiting", head=self._spec.head)
                self._say(f"waiting for Ray's head at {self._spec.head}")
            self._sleep(self._timing.poll_s)
        return False

    def _start(self) -> "tuple[subprocess.Popen[bytes], bool]":
        """Starts `rlvr train`; (the process; whether it has --resume, because it has begun before). Raises OSError."""
        resume = ["--resume"] if has_begun(self._run_dir) else []
        command = [*self._program, "train", *self._spec.train, "--run-dir", self._spec.run_dir, *resume]
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
        return process, bool(resume)

    def _watch(self, process: "subprocess.Popen[bytes]") -> tuple[int, bool, bool]:
        """(exit code; whether the head was lost; whether the run was asked to end).

        A head that answers again is left to the run, which finds out by itself whether it is the same one.
        """
        lost_at: float | None = None  # since when the head has been silent
        silent_at = -math.inf  # when it did not answer last
        was_asked = False
        while process.poll() is None:
            if self._asked and not was_asked:
                was_asked = True
                self._say("asking the run to save and to end")
                process.terminate()
            if self._head_answers():
                if lost_at is not None:
                    self._log("head_back", head=self._spec.head)
                    self._say(f"Ray's head at {self._spec.head} answers again")
                lost_at = None
            else:
                silent_at = time.monotonic()
                if lost_at is None:
                    lost_at = silent_at
                    self._log("head_lost", head=self._spec.head)
                    self._say(f"Ray's head at {self._spec.head} does not answer")
            if lost_at is not None and time.monotonic() - lost_at > self._timing.lost_s:
                self._say(f"the run has not ended {self._timing.lost_s:g} s after its head was lost; killing it")
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            self._sleep(self._timing.poll_s)
        # A run may notice before this process does, and may end when another head answers already. A refusal or an
        # interruption is not due to a silence that is over.
        was_silent = time.monotonic() - silent_at <= self._timing.lost_s and process.returncode not in (2, 130)
        return process.returncode, was_silent or not self._head_answers(), was_asked

    def _head_answers(self) -> bool:
        return all(accepts(address) for address in (self._spec.head, self._spec.node) if address)

    @property
    def _asked(self) -> bool:
        self._is_stopping = self._is_stopping or _is_requested(self._folder.stop)
        return self._is_ending or self._is_stopping or _is_requested(self._folder.suspend)

    def _insist(self, work: Callable[[], T]) -> T | None:
        """What `work` returns, tried again while the shared folder refuses it; None when the run shall end instead."""
        is_first = True
        while True:
            try:
                return work()
            except OSError as error:
                message = f"waiting for the shared folder: {error}"
            if self._asked:
                return None
            if is_first:
                is_first = False
                self._set(message=message)
                self._log("folder_refuses", error=message)
                self._say(message)
            self._sleep(self._timing.poll_s)

    def _sleep(self, pause_s: float) -> None:
        """Sleeps, and then writes the state if it could not be written before."""
        time.sleep(pause_s)
        if not self._is_written:
            self._write()

    def _wait_for_shutdown(self) -> None:
        until = time.monotonic() + self._timing.shutdown_s
        while not self._asked and time.monotonic() < until:
            time.sleep(0.05)

    def _leave_on_request(self, code: int = 0) -> None:
        """Args: code: with which `rlvr train` ended after the request; 0 if it did not run."""
        doubt = ""
        if code not in _SAVED_CODES:
            doubt = (
                f", but `rlvr train` ended with exit code {code}: the last steps may not be saved; see {self._log_name}"
            )
        self._is_stopping = self._is_stopping or _is_requested(self._folder.stop)
        if self._is_stopping:
            self._leave(Phase.STOPPED, f"on request{doubt}")
        else:
            reason = "the cluster or its head host was shut down; the run continues when it is up"
            self._leave(Phase.SUSPENDED, reason + doubt)

    def _leave(self, phase: Phase, message: str) -> None:
        """Writes the last state; without it, the next supervisor would take the run for one that was lost."""
        self._set(phase=phase, message=message)
        step = None
        with suppress(OSError):
            step = newest_checkpoint(self._run_dir)
        self._log(phase.value, message=message, step=step)
        self._say(f"{phase.value}{': ' if message else ''}{message}")
        begun = time.monotonic()
        while not self._is_written and time.monotonic() - begun < self._save_s:
            self._sleep(self._timing.poll_s)

    @property
    def _save_s(self) -> float:
        return self._timing.shutdown_s if self._is_ending else self._timing.save_s

    def _set(self, **changes: Any) -> None:
        self._state = replace(self._state, **{"time": time.time(), **changes})
        self._write()

    def _write(self) -> None:
        self._is_written = False
        with suppress(OSError):  # `_sleep` tries again
            self._folder.write_state(self._state)
            self._is_written = True

    def _log(self, kind: str, **values: object) -> None:
        with suppress(OSError):  # a line of the record is not worth the run
            self._folder.log(kind, **values)

    def _say(self, text: str) -> None:
        """A line for those who follow the run."""
        with suppress(OSError), self._folder.output.open("a", encoding="utf-8") as output:
            output.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} supervisor: {text}\n")

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


def _is_requested(path: Path) -> bool:
    """Whether the file of a request exists; False while the shared folder does not say."""
    try:
        return path.exists()
    except OSError:  # ESTALE, EIO, ETIMEDOUT: asked again at the next look
        return False


def main() -> int:
    """Supervises the run of the folder that the command line names; `HELD` if another process does."""
    folder = RunFolder(Path(sys.argv[1]))
    try:
        return _supervise(folder)
    except RlvrError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def _supervise(folder: RunFolder) -> int:
    with folder.locked(patience_s=_LOCK_S) as is_ours:
        if not is_ours:
            sys.stderr.write("another process holds the lock\n")
            return HELD
        supervisor = Supervisor(folder)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, supervisor.end)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        supervisor.supervise()
    return 0


if __name__ == "__main__":
    sys.exit(main())
