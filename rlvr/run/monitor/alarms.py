"""Alarms: raised when a run continues without learning.

    step -> findings: what holds in this step -> AlarmWatch: holds for `after_steps` in a row -> alarm, once
                                                 no longer holds                              -> alarm_cleared

Each alarm is an event and one line on the console. It names the completions to read and says what to do.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlvr.records import Group
from rlvr.run.monitor.findings import Finding, findings
from rlvr.run.step.update import Update


class AlarmWatch:
    """Counts for how many consecutive steps each finding holds, and reports when an alarm is raised and cleared.

    Args:
        alarm: writes an event `alarm` with its fields, and a line on the console; "" writes none.
        remark: writes an event and a line on the console.
        after_steps: consecutive steps until an alarm is raised; 0 turns alarms off.
    """

    def __init__(self, alarm: Callable[..., None], remark: Callable[..., None], *, after_steps: int) -> None:
        self._alarm = alarm
        self._remark = remark
        self._after_steps = after_steps
        self._num_steps: dict[str, int] = {}
        self._raised: dict[str, int] = {}
        self._to_repeat: set[str] = set()
        self._checks_with_failures: set[str] = set()

    def observe(self, step: int, update: Update) -> None:
        """Raises and clears the alarms of a step."""
        if not self._after_steps:
            return
        found = {
            finding.key: finding for finding in findings(update, failed_checks=frozenset(self._checks_with_failures))
        }
        self._checks_with_failures |= _with_a_failure(update.taken.groups)
        self._num_steps = {key: self._num_steps.get(key, 0) + 1 for key in found}
        for key, finding in found.items():
            is_due = self._num_steps[key] >= self._after_steps and key not in self._raised
            if is_due or key in self._to_repeat:
                self._raised.setdefault(key, step)
                self._raise(step, finding, self._num_steps[key])
        self._to_repeat.clear()
        for key in [key for key in self._raised if key not in found]:
            self._clear(step, key, raised_at=self._raised.pop(key))

    def state(self) -> dict[str, Any]:
        """The counts and the raised alarms, as a JSON object."""
        return {
            "num_steps": dict(self._num_steps),
            "raised": dict(self._raised),
            "told_apart": sorted(self._checks_with_failures),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` returned. An alarm that still holds in the next step is reported again."""
        self._num_steps = {str(key): int(count) for key, count in state["num_steps"].items()}
        self._raised = {str(key): int(step) for key, step in state["raised"].items()}
        self._checks_with_failures = set(state["told_apart"])
        self._to_repeat = set(self._raised)

    def _raise(self, step: int, finding: Finding, num_steps: int) -> None:
        file = f"rollouts/step_{step:06d}.parquet"
        check = {"check": finding.check} if finding.check else {}
        steps = "1 step" if num_steps == 1 else f"{num_steps} steps in a row"
        line = f"step {step}: alarm {finding.alarm}: for {steps} {finding.what}. {finding.advice}. See {file}"
        self._alarm(
            "" if finding.is_implied else line,
            alarm=str(finding.alarm),
            step=step,
            since=step - num_steps + 1,
            **check,
            reason=finding.what,
            advice=finding.advice,
            rollouts={"file": file, "completion_ids": list(finding.examples)},
            **finding.facts,
        )

    def _clear(self, step: int, key: str, *, raised_at: int) -> None:
        alarm, _, check = key.partition(":")
        of_check = f" of check {check!r}" if check else ""
        self._remark(
            "alarm_cleared",
            f"step {step}: alarm {alarm}{of_check} is over (raised at step {raised_at})",
            alarm=alarm,
            step=step,
            raised_at=raised_at,
            **({"check": check} if check else {}),
        )


def _with_a_failure(groups: Sequence[Group]) -> set[str]:
    """Names of checks that did not pass at least one completion."""
    return {
        name
        for group in groups
        for rollout in group.rollouts
        for name, verdict in rollout.verdicts.items()
        if not verdict.passed
    }
