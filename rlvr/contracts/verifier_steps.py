"""The part of a verifier's contract that concerns `verify_steps`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from rlvr.errors import PluginError
from rlvr.records import Completion, Prompt
from rlvr.verification.steps import SupportsSteps, step_scores, step_spans


def step_problems(
    verifier: SupportsSteps, prompt: Prompt, completion: Completion, call: Callable[[Callable[[], Any]], Any]
) -> list[str]:
    """How the scores for the lines of one completion break the contract; those for no steps must be an empty list.

    Args: call: returns or raises like the function it is given, and ends the check if that hangs.
    """
    problems: list[str] = []
    for steps in (step_spans(completion.text), []):
        score = partial(verifier.verify_steps, prompt, completion, steps)
        what = f"verify_steps of {len(steps)} steps"
        try:
            first, second = (step_scores("it", call(score), num_steps=len(steps)) for _ in range(2))
        except PluginError as error:
            problems.append(f"{what}: {error}")
            continue
        if first != second:
            problems.append(f"{what}: two runs gave different scores: {first} and {second}")
    return problems
