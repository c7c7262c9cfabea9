"""Actors are ended without waiting for a head that does not answer, and handles leave no descriptor open. No Ray."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")
from rlvr.run.ray import connect
from rlvr.run.ray.connect import end_actors
from rlvr.run.ray.nodes import node_endpoints
from rlvr.run.ray.nodes.hosts import Host
from rlvr.run.ray.nodes.node_endpoints import NodeEndpoints
from rlvr.run.ray.workers import rank_handle
from rlvr.run.ray.workers.rank_handle import RemoteRank


class Kills(list[Any]):
    """The actors that were killed; while it is silent, no call returns."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()

    def __call__(self, actor: Any) -> None:
        self.append(actor)
        self.answers.wait(10)
        if actor == "gone":
            raise ValueError("there is no such actor")


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kills]:
    kills = Kills()
    monkeypatch.setattr(connect.ray, "kill", kills)
    monkeypatch.setattr(connect, "_KILL_S", 0.2)
    monkeypatch.setattr(connect, "_own_head_ended", lambda: False)
    yield kills
    kills.answers.set()


def test_all_actors_are_ended_within_the_time_of_one_whatever_the_head_answers(kills: Kills):
    end_actors(["a", "gone"])  # an error in a thread would be a warning, which fails a test
    assert sorted(kills) == ["a", "gone"]
    kills.answers.clear()
    begin = time.monotonic()
    end_actors([f"actor {i}" for i in range(20)])
    assert 0.2 <= time.monotonic() - begin < 2.0
    assert len(kills) == 22


def test_an_interpreter_that_ends_starts_no_thread_and_ends_all_the_same(kills: Kills, monkeypatch: pytest.MonkeyPatch):
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    end_actors(["a", "b"])
    assert kills == []


def test_nothing_is_asked_of_a_head_that_is_gone(kills: Kills, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connect, "_own_head_ended", lambda: True)
    end_actors(["a"])
    assert kills == []


@pytest.fixture
def endpoints(monkeypatch: pytest.MonkeyPatch) -> NodeEndpoints:
    """The endpoints of two nodes besides the driver's, without the thread that looks for nodes."""
    monkeypatch.setattr(node_endpoints.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    monkeypatch.setattr(NodeEndpoints, "_run", lambda _: None)
    endpoints = NodeEndpoints(None)  # type: ignore[arg-type] # not used here
    endpoints._actors = {"b": "endpoint b", "c": "endpoint c"}
    return endpoints


def test_endpoints_end_within_a_moment_when_the_head_does_not_answer(kills: Kills, endpoints: NodeEndpoints):
    kills.answers.clear()
    begin = time.monotonic()
    endpoints.close()
    assert time.monotonic() - begin < 2.0
    assert sorted(kills) == ["endpoint b", "endpoint c"]


def test_the_endpoint_of_a_drained_node_ends_within_a_moment_when_the_head_does_not_answer(
    kills: Kills, endpoints: NodeEndpoints, monkeypatch: pytest.MonkeyPatch
):
    hosts = [Host(node="b", address="10.0.0.2", drained_by=0.0), Host(node="c", address="10.0.0.3")]
    monkeypatch.setattr(node_endpoints, "live_hosts", lambda: hosts)
    monkeypatch.setattr(node_endpoints.ray, "cluster_resources", dict)
    monkeypatch.setattr(node_endpoints.ray, "available_resources", dict)
    kills.answers.clear()
    begin = time.monotonic()
    endpoints._look()
    assert time.monotonic() - begin < 2.0
    assert (list(kills), endpoints._actors) == (["endpoint b"], {"c": "endpoint c"})


def num_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_handle_of_a_far_rank_closes_its_descriptors_and_waits_for_no_head(
    kills: Kills, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rank_handle.ray, "get", lambda asked: asked)
    host = SimpleNamespace(start=SimpleNamespace(remote=lambda *_: 123))
    before = num_descriptors()
    rank: Any = RemoteRank(host, 1, num_threads=1, device_index=0)
    assert num_descriptors() == before + 2
    for _ in range(1 << 17):  # more than a pipe holds: the thread must not wait for a reader
        rank._wake()
    kills.answers.clear()
    begin = time.monotonic()
    rank.end()
    assert time.monotonic() - begin < 2.0
    assert num_descriptors() == before
    reader, writer = os.pipe()  # they get the numbers of those that were closed
    rank._wake()
    rank.end()
    os.set_blocking(reader, False)
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)  # nothing was written to another's descriptor
    os.close(reader)
    os.close(writer)
    assert kills == [host, host]
