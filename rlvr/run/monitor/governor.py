"""Watches the mismatch between the engine's and the learner's policy, and reacts when it leaves its usual band.

    band of a metric:  mean +- max(width * std, min_width)  over the first `startup_steps`, on the bad side

Engine and learner differ a little in every run: by rounding, by a copy's precision, by staleness. The values at the
start of a run define the band; `patience_steps` consecutive steps with a metric outside its band raise an alarm. In
mode `act` each alarm goes one rung up and resets the count, so that the measure can take effect:

    a stricter correction (rlvr.algorithms.corrections.stricter), rung by rung
    -> one version less of staleness, down to none
    -> pause: a checkpoint, and the run stops

The mismatch is measured before any correction, so a correction alone does not end an alarm: it makes the following
steps harmless, and if the mismatch persists, the next rung is climbed.

When the engine has the learner's weights and arithmetic, the first step has bounds of its own (`start_bounds`): only
rounding may differ, and a mismatch present from the start would otherwise widen the band.

The decision is a pure function of the metrics seen so far; `rlvr.run.after_step` applies it.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rlvr.algorithms.corrections import Correction, stricter
from rlvr.config.recipe import EngineDtype, Recipe
from rlvr.config.sections.algorithm import GovernorConfig, GovernorMode
from rlvr.config.sections.learner import LearnerDtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A metric and its bad side.

    min_width: the least width of the band, so that rounding or a few unlucky tokens raise no alarm.
    """

    metric: str
    is_high_bad: bool
    min_width: float


WATCHED = (
    Watched(metric="mismatch/kl_k3", is_high_bad=True, min_width=0.002),  # nats per token
    Watched(metric="mismatch/max_abs_logprob_diff", is_high_bad=True, min_width=0.25),  # nats
    Watched(metric="mismatch/ess", is_high_bad=False, min_width=0.02),
)


# Bounds of the first step's differences, in nats. Rounding causes at most 3e-5 in float32 (SmolLM2-135M, 48
# completions of 40 tokens; tiny models 1e-5), and 0.25, with a mean of 0.028, in bfloat16, where the kernels of cached
# and packed attention differ. Faults present from the start cause 0.1 to 3 in float32.
_START_BOUNDS: Mapping[LearnerDtype, Mapping[str, float]] = {
    LearnerDtype.FLOAT32: {"mismatch/max_abs_logprob_diff": 1e-3},
    LearnerDtype.BFLOAT16_AUTOCAST: {"mismatch/mean_abs_logprob_diff": 0.1, "mismatch/max_abs_logprob_diff": 2.0},
}


def start_bounds(recipe: Recipe) -> Mapping[str, float]:
    """The largest value of each metric at the first step; empty when more than rounding may differ.

    They apply when the engine uses the learner's arithmetic (`rollout.engine_dtype` shared, or float32, which
    follows the learner's) and its weights are not stale.
    """
    rollout = recipe.rollout
    is_own = rollout.engine.traits.has_learner_arithmetic and rollout.engine_dtype in (
        EngineDtype.SHARED,
        EngineDtype.FLOAT32,
    )
    if not is_own or rollout.max_staleness or recipe.algorithm.governor.mode is GovernorMode.OFF:
        return {}
    return _START_BOUNDS.get(recipe.learner.dtype, {})


