"""The run directory: made once, found again on resume, with the path of every file in it."""

import logging
import os
import re
import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from rlvr.errors import CheckpointError, ConfigError
from rlvr.input_files import is_file, is_folder, other_kind

logger = logging.getLogger(__name__)

COMPLETE_MARKER = "complete.json"
_STEP = re.compile(r"step_(\d+)")


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The files of one run.

    RUN_DIR/recipe.yaml, metrics.jsonl, events.jsonl, ledger.sqlite, rollouts/, checkpoints/step_N/,
    report.html. A checkpoint is whole when it holds `complete.json`, which is written last.
    """

    path: Path

    @classmethod
    def create(cls, path: Path | str | None, recipe_name: str) -> "RunDirectory":
        """A fresh run directory; None makes `runs/<recipe name>/<start time>` and `runs/latest`.

        Raises:
            ConfigError: there is a run already, or the place cannot be written.
        """
        if path is not None:
            return cls._make(_usable(path))
        home = Path("runs") / recipe_name
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        chosen, number = home / stamp, 1
        while chosen.exists():
            number += 1
            chosen = home / f"{stamp}-{number}"
        made = cls._make(chosen)
        _point_latest(Path("runs"), chosen)
        return made

    @classmethod
    def _make(cls, path: Path) -> "RunDirectory":
        if path.exists() and not path.is_dir():
            raise ConfigError(f"run directory {str(path)!r} is a file; choose another --run-dir")
        try:
            if path.is_dir() and any(path.iterdir()):
                raise ConfigError(
                    f"run directory {str(path)!r} exists and is not empty; add --resume to go on with "
                    "that run, or choose another --run-dir"
                )
            for folder in (path, path / "rollouts", path / "checkpoints"):
                folder.mkdir(parents=True, exist_ok=True)
            probe = path / f".write-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"run directory {str(path)!r} cannot be written: {error.strerror or error}; choose a "
                "writable place with --run-dir"
            ) from error
        return cls(path)

    @classmethod
    def open_existing(cls, path: Path | str) -> "RunDirectory":
        """The directory of an earlier run, for --resume, report and eval.

        Raises:
            ConfigError: no run is there.
        """
        found = cls(Path(path).expanduser())
        if not found.recipe.is_file():
            state = "has no recipe.yaml" if found.path.is_dir() else "does not exist"
            raise ConfigError(
                f"run directory {str(found.path)!r} {state}; there is no run to resume. "
                "Name the folder that an earlier `rlvr train` left"
            )
        found.rollouts.mkdir(exist_ok=True)
        found.checkpoints.mkdir(exist_ok=True)
        return found

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object a step."""
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """Starts, stops, faults, alarms, decisions."""
        return self.path / "events.jsonl"

    @property
    def ledger(self) -> Path:
        """What became of each prompt."""
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

    def whole_checkpoints(self) -> list[tuple[int, Path]]:
        """The whole checkpoints as (step, folder), oldest first; torn and `.tmp` ones are left out."""
        if not self.checkpoints.is_dir():
            return []
        found: list[tuple[int, Path]] = []
        for folder in self.checkpoints.iterdir():
            match = _STEP.fullmatch(folder.name)
            if match and (folder / COMPLETE_MARKER).is_file():
                found.append((int(match[1]), folder))
        return sorted(found)

    def newest_checkpoint(self) -> tuple[int, Path] | None:
        """The newest whole checkpoint as (step, folder); None when there is none."""
        whole = self.whole_checkpoints()
        return whole[-1] if whole else None

    def way_on(self, how: str = "stopped") -> str:
        """The newest checkpoint and the command to go on from it: the last line of a run that was stopped.

        Args: how: it was stopped; the beginning of the line.
        """
        found = self.newest_checkpoint()
        if found is None:
            return f"{how} before the first checkpoint: {self.path} cannot be resumed; start anew"
        command = ["rlvr", "train", str(self.recipe), "--run-dir", str(self.path), "--resume"]
        return f"{how}; the newest checkpoint is {found[1]}; go on with: {shlex.join(command)}"

    def prune_checkpoints(self, keep: int) -> list[Path]:
        """The folders removed, so that only the newest `keep` whole checkpoints stay.

        Torn ones older than the newest whole one go too. A folder loses its marker first, so that
        a crash in between never leaves half a checkpoint that looks whole.
        """
        if keep < 1:
            raise ValueError(
                f"keep={keep} must be at least 1, or a run could lose its last checkpoint"
            )
        whole = self.whole_checkpoints()
        gone = [folder for _, folder in whole[:-keep]]
        if whole:
            kept = {folder for _, folder in whole}
            for folder in self.checkpoints.iterdir():
                match = _STEP.match(folder.name)
                if match and folder not in kept and int(match[1]) < whole[-1][0]:
                    gone.append(folder)
        for folder in gone:
            try:
                (folder / COMPLETE_MARKER).unlink(missing_ok=True)
                shutil.rmtree(folder)
            except OSError as error:
                raise CheckpointError(
                    f"cannot remove checkpoint {str(folder)!r}: {error}"
                ) from error
        return gone


def _usable(path: Path | str) -> Path:
    """The path, where a folder is or can be. Raises ConfigError that says what else is there."""
    found = Path(path).expanduser()
    kind = "a file" if is_file(found) else "" if is_folder(found) else other_kind(found)
    if kind:
        shown = str(found) if len(str(found)) <= 200 else f"{str(found)[:100]}..."
        raise ConfigError(f"run directory {shown!r} is {kind}; choose another --run-dir")
    return found


def _point_latest(home: Path, target: Path) -> None:
    """Sets `runs/latest` in one rename, so that no reader ever finds it missing."""
    link, fresh = home / "latest", home / f".latest-{os.getpid()}"
    try:
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target.relative_to(home), target_is_directory=True)
        os.replace(fresh, link)
    except OSError as error:  # a convenience only; some file systems have no links
        logger.warning("could not set %s: %s", link, error)
        fresh.unlink(missing_ok=True)


def open_directory(path: Path | None, *, recipe_name: str, resume: bool) -> RunDirectory:
    """A fresh run directory, or with `resume` the one of an earlier run (default `runs/latest`).

    Raises: ConfigError when it exists already, cannot be written, or is not there to resume.
    """
    if not resume:
        return RunDirectory.create(path, recipe_name)
    if path is None and not Path("runs/latest").exists():
        raise ConfigError("--resume needs --run-dir: there is no runs/latest in this folder")
    return RunDirectory.open_existing(path or Path("runs/latest"))
