"""Damage to what a run left: a resume is exact, or says what is lost, or ends with one clear error.

Random damage is the same in every run; `pytest -m fuzz` has more of it, and other damage each time.
"""

import io
import json
import sqlite3
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlvr.batch import Learner
from rlvr.errors import CheckpointError, ConfigError, StorageError
from rlvr.run.launch.reentry import finish_trained
from rlvr.run.record.checkpoints import choose_checkpoint
from rlvr.run.record.console import Console
from rlvr.run.record.directory import RunDirectory, locked_directory
from rlvr.run.record.ledger import Ledger
from rlvr.run.record.lineage import lineage_of
from rlvr.run.record.recipe_file import stored_recipe
from rlvr.run.record.recorder import Recorder
from rlvr.run.record.resume import find_resume, resume_from
from rlvr.run.record.resume_choice import ResumeChoice
from tests.unit.run.record.damaged_runs import DAMAGES, INPUTS, BytesLearner, copied, files_of, make_run, recipe, resume


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run that was killed in step 9, with checkpoints of steps 3 and 6."""
    return make_run(tmp_path_factory.mktemp("killed") / "run")


@pytest.fixture
def run(killed: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy of it to damage."""
    return RunDirectory(copied(killed, tmp_path / "run"))


def test_what_a_killed_run_leaves_is_repaired_without_a_word(run: RunDirectory) -> None:
    outcome = resume(run.path)
    assert (outcome.step, outcome.warnings) == (6, ())
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(7))
    assert len(outcome.record[1]) == 12
    assert [name for name, _ in outcome.record[2]] == [f"step_{n:06d}.parquet" for n in range(1, 7)]


@pytest.mark.parametrize("damage", ["cut", "flip", "delete", "zero", "replace_by_folder"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "run_state.json", "complete.json"])
def test_a_damaged_newest_checkpoint_is_skipped_for_the_one_before(
    run: RunDirectory, name: str, damage: str, killed: RunDirectory, tmp_path: Path
) -> None:
    DAMAGES[damage](run.checkpoint(6) / name, 0.5)
    outcome = resume(run.path)
    assert outcome.step == 3, outcome
    assert f"step_6 is damaged: {name}" in outcome.warnings[0]
    assert (run.checkpoints / "step_6.aside").is_dir()
    other = copied(killed, tmp_path / "other")
    chosen = resume(other, choice=ResumeChoice(checkpoint="step_3"))
    assert chosen.record == outcome.record
    assert chosen.warnings == ()


def test_no_whole_checkpoint_is_an_error_that_names_each_and_does_not_start_over(run: RunDirectory) -> None:
    DAMAGES["flip"](run.checkpoint(6) / "optimizer.pt", 0.5)
    DAMAGES["delete"](run.checkpoint(3) / "complete.json", 0.5)
    with pytest.raises(CheckpointError) as caught:
        find_resume(run, recipe(), inputs=INPUTS, choice=ResumeChoice())
    assert caught.value.exit_code == 1
    assert "step_6 is damaged: optimizer.pt has changed since it was written" in str(caught.value)
    assert "step_3 is damaged: complete.json cannot be read" in str(caught.value)


def test_a_checkpoint_can_be_named_and_a_wrong_name_lists_those_that_are_there(run: RunDirectory) -> None:
    assert resume(run.path, choice=ResumeChoice(checkpoint="9")).error == (
        f"CheckpointError: {run.path} has no checkpoint 'step_9'; it has: step_3, step_6"
    )
    assert resume(run.path, choice=ResumeChoice(checkpoint="3")).step == 3


def test_a_checkpoint_of_an_older_version_is_used_and_reported_as_unchecked(tmp_path: Path) -> None:
    old = make_run(tmp_path / "run", has_digests=False)
    outcome = resume(old.path)
    assert outcome.step == 6
    assert len(outcome.warnings) == 1
    assert "without digests" in outcome.warnings[0]


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("metrics.jsonl", "delete", "has lost 7 of 7 rows up to step 6: step 0 to 6"),
        ("metrics.jsonl", "cut", "has lost 2 of 7 rows up to step 6: step 5 to 6"),
        ("events.jsonl", "delete", "has lost events"),
        ("ledger.sqlite", "delete", "of 12 trained and 0 dropped prompts up to step 6 it holds 0 and 0"),
        ("ledger.sqlite", "zero", "moved to ledger.sqlite.damaged; the new ledger lacks 12 prompts"),
        ("rollouts/step_000002.parquet", "delete", "lacks 1 file (step_000002.parquet) of rollouts"),
        ("rollouts/step_000002.parquet", "cut", "1 file (step_000002.parquet) cannot be read"),
        ("recipe.yaml", "cut", "was cut or changed: its last line is missing; the copy in"),
        ("recipe.yaml", "flip", "changed after the run wrote it"),
        ("recipe.yaml", "delete", "recipe.yaml is missing; the copy in"),
    ],
)  # fmt: skip
def test_losses_of_the_record_are_reported_file_by_file(run: RunDirectory, name: str, damage: str, said: str) -> None:
    DAMAGES[damage](run.path / name, 0.6)
    outcome = resume(run.path)
    assert outcome.step == 6, outcome
    assert len(outcome.warnings) == 1
    assert said in outcome.warnings[0]
    assert name.partition("/")[0] in outcome.warnings[0]


def test_damage_is_reported_once_and_not_again_after_a_later_checkpoint(run: RunDirectory) -> None:
    with sqlite3.connect(run.ledger) as ledger:
        ledger.execute("DELETE FROM issues WHERE step <= 2")
    ledger.close()
    assert "it holds 8 and 0" in resume(run.path).warnings[0]
    assert "it holds 2 and 0" in resume(run.path, choice=ResumeChoice(checkpoint="step_3")).warnings[0]


