"""The last errors that this process and its children wrote, if their output goes to a file, as in a Ray actor.

vLLM's core is a separate process. When its start fails, the parent only gets "Engine core initialization failed"; the
cause is in the output that both share.
"""

import os
import re
import stat
from pathlib import Path

_TAIL_BYTES = 1 << 16
_MOST_LINES = 3
# The last line of a traceback: an exception's name, with or without its module, and its message.
_EXCEPTION = re.compile(r"(?:^|[\s\]])((?:\w+\.)*[A-Z]\w*(?:Error|Exception|Compiler|Exit)\b:?.*)$")
# Messages that only say that something else failed.
_EMPTY = ("Engine core initialization failed", "Failed core proc")


def last_errors() -> str:
    """The last few exceptions in this process's standard error and output, newest last; "" if there are none."""
    found: list[str] = []
    for descriptor in (1, 2):
        found += _exceptions(_tail(descriptor))
    distinct = list(dict.fromkeys(found))
    return "; ".join(distinct[-_MOST_LINES:])


def _tail(descriptor: int) -> str:
    """The end of the file behind a descriptor; "" if it is a terminal or a pipe."""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        with Path(f"/proc/self/fd/{descriptor}").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:  # closed, or a system without /proc
        return ""


def _exceptions(text: str) -> list[str]:
    found: list[str] = []
    for line in text.splitlines():
        match = _EXCEPTION.search(line.rstrip())
        if match and not any(empty in match[1] for empty in _EMPTY):
            found.append(match[1][:300])
    return found
