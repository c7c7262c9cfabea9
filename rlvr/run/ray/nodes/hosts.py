"""The nodes of the cluster while a run goes on: which come, are drained, or go, and which may be used.

    a node that joins is asked for its versions and sources before anything of the run is placed on it
    a node that differs from the driver is not used: event `node_refused`, once for each difference
    a node that is drained gets nothing more (event `node_draining`); what is on it leaves
    a node that is gone (event `node_left`) takes no restart from cluster.max_engine_restarts with it

Reads the head's table, because asking the nodes would take as long as the slowest one needs.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from ray._private import state, worker

from rlvr.errors import ConfigError
from rlvr.processes.supervised_fleet import OnEvent

T = TypeVar("T")
logger = logging.getLogger(__name__)
WAY_OUT = (
    "Start that host again with the driver's image. Or upgrade the run: stop it with Ctrl-C or SIGTERM, which saves; "
    "start every host with the new image; continue with the same command and --resume, which refuses changed data or "
    "verifiers (--allow-changed-inputs accepts them) but not a newer rlvr"
)
_ALIVE, _DRAINING = 0, 3  # Ray's GcsNodeInfo.GcsNodeState and NodeSnapshot.State
_EVERY_S = 2.0
_READ_S = 5.0
_RESERVE_S = 5.0  # of the time until a drained node is ended, for closing what is on it


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A live node. drained_by: Unix time (s) at which it will be ended; None: it is not drained, 0: no time is set."""

    node: str
    address: str
    drained_by: float | None = None


class Fleet(Protocol):
    """What lives on the nodes."""

    def drain(self, node: str, *, within_s: float | None = None) -> None:
        """See `SupervisedFleet.drain`."""
        ...

    def forgive(self, node: str) -> None:
        """See `SupervisedFleet.forgive`."""
        ...

    def settle(self) -> None:
        """Uses a node that may be used from now on."""
        ...


