"""An engine that idles, one that hangs and one without memory: each is found by the deadlines of the recipe, and named.

A run behind Ray with one vLLM engine, hurt three times; it goes on each time and loses nothing.
"""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.e2e.ray.ray_runs import RAY, TINY, Running, events_of, rows_of

pytest.importorskip("ray")
pytest.importorskip("vllm")
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.thorough]

NUM_STEPS = 14
COMPLETION_S, ANSWER_S, SYNC_S = 8, 10, 20
BETWEEN_S = 5.0  # two questions after an engine's health
STEP_S = 6.0  # the engine may be between two pieces of work when it is hurt
WITHIN_S = max(COMPLETION_S + ANSWER_S, SYNC_S) + BETWEEN_S + STEP_S
RUN = [
    *TINY, *RAY, "rollout.engine=vllm", "rollout.engine_dtype=float32", "rollout.max_completion_tokens=8",
    "rollout.max_batch_rows=16", "cold_start.steps=0", "data.eval=[]", f"run.steps={NUM_STEPS}",
    f"rollout.completion_deadline_s={COMPLETION_S}", f"cluster.heartbeat_deadline_s={ANSWER_S}",
    f"cluster.sync_deadline_s={SYNC_S}",
]  # fmt: skip
_SEIZE, _INTERRUPT, _ALL_THREADS = 0x4206, 0x4207, 0x40000000


def core_of(actor: psutil.Process) -> psutil.Process:
    """vLLM's core below an engine's actor."""
    (core,) = [child for child in actor.children() if "EngineCore" in " ".join(child.cmdline())]
    return core


def idle(actor: psutil.Process) -> Callable[[], None]:
    """Freezes the core under a tracer, so that it looks alive; returns what releases it."""
    core = core_of(actor).pid
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    for request in (_SEIZE, _INTERRUPT):
        if ptrace(ctypes.c_long(request), ctypes.c_long(core), None, None):
            pytest.skip(f"ptrace is not allowed here: {os.strerror(ctypes.get_errno())}")

    def let_go() -> None:
        state = 0
        while not os.WIFSIGNALED(state):
            _, state = os.waitpid(core, _ALL_THREADS)

    return let_go


def hang(actor: psutil.Process) -> Callable[[], None]:
    """The actor is stopped and answers nothing."""
    os.kill(actor.pid, signal.SIGSTOP)
    return lambda: None


def starve(actor: psutil.Process) -> Callable[[], None]:
    """The core may map nothing more."""
    core = core_of(actor)
    most = core.memory_info().vms
    core.rlimit(psutil.RLIMIT_AS, (most, most))
    return lambda: None


IN_SYNC = f"not loaded within cluster.sync_deadline_s={SYNC_S}"
DRILLS = (
    (idle, ("past their deadline (rollout.completion_deadline_s)", IN_SYNC)),
    (hang, (f"no answer for cluster.heartbeat_deadline_s={ANSWER_S} s: it is hung or frozen", IN_SYNC)),
    (starve, ("memory",)),
)


def test_an_idle_a_hung_and_a_starved_engine_are_each_replaced_within_the_deadlines(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    run = tmp_path / "run"
    with Running(run, *RUN) as running:
        for hurt, words in DRILLS:
            done = running.num_steps()
            running.until(lambda done=done: running.num_steps() >= done + 2)
            known, again = (len(events_of(run, kind)) for kind in ("engine_lost", "engine_restarted"))
            let_go = hurt(running.actors("EngineActor")[0])
            start = time.monotonic()
            running.until(lambda n=known: len(events_of(run, "engine_lost")) > n, limit_s=WITHIN_S)
            record_property(hurt.__name__, time.monotonic() - start)
            lost = events_of(run, "engine_lost")[known]
            assert lost["engine"] == "engine-0"
            assert any(word in lost["reason"] for word in words), (hurt.__name__, lost["reason"])
            let_go()
            running.until(lambda n=again: len(events_of(run, "engine_restarted")) > n)
        running.finish()
    assert [row["step"] for row in rows_of(run)] == list(range(1, NUM_STEPS + 1))
