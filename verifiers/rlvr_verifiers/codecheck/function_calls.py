"""Function tests with literals: the candidate's box computes the calls, and the asserts are evaluated here."""

import time
from os import urandom
from typing import Any, cast

from rlvr.protocols import Limits, RunResult, SandboxSession
from rlvr_verifiers.codecheck.boxes import Boxes
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
from rlvr_verifiers.codecheck.patience import Patience, own_delay_s
from rlvr_verifiers.codecheck.references.literals import MAX_NODES, Call, LiteralAssert, NotHere
from rlvr_verifiers.codecheck.references.references import FunctionReference

MAX_REPLY_BYTES = 65_536  # of a value that is compared here; larger ones are compared in the boxes
GRACE_S = 3.0  # beyond the box's own wall limit, which expires first
_PIPELINE_BYTES = 32_768  # of requests sent ahead: less than a pipe's buffer, so sending never blocks


class Unanswered(Exception):  # noqa: N818 - a finding about the program
    """The candidate gave no valid reply."""

    def __init__(self, outcome: TestOutcome, result: RunResult | None = None) -> None:
        super().__init__(outcome.why)
        self.outcome = outcome
        self.result = result


class Line:
    """Requests to a candidate; each has a nonce, and only a frame with that nonce is its reply."""

    def __init__(self, session: SandboxSession, limits: Limits) -> None:
        self.session = session
        self.limits = limits
        self.ended: RunResult | None = None
        self.idle_s = 0.0  # how long the candidate waited for a request
        self._num_open = 0
        self._idle_since = time.monotonic()
        self._delay_at_start = own_delay_s()
        self._deadline = self._idle_since + limits.longest_s + GRACE_S

    def excused_s(self, tests_delay_s: float = 0.0) -> float:
        """Seconds that the candidate waited while the machine kept the verifier waiting."""
        return min(self.idle_s, self.verifier_delay_s() + tests_delay_s)

    def verifier_delay_s(self) -> float:
        """Seconds that the machine kept this side waiting."""
        return own_delay_s() - self._delay_at_start

    async def send(self, nonce: bytes, kind: bytes, body: bytes) -> None:
        """Sends one frame. Raises Unanswered if the candidate has ended."""
        if not self._num_open:
            self.idle_s += time.monotonic() - self._idle_since
        self._num_open += 1
        try:
            await self.session.send(nonce + kind + body)
        except EOFError:
            raise await self.gone() from None

    async def receive(self, nonce: bytes) -> tuple[bytes, bytes]:
        """(kind, body) of the next frame. Raises Unanswered unless it carries the nonce."""
        try:
            frame = await self.session.receive(max(0.001, self._deadline - time.monotonic()))
        except (EOFError, TimeoutError):
            raise await self.gone() from None
        except ValueError as error:
            raise _protocol("a frame of the program is too long") from error
        self._num_open -= 1
        if not self._num_open:
            self._idle_since = time.monotonic()
        size = wire.NONCE_BYTES
        if frame[:size] != nonce:
            raise _protocol("the program wrote to the verifier's descriptors")
        return frame[size : size + 1], frame[size + 1 :]

    async def gone(self) -> Unanswered:
        """How the candidate ended."""
        if not self._num_open:
            self.idle_s += time.monotonic() - self._idle_since
        result = self.ended = await self.session.close()
        end = bad_end(result, self.limits)
        if end is None:
            end = TestOutcome(ending=Ending.RAISED, why="the program ended before its tests did")
        if result.seconds >= self.limits.wall_s and end.ending is Ending.RAISED:
            why = f"the program ran longer than {self.limits.wall_s:g} s"
            end = TestOutcome(ending=Ending.TIMEOUT, why=why)
        return Unanswered(end, result)

    async def load(self, nonce: bytes, entry_point: str) -> dict[str, Any]:
        """The names that the program defines. Raises Unanswered if it does not load or lacks the entry point."""
        kind, body = await self.receive(nonce)
        message = _parse(kind, body)
        if "x" in message:
            why = f"the program did not load: {exception_text(message)}"
            raise Unanswered(TestOutcome(ending=Ending.RAISED, why=why))
        names = message.get("names")
        if not isinstance(names, dict):
            raise _protocol("the program's answer to its loading is malformed")
        if entry_point not in names:
            why = f"the program does not define {entry_point!r}"
            raise Unanswered(TestOutcome(ending=Ending.MISSING, why=why))
        return cast("dict[str, Any]", names)


