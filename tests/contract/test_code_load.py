"""A verdict does not depend on what else the machine does."""

import asyncio
import contextlib
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest

from rlvr.plugin import VerifierContext, completion_from_text
from rlvr.records import Check, Prompt, Verdict
from rlvr.registry import build_sandbox
from rlvr_verifiers.code_answer import CodeConfig, CodeVerifier
from tests.contract.test_code_attacks import need

NUM_BUSY = 4
LIMITS = {"wall_s": 2}
BACKENDS = pytest.mark.parametrize("backend", ["namespaces", "landlock"])
MACHINES = pytest.mark.parametrize("num_busy", [0, NUM_BUSY], ids=["idle", "busy"])
WORK = "import time\ndef work(s):\n    t = time.process_time()\n    while time.process_time() - t < s: pass\n"
STDIO = {"kind": "stdio", "tests": [{"stdin": "", "stdout": "1"}], "limits": LIMITS}
LITERALS = {"kind": "function", "entry_point": "f", "asserts": ["assert f(1) == 1"], "limits": LIMITS}
BOXED = {
    "kind": "function",
    "entry_point": "f",
    "setup": "one = 1",
    "asserts": ["assert f(one) == one"],
    "limits": LIMITS,
}
KINDS = {"stdio": STDIO, "literals": LITERALS, "two_boxes": BOXED}


@contextlib.contextmanager
def busy(count: int) -> Generator[None]:
    """Keeps this number of processes busy on the cores."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def program(kind: str, body: str, number: int = 0) -> str:
    """The text of a completion that does `body` and answers rightly; the number makes it another program."""
    lines = body.split("\n")
    end = ["print(1)"] if kind == "stdio" else ["def f(x):", *[f"    {line}" for line in lines], "    return 1"]
    start = lines if kind == "stdio" else []
    return f"```python\n{WORK}" + "\n".join([*start, *end, f"# {number}"]) + "\n```\n"


def verify(backend: str, items: list[tuple[Any, str]]) -> list[Verdict]:
    async def all_of() -> list[Verdict]:
        sandbox = build_sandbox(backend, {"slots": 2, "should_self_test": False})
        verifier = CodeVerifier(CodeConfig(), VerifierContext(sandbox=sandbox))

        async def one(reference: Any, text: str) -> Verdict:
            check = Check(name="main", verifier="code", reference=reference)
            prompt = Prompt(prompt_id="p", text="?", checks=(check,), source="load")
            return await verifier.verify(prompt, completion_from_text(text, prompt_id="p"))

        try:
            return list(await asyncio.gather(*(one(*item) for item in items)))
        finally:
            await sandbox.close()

    return asyncio.run(all_of())


@pytest.mark.slow
@pytest.mark.thorough
@BACKENDS
@pytest.mark.parametrize("kind", KINDS)
def test_a_right_program_passes_on_a_busy_machine(kind: str, backend: str) -> None:
    need(backend)
    items = [(KINDS[kind], program(kind, "work(0.9)", number)) for number in range(20)]
    with busy(NUM_BUSY):
        verdicts = verify(backend, items)
    counts = Counter(verdict.status.value for verdict in verdicts)
    assert counts == {"pass": 20}, [v.reason for v in verdicts if v.status != "pass"]


BLOCKED = {
    "sleep": "time.sleep(60)",
    "sleep in pieces": "for _ in range(6000): time.sleep(0.01)",
    "deadlock": "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()",
    "two threads that wait for each other": (
        "import threading\na, b = threading.Event(), threading.Event()\n"
        "t = threading.Thread(target=lambda: (a.wait(), b.set()), daemon=True)\nt.start()\nb.wait()\na.set()"
    ),
    "a read that never ends": "import os\nr, w = os.pipe()\nos.read(r, 1)",
    "a child that sleeps": "import subprocess\nsubprocess.run(['/bin/sleep', '60'])",
    "too slow": "work(30)",
    "many slow threads": (
        "import threading\nts = [threading.Thread(target=work, args=(30,)) for _ in range(20)]\n"
        "[t.start() for t in ts]\n[t.join() for t in ts]"
    ),
    "many slow processes": "import os\n[os.fork() for _ in range(4)]\nwork(30)",
    "a low priority and work": "import os\nos.nice(19)\nwork(30)",
    "a low priority": "import os\nos.nice(19)\ntime.sleep(60)",
}


@pytest.mark.slow
@pytest.mark.thorough
@BACKENDS
@MACHINES
@pytest.mark.parametrize("kind", KINDS)
def test_a_program_that_blocks_itself_or_is_too_slow_fails(kind: str, num_busy: int, backend: str) -> None:
    need(backend)
    items = [(KINDS[kind], program(kind, body)) for body in BLOCKED.values()]
    with busy(num_busy):
        verdicts = verify(backend, items)
    found = dict(zip(BLOCKED, verdicts, strict=True))
    assert {name: v.status.value for name, v in found.items()} == dict.fromkeys(BLOCKED, "fail")
    assert max(v.seconds for v in verdicts) < 120
