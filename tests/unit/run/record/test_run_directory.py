"""The run directory: never overwritten, found again, and only whole checkpoints count."""

import os
from pathlib import Path

import pytest

from rlvr.errors import ConfigError
from rlvr.run.record.directory import RunDirectory, locked_directory, open_directory


def checkpoint(run: RunDirectory, step: int, *, is_whole: bool = True, ending: str = "") -> Path:
    folder = run.checkpoint(step).with_name(f"step_{step}{ending}")
    folder.mkdir()
    (folder / "model.safetensors").touch()
    if is_whole:
        (folder / "complete.json").write_text("{}")
    return folder


def test_the_default_is_below_runs_and_latest_points_at_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = RunDirectory.create(None, "sums")
    second = RunDirectory.create(None, "sums")
    assert first.path.parent == Path("runs/sums")
    assert first.path != second.path
    link = tmp_path / "runs" / "latest"
    assert not os.path.isabs(os.readlink(link))
    assert link.resolve() == second.path.resolve()


def test_a_chosen_directory_leaves_latest_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunDirectory.create("mine/run", "sums")
    assert run.rollouts.is_dir()
    assert run.checkpoints.is_dir()
    assert not (tmp_path / "runs").exists()


def test_an_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: x")
    with pytest.raises(ConfigError, match="add --resume") as caught:
        RunDirectory.create(tmp_path, "x")
    assert caught.value.exit_code == 2


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    assert RunDirectory.create(tmp_path, "x").path == tmp_path


def test_a_place_that_cannot_be_written_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        RunDirectory.create(tmp_path / "file" / "run", "x")
    with pytest.raises(ConfigError, match="is a file"):
        RunDirectory.create(tmp_path / "file", "x")


def test_resuming_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        RunDirectory.open_existing(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"has no recipe\.yaml"):
        RunDirectory.open_existing(tmp_path)
    (tmp_path / "recipe.yaml").touch()
    assert RunDirectory.open_existing(tmp_path).metrics == tmp_path / "metrics.jsonl"


def test_checkpoints_without_a_marker_or_under_another_name_are_not_complete(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", "x")
    assert run.complete_checkpoints() == []
    older = checkpoint(run, 9)
    newer = checkpoint(run, 10)
    torn = checkpoint(run, 11, is_whole=False)
    checkpoint(run, 12, ending=".tmp")
    assert run.complete_checkpoints() == [(9, older), (10, newer)]
    assert run.step_folders() == [(9, older), (10, newer), (11, torn)]


def test_checkpoints_of_later_steps_are_set_aside_and_go_when_a_newer_one_is_complete(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", "x")
    for step in (3, 6, 9):
        checkpoint(run, step)
    checkpoint(run, 12, ending=".77.tmp")
    assert run.set_aside_after(3) == [run.checkpoints / "step_6.aside", run.checkpoints / "step_9.aside"]
    assert sorted(f.name for f in run.checkpoints.iterdir()) == ["step_3", "step_6.aside", "step_9.aside"]
    checkpoint(run, 7)
    run.prune_checkpoints(1)
    assert sorted(f.name for f in run.checkpoints.iterdir()) == ["step_7", "step_9.aside"]


def test_a_checkpoint_whose_marker_is_a_folder_is_removed_like_any_other(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", "x")
    damaged = checkpoint(run, 3)
    (damaged / "complete.json").unlink()
    (damaged / "complete.json" / "inner").mkdir(parents=True)
    checkpoint(run, 6)
    assert run.prune_checkpoints(1) == [damaged]
    assert not damaged.exists()


def test_links_and_stray_files_among_checkpoints_cost_no_checkpoint(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", "x")
    kept = [checkpoint(run, 3), checkpoint(run, 6)]
    (run.checkpoints / "step_3.best").symlink_to(kept[0])
    (run.checkpoints / "step_1.txt").touch()
    (run.checkpoints / "step_6.aside").touch()
    assert len(run.prune_checkpoints(2)) == 2
    assert [folder for _, folder in run.complete_checkpoints()] == kept
    assert run.set_aside_after(3) == [run.checkpoints / "step_6.aside"]
    assert (run.checkpoints / "step_6.aside" / "complete.json").is_file()


def test_what_a_run_leaves_that_ended_before_its_recipe_may_be_used_again(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, "x")
    (tmp_path / ".lock").touch()
    assert RunDirectory.create(tmp_path, "x").path == tmp_path
    assert RunDirectory.open_existing(tmp_path).path == tmp_path
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match="holds no run"):
        RunDirectory.create(tmp_path, "x")


def test_a_run_that_goes_on_behind_a_link_keeps_its_folder_when_the_link_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = RunDirectory.create(None, "x")
    first.recipe.touch()
    found = open_directory(None, recipe_name="x", resume=True)
    RunDirectory.create(None, "x")
    assert found.path == first.path


def test_pruning_keeps_the_newest_whole_ones_and_what_is_being_written(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", "x")
    for step in (1, 2, 10):
        checkpoint(run, step)
    checkpoint(run, 5, is_whole=False)
    checkpoint(run, 11, ending=".tmp")
    run.prune_checkpoints(2)
    assert sorted(f.name for f in run.checkpoints.iterdir()) == ["step_10", "step_11.tmp", "step_2"]


def test_a_resume_removes_files_that_were_only_begun(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", "x")
    for name in ("recipe.yaml", "recipe.yaml.77.tmp", "metrics.jsonl.77.tmp", "report.html.78.tmp"):
        (run.path / name).touch()
    (run.path / "reference.77.tmp").mkdir()
    with locked_directory(run.path, recipe_name="x", resume=True):
        pass
    left = sorted(entry.name for entry in run.path.iterdir())
    assert left == [".lock", "checkpoints", "recipe.yaml", "report.html.78.tmp", "rollouts"]
