"""The governor: bands from the start of a run, patience, and one rung at a time."""

import json
import math

import pytest

from rlvr.algorithms.corrections import Correction
from rlvr.config.load import load_recipe
from rlvr.config.sections.algorithm import GovernorConfig, GovernorMode
from rlvr.importance_weights import WeightBound, WeightLevel
from rlvr.run.monitor.governor import Action, Decision, Governor, start_bounds

CALM = {"mismatch/kl_k3": 0.010, "mismatch/max_abs_logprob_diff": 0.5, "mismatch/ess": 0.98}


def make(
    mode: GovernorMode = GovernorMode.ACT, *, max_staleness: int = 0, correction: Correction | None = None
) -> Governor:
    config = GovernorConfig(mode=mode, startup_steps=4, width=3.0, patience_steps=2)
    return Governor(config, correction=correction or Correction(), max_staleness=max_staleness)


def started(governor: Governor, *, max_staleness: int = 0) -> Governor:
    """After start-up steps with kl of mean 0.01 and standard deviation 0.001: the border is 0.013."""
    for _ in range(max_staleness):
        assert governor.observe(CALM) is None
    for kl in (0.009, 0.011, 0.009, 0.011):
        assert governor.observe(CALM | {"mismatch/kl_k3": kl}) is None
    return governor


def after(governor: Governor, *values: float, metric: str = "mismatch/kl_k3") -> list[Decision | None]:
    return [governor.observe(CALM | {metric: value}) for value in values]


def test_the_border_is_the_start_up_mean_plus_width_standard_deviations():
    assert after(started(make()), 0.0129, 0.0129, 0.0129) == [None] * 3
    (_, decision) = after(started(make()), 0.0131, 0.0131)
    assert decision is not None
    (reading,) = decision.readings
    assert (reading.metric, reading.value) == ("mismatch/kl_k3", 0.0131)
    assert (reading.mean, reading.std, reading.border) == pytest.approx((0.010, 0.001, 0.013))
    assert decision.num_steps == 2
    assert "for 2 steps in a row: mismatch/kl_k3 is 0.0131, its border 0.013" in decision.reason


def test_a_start_without_spread_still_leaves_room_for_rounding():
    governor = make()
    for _ in range(4):
        governor.observe(CALM)
    assert after(governor, 0.0119, 0.0119, 0.0119) == [None] * 3  # 0.010 + 0.002
    assert after(governor, 0.0121, 0.0121)[1] is not None


@pytest.mark.parametrize(
    ("metric", "inside", "outside"), [("mismatch/max_abs_logprob_diff", 0.7, 0.8), ("mismatch/ess", 0.97, 0.95)]
)
def test_every_watched_metric_has_its_bad_side(metric: str, inside: float, outside: float):
    governor = started(make())
    assert after(governor, inside, inside, metric=metric) == [None] * 2
    good_side = 1.0 if metric == "mismatch/ess" else 0.0
    assert after(governor, good_side, good_side, metric=metric) == [None] * 2
    decision = after(governor, outside, outside, metric=metric)[1]
    assert decision is not None
    assert [reading.metric for reading in decision.readings] == [metric]


def test_steps_outside_must_follow_one_another():
    assert after(started(make()), 0.02, 0.01, 0.02, 0.01, 0.02) == [None] * 5


def test_a_value_that_is_not_finite_is_outside_and_json_can_write_it():
    decision = after(started(make()), math.nan, math.inf)[1]
    assert decision is not None
    assert decision.readings[0].value is None
    assert "not finite" in decision.reason


def test_warn_only_reports_and_changes_nothing():
    governor = started(make(GovernorMode.WARN, max_staleness=1), max_staleness=1)
    found = [d for d in after(governor, *[0.5] * 6) if d is not None]
    assert [d.action for d in found] == [Action.WARN] * 3
    assert (governor.correction, governor.max_staleness) == (Correction(), 1)


def test_off_never_reports_anything():
    governor = make(GovernorMode.OFF)
    assert after(governor, *[0.01] * 5, *[9.0] * 9) == [None] * 14


