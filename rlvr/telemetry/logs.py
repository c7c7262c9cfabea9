"""Log records that say who wrote them: the run, the role of the process and the step it works on.

In files a record is a JSON object, on standard error a line:

    2026-11-30T12:00:00.123Z WARNING my-run engine-1 step 12 rlvr.rollout.vllm.engine: ...
"""

import json
import logging
import logging.handlers
import os
import socket
import time
import traceback
from pathlib import Path

from rlvr.telemetry.redaction import Redactor

MOST_BYTES = 8 << 20  # of a file, of which a process keeps this one and `KEPT` older ones
KEPT = 2
_MOST_CHARACTERS = 20_000  # of a message
NODE = "RLVR_RUN_NODE"  # a variable with the address of this node, for the process's children
_step = -1


def set_step(step: int) -> None:
    """Sets the policy step that this process's records carry from now on; a negative one, of a trial, is ignored."""
    global _step
    if step >= 0:
        _step = step


def step_here() -> int:
    """The step that records carry; -1 before the first."""
    return _step


def restart_steps() -> None:
    """Begins a new run in this process, or one that was rewound."""
    global _step
    _step = -1


class JsonFormatter(logging.Formatter):
    """A record as a JSON object: time, level, run, role, step, host, node, pid, logger, message; error if there is one.

    node: its address in the cluster.
    """

    def __init__(self, *, run: str, role: str, redact: Redactor) -> None:
        super().__init__()
        self._fixed = {"run": run, "role": role}
        self._host = socket.gethostname()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """The object, on one line."""
        row = {
            "time": utc(record.created),
            "level": record.levelname,
            **self._fixed,
            "step": _step if _step >= 0 else None,
            "host": self._host,
            "node": os.environ.get(NODE, ""),
            "pid": os.getpid(),
            "logger": record.name,
            "message": self._redact(record.getMessage())[:_MOST_CHARACTERS],
        }
        if record.exc_info and record.exc_info[0] is not None:
            row["error"] = self._redact("".join(traceback.format_exception(*record.exc_info)))[-_MOST_CHARACTERS:]
        return json.dumps(row, ensure_ascii=False)


class LineFormatter(logging.Formatter):
    """A record as a line for a person, with a traceback if there is one."""

    def __init__(self, *, run: str, role: str, redact: Redactor) -> None:
        super().__init__()
        self._who = f"{run} {role}"
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        step = f" step {_step}" if _step >= 0 else ""
        text = f"{utc(record.created)} {record.levelname} {self._who}{step} {record.name}: {record.getMessage()}"
        if record.exc_info and record.exc_info[0] is not None:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return self._redact(text)


class FileHandler(logging.handlers.RotatingFileHandler):
    """A log file of bounded size. When the disk is full, records are lost, but the run continues."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=MOST_BYTES, backupCount=KEPT, encoding="utf-8", delay=True)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - of the standard library
        """Drops the record."""


def utc(seconds: float) -> str:
    """A Unix time as UTC with milliseconds.

    >>> utc(0.5)
    '1970-01-01T00:00:00.500Z'
    """
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds * 1000) % 1000:03d}Z"


def ago(seconds: float) -> str:
    """The time that many seconds ago, as in records."""
    return utc(time.time() - seconds)
