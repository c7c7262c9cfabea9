"""What a driver shows: log records with their origin and without secrets, and an endpoint that ends with the run."""

import json
import logging
import os
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlvr.telemetry import logs
from rlvr.telemetry.endpoint import served
from rlvr.telemetry.facts import VARIABLE, RunFacts, facts_here
from rlvr.telemetry.folder import NumbersFolder
from rlvr.telemetry.meters import Meters
from rlvr.telemetry.places import MOST_PROCESSES, log_file, log_folder
from rlvr.telemetry.process import METERS, observed_run, published, role_here

ADDRESS = "127.0.0.1"
logger = logging.getLogger("rlvr.somewhere")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])


def records(run: Path) -> list[dict[str, Any]]:
    (file,) = (run / "logs").glob("driver.*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://{ADDRESS}:{port}/metrics", timeout=10) as answer:
        return answer.read().decode()


def test_records_say_who_wrote_them_and_on_which_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with observed_run(run_dir=tmp_path / "my-run", recipe="tiny"):
        assert role_here() == "driver"
        logs.set_step(12)
        logger.info("quiet")
        try:
            raise ValueError("no")
        except ValueError:
            logger.warning("loud %d", 1, exc_info=True)
    quiet, loud = records(tmp_path / "my-run")[1:]
    assert quiet | {"run": "my-run", "role": "driver", "step": 12, "level": "INFO", "message": "quiet"} == quiet
    assert quiet["pid"] == os.getpid()
    assert quiet["host"] == socket.gethostname()
    assert loud["error"].endswith("ValueError: no\n")
    shown = capsys.readouterr().err
    assert "WARNING my-run driver step 12 rlvr.somewhere: loud 1" in shown
    assert "quiet" not in shown
    assert VARIABLE not in os.environ


