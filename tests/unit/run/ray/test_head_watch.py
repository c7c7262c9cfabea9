"""A run whose cluster's head is gone ends at once in one way, whatever it waits for. No Ray."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rlvr.errors import ClusterLost, ConfigError, RolloutError
from rlvr.run.ray.nodes.head_watch import HeadWatch


class Head:
    """Answers with the name of its session, or with nothing."""

    def __init__(self) -> None:
        self.session = "first"
        self.is_silent = False
        self.is_dead = False

    def ask(self) -> str:
        if self.is_silent:
            raise TimeoutError("Timed out while waiting for GCS to become available")
        return self.session


@contextmanager
def watched(head: Head, **changes: Any) -> Iterator[HeadWatch]:
    settings: dict[str, Any] = {"lost_s": 0.2, "dead_s": 0.1, "every_s": 0.01, "end_s": 5.0, "end": lambda _: None}
    watch = HeadWatch(head.ask, address="10.0.0.1:6379", is_dead=lambda: head.is_dead, **settings | changes)
    try:
        yield watch
    finally:
        watch.close()


async def _work(watch: HeadWatch, *, seconds: float) -> None:
    with watch.explains():
        await asyncio.sleep(seconds)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"is_silent": True}, "no answer for 0 s"),
        ({"is_dead": True}, "its process ended"),
        ({"session": "second"}, "another one was started in its place"),
    ],
)
def test_the_run_ends_with_the_reason_and_the_way_to_continue(change: dict[str, Any], reason: str):
    head = Head()
    with watched(head) as watch:
        time.sleep(0.05)
        threading.Timer(0.05, lambda: vars(head).update(change)).start()
        with pytest.raises(ClusterLost, match=rf"10.0.0.1:6379 is gone \({reason}\).*--resume") as caught:
            asyncio.run(_work(watch, seconds=10))
        assert watch.is_lost
    assert caught.value.exit_code == 75


def test_a_head_that_is_silent_for_a_moment_is_not_lost():
    head = Head()
    with watched(head, lost_s=0.3) as watch:
        head.is_silent = True
        threading.Timer(0.1, lambda: vars(head).update(is_silent=False)).start()
        asyncio.run(_work(watch, seconds=0.6))
        assert not watch.is_lost


def test_failures_that_come_first_are_explained_and_others_stay_what_they_are():
    head = Head()
    with watched(head, every_s=0.05) as watch:
        with pytest.raises(RolloutError), watch.explains():
            raise RolloutError("no engine is left")
        head.is_silent = True
        with pytest.raises(ConfigError), watch.explains():
            raise ConfigError("a wrong recipe")
        with pytest.raises(ClusterLost, match="no answer"), watch.explains():
            raise RolloutError("no engine is left")


def test_a_run_that_does_not_end_by_itself_is_ended():
    head, said, recorded = Head(), list[str](), list[str]()
    with watched(head, end_s=0.1, end=said.append) as watch, watch.explains():
        watch.record = recorded.append
        head.is_dead = True
        time.sleep(0.6)  # no event loop, and nothing that could be cancelled
    assert [text.partition(" at")[0] for text in said] == ["the cluster's head"]
    assert recorded == said
