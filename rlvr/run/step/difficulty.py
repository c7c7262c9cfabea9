"""Running solve rates of prompts, which decide which prompts are retired and which are drawn less often.

A prompt's solve rate is the share solved in its newest groups that together hold at least `min_attempts` judged
rollouts, so it follows the policy and forgets early failures. Solved has the meaning of pass@1: every check that gives
reward or gates passed, and the completion earned something. Until there are `min_attempts` rollouts there is no rate,
and the prompt is drawn like any other.

Rates change only when the learner consumes a group, in issue order, and the draw is seeded. So draws do not depend on
timing.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlvr.config.recipe import DifficultyConfig
from rlvr.data.order import Choice
from rlvr.data.seeding import stable_hash
from rlvr.records import Group, Prompt
from rlvr.run.step.evaluation import is_passed


class SolveRates:
    """The newest attempts at each prompt of the finite sources, as (judged, solved) by group."""

    def __init__(self, config: DifficultyConfig, *, sources: Iterable[str], run_seed: int) -> None:
        """Args: sources: names of the finite sources; a generator's prompts never repeat."""
        self._config = config
        self._sources = frozenset(sources)
        self._run_seed = run_seed
        self._attempts: dict[str, list[tuple[int, int]]] = {}
        self._retired: set[str] = set()

    def observe(self, groups: Sequence[Group]) -> None:
        """Counts the judged rollouts of consumed groups, dropped ones included."""
        for group in groups:
            judged = [rollout for rollout in group.rollouts if rollout.reward is not None]
            if group.prompt.source in self._sources and judged:
                self._add(group.prompt.prompt_id, len(judged), sum(map(is_passed, judged)))

    def rate(self, prompt_id: str) -> float | None:
        """The solved share of the newest attempts; None until there are enough."""
        attempts = self._attempts.get(prompt_id, [])
        total = sum(judged for judged, _ in attempts)
        if total < self._config.min_attempts:
            return None
        return sum(solved for _, solved in attempts) / total

    def choose(self, prompt: Prompt, draw: int) -> Choice:
        """Whether a drawn prompt is taken, skipped or retired; see `rlvr.data.order.Choose`."""
        if prompt.prompt_id in self._retired:
            return Choice.RETIRE
        rate = self.rate(prompt.prompt_id)
        if rate is None or not self._config.prefer_signal:
            return Choice.TAKE
        chance = signal_chance(rate, floor=self._config.floor)
        seed = stable_hash(self._run_seed, "difficulty", prompt.prompt_id, draw)
        return Choice.TAKE if seed / 2**64 < chance else Choice.PASS

    def metrics(self) -> dict[str, float]:
        """`data/retired_prompts`, and `data/mean_solve_rate` over the prompts that have a rate."""
        rates = [rate for name in self._attempts if (rate := self.rate(name)) is not None]
        found = {"data/retired_prompts": float(len(self._retired))}
        if rates:
            found["data/mean_solve_rate"] = sum(rates) / len(rates)
        return found

    def state(self) -> dict[str, Any]:
        """All counts as a JSON object."""
        attempts = {name: list(pairs) for name, pairs in self._attempts.items()}
        return {"attempts": attempts, "retired": sorted(self._retired)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` returned."""
        self._attempts = {
            name: [(int(judged), int(solved)) for judged, solved in attempts]
            for name, attempts in state["attempts"].items()
        }
        self._retired = set(state["retired"])

    def _add(self, prompt_id: str, judged: int, solved: int) -> None:
        attempts = self._attempts.setdefault(prompt_id, [])
        attempts.append((judged, solved))
        while sum(count for count, _ in attempts[1:]) >= self._config.min_attempts:
            del attempts[0]
        rate, bound = self.rate(prompt_id), self._config.retire_solve_rate
        if bound > 0.0 and rate is not None and rate >= bound:
            self._retired.add(prompt_id)


def signal_chance(rate: float, *, floor: float) -> float:
    """The probability that a drawn prompt is taken: max(floor, 4 p (1 - p)), 1 at p = 1/2.

    4 p (1 - p) is the variance of a reward of 0 or 1 over its largest value: the size of the group's signal.

    >>> [round(signal_chance(p, floor=0.1), 4) for p in (0.0, 0.25, 0.5, 1.0)]
    [0.1, 0.75, 1.0, 0.1]
    """
    return max(floor, 4.0 * rate * (1.0 - rate))
