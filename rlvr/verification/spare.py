"""The spare worker of a verifier pool: started in advance, so that a lost worker is replaced at once."""

import threading
from collections.abc import Callable

from rlvr.errors import RlvrError
from rlvr.verification.worker_process import WorkerLost, WorkerProcess


class Spare:
    """Keeps one worker ready, in a thread that runs until `close`: a worker ends with the thread that started it.

    Args:
        start: starts a worker, passes it to its argument at once, and returns when it is ready. May raise WorkerLost,
            OSError or RlvrError; it is called again after the next `take`.
    """

    def __init__(self, start: Callable[[Callable[[WorkerProcess], None]], None]) -> None:
        self._start = start
        self._changed = threading.Condition()
        self._is_wanted = False
        self._is_closed = False
        self._starting: WorkerProcess | None = None
        self._ready: WorkerProcess | None = None
        self._thread: threading.Thread | None = None

    @property
    def num_ready(self) -> int:
        """1 when one is ready, else 0."""
        return int(self._ready is not None)

    def begin(self) -> None:
        """Starts the first worker, once."""
        with self._changed:
            if self._thread is None and not self._is_closed:
                self._is_wanted = True
                self._thread = threading.Thread(target=self._run, name="verifier-spare", daemon=True)
                self._thread.start()

    def take(self) -> WorkerProcess | None:
        """The ready worker, after which another is started; None when none is ready or it has died."""
        with self._changed:
            worker, self._ready = self._ready, None
            self._is_wanted = True
            self._changed.notify_all()
        if worker is not None and not worker.is_running:
            _end(worker)
            return None
        return worker

    def close(self) -> None:
        """Ends the worker and the thread, and waits for it. May be called twice."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            if self._starting is not None:
                self._starting.kill()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while self._wait():
            try:
                self._start(self._started)
            except (OSError, RlvrError, WorkerLost):
                self._drop_started()
                continue
            with self._changed:
                self._ready, self._starting = self._starting, None
        with self._changed:
            worker, self._ready = self._ready, None
        if worker is not None:
            _end(worker)

    def _wait(self) -> bool:
        """Waits until a worker is wanted (True) or the pool closes (False)."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or (self._is_wanted and self._ready is None))
            self._is_wanted = False
            return not self._is_closed

    def _started(self, worker: WorkerProcess) -> None:
        with self._changed:
            self._starting = worker
            if self._is_closed:
                worker.kill()

    def _drop_started(self) -> None:
        with self._changed:
            worker, self._starting = self._starting, None
        if worker is not None:
            _end(worker)


def _end(worker: WorkerProcess) -> None:
    worker.kill()
    worker.close_pipes()