async def verify_literals(
    boxes: Boxes, code: bytes, reference: FunctionReference, limits: Limits, *, is_complete: bool
) -> Outcome | None:
    """The outcome; None if a value must be compared in the boxes.

    Raises:
        SandboxError: the box failed, or the machine is too busy for a verdict.
    """
    patience = Patience(limits)
    while True:
        outcome, result, line = await _attempt(boxes, code, reference, patience.limits, is_complete=is_complete)
        ended = line.ended
        if ended is None and patience.is_late(result, line.verifier_delay_s()):
            why = f"the program ran longer than {limits.wall_s:g} s"
            return all_failed(Ending.TIMEOUT, why, len(reference.literal_asserts), result)
        if ended is None or not patience.wants_repeat(
            ended, excused_s=line.excused_s(), verifier_delay_s=line.verifier_delay_s()
        ):
            return None if outcome is None else with_facts(outcome, result)


async def _attempt(
    boxes: Boxes, code: bytes, reference: FunctionReference, limits: Limits, *, is_complete: bool
) -> tuple[Outcome | None, RunResult, Line]:
    """(the outcome, the resources used, the session)."""
    session = await boxes.open_candidate(code, limits)
    line = Line(session, limits)
    try:
        outcome = await _converse(line, reference, is_complete=is_complete)
    finally:
        result = await session.close()
    return outcome, result, line


async def _converse(line: Line, reference: FunctionReference, *, is_complete: bool) -> Outcome | None:
    asserts = reference.literal_asserts
    bodies = [load_body([reference.entry_point]), *(run_body(item.call) for item in asserts)]
    nonces = [urandom(wire.NONCE_BYTES) for _ in bodies]
    num_sent = 0
    budget = _PIPELINE_BYTES
    outcomes: list[TestOutcome] = []

    async def send_ahead(at_least: int) -> None:
        nonlocal num_sent, budget
        while num_sent < len(bodies) and (num_sent < at_least or len(bodies[num_sent]) <= budget):
            await line.send(nonces[num_sent], wire.REQUEST, bodies[num_sent])
            budget -= len(bodies[num_sent]) + 64
            num_sent += 1

    try:
        await send_ahead(1)
        await line.load(nonces[0], reference.entry_point)
        for index, item in enumerate(asserts, start=1):
            await send_ahead(index + 1)
            kind, body = await line.receive(nonces[index])
            outcomes.append(_compared(item, kind, body))
            if not outcomes[-1].passed and not is_complete:
                break
    except Unanswered as gone:
        outcomes.append(gone.outcome)
    except NotHere:
        return None
    if not outcomes:
        return all_failed(Ending.PROTOCOL, "no test was run", len(asserts))
    rest = [NOT_RUN] * (len(asserts) - len(outcomes))
    return Outcome(tests=tuple([*outcomes, *rest][: len(asserts)]))


def _compared(item: LiteralAssert, kind: bytes, body: bytes) -> TestOutcome:
    """The outcome of one assert. Raises NotHere and Unanswered."""
    if len(body) > MAX_REPLY_BYTES:
        raise NotHere
    message = _parse(kind, body)
    label = " ".join(item.source.split())[:80]
    if "x" in message:
        why = f"{label}: raised {exception_text(message)}"
        if not isinstance(message["x"], list) or "Exception" not in message["x"]:
            raise Unanswered(TestOutcome(ending=Ending.RAISED, why=why))
        return TestOutcome(ending=Ending.RAISED, why=why)
    decoder = wire.Decoder(_refuse_handle, max_nodes=MAX_NODES)
    try:
        value: Any = decoder.decode(message.get("v"))
    except wire.TooManyNodes:
        raise NotHere from None
    except (wire.WireError, ValueError, RecursionError) as error:
        raise _protocol("a value of the program cannot be read") from error
    problem = item.verify(value)
    if problem:
        return TestOutcome(ending=Ending.WRONG, why=f"{label}: {problem}")
    return PASSED


def load_body(names: list[str]) -> bytes:
    """The request that runs the program and asks which names it defines."""
    return wire.dump({"op": "load", "names": names})


def run_body(call: Call) -> bytes:
    """The request for the value of one call."""
    parts = [list(call.args), dict(call.kwargs), list(call.method_args), dict(call.method_kwargs or {})]
    encoder = wire.Encoder()
    encoded = [encoder.encode(part) for part in parts]
    return wire.dump({"op": "run", "name": call.name, "method": call.method, "a": encoded})


def exception_text(message: dict[str, Any]) -> str:
    """`ValueError: message`, from a reply that reports an exception."""
    names, text = message.get("x"), str(message.get("s", ""))[:160]
    name = str(cast("list[Any]", names)[0])[:60] if isinstance(names, list) and names else "something"
    return f"{name}: {text}" if text else name


def _parse(kind: bytes, body: bytes) -> dict[str, Any]:
    if kind != wire.REPLY:
        raise _protocol("the program sent a reply without a request")
    try:
        return wire.parse(body)
    except wire.WireError as error:
        raise _protocol("an answer of the program cannot be read") from error


def _refuse_handle(data: object) -> object:
    raise NotHere


def _protocol(why: str) -> Unanswered:
    return Unanswered(TestOutcome(ending=Ending.PROTOCOL, why=why))