def test_secrets_are_in_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf-value-1")
    monkeypatch.setenv("MY_SETTING", "private-value-2")
    (tmp_path / "token").write_text("token-in-a-file-6\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with observed_run(run_dir=tmp_path / "r", recipe="tiny", secret_names=("MY_SETTING",)):
        try:
            raise ValueError("private-value-2 in a traceback")
        except ValueError:
            said = "hf-value-1, private-value-2, http://me:pass-3@proxy:80, Bearer abcdefgh4, hf_%s, token-in-a-file-6"
            logger.warning(said, "a5" * 10, exc_info=True)
    written = (tmp_path / "r/logs").glob("*")
    text = "".join(file.read_text() for file in written) + capsys.readouterr().err
    for secret in ("hf-value-1", "private-value-2", "pass-3", "abcdefgh4", "a5a5", "token-in-a-file-6"):
        assert secret not in text
    assert "http://[redacted]@proxy:80" in text


def test_a_log_file_has_a_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MOST_BYTES", 10_000)
    with observed_run(run_dir=tmp_path / "r", recipe="tiny"):
        for number in range(1000):
            logger.info("%d %s", number, "x" * 100)
    files = list((tmp_path / "r/logs").glob("driver.*"))
    assert len(files) == 1 + logs.KEPT
    assert max(file.stat().st_size for file in files) <= 10_000


def test_files_of_the_oldest_processes_of_a_role_are_removed(tmp_path: Path) -> None:
    for number in range(MOST_PROCESSES + 5):
        for ending in ("", ".1"):
            file = tmp_path / f"engine-1.h-{number}.jsonl{ending}"
            file.touch()
            os.utime(file, (number, number))
    (tmp_path / "engine-10.h-1.jsonl").touch()
    log_file(tmp_path, "engine-1")
    left = {file.name for file in tmp_path.glob("engine-1.*")}
    assert left == {f"engine-1.h-{n}.jsonl{e}" for n in range(6, MOST_PROCESSES + 5) for e in ("", ".1")}
    assert (tmp_path / "engine-10.h-1.jsonl").exists()


def test_a_file_that_vanishes_or_cannot_be_removed_does_not_cost_a_process_its_log(tmp_path: Path) -> None:
    (tmp_path / "engine-1.gone-1.jsonl").symlink_to(tmp_path / "nowhere")  # listed, but without a time
    for number in range(MOST_PROCESSES):
        (tmp_path / f"engine-1.h-{number}.jsonl").mkdir()  # `unlink` fails, even for root
    assert log_file(tmp_path, "engine-1").parent == tmp_path


def test_the_logs_of_a_live_run_are_kept_however_many_newer_runs_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLVR_STATE_DIR", str(tmp_path))
    now = time.time()

    def make(name: str, *, folder_age_s: float, file_age_s: float) -> Path:
        folder = tmp_path / "logs" / name
        folder.mkdir(parents=True)
        (folder / "engine-0.h-1.jsonl").touch()
        os.utime(folder / "engine-0.h-1.jsonl", (now - file_age_s, now - file_age_s))
        os.utime(folder, (now - folder_age_s, now - folder_age_s))
        return folder

    day = 86400.0
    live = make("live", folder_age_s=90 * day, file_age_s=60.0)
    growing = make("growing", folder_age_s=90 * day, file_age_s=2 * day)
    old = make("old", folder_age_s=50 * day, file_age_s=50 * day)
    for number in range(19):
        make(f"newer-{number}", folder_age_s=30 * day, file_age_s=30 * day)
    facts = RunFacts(run="r", run_id="1", run_dir=str(tmp_path / "elsewhere"), recipe="tiny")
    log_folder(facts)
    assert live.exists()
    assert growing.exists()
    assert not old.exists()
    assert len(list((tmp_path / "logs").iterdir())) == 20
    for folder in (newer := list((tmp_path / "logs").glob("newer-*"))):
        os.utime(folder / "engine-0.h-1.jsonl", (now, now))
    for run_id in "234":
        log_folder(replace(facts, run_id=run_id))
    assert not growing.exists()  # nothing was written to it for two days
    assert all(folder.exists() for folder in (live, *newer))


def test_a_process_that_sees_another_run_directory_writes_into_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLVR_STATE_DIR", str(tmp_path / "state"))
    with observed_run(run_dir=tmp_path / "r", recipe="tiny") as facts:
        assert log_folder(facts) == tmp_path / "r/logs"
        (tmp_path / "r/logs/run.json").write_text('{"run_id": "of another run"}')
        assert log_folder(facts) == tmp_path / "state/logs" / f"r-{facts.run_id}"


def test_the_endpoint_shows_run_process_and_node_and_ends_with_the_run(tmp_path: Path) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    port = free_port()
    with observed_run(run_dir=tmp_path / "my-run", recipe="tiny", metrics_port=port), served(ADDRESS):
        METERS.run_metrics({"reward/mean": 0.25})
        METERS.set("run_step", 7)
        until, found = time.monotonic() + 60, {}
        while "rlvr_reward_mean" not in found and time.monotonic() < until:
            time.sleep(0.2)
            try:
                families = list(parser.text_string_to_metric_families(scrape(port)))
            except OSError:  # its process is starting
                continue
            found = {sample.name: sample for family in families for sample in family.samples}
        assert found["rlvr_reward_mean"].value == 0.25
        assert found["rlvr_run_step"].labels == {"run": "my-run", "recipe": "tiny"}
        assert found["rlvr_process_resident_memory_bytes"].labels["role"] == "driver"
        assert found["rlvr_node_memory_size_bytes"].value > 0
        assert found["rlvr_node_disk_free_bytes"].value > 0
        facts = facts_here()
        assert facts is not None
        folder = NumbersFolder(facts.run_id, ADDRESS)
        assert folder.path.stat().st_mode & 0o077 == 0
    with pytest.raises(OSError, match=r".*"):
        scrape(port)
    assert not folder.path.exists()
    assert METERS.read() == []


def test_a_port_in_use_costs_a_warning_with_what_to_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind((ADDRESS, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with observed_run(run_dir=tmp_path / "r", recipe="tiny", metrics_port=port), served(ADDRESS):
            pass
    assert f"port {port} of {ADDRESS} is in use" in caplog.text
    assert "give each run its own run.metrics_port" in caplog.text
    assert "the run continues without metrics there" in caplog.text


def test_a_run_without_a_port_serves_nothing_and_leaves_no_folder(tmp_path: Path) -> None:
    with observed_run(run_dir=tmp_path / "r", recipe="tiny") as facts, served(ADDRESS):
        assert not NumbersFolder(facts.run_id, ADDRESS).path.exists()


ACTOR = """
import gc, logging, time
from rlvr.telemetry.logs import set_step
from rlvr.telemetry.process import METERS, begin_process
begin_process("engine-1", node="127.0.0.1")
METERS.set("engine_open_requests", 5, engine="engine-1")
set_step(3)
gc.collect()
logging.getLogger("rlvr.there").info("later")
input()
"""


def test_another_process_writes_its_log_and_its_numbers_as_long_as_it_lives(tmp_path: Path) -> None:
    run = tmp_path / "r"
    with observed_run(run_dir=run, recipe="tiny", metrics_port=free_port()), published(ADDRESS) as folder:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with subprocess.Popen([sys.executable, "-c", ACTOR], stdin=subprocess.PIPE, env=environment) as actor:
            until = time.monotonic() + 60
            while not (found := {(s.family.name, dict(s.labels).get("engine")): s.value for s in folder.read()}).get(
                ("rlvr_engine_open_requests", "engine-1")
            ):
                assert time.monotonic() < until, found
                time.sleep(0.1)
            actor.communicate(b"\n")
    (file,) = (run / "logs").glob("engine-1.*.jsonl")
    last = json.loads(file.read_text().splitlines()[-1])
    assert (last["role"], last["step"], last["node"], last["message"]) == ("engine-1", 3, ADDRESS, "later")


def test_numbers_of_a_dead_process_are_no_longer_shown(tmp_path: Path) -> None:
    folder = NumbersFolder.at(tmp_path / "numbers")
    folder.make()
    meters = Meters()
    meters.set("run_step", 3)
    for name in ("alive", "dead", "long-dead"):
        folder.write(name, meters.read())
    for name, age in (("dead", 60), ("long-dead", 6000)):
        moment = time.time() - age
        os.utime(folder.path / f"{name}.json", (moment, moment))
    (folder.path / "torn.json").write_text('[["rlvr_run_step", [], ')
    (folder.path / "foreign.json").write_text('{"a": 1}')
    assert [sample.value for sample in folder.read()] == [3.0]
    assert (folder.path / "dead.json").exists()
    assert not (folder.path / "long-dead.json").exists()


def test_a_link_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "numbers").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="is a link"):
        NumbersFolder.at(tmp_path / "numbers").make()
