"""Engines that are not what they say: the governor's rungs in a whole run, and log-probs that are missing."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlvr.config.load import load_recipe
from rlvr.config.recipe import EngineDtype, Recipe
from rlvr.errors import RlvrError
from rlvr.models.policy import Policy
from rlvr.protocols import RolloutEngine
from rlvr.records import Completion
from rlvr.rollout.decode import Row
from rlvr.rollout.transformers_engine import TransformersEngine
from rlvr.run.launch import local
from rlvr.run.launch.preflight import opened
from rlvr.run.launch.request import RunRequest
from rlvr.run.record.console import Console
from rlvr.run.record.directory import open_directory
from rlvr.run.record.resume_choice import ResumeChoice

SMALL = [
    "cold_start.steps=0", "rollout.prompts_per_step=4", "rollout.group_size=4", "data.eval=[]", "run.trackers=[]",
    "run.show_rollout_every_steps=0", "reward.truncated=judge", "data.train.0.verifier=mine.py:low_first",
    "data.train.0.verifier_settings={}", "learner.lr=1e-3", "learner.lr_warmup_steps=0",
]  # fmt: skip
ACT = ["algorithm.governor.mode=act", "algorithm.governor.startup_steps=3", "algorithm.governor.patience_steps=2"]


class DriftingEngine(TransformersEngine):
    """From version 4 on its log-probs are half a nat too low, as if it still used older weights."""

    def _completion(self, row: Row, *, version: int) -> Completion:
        found = super()._completion(row, version=version)
        drift = 0.5 if version >= 4 else 0.0
        return replace(found, logprobs=tuple(x - drift for x in found.logprobs))


class UnlikeEngine(TransformersEngine):
    """From the first version on its log-probs are not the learner's: a cache of a family that is wrong, for example."""

    def _completion(self, row: Row, *, version: int) -> Completion:
        found = super()._completion(row, version=version)
        return replace(found, logprobs=tuple(x - 0.01 for x in found.logprobs))


class ForgetfulEngine(TransformersEngine):
    """It loses the log-prob of each completion's first token."""

    def _completion(self, row: Row, *, version: int) -> Completion:
        found = super()._completion(row, version=version)
        lost = (math.nan, math.inf, -math.inf)[found.sample_index % 3]
        return replace(found, logprobs=(lost, *found.logprobs[1:]))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(
        "from rlvr.plugin import verifier\n\n\n@verifier(version='1')\ndef low_first(text, reference):\n"
        "    '''Passes when the first character is a digit below 5.'''\n"
        "    return text[:1] in ('0', '1', '2', '3', '4')\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def use(engine: type[TransformersEngine], monkeypatch: pytest.MonkeyPatch) -> None:
    def build(recipe: Recipe, *, policy: Policy) -> RolloutEngine:
        return engine(policy, engine_dtype=EngineDtype.SHARED, autocast=False, max_batch_rows=256)

    monkeypatch.setattr(local, "build_engine", build)


def train(*changes: str, resume: bool = False) -> Path:
    loaded = load_recipe("tiny", [*SMALL, *changes])
    path = Path.cwd() / "run"
    with opened(loaded.recipe) as (service, data):
        directory = open_directory(path, recipe_name="tiny", resume=resume)
        local.train(
            RunRequest(
                loaded=loaded,
                service=service,
                data=data,
                directory=directory,
                console=Console(file=io.StringIO()),
                resume=ResumeChoice() if resume else None,
            )
        )
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_engine_that_drifts_meets_stricter_corrections_and_then_a_pause(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    use(DriftingEngine, monkeypatch)
    with pytest.raises(RlvrError, match=r"paused after step 12: .*mismatch/kl_k3 is") as caught:
        train(*ACT, "run.steps=30")
    assert "--resume algorithm.governor.mode=warn" in str(caught.value)
    run = folder / "run"
    alarms = [row for row in lines(run / "events.jsonl") if row["kind"] == "mismatch_alarm"]
    assert [(row["step"], row["action"]) for row in alarms] == [
        (6, "stricter_correction"),
        (8, "stricter_correction"),
        (10, "stricter_correction"),
        (12, "pause"),
    ]
    assert alarms[0]["readings"][0]["border"] < alarms[0]["readings"][0]["value"]
    assert "for 2 steps in a row" in alarms[0]["reason"]
    rows = {row["step"]: row for row in lines(run / "metrics.jsonl")}
    assert rows[4]["mismatch/kl_k3"] < 1e-6 < 0.05 < rows[5]["mismatch/kl_k3"]
    # The third rung masks whole sequences whose mean ratio left [0.99, 1.01]: here all of them.
    assert [rows[step]["mismatch/masked_sequence_rate"] for step in (10, 11, 12)] == [0, 1, 1]
    assert (run / "checkpoints" / "step_12" / "complete.json").is_file()

    again = train(*ACT, "algorithm.governor.mode=warn", "run.steps=15", resume=True)
    rows = {row["step"]: row for row in lines(again / "metrics.jsonl")}
    assert sorted(rows) == list(range(1, 16))
    assert rows[13]["mismatch/masked_sequence_rate"] == 1  # the stricter correction was resumed
    last = [row for row in lines(run / "events.jsonl") if row["kind"] == "mismatch_alarm"][-1]
    assert (last["step"], last["action"]) == (14, "warn")


def test_a_run_on_a_sound_engine_raises_no_alarm(folder: Path):
    run = train(*ACT, "run.steps=12")
    assert not [row for row in lines(run / "events.jsonl") if row["kind"] == "mismatch_alarm"]


def test_a_mismatch_that_is_there_from_the_first_step_stops_the_run_with_what_it_means(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    use(UnlikeEngine, monkeypatch)
    exact = ["rollout.engine_dtype=shared", "learner.dtype=float32"]
    with pytest.raises(RlvrError, match=r"after step 1: mismatch/max_abs_logprob_diff is 0.01 nats"):
        train(*exact, "run.steps=1")  # the last step too
    run = folder / "run"
    (event,) = [row for row in lines(run / "events.jsonl") if row["kind"] == "mismatch_at_start"]
    assert event["readings"][0]["value"] == pytest.approx(0.01, abs=1e-4)
    assert event["readings"][0]["bound"] == 1e-3
    assert (run / "checkpoints" / "step_1" / "complete.json").is_file()
    train(*exact, "run.steps=3", "algorithm.governor.mode=off", resume=True)
    assert [row["step"] for row in lines(run / "metrics.jsonl")] == [1, 2, 3]


def test_log_probs_that_an_engine_did_not_give_are_counted_and_harm_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    use(ForgetfulEngine, monkeypatch)
    run = train("run.steps=3")
    rows = lines(run / "metrics.jsonl")
    assert [row["mismatch/missing_logprobs"] for row in rows] == [16, 16, 16]
    for row in rows:
        assert row["learner/nonfinite_steps"] == 0
        assert math.isfinite(row["policy/loss"])
        assert math.isfinite(row["mismatch/kl_k3"])
    assert any(row["policy/grad_norm"] > 0 for row in rows)
