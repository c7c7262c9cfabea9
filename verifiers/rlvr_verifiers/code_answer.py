"""`code`: whether a program passes the tests of its reference. It runs in a sandbox; the verdict is made outside.

stdio      each test is a fresh run; its output is compared here
literals   the program's box computes calls with literal arguments; asserts on their values are evaluated here
two boxes  all other function tests: the program in one box, the tests in another, plain data in between
"""

import asyncio
import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from enum import StrEnum
from functools import lru_cache
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from rlvr.errors import PluginError, SandboxError
from rlvr.plugin import VerifierContext, verdict
from rlvr.protocols import Execution, Limits
from rlvr.records import Completion, Json, Prompt, Status, Verdict
from rlvr_verifiers.codecheck.answer.fences import Program, find_program
from rlvr_verifiers.codecheck.answer.statements import accepts_one_of_many
from rlvr_verifiers.codecheck.answer.suspicion import signs
from rlvr_verifiers.codecheck.boxes import Boxes
from rlvr_verifiers.codecheck.function_calls import verify_literals
from rlvr_verifiers.codecheck.outcome import Ending, Outcome
from rlvr_verifiers.codecheck.patience import MAX_KILLS
from rlvr_verifiers.codecheck.references.references import (
    FunctionReference,
    Reference,
    StdioReference,
    apply_limits,
    digest_of,
    names_of,
    program_of,
    read_reference,
    without_first,
)
from rlvr_verifiers.codecheck.relay import verify_in_boxes
from rlvr_verifiers.codecheck.stdio import verify_stdio
from rlvr_verifiers.thinking import ThinkingConfig

logger = logging.getLogger(__name__)
_MAX_EXTRACTED_CHARS = 20_000
_MAX_LISTED_TESTS = 200
_MAX_KEPT = 4_096
_LETTERS = {ending: "P" if ending is Ending.PASSED else "F" for ending in Ending} | {Ending.NOT_RUN: "-"}


class Score(StrEnum):
    """How the score of a program is computed."""

    ALL_OR_NOTHING = "all_or_nothing"  # 1 when every test passes, else 0
    FRACTION = "fraction"  # the share of the tests that pass; rewards constant guesses too


