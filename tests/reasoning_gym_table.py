"""Audits the tasks of reasoning-gym; writes verifiers/REASONING_GYM.md and the table of flaws that verifiers refuse.

python -m tests.reasoning_gym_table audit RESULTS.jsonl [TASK...]    audits, and appends a line for each task
python -m tests.reasoning_gym_table page RESULTS.jsonl               prints the page
python -m tests.reasoning_gym_table flaws RESULTS.jsonl              prints known_flaws.yaml

The interpreter must have the package. Nine of the tasks execute what they score.
"""

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from rlvr.audit.attacks import Kind
from rlvr.audit.examine import AuditRequest, audit
from rlvr.audit.report import as_json
from rlvr.audit.rows import CHECK, rows_of_source
from rlvr.records import Check
from rlvr_verifiers.adapters.reasoning_gym.package_side import MIXED, version

NUM_ROWS = 12
TIME_LIMIT_S = float(os.environ.get("TIME_LIMIT_S", "20"))  # after which only the first row is attacked further
MOST_FULL = 0.25  # share of rows, above chance, on which an answer that solves nothing may pass
MOST_MEAN = 0.5  # of its score, above chance
_FROM_GOLD = (Kind.MUTATED, Kind.MANY, Kind.HEDGE, Kind.LOOK_ALIKE)
_WITHOUT_GOLD = ("numbers from 1", "all letters", "letters run together", "prose")  # of these kinds
_OTHERS = (Kind.SHUFFLED, Kind.OTHER)


def all_tasks() -> list[str]:
    """Every task of the installed package, but for its mixture of the others."""
    from reasoning_gym.factory import DATASETS

    return sorted(set(DATASETS) - {MIXED})


def audited(task: str) -> dict[str, Any]:
    """The audit of one task as JSON."""
    start = time.monotonic()
    check = Check(name=CHECK, verifier=f"reasoning_gym:{task}", settings={"allow_exploitable": True})
    rows = rows_of_source({"size": NUM_ROWS, "allow_exploitable": True}, check)
    drawn_s = time.monotonic() - start
    report = audit(AuditRequest(check=check, rows=rows, num_rows=NUM_ROWS, time_limit_s=TIME_LIMIT_S))
    found = as_json(report)
    return {
        "task": task,
        "version": version(),
        "drawn_s": round(drawn_s, 2),
        "num_no_gold": sum(row.completion is None for row in rows),
        **{key: value for key, value in found.items() if key != "attacks"},
        "attacks": [one for one in found["attacks"] if one["mean"] > 0 or one["full_rate"] > 0],
        "num_attacks": len(found["attacks"]),
    }


