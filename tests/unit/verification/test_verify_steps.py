"""Scores for the steps of a completion: spans, the contract, the worker, the command."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rlvr.commands.verify_file import explain
from rlvr.contracts import check_verifier
from rlvr.errors import VerifierError
from rlvr.plugin import completion_from_text, verifier
from rlvr.records import Check, Completion, Prompt
from rlvr.verification.service import VerifierService
from rlvr.verification.steps import Span, require_spans, step_spans

PLUGIN = '''
from rlvr.plugin import verifier


def sums(prompt, completion, steps):
    """1 for a line `a + b = c` that is right."""
    scores = []
    for start, end in steps:
        left, _, right = completion.text[start:end].partition("=")
        scores.append(float(sum(map(int, left.split("+"))) == int(right)))
    return scores


@verifier(version="1", verify_steps=sums)
def last_sum(text, reference):
    return text.strip().endswith(f"= {reference}")


@verifier(version="1", verify_steps=lambda prompt, completion, steps: [2.0] * len(steps))
def generous(text, reference):
    return text == reference


@verifier(version="1")
def plain(text, reference):
    return text == reference
'''


def test_steps_are_the_lines_that_are_not_blank() -> None:
    text = "one\n\n  two \n\tthree"
    assert [text[start:end] for start, end in step_spans(text)] == ["one", "two", "three"]
    assert step_spans(" \n") == []


@pytest.mark.parametrize("steps", [[(0, 9)], [(2, 2)], [(-1, 2)], [(2, 4), (0, 2)], [(0, 3), (2, 4)]])
def test_spans_outside_the_text_or_out_of_order_are_refused(steps: list[Span]) -> None:
    with pytest.raises(ValueError, match=r"steps are in order, do not overlap, .* the text of 4 characters"):
        require_spans("abcd", steps)


def scored(scores: Callable[[Sequence[Span]], Sequence[float]]) -> list[str]:
    def verify_steps(prompt: Prompt, completion: Completion, steps: Sequence[Span]) -> Sequence[float]:
        return scores(steps)

    @verifier(version="1", verify_steps=verify_steps)
    def equal(text: str, reference: str) -> bool:
        return text == reference

    return check_verifier(equal, passing=[("4", "4")], failing=[("4", "5")])


@pytest.mark.parametrize(
    ("scores", "problem"),
    [
        (lambda steps: [0.5] * (len(steps) + 1), "returned 2 scores for 1 steps"),
        (lambda steps: [1.5] * len(steps), "scored step 0 with 1.5"),
        (lambda steps: [float("nan")] * len(steps), "scored step 0 with nan"),
        (lambda steps: None, "returned None; return one number"),
        (lambda steps: [1 / 0], "raised ZeroDivisionError"),
    ],
)
def test_the_contract_covers_the_scores_of_steps(
    scores: Callable[[Sequence[Span]], Sequence[float]], problem: str
) -> None:
    assert scored(lambda steps: [0.5] * len(steps)) == []
    assert any(problem in found for found in scored(scores))


def test_scores_that_differ_between_calls_are_found() -> None:
    calls: list[int] = []

    def count(steps: Sequence[Span]) -> list[float]:
        calls.append(1)
        return [len(calls) % 2] * len(steps)

    assert any("two runs gave different scores: [1.0] and [0.0]" in problem for problem in scored(count))


def test_a_worker_scores_steps_and_the_command_shows_them(tmp_path: Path) -> None:
    plugin = tmp_path / "sums.py"
    plugin.write_text(PLUGIN)
    text = "1 + 1 = 2\n2 + 2 = 5\n5 + 4 = 9"
    verdict, rows = explain(
        f"{plugin}:last_sum", completion=text, reference="9", settings={}, deadline_s=20, has_steps=True
    )
    assert verdict.passed
    assert rows[-3:] == [("step 1", "1 + 1 = 2"), ("step 0", "2 + 2 = 5"), ("step 1", "5 + 4 = 9")]
    completion = completion_from_text(text, prompt_id="p")
    service = VerifierService(workers=1, deadline_s=20)
    try:
        for name, steps, problem in (
            ("generous", None, "scored step 0 with 2"),
            ("plain", None, "has no method verify_steps"),
            ("last_sum", [(0, 3)], r"raised ValueError: .* \(sums.py:10, in sums"),
        ):
            check = Check(name="main", verifier=f"{plugin}:{name}", reference="9")
            prompt = Prompt(prompt_id="p", text="?", checks=(check,), source="s")
            with pytest.raises(VerifierError, match=problem):
                service.verify_steps(prompt, completion, steps)
    finally:
        service.close()
