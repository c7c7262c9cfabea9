"""Files and folders by the time of their last write, while other processes write, rotate and remove them."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def by_age(paths: Iterable[Path]) -> list[Path]:
    """Paths sorted by the time of their last write, oldest first; those that are gone are left out."""
    times = {path: time for path in paths if (time := _written(path)) is not None}
    return sorted(times, key=lambda path: times[path])


def last_write(folder: Path) -> float:
    """When a folder or a file in it was last written, in seconds since the epoch; 0.0 if the folder is gone.

    The time of the folder itself does not change while a file in it grows.
    """
    paths = [folder]
    with suppress(OSError):
        paths += folder.iterdir()
    return max((time for path in paths if (time := _written(path)) is not None), default=0.0)


def _written(path: Path) -> float | None:
    with suppress(OSError):  # it is gone, which NFS may also report as a stale handle
        return path.stat().st_mtime
    return None
