"""Files that are whole or not there: written under another name, flushed to the disk, renamed."""

import os
import shutil
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Puts `text` in the place of `path`; a crash or a full disk leaves the file that was there before.

    The mode follows the umask, as for any new file.

    Raises: OSError.
    """
    fresh = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    flush(path.parent)


def flush(path: Path) -> None:
    """Has the disk hold the file, or the names in the folder. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Removes a file, a link or a whole folder; does nothing where there is none. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