def test_changed_data_or_verifiers_are_an_error_with_both_digests_and_a_way_out(run: RunDirectory) -> None:
    other = {**INPUTS, "verifier a.py:b": "version 2"}
    refused = resume(run.path, inputs=other).error
    assert refused.startswith("ConfigError")
    assert "verifier a.py:b: version 1 -> version 2" in refused
    assert "--allow-changed-inputs" in refused
    assert "rows.jsonl" not in refused
    allowed = resume(run.path, inputs=other, choice=ResumeChoice(allows_changed_inputs=True))
    assert allowed.step == 6
    assert allowed.warnings == ("verifier a.py:b has changed: version 1 -> version 2",)


def test_a_run_without_a_checkpoint_starts_over(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", every=100)
    assert find_resume(run, recipe(), inputs=INPUTS, choice=ResumeChoice()).resume is None
    DAMAGES["zero"](run.ledger, 0.0)
    run.recipe.write_text("name: [")
    assert find_resume(run, recipe(), inputs=INPUTS, choice=ResumeChoice()).resume is None
    assert not run.ledger.exists()


def test_a_folder_in_place_of_a_file_is_named(run: RunDirectory) -> None:
    DAMAGES["replace_by_folder"](run.metrics, 0.0)
    with pytest.raises(StorageError, match=r"metrics\.jsonl cannot be read: Is a directory"):
        find_resume(run, recipe(), inputs=INPUTS, choice=ResumeChoice())


def test_a_folder_in_the_place_of_later_rollouts_is_named(run: RunDirectory) -> None:
    DAMAGES["replace_by_folder"](run.rollouts / "step_000007.parquet", 0.0)
    assert "step_000007.parquet cannot be read or written: Is a directory" in resume(run.path).error


def test_a_recipe_that_no_checkpoint_can_replace_is_an_error(run: RunDirectory) -> None:
    chosen = choose_checkpoint(run)
    assert chosen is not None
    (chosen.folder / "run_recipe.yaml").unlink()
    run.recipe.unlink()
    with pytest.raises(ConfigError, match=r"recipe\.yaml is missing; restore it from a copy"):
        stored_recipe(run, chosen)


def test_a_recorder_saves_nothing_into_a_directory_that_another_run_has_taken(
    run: RunDirectory, tmp_path: Path
) -> None:
    opening = locked_directory(run.path, recipe_name="x", resume=True)
    with opening as directory:
        recorder = Recorder(
            directory,
            console=Console(file=io.StringIO()),
            sinks=(),
            prompt_text=lambda _: "",
            keep_checkpoints=1,
            show_rollout_every_steps=0,
        )
        run.path.rename(tmp_path / "moved")
        other = RunDirectory.create(run.path, "x")
        with locked_directory(run.path, recipe_name="x", resume=False):
            learner = cast(Learner, BytesLearner(7))
            with pytest.raises(StorageError, match="another run is there now"):
                recorder.checkpoint(7, learner=learner, state={})
        recorder.close()
    assert other.step_folders() == []


def test_metrics_removed_in_mid_run_are_reported_and_the_checkpoint_is_saved(
    run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    run.metrics.unlink()
    ledger = Ledger(run.ledger)
    lineage = lineage_of(run, 7, settled=ledger.settled(7))
    ledger.close()
    assert lineage["metrics"]["bytes"] == 0
    assert lineage["ledger"]["trained"] == 14
    assert "metrics.jsonl was removed during the run" in caplog.text


def test_a_run_that_has_its_last_checkpoint_is_finished_and_done_once(run: RunDirectory) -> None:
    chosen = choose_checkpoint(run)
    assert chosen is not None
    out = io.StringIO()
    for _ in range(2):
        last = resume_from(run, chosen, changed={})
        finish_trained(run, last, console=Console(file=out))
    events = [json.loads(line) for line in run.events.read_text().splitlines()]
    assert [event["step"] for event in events if event["kind"] == "done"] == [6]
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(7))
    assert "nothing left to train" in out.getvalue()


@lru_cache(maxsize=1)
def _original() -> tuple[tempfile.TemporaryDirectory[str], RunDirectory]:
    folder = tempfile.TemporaryDirectory()
    return folder, make_run(Path(folder.name) / "run")


def holds_after(number: int, damage: str, share: float) -> None:
    """What must hold after damage to one file: the one of that number, which wraps around."""
    folder, original = _original()
    names = files_of(original)
    name = names[number % len(names)]
    path = copied(original, Path(folder.name) / "work")
    DAMAGES[damage](path / name, share)
    outcome = resume(path)
    if outcome.error:
        assert len(outcome.error) > 40
        assert Path(name).name in outcome.error
        return
    if outcome.warnings:
        said = "\n".join(outcome.warnings)
        assert Path(name).name in said or Path(name).parts[0] in said
        return
    whole = resume(copied(original, Path(folder.name) / "whole"))
    assert (outcome.step, outcome.record) == (whole.step, whole.record)


DAMAGE = {
    "number": st.integers(0, 9999),
    "damage": st.sampled_from(sorted(DAMAGES)),
    "share": st.floats(0, 1, exclude_max=True),
}
COMMON: dict[str, Any] = {"database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=30, derandomize=True, **COMMON)
@given(**DAMAGE)
def test_random_damage_is_harmless_or_reported(number: int, damage: str, share: float) -> None:
    holds_after(number, damage, share)


@pytest.mark.fuzz
@settings(max_examples=1500, **COMMON)
@given(**DAMAGE)
def test_more_random_damage_is_harmless_or_reported(number: int, damage: str, share: float) -> None:
    holds_after(number, damage, share)


@pytest.fixture(scope="module", autouse=True)
def _removed() -> Iterator[None]:
    yield
    _original()[0].cleanup()
