"""Evaluation figures by hand."""

import math

import pytest

from rlvr.commands.evaluate import _rollout_rows
from rlvr.config.recipe import TinyModel
from rlvr.models.policy import build_tiny
from rlvr.records import Check, Completion, FinishReason, Group, Prompt, Rollout, Status, Verdict
from rlvr.run.step.evaluation import pass_at_k, summarize, wilson_interval

PROMPT = Prompt(
    prompt_id="p", text="2+2=", source="s", checks=(Check(name="main", verifier="text_match", reference="4"),)
)


def rollout(
    status: Status, *, index: int = 0, answer: str | None = None, reason: FinishReason = FinishReason.STOP
) -> Rollout:
    score = None if status is Status.ERROR else float(status is Status.PASS)
    reward = 0.0 if score is not None and reason is not FinishReason.STOP else score
    completion = Completion(
        completion_id=f"c{index}",
        prompt_id="p",
        sample_index=index,
        prompt_token_ids=(1,),
        token_ids=(2, 3),
        logprobs=(0.0, 0.0),
        sampled_mask=(True, True),
        text="",
        finish_reason=reason,
        policy_versions=(0, 0),
    )
    verdict = Verdict(status=status, score=score, reason="r", verifier="v@1", seconds=0.0, extracted=answer)
    return Rollout(
        completion=completion,
        verdicts={"main": verdict},
        reward=reward,
        reward_parts={} if reward is None else {"main": reward},
    )


def group(*rollouts: Rollout) -> Group:
    return Group(group_id="g", prompt=PROMPT, rollouts=rollouts)


def test_greedy_figures_tell_format_and_answers_apart():
    found = summarize(
        "s",
        [
            group(rollout(Status.PASS)),
            group(rollout(Status.FAIL)),
            group(rollout(Status.UNPARSED)),
            group(rollout(Status.PASS, reason=FinishReason.LENGTH)),
        ],
        is_greedy=True,
    )
    assert found.metrics["eval/s/pass@1"] == 0.25
    assert found.metrics["eval/s/format_rate"] == 0.5
    assert found.metrics["eval/s/score_given_format"] == 0.5
    assert found.metrics["eval/s/truncated_rate"] == 0.25
    assert [name for name in found.metrics if name.endswith("pass@1")] == ["eval/s/pass@1"]


def test_an_error_leaves_numerator_and_denominator():
    found = summarize("s", [group(rollout(Status.PASS)), group(rollout(Status.ERROR))], is_greedy=True)
    assert found.metrics["eval/s/pass@1"] == 1.0
    assert found.metrics["eval/s/error_rate"] == 0.5
    assert found.num_prompts == 1


def test_sampled_figures():
    one = group(
        rollout(Status.PASS, index=0, answer="4"),
        rollout(Status.FAIL, index=1, answer="5"),
        rollout(Status.FAIL, index=2, answer="5"),
        rollout(Status.UNPARSED, index=3),
    )
    found = summarize("s", [one], is_greedy=False).metrics
    assert found["eval/s/avg@4"] == 0.25
    assert found["eval/s/pass@2"] == 0.5
    assert found["eval/s/pass@4"] == 1.0
    assert found["eval/s/maj@4"] == 0.0


@pytest.mark.parametrize(("rate", "count", "low", "high"), [(0.0, 10, 0.0, 0.2775), (1.0, 10, 0.7225, 1.0)])
def test_wilson_interval_at_the_ends(rate: float, count: int, low: float, high: float):
    assert wilson_interval(rate, count) == pytest.approx((low, high), abs=1e-3)


def test_pass_at_k_equals_counting_all_subsets():
    from itertools import combinations

    outcomes = [1, 0, 0, 1, 0, 0]
    for k in (1, 2, 3):
        subsets = list(combinations(outcomes, k))
        assert pass_at_k(6, 2, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    assert math.isclose(pass_at_k(6, 6, 6), 1.0)


def test_rows_of_an_evaluation_hold_the_reference_and_every_verdict_with_its_role():
    found = summarize("s", [group(rollout(Status.FAIL, answer="5"))], is_greedy=True)
    (row,) = _rollout_rows(found, build_tiny(TinyModel(characters="0123456789+="), seed=0).text.tokenizer)
    assert row["reference"] == "4"
    assert row["verdicts"] == {
        "main": {"role": "reward", "status": "fail", "score": 0.0, "extracted": "5", "reason": "r"}
    }
