"""Programs that read standard input: one fresh run a test, and every comparison outside."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

from rlvr.protocols import Limits, RunResult
from rlvr_verifiers.codecheck.boxes import Boxes
from rlvr_verifiers.codecheck.comparison import output_problem
from rlvr_verifiers.codecheck.outcome import (
    NOT_RUN,
    PASSED,
    Ending,
    Outcome,
    TestOutcome,
    all_failed,
    bad_end,
    deserves_repeat,
    with_facts,
)
from rlvr_verifiers.codecheck.references import StdioReference, StdioTest

MAX_TIMEOUTS = 3  # of one program, when all tests are wanted
NUM_AT_ONCE = 4
_COMPILE_LIMITS = Limits(wall_s=30.0, memory_mb=2048, output_bytes=32 << 20)
_COMPILE = "g++ -O2 -std=gnu++17 -o a.out main.cpp >&2 && cat a.out"

Run = Callable[[bytes, Limits], Awaitable[RunResult]]


async def judge_stdio(
    boxes: Boxes,
    language: str,
    code: bytes,
    reference: StdioReference,
    limits: Limits,
    *,
    is_complete: bool,
) -> Outcome:
    """Runs the tests in an order that the program decides by its own text; stops at the first failure.

    Args:
        is_complete: run all tests, several at once; after three time-outs the rest is not run.

    Raises: SandboxError when the box broke.
    """
    run, problem = await _runner(boxes, language, code)
    if run is None:
        return all_failed(Ending.RAISED, problem, len(reference.tests))
    order = list(range(len(reference.tests)))
    random.Random(code).shuffle(order)
    outcomes = [NOT_RUN] * len(order)
    results: list[RunResult] = []
    num_timeouts = 0
    step = NUM_AT_ONCE if is_complete else 1
    for start in range(0, len(order), step):
        part = order[start : start + step]
        done = await asyncio.gather(*(_run_test(run, reference.tests[i], limits) for i in part))
        for index, result in zip(part, done, strict=True):
            results.append(replace(result, stdout=b"", stderr=b""))
            outcomes[index] = _outcome(result, reference.tests[index], reference, limits)
            num_timeouts += outcomes[index].ending is Ending.TIMEOUT
        if num_timeouts >= MAX_TIMEOUTS:
            break
        if not is_complete and not outcomes[part[0]].passed:
            break
    return with_facts(Outcome(tests=tuple(outcomes)), *results)


async def _runner(boxes: Boxes, language: str, code: bytes) -> tuple[Run | None, str]:
    """How one test is run, or why the program cannot run at all."""
    if language == "python":
        return lambda stdin, limits: boxes.run(code, stdin, limits), ""
    argv = ("/bin/sh", "-c", _COMPILE)
    built = await boxes.execute(argv, {"main.cpp": code}, b"", _COMPILE_LIMITS)
    end = bad_end(built, _COMPILE_LIMITS, "the compiler")
    if end is not None:
        return None, end.why
    binary = built.stdout
    return lambda stdin, limits: boxes.execute(("./a.out",), {"a.out": binary}, stdin, limits), ""


async def _run_test(run: Run, test: StdioTest, limits: Limits) -> RunResult:
    """One run, and others after a kill that no limit explains; the sandbox itself repeats stalled runs."""
    num_repeats = 0
    while True:
        result = await run(test.stdin, limits)
        if result.timed_out or not deserves_repeat(result, limits, num_repeats):
            return result
        num_repeats += 1


def _outcome(
    result: RunResult, test: StdioTest, reference: StdioReference, limits: Limits
) -> TestOutcome:
    end = bad_end(result, limits)
    if end is not None:
        return end
    problem = output_problem(result.stdout, test.stdout, reference.tolerance)
    return TestOutcome(ending=Ending.WRONG, why=problem) if problem else PASSED
