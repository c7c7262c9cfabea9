"""Signs of life during work that returns only at its end: reading a whole model, writing a checkpoint."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_EVERY_S = 0.5


@contextmanager
def signs_of_life(alive: Callable[[], None], *, progress: Callable[[], object] | None = None) -> Iterator[None]:
    """A context in which `alive` is called regularly from another thread.

    Args: progress: only while its value changes, so that work that has come to a halt is noticed; None: always.
    """
    ended = threading.Event()

    def signal() -> None:
        last: object = None
        while not ended.wait(_EVERY_S):
            now = object() if progress is None else progress()
            if now != last:
                last = now
                alive()

    thread = threading.Thread(target=signal, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def written_bytes(folder: Path) -> int:
    """The bytes of all files below a folder; 0 if it is gone."""
    try:
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    except OSError:  # renamed or removed in the meantime
        return 0
