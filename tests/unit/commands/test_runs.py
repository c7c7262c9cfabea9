"""`rlvr runs`: finds runs and reads their state, however damaged they are."""

import json
import os
from pathlib import Path

import pytest

from rlvr.commands.runs import list_runs
from rlvr.errors import ConfigError
from rlvr.run.record.lock import lock_directory


def make_run(path: Path, *, steps: int, last: str = "checkpoint", when: float = 1e9) -> Path:
    (path / "rollouts").mkdir(parents=True)
    (path / "recipe.yaml").write_text("name: x\nrun:\n  steps: 9  # recipe\n")
    rows = [{"step": step, "reward/mean": step / 10} for step in range(steps + 1)]
    rows[0] |= {"eval/sums/pass@1": 0.25, "eval/sums/pass@1_ci_low": 0.1, "eval/sums/num_prompts": 8}
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "events.jsonl").write_text(json.dumps({"kind": last}) + "\n")
    for name in ("metrics.jsonl", "recipe.yaml"):
        os.utime(path / name, (when, when))
    return path


def test_runs_are_listed_with_state_progress_and_results_the_latest_first(tmp_path: Path) -> None:
    make_run(tmp_path / "a" / "first", steps=9, last="done", when=1e9)
    make_run(tmp_path / "a" / "second", steps=4, when=1.1e9)
    (tmp_path / "latest").symlink_to(tmp_path / "a" / "second")
    (tmp_path / "notes").mkdir()
    found = [(run.path.name, *run.row[1:]) for run in list_runs(tmp_path)]
    assert found == [
        ("second", "stopped, step 4 of 9", "sums/pass@1 0.250, reward 0.400"),
        ("first", "done, step 9 of 9", "sums/pass@1 0.250, reward 0.900"),
    ]


def test_a_run_that_holds_its_lock_is_running(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", steps=1, last="done")
    with lock_directory(run):
        assert [one.state for one in list_runs(run)] == ["running"]
    assert [one.state for one in list_runs(run)] == ["done"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"[" * 5000, b"a: [\n"])
@pytest.mark.parametrize("name", ["recipe.yaml", "metrics.jsonl", "events.jsonl", ".lock"])
def test_damaged_files_leave_the_rest_of_the_line(tmp_path: Path, name: str, content: bytes) -> None:
    run = make_run(tmp_path / "r", steps=2)
    (run / name).write_bytes(content)
    (line,) = list_runs(tmp_path)
    assert line.state == "stopped"
    assert line.step == (0 if name == "metrics.jsonl" else 2)


def test_a_folder_without_runs_is_empty_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    assert list_runs(tmp_path) == []
    with pytest.raises(ConfigError, match="there is no folder"):
        list_runs(tmp_path / "nope")