class Action(StrEnum):
    """The reaction to an alarm."""

    WARN = "warn"
    STRICTER_CORRECTION = "stricter_correction"
    LESS_STALENESS = "less_staleness"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A metric outside its band: its value (None: not finite), the band's border, and the start-up mean."""

    metric: str
    value: float | None
    border: float
    mean: float
    std: float

    def __str__(self) -> str:
        value = "not finite" if self.value is None else f"{self.value:.4g}"
        return f"{self.metric} is {value}, its border {self.border:.4g} (start-up mean {self.mean:.4g})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """An alarm and the reaction. correction and max_staleness apply from now on."""

    action: Action
    readings: tuple[Reading, ...]
    num_steps: int
    correction: Correction
    max_staleness: int

    @property
    def reason(self) -> str:
        """The reason, as one clause."""
        return f"for {self.num_steps} steps in a row: " + "; ".join(map(str, self.readings))


class Governor:
    """Learns the bands and decides. `correction` and `max_staleness` are the current ones."""

    def __init__(
        self,
        config: GovernorConfig,
        *,
        correction: Correction,
        max_staleness: int,
        bounds: Mapping[str, float] | None = None,
    ) -> None:
        """Args:
        correction, max_staleness: from the recipe.
        bounds: for the first step (`start_bounds`).
        """
        self._config = config
        self._bounds = dict(bounds or {})
        self.correction = correction
        self.max_staleness = max_staleness
        # While the pipeline fills up, staleness is below its steady value and the band would be too narrow.
        self._num_ignored = max_staleness
        self._startup: dict[str, list[float]] = {watched.metric: [] for watched in WATCHED}
        self._num_startup = 0
        self._num_outside = 0
        self._num_stricter = 0

    def observe(self, metrics: Mapping[str, float]) -> Decision | None:
        """The decision after a step with these metrics, or None. A step without mismatch metrics is not counted."""
        seen = {w.metric: metrics[w.metric] for w in WATCHED if w.metric in metrics}
        if self._config.mode is GovernorMode.OFF or not seen:
            return None
        if self._num_ignored:
            self._num_ignored -= 1
            return None
        if self._num_startup < self._config.startup_steps:
            self._num_startup += 1
            for metric, value in seen.items():
                if math.isfinite(value):
                    self._startup[metric].append(value)
            return None
        readings = tuple(
            reading
            for watched in WATCHED
            if watched.metric in seen and (reading := self._outside(watched, seen[watched.metric])) is not None
        )
        self._num_outside = self._num_outside + 1 if readings else 0
        if self._num_outside < self._config.patience_steps:
            return None
        return self._alarm(readings)

    def beyond_rounding(self, metrics: Mapping[str, float]) -> tuple[tuple[str, float, float], ...]:
        """(metric, value, bound) of the first step's metrics above their bounds; empty for later steps.

        A step without mismatch metrics does not count as the first.
        """
        seen = {name: metrics[name] for name in self._bounds if name in metrics}
        bounds = dict(self._bounds)
        if seen:
            self._bounds = {}
        return tuple((n, v, bounds[n]) for n, v in seen.items() if not v <= bounds[n])

    def state(self) -> dict[str, Any]:
        """The learned bands and the decisions so far, as a JSON object."""
        return {
            "startup": {name: list(values) for name, values in self._startup.items()},
            "num_ignored": self._num_ignored,
            "num_startup": self._num_startup,
            "num_outside": self._num_outside,
            "num_stricter": self._num_stricter,
            "max_staleness": self.max_staleness,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` returned; the correction is made stricter as often as before."""
        self._startup = {name: list(values) for name, values in state["startup"].items()}
        self._num_ignored = int(state["num_ignored"])
        self._num_startup = int(state["num_startup"])
        self._num_outside = int(state["num_outside"])
        if self._num_startup > 1:  # the first step was checked already
            self._bounds = {}
        self.max_staleness = int(state["max_staleness"])
        for _ in range(int(state["num_stricter"])):
            self._climb_correction()

    def _outside(self, watched: Watched, value: float) -> Reading | None:
        values = self._startup[watched.metric]
        if not values:
            return None
        mean, std = statistics.fmean(values), statistics.pstdev(values)
        width = max(self._config.width * std, watched.min_width)
        border = mean + width if watched.is_high_bad else mean - width
        is_inside = value <= border if watched.is_high_bad else value >= border
        if is_inside:  # a comparison with nan is False: nan is outside
            return None
        finite = value if math.isfinite(value) else None
        return Reading(metric=watched.metric, value=finite, border=border, mean=mean, std=std)

    def _alarm(self, readings: tuple[Reading, ...]) -> Decision:
        num_steps, self._num_outside = self._num_outside, 0
        action = Action.WARN
        if self._config.mode is GovernorMode.ACT:
            action = self._climb()
        return Decision(
            action=action,
            readings=readings,
            num_steps=num_steps,
            correction=self.correction,
            max_staleness=self.max_staleness,
        )

    def _climb(self) -> Action:
        if self._climb_correction():
            return Action.STRICTER_CORRECTION
        if self.max_staleness:
            self._num_ignored = self.max_staleness  # rollouts in flight are as stale as before
            self.max_staleness -= 1
            return Action.LESS_STALENESS
        return Action.PAUSE

    def _climb_correction(self) -> bool:
        rung = stricter(self.correction)
        if rung is None:
            return False
        self.correction = rung
        self._num_stricter += 1
        return True
