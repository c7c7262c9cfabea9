"""Files that a user names: what a path is when it is no file, and reading text that is bounded and UTF-8.

A path may be a pipe that no one writes to, a device without an end, or a name that the system refuses; each is told by
its name before anything is read.
"""

import stat
from pathlib import Path

from rlvr.errors import RlvrError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def is_file(path: Path) -> bool:
    """Whether it is a regular file; False also for a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether it is a folder; False also for a name that no folder can have."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def other_kind(path: Path) -> str:
    """What a path that is no regular file is ("a named pipe", "a name that is too long"); "" where nothing is there."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "a link to nothing" if path.is_symlink() else ""
    except ValueError:
        return "a name with a null character"
    except OSError as error:
        return f"not usable ({error.strerror})"
    return next((kind for test, kind in _KINDS if test(mode)), "")


def read_input_text(path: Path, *, what: str, max_bytes: int, error: type[RlvrError]) -> str:
    """The text of a file of at most `max_bytes` bytes, UTF-8 with or without a byte order mark.

    Args: what: how a message names it ("plugin file 'mine.py'"). error: the category of what is raised.

    Raises: `error` when it cannot be read, is longer, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as fault:
        raise error(f"{what} cannot be read: {fault.strerror or fault}") from fault
    if len(data) > max_bytes:
        raise error(f"{what} is longer than {max_bytes:,} bytes; is it the right file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = data.count(b"\n", 0, fault.start) + 1
        raise error(
            f"{what} is not UTF-8 text (byte {fault.start}, line {line}); save it as UTF-8"
        ) from fault
