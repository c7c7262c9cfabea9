"""Programs that read standard input: one fresh run per test; outputs are compared outside the sandbox."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

from rlvr.errors import VerifierError
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
    with_facts,
)
from rlvr_verifiers.codecheck.patience import Patience
from rlvr_verifiers.codecheck.references.stdio_tests import CheckerProgram, StdioReference, StdioTest

MAX_TIMEOUTS = 3  # per program, if all tests are run
NUM_AT_ONCE = 4
_COMPILE_LIMITS = Limits(wall_s=30.0, memory_mb=2048, output_bytes=32 << 20)
# C++17 first: C++20 reserves and removes names that older programs use
_COMPILE = (
    "g++ -O2 -std=gnu++17 -o a.out main.cpp 2>first >&2 || g++ -O2 -std=gnu++20 -o a.out main.cpp >&2 "
    "|| { cat first >&2; exit 1; }; cat a.out"
)
_CHECKER_LIMITS = Limits(wall_s=10.0)
_MAX_CHECKERS = 64  # compiled checkers that are cached
_WRONG = (1, 2)  # exit codes of a checker for a wrong output

Run = Callable[[bytes, Limits], Awaitable[RunResult]]


async def verify_stdio(
    boxes: Boxes,
    language: str,
    code: bytes,
    reference: StdioReference,
    limits: Limits,
    *,
    is_complete: bool,
    loose: float,
) -> Outcome:
    """Runs the tests in an order derived from the program text; stops at the first failure.

    Args:
        is_complete: run all tests, several at a time; after three time-outs the rest are skipped.
        loose: the allowed error of a number as in `output_problem`, if the reference sets none.

    Raises:
        SandboxError: the box failed.
        VerifierError: the reference's checker is at fault.
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
            test = reference.tests[index]
            outcomes[index] = await _outcome(boxes, result, test, reference, limits, loose)
            num_timeouts += outcomes[index].ending is Ending.TIMEOUT
        if num_timeouts >= MAX_TIMEOUTS:
            break
        if not is_complete and not outcomes[part[0]].passed:
            break
    return with_facts(Outcome(tests=tuple(outcomes)), *results)


async def _runner(boxes: Boxes, language: str, code: bytes) -> tuple[Run | None, str]:
    """A function that runs one test, or why the program cannot run."""
    if language == "python":
        return lambda stdin, limits: boxes.run(code, stdin, limits), ""
    built = await _compile(boxes, code)
    end = bad_end(built, _COMPILE_LIMITS, "the compiler")
    if end is not None:
        return None, end.why
    binary = built.stdout
    return lambda stdin, limits: boxes.execute(("./a.out",), {"a.out": binary}, stdin, limits), ""


async def _compile(boxes: Boxes, code: bytes) -> RunResult:
    """The result of the compiler, whose output is the program."""
    argv = ("/bin/sh", "-c", _COMPILE)
    files = {"main.cpp": code}
    return await _settled(lambda limits: boxes.execute(argv, files, b"", limits), _COMPILE_LIMITS)


async def _run_test(run: Run, test: StdioTest, limits: Limits) -> RunResult:
    return await _settled(lambda given: run(test.stdin, given), limits)


async def _settled(run: Callable[[Limits], Awaitable[RunResult]], limits: Limits) -> RunResult:
    """The run that counts, after as many attempts as needed. Raises SandboxError."""
    patience = Patience(limits)
    while True:
        result = await run(patience.limits)
        if not patience.wants_repeat(result):
            return result


async def _outcome(
    boxes: Boxes, result: RunResult, test: StdioTest, reference: StdioReference, limits: Limits, loose: float
) -> TestOutcome:
    end = bad_end(result, limits)
    if end is not None:
        return end
    if reference.checker is not None:
        problem = await _checked(boxes, reference.checker, test, result.stdout)
        return TestOutcome(ending=Ending.WRONG, why=problem) if problem else PASSED
    problem = ""
    for expected in (test.stdout, *test.others):
        found = output_problem(
            result.stdout,
            expected,
            reference.tolerance,
            white_space=reference.white_space,
            loose=loose if reference.is_loose else 0.0,
            whole_by_value=reference.usual_imports,  # data sets whose own runners compare by value
        )
        if not found:
            return PASSED
        problem = problem or found
    more = f" (or one of {len(test.others)} more outputs)" if test.others else ""
    return TestOutcome(ending=Ending.WRONG, why=problem + more)


async def _checked(boxes: Boxes, checker: CheckerProgram, test: StdioTest, printed: bytes) -> str:
    """Why the checker, which runs in a separate box, rejects an output; "" if it accepts it.

    Raises:
        VerifierError: the exit code is not one that a checker may have.
    """
    files = {"input.txt": test.stdin, "output.txt": printed, "answer.txt": test.stdout.encode("utf-8", "surrogatepass")}
    argv: tuple[str, ...] = ("python", "main.py", *files)
    program = {"main.py": checker.code}
    if checker.language == "cpp":
        argv, program = ("./a.out", *files), {"a.out": await _built_checker(boxes, checker)}
    result = await _settled(lambda limits: boxes.execute(argv, {**program, **files}, b"", limits), _CHECKER_LIMITS)
    if result.is_clean:
        return ""
    if result.exit_code in _WRONG:
        said = (result.stderr or result.stdout)[-500:].decode("utf-8", "replace").strip()
        return f"the checker refuses the output{': ' + said.splitlines()[-1][:120] if said else ''}"
    end = bad_end(result, _CHECKER_LIMITS, "the reference's checker")
    raise VerifierError(f"{end.why if end else 'the checker broke'}; repair it or drop this row")


async def _built_checker(boxes: Boxes, checker: CheckerProgram) -> bytes:
    """The checker, compiled once. Raises VerifierError."""
    known = boxes.checkers.get(checker.code)
    if known is not None:
        return known
    built = await _compile(boxes, checker.code)
    end = bad_end(built, _COMPILE_LIMITS, "the compiler of the reference's checker")
    if end is not None:
        raise VerifierError(f"{end.why}; repair the checker or drop this row")
    if len(boxes.checkers) >= _MAX_CHECKERS:
        boxes.checkers.clear()
    boxes.checkers[checker.code] = built.stdout
    return built.stdout
