"""`reasoning_gym:` with the real package, in the interpreter that RLVR_REASONING_GYM_PYTHON names, or in this one."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlvr.data.row_sources import plugin_rows
from rlvr.plugin import completion_from_text
from rlvr.records import Check, Prompt
from rlvr.verification.service import VerifierService
from rlvr_verifiers.adapters.reasoning_gym import package_side

VARIABLE = "RLVR_REASONING_GYM_PYTHON"
PYTHON = os.environ.get(VARIABLE, "")
pytestmark = pytest.mark.skipif(
    not PYTHON and importlib.util.find_spec("reasoning_gym") is None,
    reason=f"reasoning-gym is not installed here, and {VARIABLE} names no interpreter that has it",
)
# Draws entries and scores answers as the package does, and from the entries as they were sent through JSON.
AT_HOME = """
import json, sys
sys.path.insert(0, sys.argv[1])
import package_side
import reasoning_gym
from reasoning_gym.factory import DATASETS

def score(scorer, answer, entry):
    try:
        return float(scorer(answer, entry))
    except Exception as error:
        return type(error).__name__

names = sys.argv[2:] or sorted(set(DATASETS) - {package_side.MIXED})
scorers = package_side.Scorers()
found = []
for name in names:
    data = reasoning_gym.create_dataset(name, seed=7, size=50)
    entries = [data[index] for index in range(4)]
    for index, entry in enumerate(entries):
        sent = json.loads(json.dumps(package_side.encode(entry)))
        gold, other = entry["answer"], entries[index - 1]["answer"]
        answers = [gold, other, "0", "1", "True", "[]", "7, 8", "banana"]
        answers += [gold + "1", gold[:-1], gold.upper()] if isinstance(gold, str) else []
        for answer in answers:
            own = score(data.score_answer, answer, entry)
            again = score(lambda text, entry: scorers.score(name, {}, text, entry), answer, sent)
            found.append({"task": name, "sent": sent, "answer": answer, "own": own, "again": again})
json.dump(found, open(sys.argv[0] + ".json", "w"))
"""


def at_home(tmp_path: Path, *names: str) -> list[dict[str, Any]]:
    script = tmp_path / "scores.py"
    script.write_text(AT_HOME)
    folder = str(Path(package_side.__file__).parent)
    command = [PYTHON or sys.executable, str(script), folder, *names]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((tmp_path / "scores.py.json").read_text())


def test_three_tasks_score_alike_at_home_and_here(tmp_path: Path, record_property: Callable[[str, object], None]):
    """The verifier runs in the jail, with the package's interpreter; rearc needs the tuples of its entries."""
    found = at_home(tmp_path, "chain_sum", "rearc", "prime_factorization")
    scored = [
        one for one in found if one["answer"] == one["answer"].strip() != ""
    ]  # an answer here has no blanks around
    pairs = [
        (
            Prompt(
                prompt_id="row",
                checks=(
                    Check(name="main", verifier=f"reasoning_gym:{one['task']}", reference=one["sent"], python=PYTHON),
                ),
                source="test",
                text="?",
            ),
            completion_from_text(f"<answer>{one['answer']}</answer>", prompt_id="row"),
        )
        for one in scored
    ]
    service = VerifierService(workers=1, deadline_s=20.0)
    try:
        verdicts = [found["main"] for found in service.verify_batch(pairs)]
    finally:
        service.close()
    own = [one["own"] for one in scored]
    here = [verdict.details.get("raised", verdict.score) for verdict in verdicts]
    assert here == own
    assert {type(one) for one in own} == {float, str}  # one of the tasks raises on other texts than numbers
    record_property("equal_scores", len(own))


def test_every_task_scores_alike_from_the_entry_that_was_sent(
    tmp_path: Path, record_property: Callable[[str, object], None]
):
    scored = at_home(tmp_path)
    assert [one for one in scored if one["own"] != one["again"]] == []
    assert len({one["task"] for one in scored}) == 105
    record_property("equal_scores", len(scored))


def test_rows_are_the_same_in_every_process_and_split_without_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = {"size": 20, "python": PYTHON, "allow_exploitable": True}
    found: list[Any] = []
    for folder in ("first", "second"):  # a cache of its own: the rows are drawn again
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / folder))
        found.append(plugin_rows("reasoning_gym:word_ladder", settings, split="train", seed=3))
    assert found[0] == found[1]
    test = plugin_rows("reasoning_gym:word_ladder", settings, split="test", seed=3)
    questions = [{row.reference["question"] for row in rows} for rows in (found[0], test)]
    assert len(questions[0]) == len(questions[1]) == 20
    assert not questions[0] & questions[1]