class CodeLimits(BaseModel):
    """Limits of a program unless its reference sets others. `wall_s`: for one stdio test, or for all function tests."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wall_s: float = Field(default=6.0, gt=0, le=600)
    memory_mb: int = Field(default=1024, ge=64)
    pids: int = Field(default=64, ge=1)
    output_bytes: int = Field(default=8_388_608, ge=1)
    file_bytes: int = Field(default=67_108_864, ge=0)


class CodeConfig(ThinkingConfig):
    """Settings of `code`.

    modules: what tests may import besides the standard library; the sandbox's interpreter must have them.
    shown_tests: the prompt shows this many tests of each reference, starting with the first; if there are others, only
        those count, so that copying the shown ones earns nothing.
    tolerance: the allowed error of a printed number, or of a number in a JSON result, if the expected one has a
        fraction and the reference sets no tolerance; integers are compared exactly. 0: outputs are compared as text.
    """

    score: Score = Score.ALL_OR_NOTHING
    languages: tuple[Literal["python", "cpp"], ...] = Field(default=("python",), min_length=1)
    modules: tuple[str, ...] = ("numpy",)
    shown_tests: int = Field(default=0, ge=0)
    tolerance: float = Field(default=1e-6, ge=0, lt=1)
    limits: CodeLimits = Field(default_factory=CodeLimits)


class CodeVerifier:
    """Runs the solution among the fenced blocks against the tests: stdin and stdout, asserts, or a `check` function."""

    name: ClassVar[str] = "code"
    version: ClassVar[str] = "2"
    execution: ClassVar[Execution] = Execution.SANDBOXED
    Config: ClassVar[type[BaseModel]] = CodeConfig

    def __init__(self, config: CodeConfig, context: VerifierContext) -> None:
        self.config = config
        self.context = context
        self._thinking = config.thinking
        self._limits = Limits(**config.limits.model_dump())
        self._boxes = Boxes(context.sandbox) if context.sandbox is not None else None
        self._read = lru_cache(maxsize=_MAX_KEPT)(self._read_text)
        self._shared = _Shared()
        self._has_warned = False

    def parse_reference(self, reference: Json) -> None:
        """Raises ValueError if no program can be tested with the reference."""
        found = read_reference(reference, modules=self.config.modules, loose=self.config.tolerance)
        self._check_outputs(found)
        if not self._has_warned and accepts_one_of_many(reference, found):
            self._has_warned = True
            logger.warning(
                "a statement allows several right outputs, but its tests accept one: right programs may FAIL; give "
                "the row a `checker` program or `stdout` lists, or drop it (said once; there may be more such rows)"
            )
        needs_session = isinstance(found, FunctionReference)
        if needs_session and self._boxes is not None and not self._boxes.can_talk:
            raise ValueError("tests of a function need a sandbox with sessions; this one has none")
        if needs_session and "python" not in self.config.languages:
            raise ValueError(f"tests of a function need python in languages={list(self.config.languages)}")

    def _check_outputs(self, reference: Reference) -> None:
        """Raises ValueError if a correct program could not print the expected output."""
        if not isinstance(reference, StdioReference):
            return
        most = apply_limits(self._limits, reference.limits).output_bytes
        for index, test in enumerate(reference.tests):
            size = len(test.stdout.encode("utf-8", "surrogatepass"))
            if size > most:
                raise ValueError(
                    f"tests[{index}] expects {size} bytes, and limits.output_bytes={most} is less; raise it"
                )

    def prejudge(self, reference: Json, completion: Completion) -> Verdict | None:
        """The verdict on a completion without a program; None for all others, which need the sandbox."""
        program, problem = self._program(completion)
        return verdict(self, Status.UNPARSED, problem) if program is None else None

    async def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
        """PASS if all tests pass. Equal programs with the same reference run only once.

        Raises:
            SandboxError: the sandbox failed.
            VerifierError: the reference is at fault.
            PluginError: there is no sandbox.
        """
        hashed = _Hashed(prompt.reference)
        reference = self._read(hashed)
        program, problem = self._program(completion, names_of(reference))
        if program is None:
            return verdict(self, Status.UNPARSED, problem)
        code = program.code.encode("utf-8", "surrogatepass")
        key = hashlib.sha256(hashed.digest + program.language.encode() + b"\0" + code).digest()
        while True:
            future, is_first = self._shared.future_of(key)
            if is_first:
                return await self._fulfil(key, future, reference, program)
            try:
                return await asyncio.shield(asyncio.wrap_future(future))
            except asyncio.CancelledError:
                if not future.cancelled():
                    raise  # this task was cancelled, not the one that runs the program

    def _program(self, completion: Completion, names: Sequence[str] = ()) -> tuple[Program | None, str]:
        languages = self.config.languages
        return find_program(completion.text, languages, names=names, thinking=self._thinking)

    async def _fulfil(self, key: bytes, future: "Future[Verdict]", reference: Reference, program: Program) -> Verdict:
        try:
            answer = await self._verify_program(reference, program)
        except asyncio.CancelledError:
            self._shared.forget(key)
            future.cancel()
            raise
        except BaseException as error:
            self._shared.forget(key)
            future.set_exception(error)
            raise
        future.set_result(answer)
        return answer

    async def _verify_program(self, reference: Reference, program: Program) -> Verdict:
        boxes = self._require_boxes()
        limits = apply_limits(self._limits, reference.limits)
        is_complete = self.config.score is Score.FRACTION
        if isinstance(reference, StdioReference):
            is_python = program.language == "python"
            source = program_of(program.code, reference) if is_python else program.code
            outcome = await verify_stdio(
                boxes,
                program.language,
                source.encode("utf-8", "surrogatepass"),
                reference,
                limits,
                is_complete=is_complete,
                loose=self.config.tolerance,
            )
            return self._verdict("stdio", outcome, reference, program)
        if program.language != "python":
            reason = f"the program is in {program.language}, and tests of a function need python"
            return verdict(self, Status.UNPARSED, reason, extracted=_short(program.code))
        boxes.require_sessions()
        code = program_of(program.code, reference).encode("utf-8", "surrogatepass")
        how, outcome = await _verify_function_with_retries(boxes, code, reference, limits, is_complete)
        return self._verdict(how, outcome, reference, program)

    def _verdict(self, how: str, outcome: Outcome, reference: Reference, program: Program) -> Verdict:
        count, failure = len(outcome.tests), outcome.first_failure
        details: dict[str, Json] = {
            "how": how,
            "num_tests": count,
            "num_passed": outcome.num_passed,
            "tests": "".join(_LETTERS[test.ending] for test in outcome.tests[:_MAX_LISTED_TESTS]),
            "cpu_s": round(outcome.cpu_s, 4),
            "memory_mb": round(outcome.memory_mb, 1),
        }
        suspicion = signs(program.code, reference)
        if suspicion:
            details["suspicion"] = list(suspicion)
        extracted = _short(program.code)
        if failure is None and outcome.num_passed == count:
            reason = f"all {count} tests passed" if count > 1 else "the test passed"
            return verdict(self, Status.PASS, reason, extracted=extracted, details=details)
        index, test = failure if failure is not None else (0, outcome.tests[0])
        details["ending"] = test.ending.value
        details["failed_test"] = index
        score = outcome.num_passed / count if self.config.score is Score.FRACTION else 0.0
        where = f"test {index + 1} of {count}: " if count > 1 else ""
        reason = (where + test.why).encode("utf-8", "backslashreplace").decode()
        return verdict(self, Status.FAIL, reason, score=score, extracted=extracted, details=details)

    def _require_boxes(self) -> Boxes:
        if self._boxes is None:
            raise PluginError(
                "verifier 'code' runs programs that a model wrote, and this run has no sandbox; set "
                "sandbox.backend (auto, namespaces, landlock, ...) in the recipe, and see `rlvr sandboxes` for what "
                "works on this machine"
            )
        return self._boxes

    def _read_text(self, reference: "_Hashed") -> Reference:
        found = read_reference(reference.value, modules=self.config.modules, loose=self.config.tolerance)
        return without_first(found, self.config.shown_tests)


async def _verify_function_with_retries(
    boxes: Boxes, code: bytes, reference: FunctionReference, limits: Limits, is_complete: bool
) -> tuple[str, Outcome]:
    """`_verify_function`, retried if a box fails: an interrupted session cannot be resumed."""
    num_repeats = 0
    while True:
        try:
            return await _verify_function(boxes, code, reference, limits, is_complete)
        except SandboxError as error:
            if num_repeats == MAX_KILLS:
                raise
            num_repeats += 1
            logger.info("a box broke under function tests, which run again: %s", error)


async def _verify_function(
    boxes: Boxes, code: bytes, reference: FunctionReference, limits: Limits, is_complete: bool
) -> tuple[str, Outcome]:
    """(how the function tests were run, their outcome)."""
    if reference.literal_asserts:
        outcome = await verify_literals(boxes, code, reference, limits, is_complete=is_complete)
        if outcome is not None:
            return "literals", outcome
    outcome = await verify_in_boxes(boxes, code, reference, limits, is_complete=is_complete)
    return "two_boxes", outcome


class _Hashed:
    """A reference that is hashed by its content."""

    def __init__(self, value: Json) -> None:
        self.value = value
        self.digest = digest_of(value)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and self.digest == other.digest


class _Shared:
    """Finished and pending verdicts by program and reference; thread-safe. Errors are not cached."""

    def __init__(self) -> None:
        self._futures: OrderedDict[bytes, Future[Verdict]] = OrderedDict()
        self._lock = threading.Lock()

    def future_of(self, key: bytes) -> tuple["Future[Verdict]", bool]:
        """(the future verdict, whether the caller has to compute it)."""
        with self._lock:
            known = self._futures.get(key)
            if known is not None:
                self._futures.move_to_end(key)
                return known, False
            future = self._futures[key] = Future[Verdict]()
            if len(self._futures) > _MAX_KEPT:
                self._futures.popitem(last=False)
            return future, True

    def forget(self, key: bytes) -> None:
        """Removes an entry, so that the next caller computes it again."""
        with self._lock:
            self._futures.pop(key, None)


def _short(code: str) -> str:
    return code[:_MAX_EXTRACTED_CHARS]
