"""Time limits for operations that have none of their own: NCCL waits for a dead peer until it is aborted."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rlvr.errors import TransferError

T = TypeVar("T")


@contextmanager
def aborted_after(deadline_s: float, abort: Callable[[], None], *, what: str) -> Iterator[None]:
    """Context in which `abort` is called, from another thread, once the deadline has passed.

    Raises: TransferError at its end or in place of any error, if the deadline passed.
    """
    has_expired = threading.Event()

    def expire() -> None:
        has_expired.set()
        abort()

    timer = threading.Timer(deadline_s, expire)
    timer.daemon = True
    timer.start()
    message = f"{what} did not end within {deadline_s:g} s (cluster.sync_deadline_s)"
    try:
        yield
    except Exception as error:  # whatever an aborted communicator raises
        if has_expired.is_set():
            raise TransferError(message) from error
        raise
    finally:
        timer.cancel()
    if has_expired.is_set():
        raise TransferError(message)


def within(deadline_s: float, work: Callable[[], T], *, what: str) -> T:
    """The result of `work`, which runs in another thread; the thread is abandoned when the deadline has passed.

    For calls that nothing can abort. Raises: TransferError after the deadline; what the work raised.
    """
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:  # noqa: BLE001 - raised in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True, name="rlvr-transfer")
    thread.start()
    thread.join(deadline_s)
    if errors:
        raise errors[0]
    if not results:
        raise TransferError(f"{what} did not end within {deadline_s:g} s (cluster.sync_deadline_s)")
    return results[0]
