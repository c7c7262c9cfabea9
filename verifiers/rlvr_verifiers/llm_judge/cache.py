"""The judge's answers to equal requests: one is sent, the others wait for it or get what is stored."""

import asyncio
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import Future


class AnswerCache:
    """The latest answers by request, for all event loops of this process. Failures are not kept.

    Args: size: answers that are kept; 0 sends every request.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._answers: OrderedDict[bytes, Future[str]] = OrderedDict()
        self._lock = threading.Lock()
        self.num_hits = 0

    async def answer(self, request: str, ask: Callable[[], Awaitable[str]]) -> str:
        """The stored answer, else that of an equal request that is open, else what `ask` returns.

        Raises what `ask` raises, also if it was another caller's.
        """
        if not self._size:
            return await ask()
        digest = hashlib.sha256(request.encode("utf-8", "surrogatepass")).digest()
        while True:
            with self._lock:
                known = self._answers.get(digest)
                if known is None:
                    own = self._answers[digest] = Future[str]()
                    if len(self._answers) > self._size:
                        self._answers.popitem(last=False)
                    break
                self._answers.move_to_end(digest)
            try:
                found = await asyncio.shield(asyncio.wrap_future(known))
            except asyncio.CancelledError:
                if not known.cancelled():
                    raise  # this caller was cancelled, not the one that asks
                continue
            self.num_hits += 1
            return found
        try:
            answer = await ask()
        except asyncio.CancelledError:
            self._forget(digest, own)
            own.cancel()
            raise
        except Exception as error:  # raised here and for everyone who waits for the same answer
            self._forget(digest, own)
            own.set_exception(error)
            raise
        own.set_result(answer)
        return answer

    def _forget(self, digest: bytes, future: "Future[str]") -> None:
        with self._lock:
            if self._answers.get(digest) is future:
                del self._answers[digest]
