"""The reward functions of the package TRL score the same through `trl:` as in GRPOTrainer's call."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.verifiers.adapters.adapted import CHAT, built, prompt_of, tokens, verdict_on

rewards = pytest.importorskip("trl.rewards")
GOLD = r"\frac{2}{3}"
TEXTS = [
    r"<think>1/3 + 1/3 is 2/3.</think>\boxed{\frac{2}{3}}", r"<think>Hm.</think>It is \boxed{\frac{1}{3}}",
    r"It is \boxed{\frac{4}{6}}", r"<think>\boxed{\frac{2}{3}}", "<think>a</think><think>b</think>", "2/3", "",
]  # fmt: skip


@pytest.mark.parametrize("name", ["accuracy_reward", "reasoning_accuracy_reward", "think_format_reward"])
def test_equal_scores_at_home_and_here(name: str, record_property: Callable[[str, object], None]) -> None:
    at_home = getattr(rewards, name)(
        prompts=[[{"role": m.role, "content": m.content} for m in CHAT]] * len(TEXTS),
        completions=[[{"role": "assistant", "content": text}] for text in TEXTS],
        completion_ids=[[0]] * len(TEXTS),
        solution=[GOLD] * len(TEXTS),
        trainer_state=None,
        log_extra=lambda *_: None,
        log_metric=lambda *_: None,
    )
    verifier = built(f"trl:trl.rewards.{name}")
    assert [verdict_on(verifier, text, GOLD).score for text in TEXTS] == at_home
    assert len(set(at_home)) > 1
    record_property("equal_scores", len(TEXTS))


def test_equal_scores_of_a_factory(record_property: Callable[[str, object], None]) -> None:
    lengths = [10, 80, 85, 90, 100, 200]
    arguments: dict[str, Any] = {"max_completion_len": 100, "soft_punish_cache": 20}
    at_home = rewards.get_soft_overlong_punishment(**arguments)(completion_ids=[[1] * length for length in lengths])
    verifier = built("trl:trl.rewards.get_soft_overlong_punishment", arguments=arguments, scores={"from": [-1, 0]})
    here = [verifier.verify(prompt_of(verifier), tokens("text", length)) for length in lengths]
    assert [verdict.details["score"] for verdict in here] == at_home
    record_property("equal_scores", len(lengths))
