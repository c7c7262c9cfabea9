"""The run directory: creates it, reopens it on resume, and gives the path of every file in it."""

import errno
import logging
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from rlvr.errors import CheckpointError, ConfigError
from rlvr.run.record.lock import LOCK_FILE, RunLock, lock_directory, what_to_do
from rlvr.storage import atomic_files, sealed_folders
from rlvr.storage.input_files import is_file, is_folder, other_kind

logger = logging.getLogger(__name__)

_STEP = re.compile(r"step_(\d+)")


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The files of one run.

    RUN_DIR/recipe.yaml, metrics.jsonl, events.jsonl, ledger.sqlite, rollouts/, checkpoints/step_N/,
    report.html. A checkpoint is complete when it holds `complete.json`, which is written last.

    lock: held by the process that writes here; None for readers.
    """

    path: Path
    lock: RunLock | None = field(default=None, compare=False, repr=False)

    @classmethod
    def create(cls, path: Path | str | None, recipe_name: str) -> "RunDirectory":
        """A fresh run directory; None makes `runs/<recipe name>/<start time>` and `runs/latest`.

        Raises:
            ConfigError: it already holds a run, or cannot be written.
        """
        if path is not None:
            return cls._make(_usable(path))
        home = Path("runs") / recipe_name
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        chosen, number = home / stamp, 1
        while True:
            try:
                chosen.mkdir(parents=True)
                break
            except FileExistsError:
                number += 1
                chosen = home / f"{stamp}-{number}"
            except OSError as error:
                raise ConfigError(
                    f"run directory {str(chosen)!r} cannot be created: {error.strerror or error}; "
                    f"{what_to_do(chosen, error)}"
                ) from error
        made = cls._make(chosen)
        _point_latest(Path("runs"), chosen)
        return made

    @classmethod
    def _make(cls, path: Path) -> "RunDirectory":
        if path.exists() and not path.is_dir():
            raise ConfigError(f"run directory {str(path)!r} is a file; choose another --run-dir")
        made = cls(path)
        try:
            made.require_unused()
            for folder in (path, made.rollouts, made.checkpoints):
                folder.mkdir(parents=True, exist_ok=True)
            probe = path / f".write-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"run directory {str(path)!r} cannot be written: {error.strerror or error}; choose a "
                "writable place with --run-dir"
            ) from error
        return made

    def require_unused(self) -> None:
        """Raises ConfigError when the folder holds more than the leftovers of a run that never wrote its recipe."""
        if not self.path.is_dir() or all(_is_trace(entry) for entry in self.path.iterdir()):
            return
        if self.recipe.is_file():
            raise ConfigError(
                f"run directory {str(self.path)!r} exists and is not empty; add --resume to continue "
                "that run, or choose another --run-dir"
            )
        raise ConfigError(f"folder {str(self.path)!r} is not empty and holds no run; choose another --run-dir")

    @classmethod
    def open_existing(cls, path: Path | str) -> "RunDirectory":
        """The directory of an earlier run, for --resume, report and eval.

        Raises:
            ConfigError: it holds no run.
        """
        found = cls(Path(path).expanduser())
        found.require_begun()
        try:
            found.rollouts.mkdir(exist_ok=True)
            found.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"run directory {str(found.path)!r} cannot be used: {error.strerror or error}: {error.filename}"
            ) from error
        return found

    def require_begun(self) -> None:
        """Raises ConfigError when no run was ever started here."""
        is_begun = self.recipe.is_file() or bool(self.complete_checkpoints())
        # a run killed before it wrote its recipe leaves both folders empty
        if not is_begun and not (self.rollouts.is_dir() and self.checkpoints.is_dir()):
            state = "has no recipe.yaml" if self.path.is_dir() else "does not exist"
            raise ConfigError(
                f"run directory {str(self.path)!r} {state}; there is no run to resume. "
                "Name the run directory of an earlier `rlvr train`, or start a run without --resume"
            )

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object per step."""
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """Starts, stops, faults, alarms and decisions, as JSON lines."""
        return self.path / "events.jsonl"

    @property
    def ledger(self) -> Path:
        """The outcome of each prompt."""
        return self.path / "ledger.sqlite"

    @property
    def rollouts(self) -> Path:
        """The folder of Parquet files."""
        return self.path / "rollouts"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def report(self) -> Path:
        """The page that `rlvr report` writes."""
        return self.path / "report.html"

    def checkpoint(self, step: int) -> Path:
        """The folder of that step's checkpoint, whether or not it exists."""
        return self.checkpoints / f"step_{step}"

    def step_folders(self) -> list[tuple[int, Path]]:
        """Every entry `step_N` as (step, path), oldest first, complete or not."""
        if not self.checkpoints.is_dir():
            return []
        found: list[tuple[int, Path]] = []
        for folder in self.checkpoints.iterdir():
            match = _STEP.fullmatch(folder.name)
            if match:
                found.append((int(match[1]), folder))
        return sorted(found)

    def complete_checkpoints(self) -> list[tuple[int, Path]]:
        """Checkpoints that have their marker, as (step, folder), oldest first; their files are not checked."""
        return [pair for pair in self.step_folders() if (pair[1] / sealed_folders.MARKER).is_file()]

    def set_aside_after(self, step: int) -> list[Path]:
        """Renames the checkpoints of later steps to `step_N.aside`, and returns their new paths.

        A run that continues from `step` writes its own; the old ones are removed once it has saved a later step.
        Unfinished ones are removed now. Raises CheckpointError.
        """
        moved: list[Path] = []
        try:
            for number, folder in self.step_folders():
                if number > step:
                    target = folder.with_name(f"{folder.name}.aside")
                    atomic_files.remove(target)
                    moved.append(folder.rename(target))
            for folder in self.checkpoints.glob("step_*.tmp"):
                atomic_files.remove(folder)
        except OSError as error:
            raise CheckpointError(f"checkpoints beyond step {step} cannot be set aside: {error}") from error
        return moved

    def resume_hint(self, how: str = "stopped") -> str:
        """The newest checkpoint and the command to resume: the last line of a run that was stopped.

        Args: how: how it was stopped; begins the line.
        """
        found = self.complete_checkpoints()
        where = f"the newest checkpoint is {found[-1][1]}" if found else "there is no checkpoint yet"
        command = ["rlvr", "train", str(self.recipe), "--run-dir", str(self.path), "--resume"]
        return f"{how}; {where}; continue with: {shlex.join(command)}"

    def prune_checkpoints(self, keep: int) -> list[Path]:
        """Removes all but the newest `keep` complete checkpoints; returns the removed folders.

        Incomplete ones, and ones set aside, are removed once a newer one is complete. The marker is deleted first, so
        that a crash never leaves a partial checkpoint that looks complete.
        """
        if keep < 1:
            raise ValueError(f"keep={keep} must be at least 1, or a run could lose its last checkpoint")
        whole = self.complete_checkpoints()
        gone = [folder for _, folder in whole[:-keep]]
        if whole:
            kept = {folder for _, folder in whole}
            for folder in self.checkpoints.iterdir():
                match = _STEP.match(folder.name)
                if match and folder not in kept and int(match[1]) < whole[-1][0]:
                    gone.append(folder)
        for folder in gone:
            try:
                if folder.is_dir() and not folder.is_symlink():
                    atomic_files.remove(folder / sealed_folders.MARKER)
                atomic_files.remove(folder)
            except OSError as error:
                raise CheckpointError(f"cannot remove checkpoint {str(folder)!r}: {error}") from error
        return gone


