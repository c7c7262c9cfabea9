"""The verifier as a whole: its table, its contract, its scores, its cache, and its errors."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rlvr.contracts import check_verifier
from rlvr.errors import PluginError, SandboxError
from rlvr.plugin import VerifierContext, completion_from_text
from rlvr.protocols import Limits, RunResult
from rlvr.records import Check, Completion, Prompt, Verdict
from rlvr_verifiers.code_answer import CodeConfig, CodeVerifier
from rlvr_verifiers.codecheck.answer.suspicion import signs
from rlvr_verifiers.codecheck.comparison import output_problem
from rlvr_verifiers.codecheck.patience import MAX_KILLS
from rlvr_verifiers.codecheck.references.references import Tolerance, read_reference
from tests.unit.verifiers.code.code_box import PlainBox, PlainSession

TABLE = Path(__file__).parents[3] / "golden" / "verdicts" / "code.jsonl"
ROWS = [json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines()]
DOUBLE = ["assert f(1) == 2", "assert f(-4) == -8"]
RIGHT = "```python\ndef f(x):\n    return 2 * x\n```"


def build(box: PlainBox | None, **settings: Any) -> CodeVerifier:
    return CodeVerifier(CodeConfig(**settings), VerifierContext(sandbox=box))


def pair(reference: Any, text: str) -> tuple[Prompt, Completion]:
    check = Check(name="main", verifier="code", reference=reference)
    prompt = Prompt(prompt_id="p", text="?", checks=(check,), source="test")
    return prompt, completion_from_text(text, prompt_id="p")


def ask(verifier: CodeVerifier, reference: Any, text: str) -> Verdict:
    return asyncio.run(verifier.verify(*pair(reference, text)))


@pytest.mark.parametrize("row", ROWS, ids=[row["why"] for row in ROWS])
def test_a_verdict_is_as_the_truth_table_says(row: Mapping[str, Any]) -> None:
    verdict = ask(build(PlainBox(), **row.get("settings", {})), row["reference"], row["completion"])
    assert verdict.status == row["status"], verdict.reason


def test_it_keeps_the_contract_of_a_verifier() -> None:
    class WithBox(CodeVerifier):
        def __init__(self, config: CodeConfig, context: VerifierContext) -> None:
            super().__init__(config, VerifierContext(sandbox=PlainBox()))

    rows = [row for row in ROWS if row["reference"] == ROWS[0]["reference"] and not row.get("settings")]
    problems = check_verifier(
        WithBox,
        passing=[(row["reference"], row["completion"]) for row in rows if row["status"] == "pass"],
        failing=[(row["reference"], row["completion"]) for row in rows if row["status"] != "pass"],
    )
    assert problems == []


def test_without_a_sandbox_it_says_what_to_configure() -> None:
    with pytest.raises(PluginError, match=r"sandbox\.backend"):
        ask(build(None), DOUBLE, RIGHT)


def test_a_sandbox_without_sessions_is_a_data_error_for_function_tests() -> None:
    class Mute(PlainBox):
        capabilities = frozenset()

    verifier = build(Mute())
    verifier.parse_reference([{"stdin": "", "stdout": "1"}])
    with pytest.raises(ValueError, match="sessions"):
        verifier.parse_reference(DOUBLE)
    with pytest.raises(PluginError, match="no sessions"):
        ask(verifier, DOUBLE, RIGHT)


def test_a_fraction_of_the_tests_is_a_score_on_request() -> None:
    half = "```python\ndef f(x):\n    return 2\n```"
    tests = [{"stdin": f"{n}\n", "stdout": f"{max(n, 2)}\n"} for n in range(4)]
    printing = "```python\nprint(2)\n```"
    verifier = build(PlainBox(), score="fraction")
    assert (ask(verifier, DOUBLE, half).score, ask(verifier, tests, printing).score) == (0.5, 0.75)
    boxed = {"asserts": DOUBLE, "setup": "x = 1"}
    assert ask(verifier, boxed, half).details["tests"] == "PF"
    assert ask(build(PlainBox()), DOUBLE, half).score == 0.0


def test_the_reason_and_the_details_say_what_happened() -> None:
    verdict = ask(build(PlainBox()), DOUBLE, "```python\ndef f(x):\n    return abs(2 * x)\n```")
    assert verdict.reason == "test 2 of 2: assert f(-4) == -8: expected -8, got 8"
    assert verdict.extracted == "def f(x):\n    return abs(2 * x)\n"
    assert (verdict.details["tests"], verdict.details["failed_test"], verdict.details["ending"]) == ("PF", 1, "wrong")


def test_equal_programs_of_a_group_run_once() -> None:
    box = PlainBox()
    verifier = build(box)
    texts = [RIGHT, RIGHT, "words\n" + RIGHT, "```python\ndef f(x):\n    return 1\n```"]
    pairs = [pair(DOUBLE, text) for text in texts]

    async def both_ways() -> list[Verdict]:
        first = await asyncio.gather(*(verifier.verify(*one) for one in pairs))
        return [*first, await verifier.verify(*pairs[0])]

    verdicts = asyncio.run(both_ways())
    assert [v.status for v in verdicts] == ["pass", "pass", "pass", "fail", "pass"]
    assert box.num_runs == 2


class Breaking(PlainBox):
    """Breaks the first `num_faults` sessions or runs."""

    def __init__(self, num_faults: int) -> None:
        super().__init__()
        self.num_faults = num_faults

    async def open_session(self, program: Sequence[str], files: Mapping[str, bytes], limits: Limits) -> PlainSession:
        self.num_faults -= 1
        if self.num_faults >= 0:
            raise SandboxError("the box broke")
        return await super().open_session(program, files, limits)


def test_a_box_that_keeps_breaking_gives_no_verdict() -> None:
    assert ask(build(Breaking(MAX_KILLS)), DOUBLE, RIGHT).status == "pass"
    verifier = build(Breaking(MAX_KILLS + 1))
    with pytest.raises(SandboxError):
        ask(verifier, DOUBLE, RIGHT)
    assert ask(verifier, DOUBLE, RIGHT).status == "pass"  # an error is not remembered


class Starving(PlainBox):
    """Reports of its first session that it ran out of wall time without using the processor."""

    num_starved = 1

    async def open_session(self, program: Sequence[str], files: Mapping[str, bytes], limits: Limits) -> PlainSession:
        session = await super().open_session(program, files, limits)
        if self.num_starved > 0:
            self.num_starved -= 1
            await session.close()
            facts = {"stdout": b"", "stderr": b"", "seconds": 6.0, "cpu_s": 0.01, "timed_out": True}
            session.result = RunResult(exit_code=-9, **facts)

            async def receive(timeout_s: float) -> bytes:
                raise EOFError

            async def send(frame: bytes) -> None:
                raise EOFError

            session.receive, session.send = receive, send  # type: ignore[method-assign]
        return session


def test_a_time_out_without_processor_time_is_run_once_more() -> None:
    assert ask(build(Starving()), DOUBLE, RIGHT).status == "pass"
    stalled = Starving()
    stalled.num_starved = 2
    verdict = ask(build(stalled), DOUBLE, RIGHT)
    assert (verdict.status, verdict.details["ending"]) == ("fail", "timeout")


def test_a_cancelled_verification_leaves_the_others_to_do_the_work() -> None:
    async def go() -> Verdict:
        verifier = build(PlainBox())
        first = asyncio.create_task(verifier.verify(*pair(DOUBLE, RIGHT)))
        await asyncio.sleep(0)
        second = asyncio.create_task(verifier.verify(*pair(DOUBLE, RIGHT)))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert asyncio.run(go()).status == "pass"


def test_limits_of_a_reference_win_over_the_settings() -> None:
    slow = "```python\nimport time\ntime.sleep(1.5)\nprint(1)\n```"
    verifier = build(PlainBox(), limits={"wall_s": 1.0})
    test = {"stdin": "", "stdout": "1"}
    assert ask(verifier, [test], slow).details["ending"] == "timeout"
    assert ask(verifier, {"tests": [test], "limits": {"wall_s": 10}}, slow).status == "pass"


def test_settings_are_checked() -> None:
    for settings in (
        {"score": "half"},
        {"languages": []},
        {"languages": ["rust"]},
        {"limits": {"wall_s": 0}},
        {"x": 1},
    ):
        with pytest.raises(ValidationError):
            CodeConfig(**settings)


def test_cpp_programs_are_compiled_and_run() -> None:
    box = PlainBox()
    code = "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a * b << '\\n'; }"
    tests = [{"stdin": "3 4\n", "stdout": "12\n"}, {"stdin": "2 2", "stdout": "4"}]
    verifier = build(box, languages=["python", "cpp"])
    assert ask(verifier, tests, f"```cpp\n{code}\n```").status == "pass"
    assert box.num_runs == 3
    broken = ask(verifier, tests, "```cpp\nint main() { return x; }\n```")
    assert (broken.status, "the compiler ended with exit code" in broken.reason) == ("fail", True)
    assert ask(verifier, DOUBLE, f"```cpp\n{code}\n```").status == "unparsed"


OUTPUTS = [
    (b"1\n2\n", "1\n2", ""), (b"1 \t\r\n\n\n", "1", ""), (b"", "", ""), (b"\n", "", ""), (b" 1", "1", ""),
    (b"1", " 1\n2", "expected 2"), (b"1 2", "1  2", "line"),
    (b"1\n\n2", "1\n2", "printed 3 lines, expected 2"), (b"1", "1\n2", "printed 1 line, expected 2"),
    (b"\xff", "1", "no UTF-8"), (b"1\x0c2", "1\n2", "printed 1 line"), (b"x" * 1000, "y", "…"),
]  # fmt: skip


@pytest.mark.parametrize(("printed", "expected", "problem"), OUTPUTS)
def test_outputs_are_compared_line_by_line(printed: bytes, expected: str, problem: str) -> None:
    found = output_problem(printed, expected, None)
    assert bool(found) is bool(problem)
    assert problem in found or problem == "line"


CLOSE = [
    ("1.0000001 2", "1 2", True), ("1.1", "1", False), ("nan", "1", False), ("inf", "1e400", False),
    ("1_0", "10", False), ("1e3", "1000", True), ("0x10", "16", False), ("1 2", "1", False),
    ("abc", "abd", False), ("-0.0", "0", True),
    (".5", "0.5", True), ("9" * 400, "8" * 400, False), ("nan", "nan", True),
]  # fmt: skip


@pytest.mark.parametrize(("printed", "expected", "is_close"), CLOSE)
def test_numbers_are_compared_by_value_within_a_tolerance(printed: str, expected: str, is_close: bool) -> None:
    tolerance = Tolerance(abs_tol=1e-6, rel_tol=1e-6)
    assert (output_problem(printed.encode(), expected, tolerance) == "") is is_close


SUSPECT = [
    ("import os\ndef f(x): os._exit(0)", {"exits"}),
    ("def f(x): raise SystemExit", {"exits"}),
    ("import sys\ndef f(x): return sys._getframe(1).f_locals", {"frames"}),
    ("import ctypes", {"foreign_memory"}),
    ("open('/proc/1/mem')", {"foreign_memory"}),
    ("import os\nos.write(4, b'')", {"descriptors"}),
    ("class A:\n    __eq__ = lambda s, o: True", {"equal_to_all"}),
    ("import builtins\nbuiltins.abs = len", {"patched_builtins"}),
    ("import sys\nsys.modules['math'] = 1", {"patched_builtins"}),
    ("def f(x):\n    return {1: 2, -4: -8, 7: 14}[x]", {"test_table"}),
    ("def f(x):\n    if x == 1: return 2\n    if x == -4: return -8\n    if x == 7: return 14", {"test_table"}),
    ("import sys\ndef f(x):\n    sys.stdout.write('a')\n    return {1: 'a'}.get(x)", set()),
    ("class P:\n    def __eq__(self, o): return self.x == o.x", set()),
    ("def f(:", set()),
]  # fmt: skip


@pytest.mark.parametrize(("code", "expected"), SUSPECT)
def test_signs_of_inspecting_the_verifier_are_named(code: str, expected: set[str]) -> None:
    reference = read_reference([*DOUBLE, "assert f(7) == 14"])
    assert set(signs(code, reference)) == expected


def test_a_suspicious_program_that_passes_passes_with_the_sign_in_its_details() -> None:
    verdict = ask(build(PlainBox()), [*DOUBLE, "assert f(7) == 14"], "```python\nf = {1: 2, -4: -8, 7: 14}.get\n```")
    assert (verdict.status, verdict.details["suspicion"]) == ("pass", ["test_table"])
