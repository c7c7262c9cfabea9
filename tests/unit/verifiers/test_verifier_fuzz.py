"""Random completions and references for each verifier: no exception, no hang, the same verdict twice, a gold answer
passes, and one changed number fails. The same cases in every run; `pytest -m fuzz` has more, and others each time.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlvr.plugin import VerifierContext, completion_from_text
from rlvr.records import Check, FinishReason, Prompt, Status, Verdict
from rlvr_verifiers.code_answer import CodeConfig, CodeVerifier
from rlvr_verifiers.codecheck.answer.fences import find_program
from rlvr_verifiers.countdown import CountdownConfig, CountdownVerifier
from rlvr_verifiers.math_answer import MathConfig, MathVerifier
from rlvr_verifiers.text_match import TextMatchConfig, TextMatchVerifier
from tests.hardware import cpu_seconds

CONTEXT = VerifierContext()
MATH = MathVerifier(MathConfig.model_validate({"cross_check_rate": 0.0}), CONTEXT)
CHOICE = TextMatchVerifier(TextMatchConfig.model_validate({"mode": "choice"}), CONTEXT)
EXACT = TextMatchVerifier(TextMatchConfig(), CONTEXT)
COUNTDOWN = CountdownVerifier(CountdownConfig(), CONTEXT)
CODE = CodeVerifier(CodeConfig.model_validate({}), CONTEXT)
VERIFIERS = [MATH, CHOICE, EXACT, COUNTDOWN, CODE]
LIMIT_CPU_S = 5.0
LONGER = 20
LONGER_TESTS: dict[str, Any] = {}
PIECES = [
    "\\boxed{", "}", "{", "$", "$$", "\\(", "\\)", "<think>", "</think>", "<answer>", "</answer>", "The answer is ",
    "Final answer: ", "#### ", " Wait, that is wrong.", " It should be ", " Actually, it is ", " or ", ", ", " (or ",
    " if we count zero)", "\\frac{", "\\frac12", "\\sqrt{", "^", "_", "\\text{", "1/2", "0.5", "12", "13", "-3", "10^",
    "A", "(B)", "C. ", "D", "I ", "not ", "x = ", "=", "+", "*", "/", "(", ")", "[", "]", "\n", "\n\n", " ", "%",
    "```python\n", "```\n", "def f(x):\n    return x\n", "<|im_end|>", "\\pi", "\\cup", "\\{", "\\}", "!", "?", ":",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=14).map("".join)
NUMBERS = st.integers(-999, 999)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["numbers", "target", "kind", "tests", "stdin", "stdout", "asserts", "a"]), inner, max_size=4
    ),
    max_leaves=8,
)  # fmt: skip
Property = Callable[..., None]


def cases(number: int, *strategies: Any) -> Callable[[Property], Any]:
    """This many cases, the same in every run; the longer variant of the test has more of them, different each time."""

    def decorate(check: Property) -> Any:
        common: dict[str, Any] = {"database": None, "deadline": None}
        common["suppress_health_check"] = list(HealthCheck)
        quick = settings(max_examples=number, derandomize=True, **common)(given(*strategies)(check))
        longer = settings(max_examples=LONGER * number, **common)(given(*strategies)(check))
        LONGER_TESTS[check.__qualname__] = longer
        return quick

    return decorate


def verdict_of(verifier: Any, reference: Any, text: str, *, is_cut: bool = False) -> Verdict:
    """The verdict, which must come soon and be the same when asked for again."""
    completion = completion_from_text(text, prompt_id="p")
    if is_cut:
        object.__setattr__(completion, "finish_reason", FinishReason.LENGTH)
    check = Check(name="main", verifier=verifier.name, reference=reference)
    prompt = Prompt(prompt_id="p", text="?", checks=(check,), source="fuzz")
    start = cpu_seconds()
    first, second = (verifier.verify(prompt, completion) for _ in range(2))
    quick = verifier.prejudge(reference, completion)
    assert cpu_seconds() - start < LIMIT_CPU_S
    assert shown(first) == shown(second)
    assert quick is None or quick.status == first.status
    return first


def shown(verdict: Verdict) -> tuple[Any, ...]:
    return verdict.status, verdict.score, verdict.reason, verdict.extracted, dict(verdict.details)


def verify_any(verifier: Any, reference: Any, text: str, is_cut: bool) -> None:
    assert verdict_of(verifier, reference, text, is_cut=is_cut).status is not Status.ERROR


def accepts_or_refuses(verifier: Any, reference: Any, text: str) -> None:
    try:
        verifier.parse_reference(reference)
    except ValueError:
        return
    if verifier is CODE:
        return  # its programs run in a sandbox only
    assert verdict_of(verifier, reference, text).status is not Status.ERROR


def gold_passes_and_mutants_fail(verifier: Any, gold: Any, text: str, mutants: list[str]) -> None:
    verifier.parse_reference(gold)
    verdict = verdict_of(verifier, gold, text)
    assert verdict.passed, (gold, text, verdict.reason)
    for mutant in mutants:
        verdict = verdict_of(verifier, gold, mutant)
        assert not verdict.passed, (gold, mutant, verdict.reason)


@cases(450, st.sampled_from(["12", "1/2", "(1,2)", "x=3", "[0,1)", "A", "\\sqrt{2}"]), TEXTS, st.booleans())
def test_math_returns_a_verdict_for_any_text(gold: str, text: str, is_cut: bool) -> None:
    verify_any(MATH, gold, text, is_cut)


@cases(450, st.sampled_from(["A", "D"]), TEXTS, st.booleans())
def test_a_choice_is_read_from_any_text(gold: str, text: str, is_cut: bool) -> None:
    verify_any(CHOICE, gold, text, is_cut)


@cases(450, TEXTS, st.booleans())
def test_countdown_returns_a_verdict_for_any_text(text: str, is_cut: bool) -> None:
    reference = {"numbers": [1, 2, 12], "target": 13}
    verify_any(COUNTDOWN, reference, text, is_cut)
    verify_any(COUNTDOWN, reference, f"<answer>{text}</answer>", is_cut)


@cases(200, TEXTS)
def test_code_finds_a_program_in_any_text_or_says_why_not(text: str) -> None:
    program, problem = find_program(text, ["python", "cpp"])
    assert (program is None) == bool(problem)
    assert find_program(text, ["python", "cpp"]) == (program, problem)


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_any_reference_is_accepted_or_refused(verifier: Any) -> None:
    @cases(120, JSON, TEXTS)
    def check(reference: Any, text: str) -> None:
        accepts_or_refuses(verifier, reference, text)

    check()


@cases(150, NUMBERS, st.integers(2, 99), st.integers(1, 9), st.sampled_from(
    ["\\boxed{%s}", "The answer is %s.", "#### %s", "<think>\\boxed{0}</think>Final answer: $%s$"]
))  # fmt: skip
def test_a_number_passes_and_another_does_not(above: int, below: int, change: int, form: str) -> None:
    for gold, mutants in [
        (str(above), [str(above + change)]),
        (f"{above}/{below}", [f"{above + change}/{below}"]),
        (f"{above}.{below}", [f"{above + change}.{below}"]),
        (f"({above}, {below})", [f"({above}, {below + change})", f"({above + change}, {below})"]),
    ]:
        gold_passes_and_mutants_fail(MATH, gold, form % gold, [form % m for m in mutants])


@cases(150, st.sampled_from("ABCD"), st.sampled_from("ABCD"), st.sampled_from(
    ["\\boxed{%s}", "The answer is %s.", "<answer>%s</answer>", "%s", "(%s)", "I choose %s", "**Answer:** %s) 12",
     "The answer is B. Wait, that is wrong. It should be %s."]
), TEXTS)  # fmt: skip
def test_a_letter_passes_and_another_does_not(gold: str, other: str, form: str, thought: str) -> None:
    text = f"<think>{thought.replace('think>', '')}</think>{form}"
    mutants = [] if gold == other else [text.replace("%s", other)]
    gold_passes_and_mutants_fail(CHOICE, gold, text.replace("%s", gold), mutants)


@cases(100, TEXTS.filter(lambda text: bool(text.strip()) and "think>" not in text), st.integers(0, 9))
def test_the_text_itself_passes_and_a_longer_one_does_not(text: str, digit: int) -> None:
    gold_passes_and_mutants_fail(EXACT, text, f"<think>no</think> {text}\n", [f"{text}{digit}"])


@cases(200, st.lists(st.integers(1, 99), min_size=1, max_size=5), st.lists(
    st.sampled_from("+-*"), min_size=4, max_size=4
), st.integers(1, 9))  # fmt: skip
def test_an_expression_passes_and_another_target_or_number_does_not(
    numbers: list[int], signs: list[str], change: int
) -> None:
    text = str(numbers[0])
    for number, sign in zip(numbers[1:], signs, strict=False):
        text = f"({text} {sign} {number})"
    target = eval(text)
    reference = {"numbers": numbers, "target": target}
    changed = text.replace(str(numbers[-1]), str(numbers[-1] + 100), 1)
    mutants = [changed, f"{text} + {change}", f"{text} = {target + change}"]
    gold_passes_and_mutants_fail(
        COUNTDOWN, reference, f"<answer>{text}</answer>", [f"<answer>{m}</answer>" for m in mutants]
    )
    other = json.loads(json.dumps(reference)) | {"target": target + change}
    assert not verdict_of(COUNTDOWN, other, f"<answer>{text}</answer>").passed


@pytest.mark.fuzz
@pytest.mark.parametrize("name", sorted(LONGER_TESTS))
def test_more_cases_and_other_ones(name: str) -> None:
    LONGER_TESTS[name]()


@pytest.mark.fuzz
@pytest.mark.parametrize("verifier", VERIFIERS)
def test_more_references_are_accepted_or_refused(verifier: Any) -> None:
    @cases(120 * LONGER, JSON, TEXTS)
    def check(reference: Any, text: str) -> None:
        accepts_or_refuses(verifier, reference, text)

    check()