def _usable(path: Path | str) -> Path:
    """The path, if a folder is or can be there; else raises ConfigError, which says what is there."""
    found = Path(path).expanduser()
    kind = "a file" if is_file(found) else "" if is_folder(found) else other_kind(found)
    if kind:
        shown = str(found) if len(str(found)) <= 200 else f"{str(found)[:100]}..."
        raise ConfigError(f"run directory {shown!r} is {kind}; choose another --run-dir")
    return found


def _is_trace(entry: Path) -> bool:
    """Whether the entry was left by a run that never wrote its recipe."""
    if entry.name in ("rollouts", "checkpoints"):
        return entry.is_dir() and not any(entry.iterdir())
    return entry.name == LOCK_FILE


def _point_latest(home: Path, target: Path) -> None:
    """Sets `runs/latest` in one rename, so that it is never missing."""
    link, fresh = home / "latest", home / f".latest-{os.getpid()}"
    try:
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target.relative_to(home), target_is_directory=True)
        os.replace(fresh, link)
    except OSError as error:  # only a convenience; some file systems have no links
        logger.warning("could not set %s: %s", link, error)
        fresh.unlink(missing_ok=True)


def open_directory(path: Path | None, *, recipe_name: str, resume: bool) -> RunDirectory:
    """A fresh run directory, or with `resume` that of an earlier run (default `runs/latest`).

    Raises: ConfigError when it exists already, cannot be written, or is missing on resume.
    """
    if not resume:
        return RunDirectory.create(path, recipe_name)
    return RunDirectory.open_existing(_resumed(path))


def check_directory(path: Path | None, *, resume: bool) -> None:
    """Raises what `open_directory` would raise, as far as that shows without creating or changing anything."""
    if resume:
        RunDirectory(_resumed(path).expanduser()).require_begun()
        return
    place = Path("runs") if path is None else _usable(path)
    try:
        if path is not None:
            RunDirectory(place).require_unused()
        existing = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, f"{str(existing)!r} is not a folder that this user can write to")
    except OSError as error:
        raise ConfigError(
            f"run directory {str(place)!r} cannot be written: {error.strerror or error}; {what_to_do(place, error)}"
        ) from error


def _resumed(path: Path | None) -> Path:
    """The directory to resume. Raises ConfigError when none is given and there is no latest run."""
    if path is None and not Path("runs/latest").exists():
        raise ConfigError("--resume needs --run-dir: there is no runs/latest in this folder")
    return _without_links(path or Path("runs/latest"))


def _remove_drafts(folder: Path) -> None:
    """Removes partial files that a killed process was writing."""
    for name in ("recipe.yaml", "metrics.jsonl", "events.jsonl", "reference"):
        for draft in folder.glob(f"{name}.*.tmp"):
            if draft.is_dir():
                shutil.rmtree(draft, ignore_errors=True)
            else:
                draft.unlink(missing_ok=True)


def _without_links(path: Path) -> Path:
    """The path without links: `runs/latest` points elsewhere as soon as another run starts."""
    real = path.expanduser().resolve()
    if not path.is_symlink():
        return path
    return real.relative_to(Path.cwd()) if real.is_relative_to(Path.cwd()) else real


@contextmanager
def locked_directory(path: Path | None, *, recipe_name: str, resume: bool) -> Iterator[RunDirectory]:
    """Context in which only this process writes in the directory of `open_directory`.

    Raises: ConfigError, as `open_directory` does, and when another process writes there.
    """
    directory = open_directory(path, recipe_name=recipe_name, resume=resume)
    with lock_directory(directory.path) as lock:
        if resume:
            _remove_drafts(directory.path)
        else:
            directory.require_unused()  # another run may have started and ended there meanwhile
        yield replace(directory, lock=lock)
