"""What the run does about nodes that come, are drained, go, or differ from the driver. No Ray."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from rlvr.errors import ConfigError, RlvrError
from rlvr.run.ray.nodes.hosts import Host, Hosts


class Fleet:
    """Records the calls that it gets."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def drain(self, node: str, *, within_s: float | None = None) -> None:
        self.calls.append(("drain", node, within_s))

    def forgive(self, node: str) -> None:
        self.calls.append(("forgive", node))

    def settle(self) -> None:
        self.calls.append(("settle",))


class Cluster:
    """The nodes that there are, and what the run hears and says of them."""

    def __init__(self) -> None:
        self.nodes = {"a": Host(node="a", address="10.0.0.1")}
        self.faults: dict[str, RlvrError] = {}
        self.checked: list[str] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.notes: list[str] = []
        self.fleet = Fleet()
        self.hosts = Hosts(
            ["a"], read=lambda: list(self.nodes.values()), check=self._check, note=self.notes.append, every_s=0.01
        )

    def _check(self, node: str) -> None:
        self.checked.append(node)
        self.may_answer.wait(5)
        if node in self.faults:
            raise self.faults[node]

    def put(self, node: str, **changes: Any) -> None:
        self.nodes[node] = Host(node=node, **{"address": "10.0.0.2", **changes})

    def watched(self) -> AbstractAsyncContextManager[None]:
        return self.hosts.watched(lambda kind, **fields: self.events.append((kind, fields)))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]

    async def until(self, met: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not met():
                await asyncio.sleep(0.005)


def play(scenario: Callable[[Cluster], Awaitable[None]]) -> None:
    async def whole() -> None:
        cluster = Cluster()
        async with cluster.watched():
            cluster.hosts.follow(cluster.fleet)
            await cluster.until(lambda: cluster.hosts.usable == ["a"])
            await scenario(cluster)

    asyncio.run(whole())


def test_a_node_that_joins_is_asked_once_and_then_used_and_one_that_leaves_is_forgiven():
    async def scenario(cluster: Cluster) -> None:
        cluster.put("b")
        await cluster.until(lambda: cluster.hosts.usable == ["a", "b"])
        assert await cluster.hosts.admits("b")
        del cluster.nodes["b"]
        await cluster.until(lambda: cluster.hosts.usable == ["a"])
        await cluster.until(lambda: ("forgive", "b") in cluster.fleet.calls)
        assert cluster.checked == ["b"]
        assert cluster.fleet.calls == [("settle",), ("forgive", "b")]
        assert cluster.kinds() == ["node_joined", "node_left"]
        assert cluster.events[0][1] == {"node": "b", "address": "10.0.0.2"}

    play(scenario)


def test_a_drained_node_gets_nothing_more_and_what_is_on_it_leaves_before_its_time_is_over():
    async def scenario(cluster: Cluster) -> None:
        cluster.put("b")
        await cluster.until(lambda: cluster.hosts.usable == ["a", "b"])
        cluster.put("b", drained_by=time.time() + 35.0)
        await cluster.until(lambda: cluster.hosts.unusable == ["b"])
        assert not await cluster.hosts.admits("b")
        await asyncio.sleep(0.05)  # long enough for a second call
        (_, node, within_s) = cluster.fleet.calls[-1]
        assert (node, cluster.kinds()) == ("b", ["node_joined", "node_draining"])
        assert 25.0 < within_s < 31.0

    play(scenario)


def test_a_node_with_another_version_is_refused_once_with_the_way_out_however_often_it_returns():
    async def scenario(cluster: Cluster) -> None:
        text = "the nodes differ:\n  node 10.0.0.2 ({}): torch is 2.12.0, the driver has 2.13.0"
        for node in ("b" * 9, "c" * 9, "d" * 9):
            cluster.faults[node] = ConfigError(text.format(node[:8]))
            cluster.put(node)
            assert not await cluster.hosts.admits(node)
            await cluster.until(lambda node=node: cluster.hosts.unusable == [node])
            del cluster.nodes[node]
            await cluster.until(lambda: not cluster.hosts.unusable)
        (note,) = cluster.notes
        assert "torch is 2.12.0, the driver has 2.13.0" in note
        assert "--resume" in note
        assert cluster.kinds().count("node_refused") == 1
        cluster.faults["e" * 9] = ConfigError(text.format("e" * 8).replace("torch", "numpy"))
        cluster.put("e" * 9)
        await cluster.until(lambda: len(cluster.notes) == 2)

    play(scenario)


def test_a_node_that_does_not_answer_is_asked_again():
    async def scenario(cluster: Cluster) -> None:
        cluster.faults["b"] = RlvrError("node 10.0.0.2 did not report its versions")
        cluster.put("b")
        await cluster.until(lambda: len(cluster.checked) > 1)
        del cluster.faults["b"]
        await cluster.until(lambda: cluster.hosts.usable == ["a", "b"])
        assert cluster.notes == []

    play(scenario)


def test_a_fleet_is_told_what_happened_while_it_started():
    async def whole() -> None:
        cluster = Cluster()
        async with cluster.watched():
            cluster.put("b", drained_by=time.time() + 35.0)
            cluster.put("c", drained_by=0.0)
            cluster.put("d")
            await cluster.until(lambda: cluster.hosts.usable == ["a", "d"])
            assert sorted(cluster.kinds()) == ["node_draining", "node_draining", "node_joined"]
            await asyncio.sleep(0.1)
            cluster.hosts.follow(cluster.fleet)
            (first, second, third) = cluster.fleet.calls
            assert first[:2] == ("drain", "b")
            assert 25.0 < first[2] < 29.95  # of what is left of the 35 s
            assert (second, third) == (("drain", "c", None), ("settle",))
            later = Fleet()
            cluster.hosts.follow(later)
            assert [call[0] for call in later.calls] == ["drain", "drain", "settle"]
            cluster.put("e")
            await cluster.until(lambda: "e" in cluster.hosts.usable)
            assert cluster.fleet.calls[3:] == later.calls[3:] == [("settle",)]

    asyncio.run(whole())


def test_a_fleet_that_has_ended_hears_no_more_and_the_next_one_of_the_same_run_does():
    async def whole() -> None:
        cluster = Cluster()
        async with cluster.watched():
            cluster.hosts.follow(cluster.fleet)
            await cluster.until(lambda: cluster.hosts.usable == ["a"])
        cluster.put("b")
        async with cluster.watched():
            await cluster.until(lambda: cluster.hosts.usable == ["a", "b"])
            successor = Fleet()
            cluster.hosts.follow(successor)
            assert successor.calls == [("settle",)]
            assert cluster.fleet.calls == []

    asyncio.run(whole())


def test_whoever_waits_for_a_check_that_is_cancelled_is_not_cancelled_with_it_and_the_node_is_asked_again():
    async def whole() -> None:
        cluster = Cluster()
        cluster.may_answer.clear()
        async with cluster.watched():
            await cluster.until(lambda: cluster.hosts.usable == ["a"])
            cluster.put("b")
            asking = asyncio.create_task(cluster.hosts.admits("b"))
            await cluster.until(lambda: cluster.checked == ["b"])
            unborn = cluster.hosts._checked("c", address="")  # cancelled before its first step
        assert await asking is False
        assert unborn.cancelled()
        cluster.may_answer.set()
        assert await cluster.hosts.admits("c")
        assert await cluster.hosts.admits("b")

    asyncio.run(whole())


def test_one_who_stops_waiting_for_a_check_does_not_end_it():
    async def scenario(cluster: Cluster) -> None:
        cluster.may_answer.clear()
        asking = asyncio.create_task(cluster.hosts.admits("b"))
        await cluster.until(lambda: cluster.checked == ["b"])
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        cluster.may_answer.set()
        assert await cluster.hosts.admits("b")
        assert cluster.checked == ["b"]

    play(scenario)


def test_a_change_that_cannot_be_passed_on_does_not_end_the_watch():
    async def scenario(cluster: Cluster) -> None:
        class Broken(Fleet):
            def drain(self, node: str, *, within_s: float | None = None) -> None:
                raise OSError("No space left on device")

        cluster.hosts.follow(Broken())
        cluster.put("b", drained_by=0.0)
        await cluster.until(lambda: cluster.hosts.unusable == ["b"])
        cluster.put("c")
        await cluster.until(lambda: cluster.hosts.usable == ["a", "c"])

    play(scenario)
