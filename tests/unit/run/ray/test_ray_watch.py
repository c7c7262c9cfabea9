"""Waits have an owner and a deadline, and an expired one says who waited for whom."""

import threading
import time

from rlvr.run.ray.watch import Sentinel, WaitBoard, stacks_here


def test_an_expired_wait_names_both_sides_and_every_other_open_wait():
    board = WaitBoard()
    with (
        board.wait("the run", on="the learner", what="Learner.step", deadline_s=5) as wait,
        board.wait("the fleet", on="engine-3", what="8 completions", deadline_s=60),
    ):
        said = str(board.expired(wait))
    assert said.startswith("the run has waited for the learner (Learner.step) for 0.0 s, deadline 5 s")
    assert "the fleet has waited for engine-3 (8 completions) for 0.0 s, deadline 60 s" in said
    assert "stacks of the learner:\n  (it does not answer: hung or frozen)" in said
    assert "test_an_expired_wait_names_both_sides" in said  # where this process stands
    assert board.waits == ()


def test_stacks_show_every_thread_by_name():
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="a-thread-that-waits", daemon=True)
    thread.start()
    try:
        assert "a-thread-that-waits" in stacks_here()
    finally:
        stop.set()
        thread.join()


def test_the_sentinel_ends_the_process_when_nobody_acts_on_an_overdue_wait():
    board, said = WaitBoard(), list[str]()
    sentinel = Sentinel(board, end=said.append, overdue_s=0.05, every_s=0.01)
    try:
        with board.wait("the run", on="engine-0", what="weights", deadline_s=0.05):
            end = time.monotonic() + 5
            while not said and time.monotonic() < end:
                time.sleep(0.01)
    finally:
        sentinel.close()
    assert len(said) == 1
    assert said[0].startswith("the run has waited for engine-0 (weights)")


def test_the_sentinel_leaves_waits_alone_that_are_within_their_deadline():
    board, said = WaitBoard(), list[str]()
    sentinel = Sentinel(board, end=said.append, overdue_s=0.0, every_s=0.01)
    with board.wait("the run", on="engine-0", what="weights", deadline_s=60):
        time.sleep(0.1)
    sentinel.close()
    assert said == []
