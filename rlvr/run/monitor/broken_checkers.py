"""Detects checkers that break on nearly every completion: then the checker is at fault, and its zeros are meaningless.

A completion that hangs or kills its checker, exhausts its memory, or keeps a judge from a verdict is a FAIL, so
that no policy avoids a zero by breaking the checker. When nearly all completions of a step do so, the run warns, and
ends if that persists.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlvr.errors import VerifierError
from rlvr.records import Group, Json, Role, Verdict
from rlvr.run.step.evaluation import Evaluation

logger = logging.getLogger(__name__)

NEARLY_ALL = 0.9
NO_VERDICT = "no_verdict"  # `details["problem"]` of a verdict for which a judge gave none
_ADVICE = {
    "hang": "it returns no verdict in time: look for a wait, a download or an endless loop, or raise "
    "reward.verifier_deadline_s",
    "exit": "it ends its process: look for os._exit, a crash in native code or a signal",
    "no verdict": "its replies end without a verdict: read one with --explain, take a more capable judge, or raise its "
    "max_tokens",
    "memory": "it needs more memory than a worker may use (4 GB): look for what it loads or builds each time",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A check whose checker broke during a step.

    source: as the recipe names it. rate: share of its verdicts. examples: ids of the completions that broke it.
    """

    check: str
    source: str
    verifier: str
    cause: str
    rate: float
    is_paid: bool
    reason: str
    examples: tuple[str, ...]

    @property
    def advice(self) -> str:
        """What to look for, and the command that tries the verifier."""
        command = f"rlvr verify {self.source} --explain --completion TEXT --reference TEXT"
        return f"{_ADVICE[self.cause]}. `{command}` tests one completion"

    def facts(self) -> dict[str, Json]:
        """The fields of an event."""
        return {
            "check": self.check,
            "verifier": self.verifier,
            "cause": self.cause,
            "rate": self.rate,
            "reason": self.reason,
        }

    def message(self) -> str:
        """What happened, why the zeros mean nothing, and what to do."""
        return (
            f"verifier {self.verifier!r} of check {self.check!r} broke ({self.cause}) on {self.rate:.0%} of the "
            f"completions; first: {self.reason}. At that rate the checker is at fault, and their zeros mean "
            f"nothing: {self.advice}"
        )


class CheckerWatch:
    """Checks each step's verdicts, and counts for how many consecutive steps a checker that gives reward was broken.

    Args:
        tell: writes an event with its fields.
        max_error_rate: a checker whose rate does not exceed this does not count as broken.
        patience_steps: the number of consecutive steps with a broken checker after which the run ends.
    """

    def __init__(self, tell: Callable[..., None], *, max_error_rate: float, patience_steps: int) -> None:
        self._tell = tell
        self._least = max(NEARLY_ALL, max_error_rate)
        self._patience = patience_steps
        self._num_steps: Counter[str] = Counter()
        self._warned: set[tuple[str, str]] = set()
        self._num_completions = 0
        self._has_judged = False

    def observe(self, step: int, groups: Sequence[Group]) -> VerifierError | None:
        """Reports the broken checkers of a step. Returns an error after `patience_steps` consecutive steps with one."""
        self._num_completions += sum(len(group.rollouts) for group in groups)
        self._has_judged = self._has_judged or any(map(is_any_judged, groups))
        found = [broken for broken in broken_checkers(groups) if broken.rate > self._least]
        num_steps = Counter({b.check: self._num_steps[b.check] + 1 for b in found})
        self._num_steps, before = num_steps, self._num_steps
        for broken in found:
            self._tell("broken_checker", step=step, **broken.facts())
            if not before[broken.check]:
                logger.warning("step %d: %s", step, broken.message())
        for broken in found:
            if broken.is_paid and num_steps[broken.check] >= self._patience:
                return VerifierError(f"for {self._patience} step{'s' * (self._patience != 1)} {broken.message()}")
        return None

    def observe_evaluations(self, step: int, evaluations: Sequence[Evaluation]) -> None:
        """Reports broken checkers in evaluations, whose figures are then meaningless; they never end the run."""
        for evaluation in evaluations:
            for broken in broken_checkers(evaluation.groups):
                if broken.rate <= self._least:
                    continue
                name = evaluation.name
                self._tell("broken_checker", step=step, evaluation=name, **broken.facts())
                if (name, broken.check) not in self._warned:
                    self._warned.add((name, broken.check))
                    logger.warning("step %d: evaluation %r: %s", step, name, broken.message())

    def nothing_judged(self, groups: Sequence[Group]) -> VerifierError | None:
        """The error that ends a run in which no completion was ever judged, whatever error rate the recipe allows.

        Args: groups: of the last step.
        """
        if self._has_judged or not self._num_completions:
            return None
        return unjudged(groups, what=f"the run's {self._num_completions:,} completions")


def unjudged(groups: Sequence[Group], *, what: str) -> VerifierError:
    """The error when no completion could be judged. groups: searched for a reason. what: names the completions."""
    reasons = (
        f" One reason: {verdict.reason}."
        for group in groups
        for rollout in group.rollouts
        for verdict in rollout.verdicts.values()
        if verdict.score is None or _cause(verdict)
    )
    return VerifierError(
        f"none of {what} could be judged, so there is no result.{next(reasons, '')} Test the verifier on a completion "
        "with `rlvr verify NAME --explain --completion TEXT --reference TEXT`"
    )


def is_any_judged(group: Group) -> bool:
    """Whether any completion has a reward that does not come from a broken checker."""
    paid = {check.name for check in group.prompt.checks if check.role is not Role.SHADOW}
    return any(
        rollout.reward is not None and not any(_cause(v) for name, v in rollout.verdicts.items() if name in paid)
        for rollout in group.rollouts
    )


def broken_checkers(groups: Sequence[Group]) -> list[Broken]:
    """For each check whose checker broke at least once: the share of its verdicts, and the most frequent cause."""
    verdicts: dict[str, list[tuple[Verdict, str]]] = {}
    paid: set[str] = set()
    sources: dict[str, str] = {}
    for group in groups:
        paid |= {check.name for check in group.prompt.checks if check.role is not Role.SHADOW}
        sources |= {check.name: check.verifier for check in group.prompt.checks}
        for rollout in group.rollouts:
            for name, verdict in rollout.verdicts.items():
                entry = (verdict, rollout.completion.completion_id)
                verdicts.setdefault(name, []).append(entry)
    found: list[Broken] = []
    for name, given in verdicts.items():
        lost = [(verdict, name_of) for verdict, name_of in given if _cause(verdict)]
        if lost:
            cause = Counter(_cause(verdict) for verdict, _ in lost).most_common(1)[0][0]
            first = next(verdict for verdict, _ in lost if _cause(verdict) == cause)
            found.append(
                Broken(
                    check=name,
                    source=sources.get(name, name),
                    verifier=first.verifier,
                    cause=cause,
                    rate=len(lost) / len(given),
                    is_paid=name in paid,
                    reason=first.reason,
                    examples=tuple(name_of for _, name_of in lost),
                )
            )
    return found


def _cause(verdict: Verdict) -> str:
    """How the checker broke: "hang", "exit", "memory" or "no verdict"; "" if it did not."""
    if verdict.score is None:
        return ""
    if verdict.details.get("problem") == NO_VERDICT:
        return "no verdict"
    match verdict.details.get("cause"):
        case "timeout":
            return "hang"
        case "crash":
            return "memory" if verdict.details.get("ending") == "out of memory" else "exit"
        case _:
            return ""
