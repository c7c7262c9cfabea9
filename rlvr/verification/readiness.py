"""Verifiers that have to start something before their first item: waiting for them, and for coroutines in general."""

import asyncio
from collections.abc import Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

from rlvr.errors import PLUGIN_FAULTS, PluginError
from rlvr.protocols import Execution, Verifier


@runtime_checkable
class SupportsReady(Protocol):
    """An ASYNC verifier that has to start something, for example a process with a model."""

    async def ready(self) -> object:
        """Awaited before a run, and before each item outside its deadline; returns at once if nothing is to be started.

        Raises: an error with the reason, which before a run is a PluginError and for an item an ERROR.
        """
        ...


async def start_problem(verifier: Verifier) -> BaseException | None:
    """Why a verifier cannot take an item now; None if it can. Waits until it has started."""
    if verifier.execution is not Execution.ASYNC or not isinstance(verifier, SupportsReady):
        return None
    try:
        await verifier.ready()
    except PLUGIN_FAULTS as error:
        return error
    return None


def require_started(verifiers: Iterable[Verifier]) -> None:
    """Waits until each verifier has started. Raises PluginError with the first problem."""
    for verifier in verifiers:
        problem = complete(start_problem(verifier))
        if problem is not None:
            raise PluginError(f"verifier {verifier.name!r}: {problem}") from problem


def complete(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine, which runs in a new thread, because the caller may be in an event loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
