"""Function tests in two boxes: the candidate in one, the tests in the other, and this process in between.

    tests --REQUEST--> here --nonce, REQUEST--> candidate
    tests <--REPLY---- here <--nonce, REPLY---- candidate          (or CALLBACK, to which the tests ANSWER)
    tests --OUTCOME, DONE--> here

The relay reads no values: it checks that each frame of the candidate answers the open request, and forwards it. A
request made while a callback runs is nested, so the open nonces form a stack. The report of the tests' box is the
verdict; the candidate's box never sees a test or an expected value.
"""

import time
from dataclasses import dataclass, field, replace
from os import urandom
from typing import Any, cast

from rlvr.errors import VerifierError
from rlvr.protocols import Limits, RunResult, SandboxSession
from rlvr_verifiers.codecheck.boxes import Boxes
from rlvr_verifiers.codecheck.function_calls import GRACE_S, Line, Unanswered, load_body
from rlvr_verifiers.codecheck.inside import wire
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
from rlvr_verifiers.codecheck.references.references import FunctionReference, Style

MAX_MESSAGES = 100_000
MAX_BYTES = 512 << 20
TESTS_EXTRA_S = 2.0  # the tests' box outlives the candidate's, so that it can report what happened


@dataclass(slots=True, kw_only=True)
class _Report:
    """The report of the tests' box so far."""

    outcomes: dict[int, TestOutcome] = field(default_factory=dict[int, TestOutcome])
    is_done: bool = False
    problem: TestOutcome | None = None
    ended: RunResult | None = None  # of the box that ended too early
    verifier_delay_s: float = 0.0  # delays of this process and of the tests' box
    excused_s: float = 0.0  # the part of them for which the candidate is known to have waited


async def verify_in_boxes(
    boxes: Boxes, code: bytes, reference: FunctionReference, limits: Limits, *, is_complete: bool
) -> Outcome:
    """The outcome of all tests.

    Raises:
        SandboxError: a box failed, or the machine is too busy for a verdict.
        VerifierError: the reference is at fault: its setup fails, or it passes objects that cannot be transferred.
    """
    patience = Patience(limits)
    while True:
        report, results = await _attempt(boxes, code, reference, patience.limits, is_complete=is_complete)
        if report.ended is None:
            if patience.is_late(results[0], report.verifier_delay_s):
                why = f"the program ran longer than {limits.wall_s:g} s"
                return all_failed(Ending.TIMEOUT, why, len(reference.tests), *results[:1])
            break
        if not patience.wants_repeat(
            report.ended, excused_s=report.excused_s, verifier_delay_s=report.verifier_delay_s
        ):
            break
    count = len(reference.tests) if reference.style is Style.ASSERTS else max(1, len(report.outcomes))
    tests = [report.outcomes.get(index, NOT_RUN) for index in range(count)]
    if not report.is_done or report.problem is not None:
        why = "the tests ended without a verdict"
        problem = report.problem or TestOutcome(ending=Ending.PROTOCOL, why=why)
        first = next((i for i, test in enumerate(tests) if test is NOT_RUN), count - 1)
        tests[first] = problem
    return with_facts(Outcome(tests=tuple(tests)), *results)


async def _attempt(
    boxes: Boxes, code: bytes, reference: FunctionReference, limits: Limits, *, is_complete: bool
) -> tuple[_Report, tuple[RunResult, ...]]:
    cpu_s = limits.cpu_s or limits.wall_s + TESTS_EXTRA_S
    test_limits = replace(limits, wall_s=limits.longest_s + TESTS_EXTRA_S, cpu_s=cpu_s)
    candidate, tests = await boxes.open_both(code, limits, test_limits)
    report = _Report()
    line = Line(candidate, limits)
    try:
        relay = _Relay(line, tests, test_limits, report)
        await relay.run(reference, is_complete=is_complete)
    except Unanswered as gone:
        report.problem = gone.outcome
        report.ended = gone.result
    finally:
        try:
            candidate_result = await candidate.close()
        finally:
            tests_result = await tests.close()
    tests_delay_s = tests_result.delay_s or 0.0
    report.excused_s = line.excused_s(tests_delay_s)
    report.verifier_delay_s = line.verifier_delay_s() + tests_delay_s
    return report, (candidate_result, tests_result)


