"""One HTML page of a run: curves, what was rewarded and why, before and after, alarms, the recipe.

Reads only the files that a run leaves, so it works on a run that was interrupted or is still going on. Everything
that a policy or a data set wrote is escaped.
"""

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlvr.errors import ConfigError
from rlvr.report.charts import Series, line_chart

MAX_GROUPS = 2
MAX_EVALUATED = 20
MAX_ALARMS = 50
ALARMS = ("verifier_error", "stopped", "group_dropped", "step_without_groups")
CHARTS = (
    ("Reward, mean over the step", ("reward/mean",)),
    ("Length of completions, tokens", ("rollout/length_mean_tokens",)),
    (
        "Share that hit the limit; share without a readable answer",
        ("rollout/truncated_rate", "verifier/unparsed_rate"),
    ),
    ("Share of groups without signal", ("reward/zero_variance_rate",)),
    ("Entropy of the policy, nats", ("policy/entropy",)),
    ("Gradient norm before clipping", ("policy/grad_norm",)),
    ("Engine against learner, k3, nats a token", ("mismatch/kl_k3",)),
    ("Seconds a step", ("time/step_s", "time/generate_s", "time/train_s", "time/sync_s")),
)
_STYLE = """
:root{color-scheme:light dark;--ink:#1c2330;--soft:#667;--line:#d8dce4;--paper:#fff;--c0:#1f6feb;--c1:#d9822b;
--c2:#2a9d5c;--c3:#8a63d2}@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#9aa3b2;--line:#333b48;--paper:#14181f}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:1000px;margin:2rem auto;
padding:0 1rem}h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2.2rem 0 .6rem}.soft,.note,
.empty{color:var(--soft)}.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(400px,1fr));gap:1rem}figure{margin:0}
figcaption{font-weight:600;font-size:.9rem}svg{width:100%;height:auto}text{font-size:11px;fill:var(--soft)}
.grid{stroke:var(--line)}.line{fill:none;stroke-width:2}.band{opacity:.15}.c0{--c:var(--c0)}.c1{--c:var(--c1)}
.c2{--c:var(--c2)}.c3{--c:var(--c3)}.line{stroke:var(--c)}.band,.dot{fill:var(--c)}.legend span{color:var(--c);
margin-left:.7em;font-weight:400}table{border-collapse:collapse;width:100%;font-size:.86rem}td,th{text-align:left;
vertical-align:top;padding:.3rem .5rem;border-top:1px solid var(--line)}pre,.text{font:12.5px/1.45 ui-monospace,
monospace;white-space:pre-wrap;overflow-wrap:anywhere}
.pass{color:var(--c2)}.fail{color:#d1495b}details{margin:.4rem 0}
"""


def write_report(run_dir: Path) -> Path:
    """The page written, `report.html` in the run directory; it loads nothing from elsewhere.

    Raises: ConfigError when the folder is no run directory.
    """
    metrics_file = run_dir / "metrics.jsonl"
    if not metrics_file.is_file():
        raise ConfigError(f"{run_dir} is not a run directory: it has no metrics.jsonl")
    rows, events = _lines(metrics_file), _lines(run_dir / "events.jsonl")
    recipe_file = run_dir / "recipe.yaml"
    recipe = recipe_file.read_text(encoding="utf-8") if recipe_file.is_file() else ""
    parts = [
        _header(run_dir, rows, events),
        "<h2>Held-out</h2><div class=charts>" + "".join(_evaluations(rows)) + "</div>",
        "<h2>Training</h2><div class=charts>" + "".join(_curves(rows)) + "</div>",
        "<h2>Before and after, on the same held-out prompts</h2>" + _before_and_after(run_dir),
        "<h2>What was rewarded, and why</h2>" + _rollouts(run_dir),
        "<h2>Alarms</h2>" + _alarms(events),
        f"<h2>Recipe</h2><details><summary>resolved, with where each value came from</summary>"
        f"<pre>{html.escape(recipe)}</pre></details>",
    ]
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(run_dir.resolve().name)}</title><style>{_STYLE}</style>{''.join(parts)}</html>"
    )
    path = run_dir / "report.html"
    temporary = path.with_suffix(".html.tmp")
    temporary.write_text(page, encoding="utf-8")
    temporary.rename(path)
    return path


