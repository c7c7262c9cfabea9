"""SHARED/submitted/NAME: what is known of a submitted run. The run's own directory is elsewhere.

    run.json         what to start (`Spec`), written once
    recipe.yaml      the resolved recipe, if it is not a packaged one
    state.json       where the run is (`State`), written by the supervisor
    output.log       what `rlvr train` and the supervisor printed
    supervisor.jsonl each start, loss, restart and end, one JSON object per line
    stop, suspend    exist when a user, or a cluster that goes down, asks the run to save and to end
    .lock            held by the supervisor, and by `submit` while it checks the recipe

Files are polled, because the processes may be in different containers and see no common process ids.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from rlvr.errors import ConfigError
from rlvr.storage import atomic_files, locks, sealed_folders

_RETRY_S = 0.05


class Phase(StrEnum):
    """Where a submitted run is."""

    WAITING = "waiting"  # for the cluster's head
    RUNNING = "running"
    PAUSING = "pausing"  # before a restart
    SUSPENDED = "suspended"  # the host or the cluster went down in an orderly way
    DONE = "done"
    STOPPED = "stopped"  # on request, or run.max_hours is over
    REFUSED = "refused"  # `rlvr train` ended with exit code 2
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Whether only `rlvr cluster resume` continues the run."""
        return self in (Phase.DONE, Phase.STOPPED, Phase.REFUSED, Phase.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What to start.

    train: arguments of `rlvr train` without --run-dir and --resume.
    run_dir, cwd: absolute paths on the head host.
    head: HOST:PORT of Ray's head. node: HOST:PORT where Ray's node manager on the head host listens, or "".
    steps: run.steps of the recipe.
    restarts_without_progress: how often in succession the run may be restarted from the same checkpoint.
    grace_s: seconds that the run needs to save and to end.
    """

    name: str
    train: tuple[str, ...]
    run_dir: str
    cwd: str
    head: str
    node: str = ""
    steps: int = 0
    restarts_without_progress: int = 1
    grace_s: float = 90.0

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Spec":
        """The spec that was written as JSON; unknown keys, of a later version, are ignored."""
        known = {key: value for key, value in values.items() if key in {entry.name for entry in fields(cls)}}
        return cls(**{**known, "train": tuple(known["train"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Where the run is.

    attempts: how often `rlvr train` was started. restarts: how many of those followed a loss.
    from_same: restarts in succession from checkpoint `restart_step` (-1: no restart yet; 0: no checkpoint).
    exit_code: of the last `rlvr train` that ended; None if none did. Negative: the signal that ended it.
    message: why it is in this phase.
    """

    phase: Phase = Phase.WAITING
    attempts: int = 0
    restarts: int = 0
    from_same: int = 0
    restart_step: int = -1
    exit_code: int | None = None
    message: str = ""
    host: str = ""
    time: float = field(default_factory=time.time)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "State":
        """The state that was written as JSON; unknown keys are ignored."""
        known = {key: value for key, value in values.items() if key in {entry.name for entry in fields(cls)}}
        return cls(**{**known, "phase": Phase(known["phase"])})


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of one submitted run."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The embedded recipe, which exists only if the run has one."""
        return self.path / "recipe.yaml"

    @property
    def output(self) -> Path:
        """What the run and its supervisor printed."""
        return self.path / "output.log"

    @property
    def stop(self) -> Path:
        """Exists when a user asks the run to end."""
        return self.path / "stop"

    @property
    def suspend(self) -> Path:
        """Exists when the cluster goes down and the run shall continue when it is back."""
        return self.path / "suspend"

    def write_spec(self, spec: Spec) -> None:
        """Writes run.json. Raises OSError."""
        atomic_files.write_text(self.path / "run.json", json.dumps(asdict(spec), indent=1) + "\n")

    def spec(self) -> Spec:
        """What to start. Raises ConfigError when the file is missing or damaged."""
        file = self.path / "run.json"
        try:
            return Spec.from_json(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{file} cannot be read: {error}; submit the run again") from error

    def write_state(self, state: State) -> None:
        """Writes state.json atomically. Raises OSError."""
        atomic_files.write_text(self.path / "state.json", json.dumps(asdict(state)) + "\n")

    def state(self) -> State:
        """The last state written; that of a run which has not begun if there is none.

        Raises: ConfigError when it cannot be read, or names a phase of a newer version: the run may have ended.
        """
        file = self.path / "state.json"
        try:
            return State.from_json(json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return State()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{file} cannot be read: {error}; if that remains so, remove the file, and "
                f"`rlvr cluster resume {self.path.name}` continues the run from its newest checkpoint"
            ) from error

    def log(self, kind: str, **values: object) -> None:
        """Appends a line to supervisor.jsonl. Raises OSError."""
        row = {"time": round(time.time(), 3), "kind": kind, **values}
        with (self.path / "supervisor.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    @contextmanager
    def locked(self, *, patience_s: float = 0.0) -> Iterator[bool]:
        """Context with whether this process got the lock; False: another one holds it after `patience_s` too.

        Raises: ConfigError when the file system has no locks; OSError.
        """
        descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        until = time.monotonic() + patience_s
        try:
            while not (is_ours := self._lock(descriptor)) and time.monotonic() < until:
                time.sleep(_RETRY_S)
            yield is_ours
        finally:
            os.close(descriptor)

    def is_supervised(self) -> bool:
        """Whether a supervisor holds the lock. Raises ConfigError when the file system has no locks; OSError.

        The lock is tried in shared mode, so that processes that ask at the same time do not take each other for one.
        """
        try:
            descriptor = os.open(self.path / ".lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not self._lock(descriptor, is_shared=True)
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int, *, is_shared: bool = False) -> bool:
        try:
            locks.acquire(descriptor, is_shared=is_shared)
        except BlockingIOError:
            return False
        except locks.NoLocksError as error:
            raise ConfigError(
                f"{str(self.path)!r} is on a file system without file locks ({error.strerror}), so a run could be "
                "started twice; mount the shared folder with locks (Lustre: option `flock`)"
            ) from error
        return True


def run_folders(root: Path) -> list[RunFolder]:
    """The submitted runs below SHARED/submitted, newest first. Raises OSError when the folder cannot be read."""
    try:
        found = {entry: moment for entry in root.iterdir() if (moment := _submitted_at(entry)) is not None}
    except FileNotFoundError:
        return []
    return [RunFolder(path) for path in sorted(found, key=lambda path: found[path], reverse=True)]


def _submitted_at(path: Path) -> float | None:
    """When run.json was written, in seconds since the epoch; 0 when that cannot be read; None when there is none."""
    try:
        return (path / "run.json").stat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:  # of one run, which must not hide the others
        return 0.0


def newest_checkpoint(run_dir: Path) -> int:
    """The step of the newest complete checkpoint of a run; 0 if there is none."""
    steps = [
        int(folder.name.removeprefix("step_"))
        for folder in run_dir.glob("checkpoints/step_*")
        if folder.name.removeprefix("step_").isdecimal() and (folder / sealed_folders.MARKER).is_file()
    ]
    return max(steps, default=0)


def has_begun(run_dir: Path) -> bool:
    """Whether `rlvr train` has made the run directory, so that only --resume can continue in it."""
    return (run_dir / "recipe.yaml").exists() or all((run_dir / name).is_dir() for name in ("rollouts", "checkpoints"))


def last_step(run_dir: Path) -> int:
    """The last step in metrics.jsonl; 0 if there is none."""
    try:
        with (run_dir / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - (1 << 16)))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):  # a line that is being written, or whose beginning was cut off
            continue
    return 0