def unearned(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The attacks that were made without the right answer."""
    return [one for one in found["attacks"] if one["kind"] not in _FROM_GOLD or one["name"].startswith(_WITHOUT_GOLD)]


def exploitable(found: dict[str, Any]) -> str:
    """Why a task is refused; "" if it is not."""
    reasons: list[str] = []
    if found["execution"]["executed"]:
        reasons.append("its scorer executes the answer as Python")
    paid = max(unearned(found), key=_paid, default=None)
    if paid is not None and paid["full_rate"] - paid["chance"] > MOST_FULL:
        shown = _shown(paid)
        reasons.append(f"it pays in full for {shown} on {paid['full_rate']:.0%} of {paid['rows']} rows")
    else:
        paid = max(unearned(found), key=lambda one: one["mean"] - one["chance"], default=None)
        if paid is not None and paid["mean"] - paid["chance"] > MOST_MEAN:
            reasons.append(f"it pays {paid['mean']:.2f} on average for {_shown(paid)} on {paid['rows']} rows")
    return "; ".join(reasons)


def remarks(found: dict[str, Any]) -> list[str]:
    """What a user of a task should know besides."""
    said: list[str] = []
    if found["num_no_gold"]:
        said.append("gives no right answer, so whether one passes is not tested")
    elif found["gold"]["accepted"] < found["gold"]["tried"]:
        said.append(f"{found['gold']['tried'] - found['gold']['accepted']} gold answers do not pass")
    if found["raised"]:
        said.append("the scorer raises on wrong answers, which count as unreadable")
    if found["determinism"]["differing"]:
        said.append(f"{found['determinism']['differing']} pairs got two scores")
    if found["crashes"]:
        said.append(f"{found['crashes']} crashes")
    if found["hangs"]:
        said.append("an answer can hang the scorer")
    near = [one for one in found["attacks"] if one["kind"] in _FROM_GOLD and one["is_counted"] and one["is_exploit"]]
    if near and not found["execution"]["executed"]:
        worst = max(near, key=lambda one: (one["full_rate"], one["rows"]))
        said.append(f"also passes: {worst['name'].partition(', in ')[0]} ({worst['kind']})")
    if not exploitable(found):
        paid = max(unearned(found), key=lambda one: one["mean"] - one["chance"], default=None)
        if paid is not None and paid["is_exploit"]:
            said.append(f"pays {paid['mean']:.2f} on average for {_shown(paid)} on {paid['rows']} rows")
    return said


def _paid(attack: dict[str, Any]) -> tuple[float, float, bool]:
    """What an attack earned, and whether it is a short text, which shows more."""
    return attack["full_rate"] - attack["chance"], attack["mean"], attack["kind"] == Kind.CONSTANT


def _shown(attack: dict[str, Any]) -> str:
    name = attack["name"].partition(" in that of the completion")[0].partition(" in <")[0].rstrip(",")
    return f"another row's answer ({name})" if attack["kind"] in _OTHERS else f"{name} ({attack['kind']})"


def page(results: list[dict[str, Any]]) -> list[str]:
    """The lines of verifiers/REASONING_GYM.md."""
    refused = [found for found in results if exploitable(found)]
    minutes = sum(found["seconds"] + found["drawn_s"] for found in results) / 60
    versions = ", ".join(sorted({found["version"] for found in results}))
    skipped = sum(bool(found["pairs"]["skipped"]) for found in results)
    return [
        f"# The scorers of reasoning-gym {versions}, audited",
        "",
        f"`rlvr audit` on {NUM_ROWS} rows of each of {len(results)} tasks with their default parameters, on "
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()} with {os.cpu_count()} cores that other processes used as "
        f"well, Python {platform.python_version()}: {sum(f['pairs']['verified'] for f in results):,} completions in "
        f"{minutes:.0f} minutes of one audit at a time. In {skipped} tasks the limit of {TIME_LIMIT_S:.0f} seconds "
        "left out part of the attacks on further rows.",
        "",
        "    python -m tests.reasoning_gym_table audit results.jsonl",
        "    python -m tests.reasoning_gym_table page results.jsonl > verifiers/REASONING_GYM.md",
        "    python -m tests.reasoning_gym_table flaws results.jsonl > "
        "verifiers/rlvr_verifiers/adapters/reasoning_gym/known_flaws.yaml",
        "",
        f"{len(refused)} tasks are refused unless `allow_exploitable: true` is set in the settings of the source and "
        "of the verifier: those whose scorer executes the answer, pays in full for answers that solve nothing on more "
        f"than {MOST_FULL:.0%} of the rows, or pays more than {MOST_MEAN} on average for them; both above chance.",
        "",
        "- **gold**: right answers that pass. Two tasks, which accept any solution, give none.",
        "- **unearned**: the largest mean score of an attack that was made without the right answer, and its share of "
        "rows that pass. Scores between 0 and 1 are partial credit by the package's own rules.",
        "- **executed**: completions that ran as code, of all that would leave a mark.",
        "- **time**: of the audit, in seconds, with the start of two workers.",
        "",
        "| task | refused because | gold | unearned | executed | remarks | completions, time |",
        "|---|---|---|---|---|---|---|",
        *(_line(found) for found in results),
    ]


def _line(found: dict[str, Any]) -> str:
    paid = max(unearned(found), key=lambda one: one["mean"], default={"mean": 0.0, "full_rate": 0.0})
    cells = (
        found["task"],
        exploitable(found),
        f"{found['gold']['accepted']} of {found['gold']['tried']}",
        f"{paid['mean']:.2f}, {paid['full_rate']:.0%}",
        f"{found['execution']['executed']} of {found['execution']['payloads']}",
        "; ".join(remarks(found)),
        f"{found['pairs']['verified']:,}, {found['seconds']:.0f} s",
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def flaws(results: list[dict[str, Any]]) -> str:
    """The text of known_flaws.yaml."""
    table = {
        "version": results[0]["version"],
        "exploitable": {found["task"]: why for found in results if (why := exploitable(found))},
        "remarks": {found["task"]: "; ".join(said) for found in results if (said := remarks(found))},
    }
    head = "# What `python -m tests.reasoning_gym_table flaws` found; verifiers/REASONING_GYM.md has the figures.\n"
    return head + yaml.safe_dump(table, sort_keys=False, width=118, allow_unicode=True)


def main() -> None:
    """Runs the command of the call; an audit leaves out tasks that already have a line in the results."""
    command, file, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    results = sorted((json.loads(line) for line in lines), key=lambda found: found["task"])
    if command == "audit":
        done = {found["task"] for found in results}
        for task in names or [task for task in all_tasks() if task not in done]:
            line = json.dumps(audited(task))
            with file.open("a", encoding="utf-8") as further:
                further.write(line + "\n")
    elif command == "page":
        sys.stdout.write("\n".join(page(results)) + "\n")
    else:
        sys.stdout.write(flaws(results))


if __name__ == "__main__":
    main()
