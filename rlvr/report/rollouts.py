"""Rollouts as HTML: the prompt, the completion, the verdict of each check, and the reward."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlvr.report.files import Row, finite, read_rollouts
from rlvr.report.markup import escaped, number

NUM_GROUPS = 3
NUM_COMPLETIONS = 16
NUM_PAIRS = 20
_PROMPT_CHARACTERS = 600
_COMPLETION_CHARACTERS = 6000
_REFERENCE_CHARACTERS = 400
_SAID_ROLES = ("gate", "shadow")


def training_section(files: Mapping[int, Path]) -> str:
    """A few groups of the first, the middle and the last step."""
    if not files:
        return '<p class="soft">There are no training rollouts.</p>'
    steps = sorted(files)
    chosen = sorted({steps[0], steps[len(steps) // 2], steps[-1]})
    return "".join(f"<h3>Step {step}</h3>{_step(files[step])}" for step in chosen)


def evaluation_section(name: str, files: Mapping[int, Path]) -> str:
    """The first and the last evaluation side by side, prompt by prompt."""
    first, last = min(files), max(files)
    before, after = _by_prompt(files[first]), _by_prompt(files[last])
    heading = f"<h3>{escaped(name)}: step {first}"
    if before is None or after is None:
        return f"{heading}</h3>{_UNREADABLE}"
    if first == last:
        cards = "".join(_card(row, body=_rollout(row)) for row in list(before.values())[:NUM_PAIRS])
        return f'{heading}, the only evaluation</h3><p class="soft">{_first(len(before))}</p>{cards}'
    common = [prompt for prompt in before if prompt in after]
    cards = "".join(_pair(before[p], after[p], first=first, last=last) for p in common[:NUM_PAIRS])
    return f"{heading} and step {last}</h3>{_changes(before, after, common)}{cards}"


_UNREADABLE = '<p class="bad">The file of these rollouts cannot be read.</p>'


def _step(path: Path) -> str:
    rows = read_rollouts(path)
    if rows is None:
        return _UNREADABLE
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row.get("group_id")), []).append(row)
    shown = list(groups.values())[:NUM_GROUPS]
    note = f'<p class="soft">The first {len(shown)} of {len(groups)} groups.</p>'
    return note + "".join(_group(group, is_open=index == 0) for index, group in enumerate(shown))


def _group(rows: Sequence[Row], *, is_open: bool) -> str:
    rewards = [reward for row in rows if (reward := finite(row.get("reward"))) is not None]
    mean = number(sum(rewards) / len(rewards)) if rewards else "–"
    hidden = len(rows) - NUM_COMPLETIONS
    return (
        f"<details{' open' if is_open else ''}><summary>{escaped(rows[0].get('prompt_id'))} "
        f'<span class="soft">{len(rows)} completions, mean reward {mean}</span></summary>'
        f"{_prompt(rows[0])}{''.join(_rollout(row) for row in rows[:NUM_COMPLETIONS])}"
        + (f'<p class="soft">{hidden} more are in the file.</p>' if hidden > 0 else "")
        + "</details>"
    )


def _prompt(row: Row) -> str:
    text = str(row.get("prompt_text") or "")
    left_out = len(text) - _PROMPT_CHARACTERS
    note = f" (its end; {left_out:,} characters before it are left out)" if left_out > 0 else ""
    shown = f'<p class="soft">Prompt{note}</p><pre>{escaped(text[-_PROMPT_CHARACTERS:])}</pre>'
    if row.get("reference") is not None:
        shown += f'<p class="soft">Reference</p><pre>{escaped(_cut(row["reference"], _REFERENCE_CHARACTERS))}</pre>'
    return shown


def _rollout(row: Row) -> str:
    """One completion with its reward and the verdict of each check."""
    outcome = _outcome(row)
    advantage = finite(row.get("advantage"))
    reward = finite(row.get("reward"))
    facts = [
        f"<b>{'no reward' if reward is None else f'reward {number(reward)}'}</b>",
        f'<b class="{_css(outcome)}">{escaped(outcome)}</b>',
        f"ended by {escaped(row.get('finish_reason') or 'unknown')}",
    ]
    for penalty, name in (("overlong_penalty", "length"), ("kl_penalty", "KL")):
        if taken := finite(row.get(penalty)):
            facts.append(f"{number(-taken)} for {name}")
    if advantage is not None:
        facts.append(f"advantage {'+' if advantage > 0 else ''}{number(advantage)}")
    verdicts = _verdicts(row)
    if len(verdicts) < 2 and row.get("extracted") is not None:
        facts.append(f"answer read: {escaped(_cut(row['extracted'], 120))}")
    reason = row.get("reason")
    tail = f'<p class="soft">{escaped(_cut(reason, 600))}</p>' if reason else ""
    if len(verdicts) > 1:
        tail = "".join(map(_verdict, verdicts))
    spans = "".join(f"<span>{fact}</span>" for fact in facts)
    side = escaped(outcome)
    text = _cut(row.get("completion") or "", _COMPLETION_CHARACTERS)
    return (
        f'<div class="rollout {side}"><div class="facts">{spans}</div>'
        f"{tail}<pre>{escaped(text) or '(empty)'}</pre></div>"
    )


def _outcome(row: Row) -> str:
    """The status of the check that gives reward; if it passed without reward, the reason."""
    status = str(row.get("status") or "not judged")
    if status != "pass" or row.get("reward") != 0:
        return status
    vetoes = [v for v in _verdicts(row) if v.get("role") == "gate" and v.get("status") != "pass"]
    if vetoes:
        return f"vetoed by {', '.join(str(v.get('check')) for v in vetoes)}"
    return status if row.get("finish_reason") in ("stop", None) else "cut off, so no reward"


def _css(status: str) -> str:
    return {"pass": "good", "error": "odd"}.get(status, "bad")


def _verdicts(row: Row) -> list[Row]:
    """The verdict of each check; [] in a file without that column."""
    try:
        found = json.loads(row.get("verdicts") or "[]")
    except (TypeError, json.JSONDecodeError):
        return []
    return [v for v in found if isinstance(v, dict)] if isinstance(found, list) else []


def _verdict(verdict: Row) -> str:
    """One line per check: role (unless it gives reward), status, score, answer and reason."""
    role, status = verdict.get("role"), str(verdict.get("status"))
    name = escaped(verdict.get("check")) + (f" ({escaped(role)})" if role in _SAID_ROLES else "")
    score = finite(verdict.get("score"))
    parts = [f'<b class="{_css(status)}">{escaped(status)}</b>']
    parts += [] if score is None else [f"score {number(score)}"]
    if verdict.get("extracted") is not None:
        parts.append(f"answer read: {escaped(_cut(verdict['extracted'], 120))}")
    reason = escaped(_cut(verdict.get("reason") or "", 600))
    return f'<p class="soft">{name}: {", ".join(parts)}{f"; {reason}" if reason else ""}</p>'


def _card(row: Row, *, body: str) -> str:
    return f"<details><summary>{escaped(row.get('prompt_id'))}</summary>{_prompt(row)}{body}</details>"


def _pair(before: Row, after: Row, *, first: int, last: int) -> str:
    change = f"{escaped(_outcome(before))} → {escaped(_outcome(after))}"
    sides = "".join(
        f'<div><p class="soft">Step {step}</p>{_rollout(row)}</div>' for step, row in ((first, before), (last, after))
    )
    return (
        f'<details><summary>{escaped(before.get("prompt_id"))} <span class="soft">{change}</span></summary>'
        f'{_prompt(before)}<div class="pair">{sides}</div></details>'
    )


def _changes(before: Mapping[str, Row], after: Mapping[str, Row], common: Sequence[str]) -> str:
    counts = {(a, b): 0 for a in (True, False) for b in (True, False)}
    for prompt in common:
        counts[_is_solved(before[prompt]), _is_solved(after[prompt])] += 1
    return (
        f'<p class="soft">Of {len(common):,} prompts in both: {counts[True, True]:,} solved both times, '
        f"{counts[False, True]:,} gained, {counts[True, False]:,} lost, {counts[False, False]:,} "
        f"solved neither time. Solved: the check passed and the reward is above 0. {_first(len(common))}</p>"
    )


def _first(count: int) -> str:
    return f"Shown: the first {min(count, NUM_PAIRS):,} of {count:,}."


def _is_solved(row: Row) -> bool:
    return row.get("status") == "pass" and (finite(row.get("reward")) or 0.0) > 0.0


def _by_prompt(path: Path) -> dict[str, Row] | None:
    """The first completion of each prompt; None when the file cannot be read."""
    rows = read_rollouts(path)
    if rows is None:
        return None
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(str(row.get("prompt_id")), row)
    return found


def _cut(value: object, limit: int) -> str:
    """The text, with the middle omitted when it is longer than `limit`."""
    text = str(value)
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out …]\n{text[-half:]}"