class Hosts:
    """Knows the nodes that may be used, and tells the fleets what changes."""

    def __init__(
        self,
        known: Collection[str],
        *,
        read: Callable[[], Sequence[Host]],
        check: Callable[[str], object],
        note: Callable[[str], None] = logger.warning,
        every_s: float = _EVERY_S,
    ) -> None:
        """Args:
        known: ids of the nodes that run the driver's code.
        read: the live nodes; raises any error if the head does not answer.
        check: raises ConfigError if the node with this id does not run the driver's code, or any other error if it does
            not answer; blocks.
        note: shows a line on the console.
        """
        self._admitted = set(known)
        self._refused: set[str] = set()
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._said: set[str] = set()
        self._live: dict[str, Host] = {}
        self._read = read
        self._check = check
        self._note = note
        self._every_s = every_s
        self._fleets: list[Fleet] = []
        self._event: OnEvent = lambda kind, **fields: None

    @property
    def usable(self) -> list[str]:
        """Ids of the nodes on which something may be placed, in a fixed order."""
        if not self._live:
            return sorted(self._admitted)
        return sorted(node for node, host in self._live.items() if node in self._admitted and host.drained_by is None)

    @property
    def unusable(self) -> list[str]:
        """Ids of nodes on which nothing may be placed."""
        drained = {node for node, host in self._live.items() if host.drained_by is not None}
        return sorted(self._refused | drained)

    async def admits(self, node: str) -> bool:
        """Whether something may be placed on this node; waits for its check."""
        host = self._live.get(node)
        if node in self._refused or (host is not None and host.drained_by is not None):
            return False
        if node not in self._admitted:
            await asyncio.wait({self._checked(node, address=host.address if host else "")})
        return node in self._admitted

    @asynccontextmanager
    async def watched(self, on_event: OnEvent) -> AsyncIterator[None]:
        """Context in which changes are recorded as events, and passed on to the fleets that `follow` the nodes."""
        self._event = on_event
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            self._fleets = []
            tasks = [watching, *self._checks.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._checks.clear()  # a task that was cancelled before its first step has not removed itself

    def follow(self, fleet: Fleet) -> None:
        """Passes changes on to a fleet that has started, first those that came while it started."""
        self._fleets.append(fleet)
        for host in self._live.values():
            if host.drained_by is not None:
                fleet.drain(host.node, within_s=_within_s(host.drained_by))
        if self._live:
            fleet.settle()

    async def _watch(self) -> None:
        while True:
            try:
                live = await _in_thread(self._read)
            except Exception as error:  # noqa: BLE001 - whatever Ray raises; `HeadWatch` decides whether the head is lost
                logger.debug("the nodes could not be read: %s", error)
            else:
                try:
                    self._changed({host.node: host for host in live})
                except Exception as error:  # nobody awaits this task: later changes would go unseen
                    logger.warning("a change of the nodes was not passed on", exc_info=error)
            await asyncio.sleep(self._every_s)

    def _changed(self, live: dict[str, Host]) -> None:
        before, self._live = self._live, live
        self._refused &= live.keys()
        for node in before.keys() - live.keys():
            self._event("node_left", node=node, address=before[node].address)
            for fleet in self._fleets:
                fleet.forgive(node)
        for node, host in live.items():
            was_drained = node in before and before[node].drained_by is not None
            if host.drained_by is not None:
                if not was_drained:
                    self._drain(host, host.drained_by)
            elif node not in self._admitted and node not in self._refused:
                self._checked(node, address=host.address)

    def _drain(self, host: Host, drained_by: float) -> None:
        within_s = _within_s(drained_by)
        self._event("node_draining", node=host.node, address=host.address, within_s=within_s)
        for fleet in self._fleets:
            fleet.drain(host.node, within_s=within_s)

    def _checked(self, node: str, *, address: str) -> "asyncio.Task[None]":
        """The task that admits the node if it runs the driver's code; it is asked once."""
        if node not in self._checks:
            self._checks[node] = asyncio.create_task(self._ask(node, address))
        return self._checks[node]

    async def _ask(self, node: str, address: str) -> None:
        try:
            await _in_thread(lambda: self._check(node))
        except ConfigError as error:
            self._refused.add(node)
            self._refuse(node, address, str(error))
        except Exception as error:  # noqa: BLE001 - a node that goes meanwhile raises anything of Ray's; it is asked again
            logger.debug("node %s did not say what it runs: %s", address, error)
        else:
            self._admitted.add(node)
            self._event("node_joined", node=node, address=address)
            for fleet in self._fleets:
                fleet.settle()
        finally:
            self._checks.pop(node, None)

    def _refuse(self, node: str, address: str, reason: str) -> None:
        found = reason.replace(node[:8], "")
        if found in self._said:  # the host restarts again and again
            return
        self._said.add(found)
        self._event("node_refused", node=node, address=address, reason=reason)
        self._note(
            f"a host has joined the cluster and is not used, because it differs from the driver; the run continues on "
            f"the others. {reason}\n{WAY_OUT}"
        )


def _within_s(drained_by: float) -> float | None:
    """Seconds in which a drained node is to be left; None if no time is set."""
    return max(0.0, drained_by - time.time() - _RESERVE_S) if drained_by else None


def live_hosts() -> list[Host]:
    """The live nodes, from the head's table. Raises whatever Ray raises if the head does not answer in time."""
    here: Any = worker.global_worker
    client = here.gcs_client
    found = [info for info in client.get_all_node_info(timeout=_READ_S).values() if info.state == _ALIVE]
    drained = {info.node_id.hex() for info in found if info.state_snapshot.state == _DRAINING}
    deadlines: dict[str, int] = state.state.get_draining_nodes() if drained else {}
    return [
        Host(
            node=node,
            address=info.node_manager_address,
            drained_by=deadlines.get(node, 0) / 1000 if node in drained else None,
        )
        for info in found
        for node in [info.node_id.hex()]
    ]


async def _in_thread(function: Callable[[], T]) -> T:
    """Runs the function in a thread that the end of the run does not wait for."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast(T, result))

    def run() -> None:
        result, error = None, None
        try:
            result = function()
        except Exception as caught:  # noqa: BLE001 - passed on to the caller
            error = caught
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(finish, result, error)

    threading.Thread(target=run, name="rlvr-hosts", daemon=True).start()
    return await future
