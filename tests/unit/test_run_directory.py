"""The run directory: never overwritten, found again, and only whole checkpoints count."""

import os
from pathlib import Path

import pytest

from rlvr.errors import ConfigError
from rlvr.run.directory import RunDirectory


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


def test_a_chosen_directory_leaves_latest_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", "x")
    assert run.newest_checkpoint() is None
    checkpoint(run, 9)
    expected = checkpoint(run, 10)
    checkpoint(run, 11, is_whole=False)
    checkpoint(run, 12, ending=".tmp")
    assert run.newest_checkpoint() == (10, expected)


def test_pruning_keeps_the_newest_whole_ones_and_what_is_being_written(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", "x")
    for step in (1, 2, 10):
        checkpoint(run, step)
    checkpoint(run, 5, is_whole=False)
    checkpoint(run, 11, ending=".tmp")
    run.prune_checkpoints(2)
    assert sorted(f.name for f in run.checkpoints.iterdir()) == ["step_10", "step_11.tmp", "step_2"]
