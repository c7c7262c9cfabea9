"""Audits the tasks of reasoning-gym; writes verifiers/REASONING_GYM.md and the table of flaws that verifiers refuse.

python -m tests.reasoning_gym_table audit RESULTS.jsonl [TASK...]    audits, and appends a line for each task
python -m tests.reasoning_gym_table page RESULTS.jsonl               prints the page
python -m tests.reasoning_gym_table flaws RESULTS.jsonl              prints known_flaws.yaml

RLVR_REASONING_GYM_PYTHON names the interpreter that has the package, if it is not this one. TIME_LIMIT_S (20) is the
number of seconds for each task after which only the first row is attacked further.
"""

import json
import os
import platform
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import yaml

from rlvr.audit.attacks import Kind
from rlvr.audit.examine import AuditRequest, audit
from rlvr.audit.report import as_json
from rlvr.audit.rows import CHECK, rows_of_source
from rlvr.records import Check
from rlvr_verifiers.adapters.reasoning_gym.package_side import MIXED

NUM_ROWS = 12
TIME_LIMIT_S = float(os.environ.get("TIME_LIMIT_S", "20"))
PYTHON = os.environ.get("RLVR_REASONING_GYM_PYTHON", "")
MOST_FULL = 0.25  # share of rows, above chance, on which an answer that solves nothing may pass
MOST_MEAN = 0.5  # of its score, above chance
_FROM_GOLD = (Kind.MUTATED, Kind.MANY, Kind.HEDGE, Kind.LOOK_ALIKE)
_WITHOUT_GOLD = ("numbers from 1", "all letters", "letters run together", "prose")  # of these kinds
_OTHERS = (Kind.SHUFFLED, Kind.OTHER)
_PLAIN = (Kind.CONSTANT, *_OTHERS)  # their texts say what was paid for


_ASK = """
import json, importlib.metadata
from reasoning_gym.factory import DATASETS
print(json.dumps([importlib.metadata.version("reasoning-gym"), sorted(DATASETS)]))
"""


def package() -> tuple[str, list[str]]:
    """(version, every task but the mixture of the others) of the installed package."""
    done = subprocess.run([PYTHON or sys.executable, "-c", _ASK], capture_output=True, text=True, check=True)
    version, names = json.loads(done.stdout)
    return version, [name for name in names if name != MIXED]


def audited(task: str, version: str) -> dict[str, Any]:
    """The audit of one task as JSON."""
    start = time.monotonic()
    check = Check(name=CHECK, verifier=f"reasoning_gym:{task}", settings={"allow_exploitable": True}, python=PYTHON)
    rows = rows_of_source({"size": NUM_ROWS, "allow_exploitable": True, "python": PYTHON}, check)
    drawn_s = time.monotonic() - start
    report = audit(AuditRequest(check=check, rows=rows, num_rows=NUM_ROWS, time_limit_s=TIME_LIMIT_S))
    found = as_json(report)
    return {
        "task": task,
        "version": version,
        "time_limit_s": TIME_LIMIT_S,
        "execution_kind": "jailed",
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
    in_full = [one for one in unearned(found) if one["full_rate"] - one["chance"] > MOST_FULL]
    on_average = [one for one in unearned(found) if one["mean"] - one["chance"] > MOST_MEAN]
    if in_full:
        paid = max(in_full, key=lambda one: (one["kind"] in _PLAIN, one["full_rate"], one["rows"]))
        reasons.append(f"it pays in full for {_shown(paid)} on {paid['full_rate']:.0%} of {_rows(paid)}")
    elif on_average:
        paid = max(on_average, key=lambda one: (one["kind"] in _PLAIN, one["mean"], one["rows"]))
        reasons.append(f"it pays {paid['mean']:.2f} on average for {_shown(paid)} on {_rows(paid)}")
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
        paid = max(
            (one for one in unearned(found) if one["is_exploit"]),
            key=lambda one: (one["kind"] in _PLAIN, one["mean"], one["rows"]),
            default=None,
        )
        if paid is not None:
            said.append(f"pays {paid['mean']:.2f} on average for {_shown(paid)} on {_rows(paid)}")
    return said


def _rows(attack: dict[str, Any]) -> str:
    return f"{attack['rows']} row{'s' if attack['rows'] > 1 else ''}"


def _shown(attack: dict[str, Any]) -> str:
    if attack["kind"] in _OTHERS:
        return "another row's answer"
    name = attack["name"].partition(" in that of the completion")[0].partition(" in <")[0].rstrip(",")
    return f"{name} ({attack['kind']})"


def page(results: list[dict[str, Any]]) -> list[str]:
    """The lines of verifiers/REASONING_GYM.md."""
    refused = [found for found in results if exploitable(found)]
    minutes = sum(found["seconds"] + found["drawn_s"] for found in results) / 60
    versions = ", ".join(sorted({found["version"] for found in results}))
    skipped = sum(bool(found["pairs"]["skipped"]) for found in results)
    kinds = " or ".join(sorted({found["execution_kind"] for found in results}))
    limits = " or ".join(f"{limit:.0f}" for limit in sorted({found["time_limit_s"] for found in results}))
    lines = [
        f"# The scorers of reasoning-gym {versions}, audited",
        "",
        f"`rlvr audit` on {NUM_ROWS} rows of each of {len(results)} tasks with their default parameters, on "
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()} with {os.cpu_count()} cores that other processes used as "
        f"well, Python {platform.python_version()}: {sum(f['pairs']['verified'] for f in results):,} completions in "
        f"{minutes:.0f} minutes, if one task follows another, with execution {kinds}. In "
        f"{skipped} tasks the time limit of {limits} seconds left out part of the attacks; those on the first row were "
        "all tried.",
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
    return [line if line.startswith(("|", " ", "#")) else textwrap.fill(line, 120) for line in lines]


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
        version, tasks = package()
        for task in names or [task for task in tasks if task not in done]:
            line = json.dumps(audited(task, version))
            with file.open("a", encoding="utf-8") as further:
                further.write(line + "\n")
    elif command == "page":
        sys.stdout.write("\n".join(page(results)) + "\n")
    else:
        sys.stdout.write(flaws(results))


if __name__ == "__main__":
    main()
