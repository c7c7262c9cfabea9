"""A status line on a terminal: what the run is doing, for how long, and how far it is.

A step of a large model takes minutes. Without a status line a user cannot tell work from a hang.
"""

import time

from rich.console import Console as RichConsole
from rich.live import Live
from rich.text import Text

_REFRESHES_PER_S = 4
_FRAMES = "|/-\\"  # ASCII: works on every terminal


class Activity:
    """The status line. Shows nothing where output is not a terminal, to keep it out of log files."""

    def __init__(self, out: RichConsole) -> None:
        self._out = out
        self._live: Live | None = None
        self._text = ""
        self._since = 0.0
        self._done = self._total = 0

    def begin(self, text: str, *, total: int = 0) -> None:
        """Shows a new activity. total: how many calls of `advance` complete it; 0 shows no count."""
        self._text, self._since = text, time.monotonic()
        self._done, self._total = 0, total
        if self._live is None and self._out.is_terminal:
            self._live = Live(
                self,
                console=self._out,
                refresh_per_second=_REFRESHES_PER_S,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()

    def advance(self) -> None:
        """Counts one more of the total as done."""
        self._done += 1

    def end(self) -> None:
        """Removes the line. Safe to call twice."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def line(self, now: float) -> str:
        """The text shown at time `now` of the monotonic clock."""
        elapsed = max(0.0, now - self._since)
        counted = f" {min(self._done, self._total):,}/{self._total:,}" if self._total else ""
        frame = _FRAMES[int(elapsed * _REFRESHES_PER_S) % len(_FRAMES)]
        return f"{frame} {self._text}{counted}, {elapsed:.0f}s"

    def __rich__(self) -> Text:
        return Text(self.line(time.monotonic()), style="dim", no_wrap=True, overflow="ellipsis")
