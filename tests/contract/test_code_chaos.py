"""Processes of the sandbox are killed at random under honest programs: no verdict turns wrong, and nothing stays."""

import asyncio
import contextlib
import itertools
import logging
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import SandboxError
from rlvr.plugin import VerifierContext, completion_from_text
from rlvr.records import Check, Prompt
from rlvr.registry import SANDBOXES, build_sandbox, find, load
from rlvr_sandboxes.inside.limits import descendants
from rlvr_verifiers.code_answer import CodeConfig, CodeVerifier

STDIO = {"kind": "stdio", "tests": [{"stdin": "3 4\n", "stdout": "12\n"}]}
LITERALS = {"kind": "function", "entry_point": "f", "asserts": ["assert f(1) == 2", "assert f(2) == 4"]}
BOXED = {**LITERALS, "setup": "n = 0"}
PRODUCT = "a, b = map(int, input().split())\nprint(a * b)"
DOUBLE = "import time\ntime.sleep(0.02)\ndef f(x):\n    return 2 * x"
ITEMS = ((STDIO, PRODUCT), (LITERALS, DOUBLE), (BOXED, DOUBLE))
AT_ONCE = 4
MAX_ITEM_S = 60.0
KILL_EVERY_S = 0.25
NUMBERS = itertools.count()  # no program comes twice, so that none comes from the cache of verdicts


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def kill_some(end: float, draws: random.Random) -> int:
    """Kills one process below this one again and again: a guard, bubblewrap, a zygote or a program; how many."""
    known, count = set(descendants(os.getpid())) - set(box_processes()), 0
    while time.monotonic() < end:
        await asyncio.sleep(draws.uniform(0.0, 2 * KILL_EVERY_S))
        ours = sorted(set(box_processes()) - known)
        if ours:
            with contextlib.suppress(ProcessLookupError):
                os.kill(draws.choice(ours), signal.SIGKILL)
                count += 1
    return count


def box_processes() -> list[int]:
    """What is below this process and was started by a sandbox."""
    found: list[int] = []
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"rlvr_sandboxes" in words:
                found.append(pid)
    return found


async def verify_until(end: float, verifier: CodeVerifier) -> Counter[str]:
    """Verifies honest programs, each with a different comment; counts statuses."""
    counts: Counter[str] = Counter()

    async def worker() -> None:
        while time.monotonic() < end:
            number = next(NUMBERS)
            reference, code = ITEMS[number % len(ITEMS)]
            check = Check(name="main", verifier="code", reference=reference)
            prompt = Prompt(prompt_id="p", text="?", checks=(check,), source="test")
            completion = completion_from_text(f"```python\n{code} # {number}\n```", prompt_id="p")
            try:
                verdict = await asyncio.wait_for(verifier.verify(prompt, completion), MAX_ITEM_S)
            except SandboxError:
                counts["error"] += 1
            else:
                counts[verdict.status.value] += 1
                if not verdict.passed:
                    counts[verdict.reason] += 1

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return counts


def chaos(backend: str, seconds: float, caplog: pytest.LogCaptureFixture) -> tuple[Counter[str], int]:
    missing = [p for p in load(find(SANDBOXES, backend)).probes() if p.is_required and not p.is_ok]
    if missing:
        pytest.skip(f"{backend}: {missing[0].name}: {missing[0].detail}")
    caplog.set_level(logging.INFO)

    async def scenario() -> tuple[Counter[str], int]:
        sandbox: Any = build_sandbox(backend, {"slots": 2, "preimport": (), "should_self_test": False})
        await sandbox.start()
        verifier = CodeVerifier(CodeConfig(), VerifierContext(sandbox=sandbox))
        await verify_until(time.monotonic() + 0.5, verifier)
        before = descriptors(), len(box_processes())
        end = time.monotonic() + seconds
        killer = asyncio.create_task(kill_some(end, random.Random(seconds)))
        counts = await verify_until(end, verifier)
        num_killed = await killer
        for _ in range(100):  # boxes are stopped and started in threads
            await verify_until(time.monotonic() + 0.1, verifier)
            after = descriptors(), len(box_processes())
            if after == before:
                break
        assert after == before, "descriptors, processes"
        await sandbox.close()
        return counts, num_killed

    start = descriptors()
    found = asyncio.run(scenario())
    assert box_processes() == []
    assert descriptors() <= start + 1  # a first event loop may leave one behind
    said = [record.getMessage() for record in caplog.records]
    assert [text for text in said if "Bad file descriptor" in text or "left something" in text] == []
    return found


def assert_right(counts: Counter[str], num_killed: int, seconds: float) -> None:
    assert num_killed > seconds / 2
    assert counts["fail"] == counts["unparsed"] == 0, counts
    assert counts["pass"] > seconds / 2  # it goes on; how fast, a busy machine decides
    assert counts["error"] <= max(3, counts["pass"] // 50), counts


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["namespaces", "landlock"])
def test_processes_killed_at_random_cost_no_honest_program_its_verdict(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert_right(*chaos(backend, 10.0, caplog), 10.0)


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("backend", ["namespaces", "landlock"])
def test_a_minute_of_processes_killed_at_random_costs_no_honest_program_its_verdict(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert_right(*chaos(backend, 60.0, caplog), 60.0)