def _lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file; a torn last line is left out."""
    found: list[dict[str, Any]] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return found


def _header(run_dir: Path, rows: Sequence[dict[str, Any]], events: Sequence[dict[str, Any]]) -> str:
    start = next((event for event in events if event["kind"] == "start"), {})
    end = next((e for e in reversed(events) if e["kind"] in ("done", "stopped")), None)
    steps = rows[-1]["step"] if rows else 0
    ended = "still going on, or it was killed" if end is None else end["kind"]
    if end is not None and end["kind"] == "stopped":
        ended = f"stopped: {end.get('message', '')}"
    facts = [
        str(run_dir.resolve().name),
        f"started {start.get('time', 'unknown')}",
        f"seed {start.get('seed', '?')}",
        f"{steps} steps in {rows[-1]['time_s'] / 60:.1f} minutes" if rows else "no step yet",
        ended,
    ]
    name = html.escape(str(start.get("recipe", "run")))
    return f"<h1>{name}</h1><p class=soft>{html.escape(' · '.join(facts))}</p>"


def _evaluations(rows: Sequence[dict[str, Any]]) -> list[str]:
    """One chart a held-out set: the headline with its interval; beside it what format alone explains."""
    names = sorted(
        {key for row in rows for key in row if key.startswith("eval/") and f"{key}_ci_low" in row}
    )
    found: list[str] = []
    for name in names:
        here = [row for row in rows if name in row]
        steps = [row["step"] for row in here]
        first, last = here[0][name], here[-1][name]
        headline = Series(
            label=name,
            steps=steps,
            values=[row[name] for row in here],
            low=[row[f"{name}_ci_low"] for row in here],
            high=[row[f"{name}_ci_high"] for row in here],
        )
        note = f"{first:.3f} before, {last:.3f} after; band: 95 % interval" if len(here) > 1 else ""
        found.append(line_chart(name, [headline], note=note))
        base = name.rpartition("/")[0]
        split = [
            Series(label=label, steps=steps, values=[row.get(f"{base}/{key}") for row in here])
            for key, label in (
                ("format_rate", "readable and ended"),
                ("score_given_format", "right among those"),
            )
        ]
        found.append(line_chart(f"{base}: format and answers told apart", split))
    return found or ["<p class=empty>no evaluation in this run</p>"]


def _curves(rows: Sequence[dict[str, Any]]) -> list[str]:
    found: list[str] = []
    for title, names in CHARTS:
        here = [row for row in rows if any(name in row for name in names)]
        steps = [row["step"] for row in here]
        lines = [
            Series(
                label=name.rpartition("/")[2], steps=steps, values=[row.get(name) for row in here]
            )
            for name in names
        ]
        found.append(line_chart(title, lines))
    return found


def _table(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


def _rollouts(run_dir: Path) -> str:
    """Groups of the first, the middle and the last step."""
    files = sorted(
        p for p in (run_dir / "rollouts").glob("step_*.parquet") if ".eval-" not in p.name
    )
    if not files:
        return "<p class=empty>no rollouts were kept</p>"
    found: list[str] = []
    for path in dict.fromkeys((files[0], files[len(files) // 2], files[-1])):
        table = _table(path)
        for group_id in list(dict.fromkeys(row["group_id"] for row in table))[:MAX_GROUPS]:
            group = [row for row in table if row["group_id"] == group_id]
            lines = "".join(
                f"<tr><td class=text>{_text(row['completion'])}<td>{_number(row['reward'])}"
                f"<td>{_number(row['advantage'])}<td class={_class(row)}>{_text(row['status'])}"
                f"<td>{_text(row['reason'])}<td>{_text(row['finish_reason'])}"
                for row in group
            )
            found.append(
                f"<details open><summary>step {group[0]['step']}: "
                f"<span class=text>{_text(_tail(group[0]['prompt_text']))}</span></summary><table>"
                f"<tr><th>completion<th>reward<th>advantage<th>verdict<th>reason<th>ended by{lines}</table></details>"
            )
    return "".join(found)


def _before_and_after(run_dir: Path) -> str:
    by_name: dict[str, list[Path]] = {}
    for path in sorted((run_dir / "rollouts").glob("step_*.eval-*.parquet")):
        by_name.setdefault(path.name.partition(".eval-")[2], []).append(path)
    found: list[str] = []
    for name, files in by_name.items():
        if len(files) < 2:
            continue
        before = {row["prompt_id"]: row for row in _table(files[0])}
        lines = ""
        for row in [r for r in _table(files[-1]) if r["prompt_id"] in before][:MAX_EVALUATED]:
            old = before[row["prompt_id"]]
            lines += (
                f"<tr><td class=text>{_text(_tail(row['prompt_text']))}<td class=text>{_text(old['completion'])}"
                f"<td class={_class(old)}>{_text(old['status'])}<td class=text>{_text(row['completion'])}"
                f"<td class={_class(row)}>{_text(row['status'])}"
            )
        found.append(
            f"<details><summary>{_text(name.removesuffix('.parquet'))}</summary><table>"
            f"<tr><th>prompt<th>before<th><th>after<th>{lines}</table></details>"
        )
    return "".join(found) or "<p class=empty>needs two evaluations</p>"


def _alarms(events: Sequence[dict[str, Any]]) -> str:
    raised = [event for event in events if event["kind"] in ALARMS]
    if not raised:
        return "<p class=soft>none</p>"
    lines = "".join(
        f"<tr><td>{_text(event['time'])}<td>{_text(event['kind'])}<td>"
        + _text(", ".join(f"{k}={v}" for k, v in event.items() if k not in ("time", "kind")))
        for event in raised[:MAX_ALARMS]
    )
    more = f"<p class=soft>{len(raised)} in all</p>" if len(raised) > MAX_ALARMS else ""
    return f"<table>{lines}</table>{more}"


def _text(value: object) -> str:
    return html.escape("" if value is None else str(value))


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"


def _class(row: dict[str, Any]) -> str:
    return "pass" if row["status"] == "pass" else "fail"


def _tail(text: str, length: int = 160) -> str:
    text = text.strip()
    return text if len(text) <= length else "…" + text[-length:]
