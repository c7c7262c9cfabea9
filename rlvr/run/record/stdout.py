"""Standard output that may fail before the work ends: `| head`, a full disk, a closed terminal.

A training run continues and writes its lines to RUN_DIR/console.log. Any other command ends: silently with exit code
141 when its reader is gone, as a shell shows for SIGPIPE, and with a message when the output cannot be written.
"""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TextIO, cast

SIGPIPE_EXIT_CODE = 141
LOG_FILE = "console.log"
logger = logging.getLogger(__name__)


class OutputLost(OSError):  # noqa: N818 - a state of the output
    """Standard output cannot be written; `errno` says why."""


class Output:
    """What a console writes to: standard output, or the given stream.

    is_steady: a failed write is not an error. log: where lines go after one; None drops them.
    """

    def __init__(self, stream: IO[str] | None, *, is_steady: bool) -> None:
        self._stream = stream
        self._is_steady = is_steady
        self._unflushed = ""
        self._has_lost = False
        self.log: Path | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    @property
    def _target(self) -> Any:
        return sys.stdout if self._stream is None else self._stream

    def write(self, text: str) -> int:
        """Writes text. Raises OSError unless the output is steady."""
        if self._is_steady:
            self._unflushed += text
        with self._losses():
            if not self._has_lost and self._target is not None:
                self._target.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes the output. Raises OSError unless the output is steady."""
        with self._losses():
            if not self._has_lost and self._target is not None:
                self._target.flush()
        if self._has_lost and self.log is not None:
            with contextlib.suppress(OSError), self.log.open("a", encoding="utf-8") as file:
                file.write(self._unflushed)
        self._unflushed = ""

    @contextlib.contextmanager
    def _losses(self) -> Any:
        try:
            yield
        except OSError as error:
            if not self._is_steady:
                raise OutputLost(error.errno, error.strerror) from error
            self._has_lost = True
            silence(self._target)
            place = f"its lines go to {self.log}" if self.log else "its lines are dropped"
            logger.warning("standard output cannot be written (%s); the run continues, and %s", error.strerror, place)


def silence(stream: Any) -> None:
    """Redirects the stream's descriptor to /dev/null, so that a flush at exit does not fail."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)


def written(command: Callable[[], int]) -> int:
    """The command's exit code if its output was fully written; else 141, or 1 with a message."""
    stdout = sys.stdout
    if stdout is None:  # pyright: ignore[reportUnnecessaryComparison] - it was closed before this process began
        return command()
    sys.stdout = cast(TextIO, Output(stdout, is_steady=False))  # also catches what libraries print
    try:
        code = command()
        sys.stdout.flush()
        return code
    except (OutputLost, SystemExit) as error:
        # the parser ends with exit code 1 where its help cannot be written
        lost = error if isinstance(error, OutputLost) else error.__context__
        if not isinstance(lost, OutputLost):
            raise
        silence(stdout)
        if lost.errno == errno.EPIPE:
            return SIGPIPE_EXIT_CODE
        tell(f"rlvr: standard output cannot be written: {lost.strerror}")
        return 1
    finally:
        sys.stdout = stdout


def tell(text: str) -> None:
    """Prints a line on standard error, if that can be written."""
    shown = text.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair is no character
    with contextlib.suppress(OSError, ValueError):
        print(shown, file=sys.stderr, flush=True)  # noqa: T201 - the final message of a command
