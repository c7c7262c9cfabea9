"""What follows from a step for the prompts: which are settled, how often they are solved, and what was unusual."""

import logging

from rlvr.run.parts import RunParts
from rlvr.run.step.update import Update

logger = logging.getLogger(__name__)


class Settlement:
    """Settles one step after the other."""

    def __init__(self, parts: RunParts) -> None:
        self._parts = parts
        self._num_passed = parts.stream.num_passed
        self._has_warned = False

    def settle(self, step: int, update: Update) -> dict[str, float]:
        """Strikes the step's prompts off the list of open ones. Returns `data/*` metrics where difficulty is on."""
        for group in update.taken.groups:
            self._parts.stream.settle(int(group.group_id))
        self._note_unusual(step, update)
        rates = self._parts.solve_rates
        if rates is None:
            return {}
        rates.observe(update.taken.groups)
        before, self._num_passed = self._num_passed, self._parts.stream.num_passed
        return rates.metrics() | {"data/skipped_draws": float(self._num_passed - before)}

    def _note_unusual(self, step: int, update: Update) -> None:
        taken = update.taken
        if not update.has_learned:
            reason = taken.dropped[0][1].value if taken.dropped else "no token to learn from"
            self._parts.recorder.event("step_without_groups", step=step, reason=reason)
        if not update.is_refill_spent:
            return
        self._parts.recorder.event(
            "refill_spent", step=step, groups=len(taken.groups), kept=len(taken.kept)
        )
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "step %d: of %d groups only %d carried a signal; algorithm.dynamic_sampling.max_refill_factor allows "
                "no more replacements, so the step was smaller (events.jsonl names every such step)",
                step,
                len(taken.groups),
                len(taken.kept),
            )
