"""The page of a run: one self-contained HTML file, made from the files in the run directory."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from rlvr.errors import RlvrError, StorageError
from rlvr.report.charts import line_chart, stacked_chart
from rlvr.report.files import Row, RunFiles, finite, read_run
from rlvr.report.markup import STYLE, duration, escaped, number
from rlvr.report.rollouts import evaluation_section, training_section
from rlvr.storage import atomic_files

logger = logging.getLogger(__name__)

ALARMS = (
    "stopped", "alarm", "alarm_cleared", "resume_warning", "broken_checker", "mismatch_alarm", "mismatch_at_start",
    "verifier_error", "group_dropped", "step_without_groups", "refill_spent",
)  # fmt: skip
_SHOWN_FIRST = ("stopped", "alarm", "alarm_cleared", "mismatch_alarm")  # few, while the others may be many
NUM_ALARMS = 50
_LEGEND = (
    "No signal (reward/zero_variance_rate): the share of groups whose completions all earned the same reward; nothing "
    "is learned from them. Cut (rollout/truncated_rate): the share of completions that hit "
    "rollout.max_completion_tokens before they ended. Dashed: the healthy limit. Shaded: an alarm."
)
# Healthy limits of curves.
_HEALTHY_BELOW = {"rollout/truncated_rate": 0.2, "mismatch/kl_k3": 0.01, "reward/zero_variance_rate": 0.7}
_HEALTHY_ABOVE = {"mismatch/ess": 0.95}
_ALARM_CURVES = {
    "no_signal": "reward/zero_variance_rate",
    "zero_reward": "reward/mean",
    "truncated": "rollout/truncated_rate",
    "entropy_collapse": "policy/entropy",
}
_CURVES = (
    ("reward/mean", "before any filter"),
    ("rollout/length_mean_tokens", "tokens per completion"),
    ("rollout/truncated_rate", "healthy below 0.2"),
    ("policy/entropy", "nats; healthy when it falls slowly"),
    ("policy/grad_norm", "before clipping"),
    ("mismatch/kl_k3", "engine against learner, nats per token; healthy below 0.01"),
    ("reward/zero_variance_rate", "groups without signal; healthy below 0.7"),
    ("mismatch/ess", "effective sample size, share of tokens; healthy above 0.95"),
    ("policy/staleness_mean", "versions behind the learner"),
    ("rollout/wasted_rate", "tokens of dropped groups"),
    ("reward/overlong_penalty_mean", "subtracted from the reward for length"),
    ("reward/kl_penalty_mean", "subtracted from the reward for the KL to the reference"),
    ("data/mean_solve_rate", "of prompts with enough attempts"),
    ("data/retired_prompts", "solved prompts that left the pool"),
)
_TIMES = ("generate", "train", "sync", "wait")


def write_report(run_dir: Path) -> Path:
    """Writes RUN_DIR/report.html from the run's files and returns its path; the run may still be running.

    The page loads nothing and runs no script: a policy's text is shown as text, never interpreted.

    Raises:
        ConfigError: `run_dir` is not a run directory.
        StorageError: a file cannot be read, or the page cannot be written.
    """
    text = _page(read_run(run_dir))
    path = run_dir / "report.html"
    try:
        atomic_files.write_text(path, text)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


@contextmanager
def reported(run_dir: Path, *, note: Callable[[str], None]) -> Iterator[None]:
    """Context that writes the report at its end, if there is anything to report, and passes its path to `note`.

    If the work failed and the report fails too, that is only a warning, and the work's error is raised.
    """
    metrics = run_dir / "metrics.jsonl"
    try:
        yield
    except BaseException:
        try:
            if metrics.is_file() and metrics.stat().st_size:
                note(f"report {write_report(run_dir)}")
        except (RlvrError, OSError) as second:
            logger.warning("the report could not be written: %s", second)
        raise
    if metrics.is_file() and metrics.stat().st_size:
        note(f"report {write_report(run_dir)}")


def _page(run: RunFiles) -> str:
    title = f"{_recipe_name(run)} · {run.name}"
    recipe = f"<pre>{escaped(run.recipe)}</pre>" if run.recipe else '<p class="soft">There is no recipe.yaml.</p>'
    evaluated = "".join(evaluation_section(name, files) for name, files in run.evaluations.items())
    sections = [
        ("Evaluation", _evaluation_charts(run)),
        ("Training", _training_charts(run)),
        ("Alarms", _alarms(run.events)),
        ("Rollouts", training_section(run.training)),
        ("Evaluation, before and after", evaluated or '<p class="soft">There are no evaluation rollouts.</p>'),
        ("Recipe", recipe),
    ]
    body = "".join(f"<section><h2>{name}</h2>{content}</section>" for name, content in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}</title><style>{STYLE}</style></head>\n"
        f"<body>{_header(run)}{body}</body></html>\n"
    )


def _header(run: RunFiles) -> str:
    start = next((e for e in run.events if e.get("kind") == "start"), {})
    facts = [f"{key} {escaped(start[key])}" for key in ("version", "torch", "seed") if key in start]
    begun = f"started {escaped(start['time'])}" if "time" in start else "start unknown"
    css, ending = _ending(run.events)
    resumed = sum(e.get("kind") == "resumed" for e in run.events)
    if resumed:
        facts.append(f"resumed {resumed} time{'s' if resumed > 1 else ''}")
    tiles = [
        (_steps_done(run), "steps done"),
        (duration(finite(run.metrics[-1].get("time_s")) or 0.0) if run.metrics else "–", "run time"),
    ]
    reward = [y for _, y in run.series("reward/mean") if y is not None]
    if reward:
        tiles.append((f"{number(reward[0])} → {number(reward[-1])}", "mean reward, first → last step"))
    for name in _evaluation_metrics(run):
        known = [y for _, y in run.series(name) if y is not None]
        if known:
            change = number(known[0]) if len(known) == 1 else f"{number(known[0])} → {number(known[-1])}"
            tiles.append((change, name))
    cards = "".join(f'<div class="tile"><b>{value}</b><span>{escaped(label)}</span></div>' for value, label in tiles)
    return (
        f'<header><h1>{escaped(_recipe_name(run))}</h1><p class="soft">{escaped(run.name)} · {begun}</p>'
        f'<p class="{css}">{escaped(ending)}</p><p class="soft">{" · ".join(facts)}</p>'
        f'<div class="tiles">{cards}</div></header>'
    )


def _ending(events: Sequence[Row]) -> tuple[str, str]:
    """Style and sentence for how the run ended, from its last start, resumption or end."""
    last = next((e for e in reversed(events) if e.get("kind") in {"start", "resumed", "done", "stopped"}), None)
    if last is None:
        return "odd", "How it ended is unknown: events.jsonl does not say."
    if last["kind"] == "done":
        took = finite(last.get("seconds"))
        return "good", f"Finished{'' if took is None else f' after {duration(took)}'}."
    if last["kind"] == "stopped":
        error = str(last.get("error"))
        word = "Interrupted" if error in {"Interrupted", "KeyboardInterrupt", "CancelledError"} else "Stopped"
        return ("bad", f"{word} at {last.get('time', 'an unknown time')}: {error}: {last.get('message', '')}")
    return "odd", "No end is recorded: it is still running, or it was killed."


def _recipe_name(run: RunFiles) -> str:
    named = next((e["recipe"] for e in run.events if e.get("kind") == "start" and "recipe" in e), None)
    return str(named or _recipe_value(run, "name") or "run")


def _steps_done(run: RunFiles) -> str:
    done = max((row["step"] for row in run.metrics), default=0)
    section = _recipe_value(run, "run")
    planned = finite(section.get("steps")) if isinstance(section, dict) else None
    return number(done) if planned is None else f"{number(done)} of {number(planned)}"


def _recipe_value(run: RunFiles, key: str) -> object:
    try:
        recipe = yaml.safe_load(run.recipe)
    except yaml.YAMLError:
        return None
    return recipe.get(key) if isinstance(recipe, dict) else None


def _evaluation_metrics(run: RunFiles) -> list[str]:
    """The headline figure of each evaluation: pass@1, or avg@k when several completions were sampled."""
    return [
        name
        for name in run.metric_names()
        if name.startswith("eval/")
        and (name.endswith("/pass@1") or name.rpartition("/")[2].removeprefix("avg@").isdecimal())
    ]


def _evaluation_charts(run: RunFiles) -> str:
    charts: list[str] = []
    for name in _evaluation_metrics(run):
        low, high = dict(run.series(f"{name}_ci_low")), dict(run.series(f"{name}_ci_high"))
        points = run.series(name)
        band = [(x, low.get(x), high.get(x)) for x, y in points if y is not None] if low else []
        note = "Band: the 95 % interval." if band else ""
        charts.append(line_chart(name, points=points, band=band, note=note, width=680, height=190, has_dots=True))
    if not charts:
        return '<p class="soft">The run recorded no evaluation.</p>'
    return f'<div class="wide">{"".join(charts)}</div>'


def _training_charts(run: RunFiles) -> str:
    present = set(run.metric_names())
    charts = [_training_chart(run, name, note) for name, note in _CURVES if name in present]
    layers = [(part, run.series(f"time/{part}_s")) for part in _TIMES if f"time/{part}_s" in present]
    if layers:
        charts.append(stacked_chart("time/step_s", layers=layers))
    elif "time/step_s" in present:
        charts.append(line_chart("time/step_s", points=run.series("time/step_s")))
    if not charts:
        return '<p class="soft">No training step was recorded.</p>'
    return f'<p class="soft">{_LEGEND}</p><div class="charts">{"".join(charts)}</div>'


def _training_chart(run: RunFiles, name: str, note: str) -> str:
    """A curve with its alarms shaded; marked if an alarm holds at its end or its last value is unhealthy."""
    points = run.series(name)
    last_step = points[-1][0]
    stretches = [
        (kind, first, last)
        for kind, first, last in _stretches(run.events, last_step=last_step)
        if _ALARM_CURVES.get(kind) == name
    ]
    alarms = [f"alarm {kind}, steps {number(a)} to {number(b)}" for kind, a, b in stretches]
    bound = _HEALTHY_BELOW.get(name, _HEALTHY_ABOVE.get(name))
    value = next((y for _, y in reversed(points) if y is not None), None)
    is_beyond = value is not None and (
        value > _HEALTHY_BELOW.get(name, math.inf) or value < _HEALTHY_ABOVE.get(name, -math.inf)
    )
    return line_chart(
        name,
        points=points,
        note="; ".join((note, *alarms)),
        bound=bound,
        alarms=[(first, last) for _, first, last in stretches],
        is_bad=is_beyond or any(last >= last_step for _, _, last in stretches),
    )


def _stretches(events: Sequence[Row], *, last_step: float) -> list[tuple[str, float, float]]:
    """The steps of each alarm of the run: (alarm, first, last); one that still holds ends at `last_step`."""
    open_since: dict[str, float] = {}
    found: list[tuple[str, float, float]] = []
    for event in events:
        name, step = event.get("alarm"), finite(event.get("step"))
        if not isinstance(name, str) or step is None or "check" in event:
            continue
        if event.get("kind") == "alarm":
            since = finite(event.get("since"))
            open_since.setdefault(name, step if since is None else since)
        elif event.get("kind") == "alarm_cleared" and name in open_since:
            found.append((name, open_since.pop(name), step))
    return found + [(name, since, last_step) for name, since in open_since.items()]


def _alarms(events: Sequence[Row]) -> str:
    """Counts by kind, then a table of the first events, with stops and alarms first."""
    found = [e for e in events if e.get("kind") in ALARMS]
    if not found:
        return '<p class="soft">None.</p>'
    found.sort(key=lambda e: (e["kind"] != "stopped", e["kind"] not in _SHOWN_FIRST))
    counts = Counter(map(_kind, sorted(found, key=lambda e: ALARMS.index(e["kind"]))))
    summary = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    shown = found[:NUM_ALARMS]
    rows = "".join(
        f'<tr><td class="tight">{escaped(e.get("time", ""))}</td><td class="tight">{escaped(_kind(e))}</td>'
        f"<td>{number(e['step']) if 'step' in e else ''}</td><td>{escaped(_where(e))}</td>"
        f"<td>{escaped(_why(e))}</td></tr>"
        for e in shown
    )
    more = f" The first {len(shown)} are shown." if len(found) > len(shown) else ""
    return (
        f"<p>{escaped(summary)}.{more}</p>"
        '<div class="scroll"><table><tr><th>time</th><th>kind</th><th>step</th><th>where</th><th>why</th></tr>'
        f"{rows}</table></div>"
    )


def _kind(event: Row) -> str:
    """The kind, with the name of an alarm."""
    return " ".join(str(event[key]) for key in ("kind", "alarm") if key in event)


def _where(event: Row) -> str:
    parts = [str(event[key]) for key in ("prompt_id", "completion_id", "group_id", "check") if key in event]
    rollouts = event.get("rollouts")
    if isinstance(rollouts, dict):
        ids = rollouts.get("completion_ids")
        parts += [str(rollouts.get("file")), *map(str, ids if isinstance(ids, list) else ())]
    return " ".join(parts)


def _why(event: Row) -> str:
    parts = [str(event[key]) for key in ("error", "message", "reason") if event.get(key)]
    if event.get("kind") == "mismatch_alarm":
        parts.insert(0, str(event.get("action")))
    if event.get("kind") == "alarm":
        parts = [f"from step {event.get('since')} on {event.get('reason')}. {event.get('advice')}"]
    if event.get("kind") == "alarm_cleared":
        parts.append(f"it was raised at step {event.get('raised_at')}")
    if event.get("kind") == "refill_spent":
        parts.append(f"{event.get('kept')} of {event.get('groups')} groups carried a signal")
    return ": ".join(parts)[:1000]