class _Relay:
    """Carries frames between the two boxes until the tests are done."""

    def __init__(self, line: Line, tests: SandboxSession, limits: Limits, report: _Report) -> None:
        self.line = line
        self.tests = tests
        self.limits = limits
        self.report = report
        self._open: list[bytes] = []
        self._deadline = time.monotonic() + limits.wall_s + GRACE_S
        self._is_setup_pure = False

    async def run(self, reference: FunctionReference, *, is_complete: bool) -> None:
        """Loads the program, sends the tests, and relays. Raises Unanswered, VerifierError, SandboxError."""
        self._is_setup_pure = reference.is_setup_pure
        nonce = urandom(wire.NONCE_BYTES)
        await self.line.send(nonce, wire.REQUEST, load_body(list(reference.names)))
        names = await self.line.load(nonce, reference.entry_point)
        try:
            task = task_body(reference, names, is_complete=is_complete)
        except (wire.WireError, RecursionError) as error:
            why = "the program's names hold what cannot be passed on"
            raise Unanswered(TestOutcome(ending=Ending.PROTOCOL, why=why)) from error
        await self._send_tests(wire.REQUEST + task)
        num_bytes = 0
        for _ in range(MAX_MESSAGES):
            frame = await self._receive_tests()
            kind, body = frame[:1], frame[1:]
            if kind == wire.DONE:
                self.report.is_done = True
                return
            if kind == wire.OUTCOME:
                self._note(wire.parse(body))
                continue
            reply = await self._ask(kind, body)
            num_bytes += len(body) + len(reply)
            if num_bytes > MAX_BYTES:
                why = f"the tests and the program exchanged more than {MAX_BYTES >> 20} MB"
                raise Unanswered(TestOutcome(ending=Ending.PROTOCOL, why=why))
            await self._send_tests(reply)
        why = f"the tests and the program exchanged more than {MAX_MESSAGES} messages"
        raise Unanswered(TestOutcome(ending=Ending.PROTOCOL, why=why))

    async def _ask(self, kind: bytes, body: bytes) -> bytes:
        """Sends a frame of the tests to the candidate and returns the reply without its nonce."""
        if kind == wire.REQUEST:
            self._open.append(urandom(wire.NONCE_BYTES))
        elif kind != wire.ANSWER or not self._open:
            raise VerifierError(f"the tests' box sent a frame of kind {kind!r}, which has no place here")
        await self.line.send(self._open[-1], kind, body)
        answer, reply = await self.line.receive(self._open[-1])
        if answer == wire.REPLY:
            self._open.pop()
        elif answer != wire.CALLBACK:
            why = "the program sent a reply without a request"
            raise Unanswered(TestOutcome(ending=Ending.PROTOCOL, why=why))
        return answer + reply

    def _note(self, message: dict[str, Any]) -> None:
        """Records one reported outcome. Raises VerifierError if the reference is at fault."""
        index, why, label = int(message["i"]), str(message["why"]), str(message["label"])
        if message["fault"]:
            raise VerifierError(f"{message['fault']}; drop this row or rewrite its tests ({label})")
        if index < 0 and self._is_setup_pure and not message["dead"]:
            raise VerifierError(f"the setup of the reference failed by itself: {why}")
        if message["ok"]:
            self.report.outcomes[index] = PASSED
        else:
            ending = Ending.RAISED if index < 0 or ": " in why[:40] else Ending.WRONG
            self.report.outcomes[max(index, 0)] = TestOutcome(ending=ending, why=f"{label}: {why}")

    async def _send_tests(self, frame: bytes) -> None:
        try:
            await self.tests.send(frame)
        except EOFError:
            raise await self._tests_gone() from None

    async def _receive_tests(self) -> bytes:
        try:
            return await self.tests.receive(max(0.001, self._deadline - time.monotonic()))
        except (EOFError, TimeoutError, ValueError):
            raise await self._tests_gone() from None

    async def _tests_gone(self) -> Unanswered:
        """The outcome if the tests' box ended early: a program whose answers end its tests has failed them."""
        result = await self.tests.close()
        end = bad_end(result, self.limits, "the tests of the program")
        why = "the tests ended without a verdict"
        return Unanswered(end or TestOutcome(ending=Ending.PROTOCOL, why=why), result)


def task_body(reference: FunctionReference, names: dict[str, Any], *, is_complete: bool) -> bytes:
    """The task for the tests' box: the tests, and the program's values of the names."""
    tolerance = reference.tolerance
    task = {
        "setup": reference.setup,
        "tests": list(reference.tests),
        "style": reference.style.value,
        "entry_point": reference.entry_point,
        "names": {name: value for name, value in names.items() if name in reference.names},
        "modules": dict(reference.modules),
        "tolerance": [tolerance.abs_tol, tolerance.rel_tol] if tolerance else None,
        "is_complete": is_complete,
        "is_json": reference.is_json,
    }
    return wire.dump(cast("dict[str, Any]", task))
