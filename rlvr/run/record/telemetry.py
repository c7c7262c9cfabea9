"""What the driver shows of a run: its events in the log, its numbers in the metrics."""

import json
import logging
import time
from collections.abc import Iterator, Mapping

from rlvr.config.recipe import Recipe
from rlvr.records import Json
from rlvr.run.step.update import Update
from rlvr.telemetry import logs
from rlvr.telemetry.facts import facts_here
from rlvr.telemetry.process import METERS, ON_CONSOLE
from rlvr.verification.service import VerifierService

logger = logging.getLogger("rlvr.run")
_WARNINGS = ("alarm", "verifier_error", "group_dropped", "learner_restart", "stopped")
_MEMBERS = {"engine": "engine", "verifier": "pool"}  # label of the counters, by kind of worker
_SHOWN = ("reward/mean", "time/step_s", "rollout/tokens_per_s")


def note_start(recipe: Recipe) -> None:
    """Shows that the run is alive, and how long it is to be."""
    METERS.set("run_info", 1.0)
    METERS.set("run_target_steps", recipe.run.steps)
    METERS.set("run_alarms_total", 0.0)


def note_event(kind: str, fields: Mapping[str, Json]) -> None:
    """Logs and counts an event."""
    if facts_here() is None:
        return
    METERS.add("run_events_total", kind=kind)
    if kind == "alarm":
        METERS.add("run_alarms_total")
    worker, _, what = kind.rpartition("_")
    label = _MEMBERS.get(worker)
    if label is not None and what in ("lost", "restarted"):
        prefix = "engine" if worker == "engine" else "verifier_pool"
        counter = f"{prefix}_{'losses' if what == 'lost' else 'restarts'}_total"
        METERS.add(counter, 1.0, **{label: str(fields.get(worker, ""))})
    is_warning = kind in _WARNINGS or kind.endswith(("_lost", "_not_started"))
    text = json.dumps(fields, ensure_ascii=False, default=str) if fields else ""
    logger.log(logging.WARNING if is_warning else logging.INFO, "%s %s", kind, text, extra=ON_CONSOLE)


def note_step(step: int, update: Update) -> None:
    """Counts what a step consumed."""
    completions = [rollout.completion for group in update.taken.groups for rollout in group.rollouts]
    METERS.add("run_completions_total", len(completions))
    METERS.add("run_tokens_total", sum(len(completion.token_ids) for completion in completions))
    METERS.set("run_last_step_timestamp_seconds", time.time())


def note_row(step: int, metrics: Mapping[str, float], *, elapsed_s: float) -> None:
    """Shows a row of metrics.jsonl."""
    logs.set_step(step)
    METERS.set("run_step", step)
    METERS.set("run_elapsed_seconds", elapsed_s)
    METERS.run_metrics(metrics)
    shown = ", ".join(f"{name} {metrics[name]:.4g}" for name in _SHOWN if name in metrics)
    logger.info("step %d: %s", step, shown or f"{len(metrics)} metrics", extra=ON_CONSOLE)


def note_rewind(step: int) -> None:
    """The log's records carry the earlier step from now on."""
    logs.restart_steps()
    logs.set_step(max(step, 0))


def watch_pool(pool: str, service: VerifierService, *, num_workers: int) -> None:
    """Shows what a verifier service counts, as the numbers of a pool."""

    def numbers() -> Iterator[tuple[str, Mapping[str, str], float]]:
        counters, labels = service.counters, {"pool": pool}
        yield "verifier_pool_workers", labels, num_workers
        yield "verifier_pool_items_total", labels, counters.num_items
        yield "verifier_pool_errors_total", labels, counters.num_errors
        yield "verifier_pool_timeouts_total", labels, counters.num_timeouts
        yield "verifier_pool_crashes_total", labels, counters.num_crashes
        yield "verifier_pool_busy_seconds_total", labels, counters.busy_s

    METERS.watch(pool, numbers)
