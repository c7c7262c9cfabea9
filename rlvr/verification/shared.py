"""What items share: one verdict for those of one `work_key`, and the places at a service that takes few at once."""

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
    """The Futures of items that are under way or were judged lately, by verifier and key; safe from any thread."""

    def __init__(self) -> None:
        self._futures: OrderedDict[bytes, Future[Verdict]] = OrderedDict()
        self._lock = threading.Lock()

    def future_of(
        self, verifier: str, key: str, submit: Callable[[], "Future[Verdict]"]
    ) -> tuple["Future[Verdict]", bool]:
        """(the verdict to come, whether it was asked for here for the first time).

        An ERROR is no property of the answer, so it is forgotten.
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
    """So many items of a verifier at once in each event loop; the others wait in order, outside of their deadline."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._of_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )
        self._lock = threading.Lock()

    def here(self) -> asyncio.Semaphore:
        """Those of the running loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            return self._of_loop.setdefault(loop, asyncio.Semaphore(self._count))
