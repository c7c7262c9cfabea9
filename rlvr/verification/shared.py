"""Shared between items: one verdict per `work_key`, and the slots of a service that takes few items at once."""

import asyncio
import hashlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

from rlvr.records import Status, Verdict

_MAX_KEPT = 2048


class SharedWork:
    """The Futures of running and recently verified items, by verifier and key; safe to use from any thread."""

    def __init__(self) -> None:
        self._futures: OrderedDict[bytes, Future[Verdict]] = OrderedDict()
        self._lock = threading.Lock()

    def future_of(
        self, verifier: str, key: str, submit: Callable[[], "Future[Verdict]"]
    ) -> tuple["Future[Verdict]", bool]:
        """(Future of the verdict, whether this is the first request for it).

        An ERROR is not a property of the answer, so it is not kept.
        """
        text = f"{verifier}\0{key}".encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(text, digest_size=16).digest()
        with self._lock:
            known = self._futures.get(digest)
            if known is not None:
                self._futures.move_to_end(digest)
                return known, False
            future = self._futures[digest] = submit()
            if len(self._futures) > _MAX_KEPT:
                self._futures.popitem(last=False)
        future.add_done_callback(lambda done: self._forget_error(digest, done))
        return future, True

    def _forget_error(self, digest: bytes, done: "Future[Verdict]") -> None:
        if done.cancelled() or done.result().status is Status.ERROR:
            with self._lock:
                self._futures.pop(digest, None)


class Places:
    """Limits a verifier's concurrent items in each event loop; others wait in order, outside their deadline."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._of_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )
        self._lock = threading.Lock()

    def here(self) -> asyncio.Semaphore:
        """The semaphore of the running loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            return self._of_loop.setdefault(loop, asyncio.Semaphore(self._count))
