"""From verdicts to a reward, rule by rule."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.config.recipe import Truncated
from rlvr.records import Completion, FinishReason, Role, Status, Verdict
from rlvr.reward import leaves_loss, make_rollout, score


def make_verdict(status: Status, value: float | None = None) -> Verdict:
    if value is None and status.has_score:
        value = 1.0 if status is Status.PASS else 0.0
    return Verdict(status=status, score=value, reason="because", verifier="v@1", seconds=0.0)


PASS, FAIL = make_verdict(Status.PASS), make_verdict(Status.FAIL)
UNPARSED, ERROR = make_verdict(Status.UNPARSED), make_verdict(Status.ERROR)
SKIPPED = make_verdict(Status.SKIPPED)
ROLES = {"answer": Role.REWARD, "style": Role.REWARD, "safe": Role.GATE, "watch": Role.SHADOW}
WEIGHTS = {"answer": 1.0, "style": 0.5, "safe": 9.0, "watch": 9.0}


def reward_of(
    answer: Verdict = PASS,
    style: Verdict = PASS,
    safe: Verdict = PASS,
    watch: Verdict = PASS,
    finish: FinishReason = FinishReason.STOP,
    unparsed_score: float = 0.0,
    truncated: Truncated = Truncated.ZERO,
) -> tuple[float | None, dict[str, float]]:
    return score(
        {"answer": answer, "style": style, "safe": safe, "watch": watch},
        finish,
        weights=WEIGHTS,
        roles=ROLES,
        unparsed_score=unparsed_score,
        truncated=truncated,
    )


def test_the_reward_is_the_weighted_sum_of_paying_checks() -> None:
    assert reward_of() == (1.5, {"answer": 1.0, "style": 0.5})
    half = make_verdict(Status.FAIL, 0.5)
    assert reward_of(style=half) == (1.25, {"answer": 1.0, "style": 0.25})


@pytest.mark.parametrize("check", ["answer", "style", "safe"])
def test_an_error_of_a_paying_or_vetoing_check_leaves_no_reward(check: str) -> None:
    assert reward_of(**{check: ERROR}) == (None, {})
    assert reward_of(**{check: ERROR}, finish=FinishReason.LENGTH) == (None, {})


def test_a_skipped_check_counts_neither_way() -> None:
    assert reward_of(answer=SKIPPED) == (0.5, {"style": 0.5})
    assert reward_of(answer=SKIPPED, finish=FinishReason.LENGTH) == (0.0, {"style": 0.0})
    assert reward_of(safe=SKIPPED) == reward_of()


def test_a_row_to_which_no_paying_check_applies_is_unjudged() -> None:
    assert reward_of(answer=SKIPPED, style=SKIPPED) == (None, {})
    with pytest.raises(ValueError, match="SKIPPED is not a zero"):
        make_verdict(Status.SKIPPED, 0.0)


@pytest.mark.parametrize("watch", [FAIL, ERROR, UNPARSED])
def test_a_shadow_check_never_counts(watch: Verdict) -> None:
    assert reward_of(watch=watch) == reward_of()


@pytest.mark.parametrize("gate", [FAIL, UNPARSED])
def test_a_gate_that_does_not_pass_makes_every_part_zero(gate: Verdict) -> None:
    assert reward_of(safe=gate) == (0.0, {"answer": 0.0, "style": 0.0})


def test_unparsed_earns_what_the_recipe_says() -> None:
    assert reward_of(answer=UNPARSED, unparsed_score=0.1)[1]["answer"] == pytest.approx(0.1)
    assert reward_of(answer=UNPARSED)[1]["answer"] == 0.0


@pytest.mark.parametrize("finish", [FinishReason.LENGTH, FinishReason.ABORT])
def test_a_truncated_completion_earns_zero_unless_it_is_judged(finish: FinishReason) -> None:
    assert reward_of(finish=finish) == (0.0, {"answer": 0.0, "style": 0.0})
    assert reward_of(finish=finish, truncated=Truncated.JUDGE) == reward_of()
    assert reward_of(finish=finish, truncated=Truncated.MASK) == reward_of()


@pytest.mark.parametrize("truncated", Truncated)
@pytest.mark.parametrize("finish", FinishReason)
def test_only_a_cut_completion_leaves_the_loss_and_only_where_the_recipe_says_mask(
    truncated: Truncated, finish: FinishReason
) -> None:
    is_out = leaves_loss(make_completion(finish), truncated=truncated)
    assert is_out == (truncated is Truncated.MASK and finish is not FinishReason.STOP)


def test_a_missing_verdict_role_or_weight_is_named() -> None:
    rest = {"unparsed_score": 0.0, "truncated": Truncated.ZERO}
    with pytest.raises(ValueError, match=r"'answer' .reward. has no verdict"):
        score({}, FinishReason.STOP, weights=WEIGHTS, roles={"answer": Role.REWARD}, **rest)
    with pytest.raises(ValueError, match="'answer' has no role"):
        score({"answer": PASS}, FinishReason.STOP, weights=WEIGHTS, roles={}, **rest)
    with pytest.raises(ValueError, match="'answer' has no weight"):
        score({"answer": PASS}, FinishReason.STOP, weights={}, roles={"answer": Role.REWARD}, **rest)


VERDICTS = st.builds(make_verdict, st.sampled_from([Status.PASS, Status.FAIL, Status.UNPARSED]), st.floats(0.0, 1.0))


@given(
    verdicts=st.lists(st.tuples(VERDICTS, st.sampled_from(Role), st.floats(0.0, 10.0)), max_size=8),
    finish=st.sampled_from(FinishReason),
    truncated=st.sampled_from(Truncated),
)
def test_parts_always_sum_to_the_reward(
    verdicts: list[tuple[Verdict, Role, float]], finish: FinishReason, truncated: Truncated
) -> None:
    names = [f"check{index}" for index in range(len(verdicts))]
    reward, parts = score(
        {name: verdict for name, (verdict, _, _) in zip(names, verdicts, strict=True)},
        finish,
        weights={name: weight for name, (_, _, weight) in zip(names, verdicts, strict=True)},
        roles={name: role for name, (_, role, _) in zip(names, verdicts, strict=True)},
        unparsed_score=0.25,
        truncated=truncated,
    )
    assert reward is not None
    assert math.fsum(parts.values()) == reward


def make_completion(finish: FinishReason) -> Completion:
    return Completion(
        completion_id="c/0",
        prompt_id="p/0",
        sample_index=0,
        prompt_token_ids=(),
        token_ids=(),
        logprobs=(),
        sampled_mask=(),
        text="4",
        finish_reason=finish,
        policy_versions=(),
    )


def test_a_rollout_carries_its_verdicts_reward_and_parts() -> None:
    completion = make_completion(FinishReason.STOP)
    settings = {
        "weights": {"answer": 2.0},
        "roles": {"answer": Role.REWARD},
        "unparsed_score": 0.0,
        "truncated": Truncated.ZERO,
    }
    judged = make_rollout(completion, {"answer": PASS}, **settings)
    assert (judged.reward, dict(judged.reward_parts)) == (2.0, {"answer": 2.0})
    unjudged = make_rollout(completion, {"answer": ERROR}, **settings)
    assert (unjudged.reward, dict(unjudged.reward_parts)) == (None, {})
