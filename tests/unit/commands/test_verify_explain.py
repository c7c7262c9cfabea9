"""`rlvr verify VERIFIER --explain` for one pair, and references of a recipe that cannot be used."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlvr.cli import verify
from rlvr.commands.verify_file import explain, given_pair
from rlvr.config.load import load_recipe
from rlvr.errors import ConfigError, DataError
from rlvr.run.launch.preflight import opened
from tests.unit.rollout.loopback_server import loopback

RECIPE = """
name: sums
model: {path: tiny}
data:
  train: [{source: TRAIN, verifier: math}]
  eval: [{source: EVAL, verifier: math}]
"""


def rlvr(folder: Path, *arguments: str) -> tuple[int, str]:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-m", "rlvr.cli", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_command_line_explains_one_pair(tmp_path: Path) -> None:
    pair = ("--completion", "So $\\boxed{0.75}$.", "--reference", "3/4")
    code, output = rlvr(tmp_path, "verify", "math", "--explain", *pair, "cross_check_rate=0")
    assert code == 0, output
    shown = dict(line.split(maxsplit=1) for line in output.splitlines()[1:] if line.strip())
    assert (shown["status"], shown["extracted"], shown["origin"], shown["method"]) == ("PASS", "0.75", "box", "number")
    assert shown["gold"].split() == ["type", "rational"]
    assert "'0.75' equals '3/4'" in shown["reason"]


def test_the_pair_may_be_in_a_file_with_one_row(tmp_path: Path) -> None:
    row = {"id": 1, "completion": "\\boxed{4", "reference": ["4", "5"], "prompt": "2 + 2?"}
    (tmp_path / "one.jsonl").write_text(json.dumps(row) + "\n")
    assert given_pair(None, None, "", tmp_path / "one.jsonl") == ("\\boxed{4", ["4", "5"], "2 + 2?")
    code, output = rlvr(tmp_path, "verify", "math", "--explain", "--input", "one.jsonl")
    assert code == 0, output
    assert "UNPARSED" in output
    assert "never closed" in output
    (tmp_path / "two.jsonl").write_text(2 * (json.dumps(row) + "\n"))
    assert rlvr(tmp_path, "verify", "math", "--explain", "--input", "two.jsonl")[0] != 0
    assert rlvr(tmp_path, "verify", "math", "--explain", "--completion", "4")[0] == 2


def test_a_pair_whose_reference_cannot_be_used_is_a_data_error() -> None:
    with pytest.raises(DataError, match="see figure"):
        explain("math", completion="4", reference="\\text{see figure}", settings={}, deadline_s=5.0)


def test_any_verifier_can_be_explained(tmp_path: Path) -> None:
    verdict, rows = explain("text_match", completion="B", reference="A", settings={"mode": "choice"}, deadline_s=5.0)
    assert not verdict.passed
    assert dict(rows)["status"] == "FAIL"
    assert dict(rows)["extracted"] == "B"


def test_a_verifier_that_reads_the_question_is_given_it() -> None:
    def asks(request: dict[str, Any]) -> str:
        asked = "user: Where to?" in request["messages"][0]["content"]
        return f"VERDICT: {'CORRECT' if asked else 'WRONG'}"

    with loopback(answer_to=asks) as server:
        verdict, _ = explain(
            "llm_judge",
            completion="the sea",
            reference="the sea",
            settings={"url": server.url},
            deadline_s=5.0,
            question=[{"role": "user", "content": "Where to?"}],
        )
    assert verdict.passed


def test_references_of_a_recipe_that_cannot_be_used_are_listed_with_file_and_line(tmp_path: Path) -> None:
    train, held_out = tmp_path / "train.jsonl", tmp_path / "eval.jsonl"
    answers = ["4", "\\text{see figure}", "3/4", "\\frac{1}{2}"]
    train.write_text("".join(json.dumps({"prompt": "?", "reference": a}) + "\n" for a in answers))
    held_out.write_text(json.dumps({"prompt": "?", "reference": "\\text{by a proof}"}) + "\n")
    recipe = tmp_path / "sums.yaml"
    recipe.write_text(RECIPE.replace("TRAIN", str(train)).replace("EVAL", str(held_out)))
    with pytest.raises(DataError) as caught, opened(load_recipe(str(recipe)).recipe):
        pass
    message = str(caught.value)
    assert f"{train}:2: " in message
    assert f"{held_out}:1: " in message
    assert "2 reference(s)" in message


def test_a_call_without_files_is_answered_with_the_command_for_one_pair() -> None:
    with pytest.raises(ConfigError, match="rlvr verify math --explain --completion TEXT --reference TEXT"):
        verify("math", ["42"])
