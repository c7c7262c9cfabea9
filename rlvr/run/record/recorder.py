"""The one object through which the loop records everything that a run leaves behind."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.batch import Learner
from rlvr.errors import CheckpointError
from rlvr.protocols import MetricSink
from rlvr.records import Group, Json, Prompt, Status, Verdict
from rlvr.run.activity import Activity
from rlvr.run.record.checkpoints import CheckpointDraft
from rlvr.run.record.console import Console
from rlvr.run.record.directory import RunDirectory
from rlvr.run.record.journal import EventsFile, MetricsFile, RolloutWriter
from rlvr.run.record.ledger import Ledger
from rlvr.run.record.lineage import lineage_of
from rlvr.run.record.telemetry import note_event, note_rewind, note_row, note_step
from rlvr.run.step.evaluation import Evaluation
from rlvr.run.step.shaping import DropReason
from rlvr.run.step.update import Update

_MAX_SHOWN_ERRORS = 5  # of verifiers, with their traceback


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unfinished:
    """A checkpoint that learners are still writing, and when it was begun (monotonic seconds)."""

    step: int
    draft: CheckpointDraft
    start: float


class Recorder:
    """Writes metrics, rollouts, events, ledger and checkpoints, and informs the console and the sinks."""

    def __init__(
        self,
        run_dir: RunDirectory,
        *,
        console: Console,
        sinks: Sequence[MetricSink],
        prompt_text: Callable[[Prompt], str],
        keep_checkpoints: int,
        show_rollout_every_steps: int,
        elapsed_before_s: float = 0.0,
        recipe: str = "",
        inputs: Mapping[str, str] | None = None,
    ) -> None:
        """Args:
        prompt_text: returns a prompt's text as the policy sees it.
        elapsed_before_s: seconds that the run took before it was resumed.
        recipe: the text of recipe.yaml, copied into each checkpoint.
        inputs: digests of data and verifiers, kept in each checkpoint.
        """
        self._run_dir = run_dir
        self._console = console
        self._sinks = sinks
        self._prompt_text = prompt_text
        self._keep_checkpoints = keep_checkpoints
        self._show_rollout_every_steps = show_rollout_every_steps
        self._recipe = recipe
        self._inputs = dict(inputs or {})
        self._start = time.monotonic() - elapsed_before_s
        self._metrics = MetricsFile(run_dir.metrics)
        self._events = EventsFile(run_dir.events)
        self._rollouts = RolloutWriter(run_dir.rollouts)
        self._ledger = Ledger(run_dir.ledger)
        self._unfinished: _Unfinished | None = None
        self._shown_errors: set[tuple[str, str, str]] = set()

    @property
    def elapsed_s(self) -> float:
        """Seconds of the run, summed over resumptions."""
        return time.monotonic() - self._start

    @property
    def activity(self) -> Activity:
        """The status line."""
        return self._console.activity

    def resume_hint(self, how: str) -> str:
        """How the run was stopped, its newest checkpoint, and the command to resume."""
        return self._run_dir.resume_hint(how)

    def event(self, kind: str, **fields: Json) -> None:
        """Records a start, a stop, a fault, an alarm or a decision."""
        self._events.write(kind, **fields)
        note_event(kind, fields)

    def remark(self, kind: str, text: str, **fields: Json) -> None:
        """Records an event and shows it on the console."""
        self.event(kind, **fields)
        self._console.note(text)

    def alarm(self, text: str, **fields: Json) -> None:
        """Records an event `alarm` and shows a warning on the console; "" shows none."""
        self.event("alarm", **fields)
        if text:
            self._console.warning(text)

    def rewind(self, step: int, *, next_issue: int) -> None:
        """Discards everything beyond the checkpoint of `step`; checkpoints of later steps are set aside."""
        if self._unfinished is not None:
            self._unfinished.draft.drop()
            self._unfinished = None
        for aside in self._run_dir.set_aside_after(step):
            self.remark("checkpoint_set_aside", f"set aside checkpoint {aside.name}", path=aside.name)
        cut = self._metrics.truncate_after(step)
        removed = self._rollouts.truncate_after(step)
        forgotten = self._ledger.forget_after(step, next_issue=next_issue)
        note_rewind(step)
        self.event(
            "resumed", step=step, metrics_rows_cut=cut, rollout_files_removed=removed, issues_forgotten=forgotten
        )

    def issued(self, index: int, group_id: str, prompt: Prompt, policy_version: int) -> None:
        """Records that a prompt was handed out."""
        self._ledger.issue(index, prompt_id=prompt.prompt_id, group_id=group_id, issued_version=policy_version)

    def evaluations(self, step: int, evaluations: Sequence[Evaluation]) -> None:
        """Records the row of step 0, which has evaluations but no training."""
        metrics: dict[str, float] = {}
        for evaluation in evaluations:
            metrics |= evaluation.metrics
            self._evaluation(step, evaluation)
        if evaluations:
            self._write(step, metrics)

    def step(self, step: int, update: Update, metrics: dict[str, float], evaluations: Sequence[Evaluation]) -> None:
        """Records a training step: its metrics, its rollouts, its prompts' outcomes, and its console line."""
        self._require_ours()
        taken = update.taken
        for group in taken.groups:
            self._ledger.complete(group.issue_index)
        self._ledger.trained([group.issue_index for group in taken.kept], step=step)
        for group, reason in taken.dropped:
            self._ledger.drop(group.issue_index, reason=reason.value, step=step)
            if reason is DropReason.UNJUDGED:  # a fault; the other reasons are normal for the algorithm
                self.event("group_dropped", step=step, group_id=group.group_id, reason=reason.value)
        self._alarms(step, taken.groups)
        self._rollouts.write(step, groups=taken.groups, prompt_texts=self._texts(taken.groups), shaped=update.shaped)
        self._console.step(step, metrics)
        if self._show_rollout_every_steps and (step == 1 or step % self._show_rollout_every_steps == 0):
            group = taken.groups[0]
            self._console.rollout(step, self._prompt_text(group.prompt), group.rollouts[0])
        for evaluation in evaluations:
            metrics |= evaluation.metrics
            self._evaluation(step, evaluation)
        self._write(step, metrics)
        self._ledger.commit()
        note_step(step, update)

    def checkpoint(self, step: int, *, learner: Learner, state: Mapping[str, Any], waits: bool = True) -> None:
        """Saves a checkpoint of `step` and removes the oldest beyond the number to keep.

        Args:
            state: of the run's parts.
            waits: until it is complete; else several learners write it while they train, and `finish_checkpoint`
                completes it. One checkpoint is written at a time: an earlier one is completed first.

        Raises: CheckpointError when it, or the earlier one, cannot be written.
        """
        self.finish_checkpoint(learner, waits=True)
        start = time.monotonic()
        self.activity.begin(f"saving the checkpoint of step {step}")
        self._require_ours()
        run_state = {"step": step, "elapsed_s": self.elapsed_s, **state, "inputs": self._inputs}
        draft = CheckpointDraft(self._run_dir.checkpoint(step), run_state=run_state, recipe=self._recipe)
        draft.start(learner)
        self._unfinished = _Unfinished(step=step, draft=draft, start=start)
        self.finish_checkpoint(learner, waits=waits or learner.is_saved(waits=False))

    def finish_checkpoint(self, learner: Learner, *, waits: bool) -> None:
        """Completes the checkpoint that is being written, if there is one. Args: waits: until it is written.

        Raises: CheckpointError when it cannot be written.
        """
        found = self._unfinished
        if found is None:
            return
        try:
            is_complete = found.draft.finish(learner, waits=waits)
        except CheckpointError:
            self._unfinished = None
            raise
        if is_complete:
            self._completed(found)

    def salvage_checkpoint(self) -> None:
        """Completes the checkpoint that was being written when the learner was lost, if its part was written by then.

        Raises: CheckpointError when it cannot be written.
        """
        found, self._unfinished = self._unfinished, None
        if found is None:
            return
        if found.draft.finish_alone():
            self._completed(found)
        else:
            found.draft.drop()

    def _completed(self, found: _Unfinished) -> None:
        self._unfinished = None
        for old in self._run_dir.prune_checkpoints(self._keep_checkpoints):
            self.event("checkpoint_removed", path=old.name)
        self.event("checkpoint", step=found.step, seconds=round(time.monotonic() - found.start, 3))
        self._console.note(f"checkpoint {_short(found.draft.folder)}")

    def close(self) -> None:
        """Flushes and closes everything. Raises StorageError at the end when a file could not be written."""
        with ExitStack() as stack:
            for part in (self._events, self._metrics, self._ledger, *self._sinks):
                stack.callback(part.close)

    def lineage(self, step: int) -> dict[str, Json]:
        """A description of the run's files after `step`, synced to disk."""
        for part in (self._metrics, self._events, self._rollouts, self._ledger):
            part.flush()
        return lineage_of(self._run_dir, step, settled=self._ledger.settled(step))

    def _require_ours(self) -> None:
        if self._run_dir.lock is not None:
            self._run_dir.lock.require_ours()

    def _write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._metrics.write(step, time_s=self.elapsed_s, metrics=metrics)
        note_row(step, metrics, elapsed_s=self.elapsed_s)
        for sink in self._sinks:
            sink.log(step, metrics)

    def _evaluation(self, step: int, evaluation: Evaluation) -> None:
        self._rollouts.write(
            step,
            groups=evaluation.groups,
            prompt_texts=self._texts(evaluation.groups),
            purpose=f"eval:{evaluation.name}",
        )
        self._alarms(step, evaluation.groups)
        self._console.evaluation(step, evaluation)

    def _alarms(self, step: int, groups: Sequence[Group]) -> None:
        """Records each verifier error of the step; the first of each kind also shows the verifier's frames."""
        for group in groups:
            for rollout in group.rollouts:
                for check, verdict in rollout.verdicts.items():
                    if verdict.status is Status.ERROR:
                        shown = self._new_traceback(check, verdict)
                        self.event(
                            "verifier_error",
                            step=step,
                            completion_id=rollout.completion.completion_id,
                            prompt_id=group.prompt.prompt_id,
                            check=check,
                            reason=verdict.reason,
                            **({"traceback": shown} if shown else {}),
                        )
                        if shown:
                            self._console.warning(f"check {check!r}: {verdict.reason}\n{shown.rstrip()}")

    def _new_traceback(self, check: str, verdict: Verdict) -> str:
        """The verifier's frames of an error, if none with the same frames was shown; at most a few in a run."""
        text = str(verdict.details.get("traceback", ""))
        place = check, text.rpartition("\n  File ")[2].partition("\n")[0], str(verdict.details.get("exception", ""))
        if not text or place in self._shown_errors or len(self._shown_errors) >= _MAX_SHOWN_ERRORS:
            return ""
        self._shown_errors.add(place)
        return text

    def _texts(self, groups: Sequence[Group]) -> dict[str, str]:
        return {group.prompt.prompt_id: self._prompt_text(group.prompt) for group in groups}


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
