"""Audits the tasks of reasoning-gym, and writes the table verifiers/REASONING_GYM.md.

python -m tests.reasoning_gym_table audit RESULTS.jsonl [TASK...]    audits, and appends a line for each task
python -m tests.reasoning_gym_table table RESULTS.jsonl              prints the page

The interpreter must have the package; nine of the tasks execute what they score.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from rlvr.audit.examine import AuditRequest, audit
from rlvr.audit.report import as_json
from rlvr.audit.rows import CHECK, rows_of_source
from rlvr.records import Check
from rlvr_verifiers.adapters.reasoning_gym.package_side import MIXED, version

NUM_ROWS = 12
TIME_LIMIT_S = 20.0  # after which only the first row is attacked further


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


def main() -> None:
    """Audits the named tasks, by default those without a line in the results."""
    file, names = Path(sys.argv[2]), sys.argv[3:]
    done = {json.loads(line)["task"] for line in file.read_text().splitlines()} if file.exists() else set()
    for task in names or [task for task in all_tasks() if task not in done]:
        line = json.dumps(audited(task))
        with file.open("a", encoding="utf-8") as results:
            results.write(line + "\n")


if __name__ == "__main__":
    main()
