"""The package verl scores the same through `verl:` as when its reward manager calls it."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.verifiers.adapters.adapted import built, verdict_on

scores = pytest.importorskip("verl.utils.reward_score")
TEXTS = [
    "2 + 2 = 4\n#### 4", "#### 5", "#### 4\nWait.", "Answer: 4", "So.\nAnswer: $4$", "Answer: 5",
    "\\boxed{4}", "\\boxed{5}", "It is \\boxed{\\frac{8}{2}}", "<answer>4</answer>", "<answer>four</answer>", "4", "",
]  # fmt: skip
GOLDS: dict[str, Any] = {
    "openai/gsm8k": "4",
    "lighteval/MATH": "4",
    "math_dapo": "4",
    "aime2025": "4",
    "numina_olympiads": "4",
    "searchR1_nq": {"target": ["4", "four"]},
}


def plain(found: Any) -> float:
    return float(found["score"] if isinstance(found, dict) else found)


@pytest.mark.parametrize("data_source", GOLDS)
def test_equal_scores_at_home_and_here(data_source: str, record_property: Callable[[str, object], None]) -> None:
    gold = GOLDS[data_source]
    at_home = [
        plain(
            scores.default_compute_score(data_source=data_source, solution_str=text, ground_truth=gold, extra_info={})
        )
        for text in TEXTS
    ]
    verifier = built("verl:verl.utils.reward_score:default_compute_score", scores={"from": [-2, 1]})
    here = [verdict_on(verifier, text, gold, data_source=data_source) for text in TEXTS]
    assert [verdict.details["score"] for verdict in here] == at_home
    assert len(set(at_home)) > 1
    record_property("equal_scores", len(TEXTS))