def test_act_climbs_from_correction_over_staleness_to_a_pause():
    governor = started(make(max_staleness=2), max_staleness=2)
    found = [d for d in after(governor, *[0.5] * 30) if d is not None]
    assert [d.action for d in found[:6]] == [
        Action.STRICTER_CORRECTION,
        Action.STRICTER_CORRECTION,
        Action.STRICTER_CORRECTION,
        Action.LESS_STALENESS,
        Action.LESS_STALENESS,
        Action.PAUSE,
    ]
    assert found[0].correction.level is WeightLevel.TOKEN
    assert found[1].correction.bound is WeightBound.MASK
    assert found[2].correction.geometric_max > 1.0
    assert [d.max_staleness for d in found[:6]] == [2, 2, 2, 1, 0, 0]


def test_after_less_staleness_it_waits_until_nothing_older_is_in_flight():
    strict = Correction(
        level=WeightLevel.TOKEN, bound=WeightBound.MASK, weight_min=0.5, geometric_min=0.99, geometric_max=1.01
    )
    governor = started(make(max_staleness=3, correction=strict), max_staleness=3)
    found = after(governor, *[0.5] * 7)
    assert [d is not None for d in found] == [False, True, False, False, False, False, True]


def test_the_first_steps_of_a_filling_pipeline_are_not_the_baseline():
    governor = make(max_staleness=2)
    for _ in range(2):  # fresh rollouts: hardly any mismatch
        governor.observe(CALM | {"mismatch/kl_k3": 0.0})
    started(governor)
    assert after(governor, 0.012, 0.012, 0.012) == [None] * 3


def test_steps_without_mismatch_metrics_are_not_counted():
    governor = started(make())
    assert governor.observe({"reward/mean": 0.5}) is None
    after(governor, 0.02)
    assert governor.observe({}) is None
    assert after(governor, 0.02)[0] is not None


@pytest.mark.parametrize("stop", range(26))
def test_a_restored_governor_decides_as_the_first_would_have(stop: int):
    values = [0.009, 0.011] * 4 + [0.5] * 18
    first, whole = make(max_staleness=2), []
    for value in values:
        whole += after(first, value)
    second = make(max_staleness=2)
    after(second, *values[:stop])
    third = make(max_staleness=2)
    third.restore(json.loads(json.dumps(second.state())))
    assert after(third, *values[stop:]) == whole[stop:]
    assert (third.correction, third.max_staleness) == (first.correction, first.max_staleness)


WORST = "mismatch/max_abs_logprob_diff"


@pytest.mark.parametrize(
    ("changes", "bounds"),
    [
        (["learner.dtype=float32", "rollout.engine_dtype=shared"], {WORST: 1e-3}),
        (["learner.dtype=float32", "rollout.engine_dtype=float32"], {WORST: 1e-3}),
        (
            ["learner.dtype=bfloat16_autocast", "rollout.engine_dtype=shared"],
            {WORST: 2.0, "mismatch/mean_abs_logprob_diff": 0.1},
        ),
        (["learner.dtype=float32", "rollout.engine_dtype=bfloat16"], {}),
        (["learner.dtype=float32", "rollout.engine_dtype=shared", "algorithm.governor.mode=off"], {}),
        (["learner.dtype=float32", "rollout.engine=toy"], {}),
    ],
)
def test_the_first_step_is_bounded_where_only_rounding_may_differ(changes: list[str], bounds: dict[str, float]):
    recipe = load_recipe("tiny", changes).recipe
    assert start_bounds(recipe) == bounds
    stale = recipe.rollout.model_copy(update={"max_staleness": 1})
    assert start_bounds(recipe.model_copy(update={"rollout": stale})) == {}


def make_bounded() -> Governor:
    config = GovernorConfig()
    return Governor(config, correction=Correction(), max_staleness=0, bounds={WORST: 1e-3})


def test_the_first_step_with_a_mismatch_is_held_to_its_bounds_and_no_later_one():
    governor = make_bounded()
    assert governor.beyond_rounding({"reward/mean": 0.5}) == ()
    assert governor.beyond_rounding({WORST: 0.78}) == ((WORST, 0.78, 1e-3),)
    assert governor.beyond_rounding({WORST: 0.78}) == ()
    assert make_bounded().beyond_rounding({WORST: 9e-4}) == ()
    assert [name for name, _, _ in make_bounded().beyond_rounding({WORST: math.nan})] == [WORST]


def test_a_run_stopped_after_its_first_step_is_checked_again_on_resume():
    governor = make_bounded()
    for num_steps, is_judged in ((1, True), (2, False)):
        governor.observe(CALM)
        again = make_bounded()
        again.restore(governor.state())
        assert bool(again.beyond_rounding({WORST: 0.78})) is is_judged, num_steps
