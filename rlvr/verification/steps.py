"""Scores for the steps of a completion, from verifiers with `verify_steps`. Training does not use them yet.

A step is a span of characters of the completion's text, [start, end).

>>> step_spans("2 + 2 = 4\\n\\n  4 * 3 = 12\\n")
[(0, 9), (13, 23)]
"""

import math
import time
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from rlvr.errors import PluginError
from rlvr.protocols import Verifier
from rlvr.records import Completion, Prompt, Status, Verdict

Span = tuple[int, int]


@runtime_checkable
class SupportsSteps(Protocol):
    """A verifier that also scores the steps of a completion. Training does not use these scores yet."""

    def verify_steps(self, prompt: Prompt, completion: Completion, steps: Sequence[Span]) -> Sequence[float]:
        """One score in [0, 1] for each step, the same at each call.

        Args: steps: character spans [start, end) of `completion.text`, in order, disjoint; there may be none.

        Raises: anything; then the steps have no scores.
        """
        ...


def step_spans(text: str) -> list[Span]:
    """The spans of the lines that are not blank, without the white space around them."""
    spans: list[Span] = []
    start = 0
    for line in text.split("\n"):
        if line.strip():
            begin = start + len(line) - len(line.lstrip())
            spans.append((begin, begin + len(line.strip())))
        start += len(line) + 1
    return spans


def require_spans(text: str, steps: Sequence[Span]) -> None:
    """Raises ValueError unless the steps are inside the text, not empty, in order, and do not overlap."""
    end = 0
    for number, step in enumerate(steps):
        if not end <= step[0] < step[1] <= len(text):
            raise ValueError(
                f"step {number} is [{step[0]}, {step[1]}); steps are in order, do not overlap, are not empty and end "
                f"inside the text of {len(text)} characters"
            )
        end = step[1]


def step_scores(label: str, answer: Any, *, num_steps: int) -> list[float]:
    """The scores that `verify_steps` returned, as floats.

    Raises: PluginError when they are not one number in [0, 1] for each step.
    """
    try:
        scores = [float(score) for score in answer]
    except (TypeError, ValueError) as error:
        raise PluginError(
            f"verify_steps of {label} returned {answer!r:.200}; return one number for each step"
        ) from error
    if len(scores) != num_steps:
        raise PluginError(f"verify_steps of {label} returned {len(scores)} scores for {num_steps} steps")
    for number, score in enumerate(scores):
        if not (math.isfinite(score) and 0.0 <= score <= 1.0):
            raise PluginError(f"verify_steps of {label} scored step {number} with {score:g}; scores are in [0, 1]")
    return scores


def steps_verdict(verifier: Verifier, prompt: Prompt, completion: Completion, steps: Sequence[Span]) -> Verdict:
    """A PASS whose `details["scores"]` are those of the steps. Raises what the verifier raises, and PluginError."""
    label = f"{verifier.name}@{verifier.version}"
    if not isinstance(verifier, SupportsSteps):
        raise PluginError(f"{label} has no method verify_steps, so it scores no steps")
    start = time.perf_counter()
    scores = step_scores(label, verifier.verify_steps(prompt, completion, steps), num_steps=len(steps))
    return Verdict(
        status=Status.PASS,
        score=1.0,
        reason=f"{len(scores)} steps were scored",
        verifier=label,
        seconds=time.perf_counter() - start,
        details={"scores": scores},
    )
