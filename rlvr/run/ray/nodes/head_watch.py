"""Ends the run when the cluster's head is gone: nothing in a Ray cluster can continue without it.

    another cluster answers at its address                            --> lost at once
    no answer for `LOST_S`, or for `DEAD_S` if its process has ended  --> lost; until then a step may end and be saved
    lost --> the run's task is cancelled and raises ClusterLost (exit code 75, event `stopped`); whatever still waits
             `END_S` later ends with the process, with the same exit code

Ray itself ends a process that has not reached the head for RAY_gcs_rpc_server_reconnect_timeout_s (60 s), with exit
code 1 and no word about a resume, so this has to be faster.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rlvr.errors import ClusterLost, ConfigError, Interrupted, RlvrError

logger = logging.getLogger(__name__)
ASK_S = 3.0  # for one answer
LOST_S = 30.0
DEAD_S = 10.0  # a signal to the process group ends a private head too, and the run is about to end in order
END_S = 15.0
_EVERY_S = 2.0


class HeadWatch:
    """A thread that asks the head for a sign of life until `close`.

    record: called with the message before `end`, to record how the run ended; None: nothing is recorded.
    """

    def __init__(
        self,
        ask: Callable[[], str],
        *,
        address: str,
        is_dead: Callable[[], bool] = lambda: False,
        end: Callable[[str], None] | None = None,
        lost_s: float = LOST_S,
        dead_s: float = DEAD_S,
        every_s: float = _EVERY_S,
        end_s: float = END_S,
    ) -> None:
        """Args:
        ask: returns the name of the head's session within `ASK_S`; raises any error if there is no answer.
        address: of the head, for messages.
        is_dead: whether the head's process is known to have ended.
        end: ends this process with a message; called when the run has not ended `end_s` after the loss.
        """
        self._ask = ask
        self._address = address
        self._is_dead = is_dead
        self._end = end or end_process
        self._lost_s = lost_s
        self._dead_s = dead_s
        self._every_s = every_s
        self._end_s = end_s
        self.record: Callable[[str], None] | None = None
        self._session = ""
        self._reason = ""
        self._answered = time.monotonic()
        self._cancel: Callable[[], object] | None = None
        self._looking = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rlvr-head-watch", daemon=True)
        self._thread.start()

    @property
    def is_lost(self) -> bool:
        """Whether the head is gone. Then a call of Ray that needs it would not return."""
        return bool(self._reason) or self._is_dead()

    @property
    def message(self) -> str:
        """What happened and what to do."""
        return (
            f"the cluster's head at {self._address} is gone ({self._reason}), and a run cannot continue without it; "
            "when a head runs there again, the same command with --resume continues from the newest checkpoint"
        )

    def rest(self) -> None:
        """Stops asking. If the head is lost, `end` may still be called."""
        if not self._reason:
            self.close()

    def close(self) -> None:
        """Ends the thread."""
        self._closing.set()
        self._thread.join(ASK_S + 1.0)

    @contextmanager
    def explains(self) -> Iterator[None]:
        """Context whose failures are ClusterLost if the head is gone; the task in it is cancelled when it goes."""
        with suppress(RuntimeError):  # no event loop runs here: `end` ends what waits
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            if task is not None:
                self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            yield
        except (Interrupted, ConfigError):
            raise
        except (RlvrError, asyncio.CancelledError) as error:
            if isinstance(error, RlvrError):  # it may be the first sign of the loss
                while not self._look() and not self._reason:
                    time.sleep(self._every_s)
            if not self._reason:
                raise
            raise ClusterLost(self.message) from error
        finally:
            self._cancel = None

    def _run(self) -> None:
        while not self._closing.wait(self._every_s):
            self._look()
            if self._reason:
                break
        if not self._reason:
            return
        logger.warning("%s", self.message)
        if (cancel := self._cancel) is not None:
            with suppress(RuntimeError):  # the loop has ended
                cancel()
        if not self._closing.wait(self._end_s):
            if self.record is not None:
                with suppress(Exception):  # the process ends now, whatever the state of the run's files
                    self.record(self.message)
            self._end(self.message)

    def _look(self) -> bool:
        """Asks once, unless the head is known to be lost; returns whether it answered."""
        with self._looking:
            if self._reason:
                return False
            asked = time.monotonic()
            is_dead = self._is_dead()
            try:
                session = "" if is_dead else self._ask()
            except Exception as error:  # noqa: BLE001 - whatever Ray raises, it is not an answer
                logger.debug("the head did not answer: %s", error)
                session = ""
            if not session:
                silent_s = time.monotonic() - self._answered
                if silent_s >= (self._dead_s if is_dead else self._lost_s):
                    self._reason = "its process ended" if is_dead else f"no answer for {silent_s:.0f} s"
                return False
            self._answered = asked
            self._session = self._session or session
            if session != self._session:
                self._reason = "another one was started in its place"
            return not self._reason


def end_process(message: str) -> None:
    """Prints the message on stderr and ends this process with the exit code of ClusterLost."""
    os.write(2, f"rlvr: {message}\n".encode())
    os._exit(ClusterLost.exit_code)
