"""Cleans up after a run that could not start: its unusable folder is removed and `runs/latest` restored."""

import contextlib
import os
import shutil
from pathlib import Path
from types import TracebackType

from rlvr.run.record.directory import RunDirectory
from rlvr.run.record.lock import LOCK_FILE
from rlvr.storage.input_files import is_folder

_LATEST = Path("runs/latest")


class UnstartedRun:
    """Context in which a run starts; if an exception ends it before its first event, its new directory is removed.

    Enter it before the directory is created, and pass the directory to `made`.

    Args: chosen: the directory that the user named; if it existed before, it stays and is emptied.
    """

    def __init__(self, chosen: Path | None) -> None:
        self._stays = chosen is not None and is_folder(chosen.expanduser())
        self._latest = os.readlink(_LATEST) if _LATEST.is_symlink() else None
        self._directory: RunDirectory | None = None

    def made(self, directory: RunDirectory) -> None:
        """Registers the new directory."""
        self._directory = directory

    def __enter__(self) -> "UnstartedRun":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None and self._directory is not None and not _has_started(self._directory):
            self._remove(self._directory)

    def _remove(self, directory: RunDirectory) -> None:
        """Removes what it can; a failure is ignored, because the error that ended the run matters more."""
        with contextlib.suppress(OSError):
            self._restore_latest(directory)
        for path in directory.path.iterdir() if self._stays else [directory.path]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        if self._stays:
            return
        for parent in (directory.path.parent, directory.path.parent.parent):
            if not parent.is_absolute() and parent != Path():
                with contextlib.suppress(OSError):
                    parent.rmdir()  # only where nothing else is in it

    def _restore_latest(self, directory: RunDirectory) -> None:
        if not _LATEST.is_symlink() or _LATEST.resolve() != directory.path.resolve():
            return
        _LATEST.unlink()
        if self._latest is not None:
            _LATEST.symlink_to(self._latest, target_is_directory=True)


def _has_started(directory: RunDirectory) -> bool:
    """Whether the directory holds more than a recipe and empty folders and files."""
    names = {directory.recipe, directory.path / LOCK_FILE}
    return any(
        path.stat().st_size > 0
        for path in directory.path.rglob("*")
        if path.is_file() and path not in names and path != directory.ledger
    )
