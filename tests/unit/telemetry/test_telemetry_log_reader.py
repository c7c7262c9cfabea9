"""Reading the logs of a run: which records, from where, and what is known about lost processes."""

import itertools
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import ConfigError
from rlvr.telemetry.log_query import LogQuery, read_duration, read_level, shown_record
from rlvr.telemetry.log_reader import RunLogs


def record(second: int, role: str, **fields: Any) -> str:
    base = {"time": f"2026-12-01T00:00:{second:02d}.000Z", "level": "INFO", "role": role, "message": f"m{second}"}
    return json.dumps({**base, "host": "a", "step": None, **fields}) + "\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with an engine that was lost and restarted, and a pool on a node that does not see the run directory."""
    monkeypatch.setenv("RLVR_STATE_DIR", str(tmp_path / "state"))
    folder = tmp_path / "r"
    (folder / "logs").mkdir(parents=True)
    (folder / "logs/run.json").write_text('{"run_id": "i1"}')
    (folder / "logs/driver.a-1.jsonl").write_text(record(1, "driver", step=1) + record(9, "driver", level="WARNING"))
    (folder / "logs/engine-1.a-2.jsonl.1").write_text(record(2, "engine-1"))
    (folder / "logs/engine-1.a-2.jsonl").write_text(record(3, "engine-1", step=4) + '{"torn')
    (folder / "logs/engine-1.a-7.jsonl").write_text(record(8, "engine-1"))
    own = tmp_path / "state/logs/r-i1"
    own.mkdir(parents=True)
    (own / "verifier-0.b-3.jsonl").write_text(record(4, "verifier-0", host="b", node="10.0.0.2"))
    reason = "exit code 2\nthe end of its log: boom"
    events = [
        {"time": "2026-12-01T00:00:05Z", "kind": "engine_lost", "engine": "engine-1", "reason": reason,
         "place": "node 10.0.0.1, process 2"},
        {"time": "2026-12-01T00:00:07Z", "kind": "engine_restarted", "engine": "engine-1",
         "place": "node 10.0.0.1, process 7"},
        {"time": "2026-12-01T00:00:10Z", "kind": "engine_lost", "engine": "engine-0", "reason": "gone", "place": "p"},
        {"time": "2026-12-01T00:00:11Z", "kind": "alarm"},
    ]  # fmt: skip
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + "torn")
    return folder


def messages(run: Path, **wanted: Any) -> list[str]:
    return [row["message"] for row in RunLogs(run).records(LogQuery(**wanted))]


def test_all_processes_are_merged_by_time(run: Path) -> None:
    assert messages(run) == ["m1", "m2", "m3", "m4", "m8", "m9"]


def test_an_actor_shows_its_processes_and_why_it_was_lost(run: Path) -> None:
    assert messages(run, actor="engine-1") == [
        "m2",
        "m3",
        "engine-1: lost (node 10.0.0.1, process 2): exit code 2\nthe end of its log: boom",
        "engine-1: restarted (node 10.0.0.1, process 7)",
        "m8",
    ]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"step": 4}, ["m3"]),
        ({"level": "WARNING"}, ["m9"]),
        ({"since": "2026-12-01T00:00:08"}, ["m8", "m9"]),
        ({"host": "b"}, ["m4"]),
        ({"host": "10.0.0.2"}, ["m4"]),
        ({"actor": "driver", "step": 1}, ["m1"]),
        ({"actor": "engine"}, []),
        ({"last": 2}, ["m8", "m9"]),
        ({"last": 1, "step": 4}, ["m3"]),
        ({"last": 100, "host": "b"}, ["m4"]),
    ],
)
def test_records_are_chosen(run: Path, wanted: dict[str, Any], found: list[str]) -> None:
    assert messages(run, **wanted) == found


def test_actors_are_listed_with_those_that_died(run: Path) -> None:
    assert RunLogs(run).actors() == {
        "driver": "", "engine-0": "lost at 2026-12-01T00:00:10.000Z", "engine-1": "", "verifier-0": "",
    }  # fmt: skip


def test_a_lost_learner_is_about_each_of_its_ranks(run: Path) -> None:
    (run / "logs/learner-3.a-9.jsonl").write_text(record(1, "learner-3"))
    with (run / "events.jsonl").open("w") as file:
        event = {"time": "2026-12-01T00:00:12Z", "kind": "stopped", "error": "LearnerLost", "message": "rank 3 died"}
        file.write(json.dumps(event) + "\n")
    assert messages(run, actor="learner-3")[-1] == "learner: stopped: rank 3 died"
    assert RunLogs(run).actors()["learner-3"].startswith("lost at")


def test_another_host_reads_its_own_folder_only(run: Path) -> None:
    other = RunLogs(Path("/nowhere/r"), "i1", is_node_only=True)
    assert [row["message"] for row in other.records(LogQuery())] == ["m4"]
    assert other.actors() == {"verifier-0": ""}


def test_files_that_are_rotated_or_removed_while_they_are_listed_are_left_out(run: Path) -> None:
    stop = threading.Event()
    file = run / "logs/engine-2.a-1.jsonl"

    def rotate() -> None:
        while not stop.is_set():
            file.touch()
            file.rename(f"{file}.1")
            Path(f"{file}.1").unlink()

    rotating = threading.Thread(target=rotate)
    rotating.start()
    try:
        for _ in range(500):
            assert len(RunLogs(run).files()) >= 5
    finally:
        stop.set()
        rotating.join()


def test_new_records_are_followed_through_a_rotation(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr.telemetry.log_reader._POLL_S", 0.01)
    file = run / "logs/engine-1.a-7.jsonl"

    def write() -> None:
        with file.open("a") as stream:
            stream.write(record(20, "engine-1")[:10])
            stream.flush()
            time.sleep(0.05)
            stream.write(record(20, "engine-1")[10:])
        time.sleep(0.2)
        file.rename(file.with_suffix(".jsonl.1"))
        file.write_text(record(21, "engine-1"))

    found = RunLogs(run).follow(LogQuery(actor="engine-1"))
    first = [row["message"] for row in itertools.islice(found, 5)]
    assert first[-1] == "m8"
    thread = threading.Thread(target=write)
    thread.start()
    assert [row["message"] for row in itertools.islice(found, 2)] == ["m20", "m21"]
    thread.join()


def test_control_codes_in_records_do_not_reach_the_terminal() -> None:
    row = {"time": "T", "level": "INFO", "role": "r", "message": "\x1b]0;evil\x07\x9b31m red\nnext"}
    assert shown_record(row) == "T INFO    r: \ufffd]0;evil\ufffd\ufffd31m red\nnext"


def test_a_query_survives_a_command_line() -> None:
    query = LogQuery(actor="engine-1", since="2026", step=3, level="ERROR")
    assert LogQuery.from_text(query.to_text()) == query


@pytest.mark.parametrize("text", ["", "x", "10 minutes", "-1m", "1w"])
def test_a_duration_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--since"):
        read_duration(text)


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="--level 'loud' is none of debug, info, warning, error"):
        read_level("loud")
