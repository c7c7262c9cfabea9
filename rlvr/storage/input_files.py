"""Files named by a user: what a path is if not a file, and bounded reading of UTF-8 text.

A path may be a pipe without a writer, an endless device, or an invalid name; each is recognised before anything is
read.
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
    """Whether it is a regular file; False also for an invalid name."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether it is a folder; False also for an invalid name."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def other_kind(path: Path) -> str:
    """What a path that is not a regular file is ("a named pipe", "a name that is too long"); "" if nothing is there."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "a broken link" if path.is_symlink() else ""
    except ValueError:
        return "a name with a null character"
    except OSError as error:
        return f"not usable ({error.strerror})"
    return next((kind for test, kind in _KINDS if test(mode)), "")


def read_input_text(path: Path, *, what: str, max_bytes: int, error: type[RlvrError]) -> str:
    """The text of a file of at most `max_bytes` bytes, in UTF-8 with or without a byte order mark.

    Args: what: its name in messages ("plugin file 'mine.py'"). error: the type of the errors raised.

    Raises: `error` when it cannot be read, is too long, or is not UTF-8.
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
        raise error(f"{what} is not UTF-8 text (byte {fault.start}, line {line}); save it as UTF-8") from fault
