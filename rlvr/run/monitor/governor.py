"""Watches how far the engine's policy is from the learner's, and says what to do when that leaves its usual band.

    band of a metric:  mean +- max(width * std, min_width)  over the first `startup_steps`, on the side that is bad

Engine and learner differ a little in every run: by rounding, by a copy's precision, by staleness. What a run shows at
its start is taken as usual; a metric outside its band for `patience_steps` in a row is an alarm. In mode `act` each
alarm climbs one rung, and the counting begins anew, so that what was done can take effect:

    a stricter correction (rlvr.algorithms.corrections.stricter), rung by rung
    -> one version less of staleness, down to none
    -> pause: a checkpoint, and the run stops

The mismatch itself is measured before any correction, so a correction alone does not end an alarm: it makes the steps
harmless that follow, and if the mismatch stays, the next rung is climbed.

Where the engine has the learner's weights and arithmetic, the first step is judged by itself (`start_bounds`): there
only rounding may differ, and a mismatch that is there from the start would pass for usual.

The decision is a pure function of the metrics seen so far; `rlvr.run.after_step` carries it out.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rlvr.algorithms.corrections import Correction, stricter
from rlvr.config.recipe import EngineDtype, EngineKind, Recipe
from rlvr.config.sections.algorithm import GovernorConfig, GovernorMode
from rlvr.config.sections.learner import LearnerDtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A metric and the side on which it is bad.

    min_width: the band is at least so wide: what rounding or a few unlucky tokens may do is no alarm.
    """

    metric: str
    is_high_bad: bool
    min_width: float


WATCHED = (
    Watched(metric="mismatch/kl_k3", is_high_bad=True, min_width=0.002),  # nats a token
    Watched(metric="mismatch/max_abs_logprob_diff", is_high_bad=True, min_width=0.25),  # nats
    Watched(metric="mismatch/ess", is_high_bad=False, min_width=0.02),
)


# What the first step's differences may be, in nats. Rounding makes 3e-5 of the largest in float32 (SmolLM2-135M, 48
# completions of 40 tokens; tiny models 1e-5), and 0.25, with a mean of 0.028, in bfloat16, where kernels of cached and
# packed attention differ. What is wrong from the start makes 0.1 to 3 in float32.
_START_BOUNDS: Mapping[LearnerDtype, Mapping[str, float]] = {
    LearnerDtype.FLOAT32: {"mismatch/max_abs_logprob_diff": 1e-3},
    LearnerDtype.BFLOAT16_AUTOCAST: {
        "mismatch/mean_abs_logprob_diff": 0.1,
        "mismatch/max_abs_logprob_diff": 2.0,
    },
}


def start_bounds(recipe: Recipe) -> Mapping[str, float]:
    """Metric -> the most that it may be at the first step; empty where more than rounding may differ.

    They hold where the engine computes in the learner's arithmetic (`rollout.engine_dtype` shared, or float32, which
    takes the learner's), with weights that are not stale.
    """
    rollout = recipe.rollout
    is_own = rollout.engine is EngineKind.TRANSFORMERS and rollout.engine_dtype in (
        EngineDtype.SHARED,
        EngineDtype.FLOAT32,
    )
    if not is_own or rollout.max_staleness or recipe.algorithm.governor.mode is GovernorMode.OFF:
        return {}
    return _START_BOUNDS.get(recipe.learner.dtype, {})


class Action(StrEnum):
    """What an alarm leads to."""

    WARN = "warn"
    STRICTER_CORRECTION = "stricter_correction"
    LESS_STALENESS = "less_staleness"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A metric outside its band: its value (None: not finite), the band's border, and what the border came from."""

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
    """An alarm and what to do. correction and max_staleness are those that hold from now on."""

    action: Action
    readings: tuple[Reading, ...]
    num_steps: int
    correction: Correction
    max_staleness: int

    @property
    def reason(self) -> str:
        """One sentence for a person."""
        return f"for {self.num_steps} steps in a row: " + "; ".join(map(str, self.readings))


class Governor:
    """Learns the bands and decides. `correction` and `max_staleness` are those in force."""

    def __init__(
        self,
        config: GovernorConfig,
        *,
        correction: Correction,
        max_staleness: int,
        bounds: Mapping[str, float] | None = None,
    ) -> None:
        """Args:
        correction, max_staleness: what the recipe says.
        bounds: of the first step (`start_bounds`).
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
        """What to do after a step with these metrics. A step without mismatch metrics is not counted."""
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
            if watched.metric in seen
            and (reading := self._outside(watched, seen[watched.metric])) is not None
        )
        self._num_outside = self._num_outside + 1 if readings else 0
        if self._num_outside < self._config.patience_steps:
            return None
        return self._alarm(readings)

    def beyond_rounding(self, metrics: Mapping[str, float]) -> tuple[tuple[str, float, float], ...]:
        """(metric, value, bound) of the first step's metrics above their bounds; of later steps none.

        A step without mismatch metrics is not the first.
        """
        seen = {name: metrics[name] for name in self._bounds if name in metrics}
        bounds = dict(self._bounds)
        if seen:
            self._bounds = {}
        return tuple((n, v, bounds[n]) for n, v in seen.items() if not v <= bounds[n])

    def state(self) -> dict[str, Any]:
        """What was learned and done, as a JSON object."""
        return {
            "startup": {name: list(values) for name, values in self._startup.items()},
            "num_ignored": self._num_ignored,
            "num_startup": self._num_startup,
            "num_outside": self._num_outside,
            "num_stricter": self._num_stricter,
            "max_staleness": self.max_staleness,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to what `state` returned; the correction is made stricter as often as it was."""
        self._startup = {name: list(values) for name, values in state["startup"].items()}
        self._num_ignored = int(state["num_ignored"])
        self._num_startup = int(state["num_startup"])
        self._num_outside = int(state["num_outside"])
        if self._num_startup > 1:  # its start was judged, and the run went on
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
        if is_inside:  # a comparison with nan is False: what is not a number is outside
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
            self._num_ignored = self.max_staleness  # what is in flight is as stale as before
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
