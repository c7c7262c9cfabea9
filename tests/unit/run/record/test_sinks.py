"""Trackers: what they receive, what a missing package says, and that a fault never stops a run."""

import logging
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlvr.config.recipe import TrackerKind
from rlvr.errors import ConfigError
from rlvr.run.record.sinks import build_sinks


def test_tensorboard_receives_finite_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    (sink,) = build_sinks([TrackerKind.TENSORBOARD], tmp_path, {})
    sink.log(3, {"reward/mean": 0.5, "bad/nan": math.nan})
    sink.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    values: list[tuple[int, str]] = []
    for event in EventFileLoader(str(file)).Load():
        values.extend((event.step, value.tag) for value in event.summary.value)
    assert values == [(3, "reward/mean")]


@pytest.mark.parametrize("kind", [TrackerKind.WANDB, TrackerKind.TRACKIO])
def test_a_missing_package_names_the_extra(kind: TrackerKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, kind.value, None)
    with pytest.raises(ConfigError, match=rf"rlvr\[{kind.value}\]"):
        build_sinks([kind], tmp_path, {})


def test_a_service_gets_the_recipe_and_each_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    fake = SimpleNamespace(
        init=lambda **given: calls.append(given),
        log=lambda row, step: calls.append((step, row)),
        finish=lambda: calls.append("finish"),
    )
    monkeypatch.setitem(sys.modules, "trackio", fake)
    (sink,) = build_sinks([TrackerKind.TRACKIO], tmp_path / "run7", {"name": "sums"})
    sink.log(1, {"a/b": 1.0})
    sink.close()
    assert calls[0] == {"project": "rlvr-sums", "name": "run7", "config": {"name": "sums"}}
    assert calls[1:] == [(1, {"a/b": 1.0}), "finish"]


@pytest.mark.parametrize("kind", [TrackerKind.WANDB, TrackerKind.TRACKIO])
def test_a_resumed_run_goes_on_in_the_trackers_own_run(
    kind: TrackerKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: dict[str, list[int]] = {}  # as the service has them: wandb by id, trackio by name
    current: list[str] = []

    def init(**given: Any) -> None:
        key = given["id"] if kind is TrackerKind.WANDB else given["name"]
        if given.get("resume", "never") != "allow":
            while key in runs:
                key += "-again"
        current[:] = [key]
        runs.setdefault(key, [])

    fake = SimpleNamespace(init=init, log=lambda row, step: runs[current[0]].append(step), finish=lambda: None)
    monkeypatch.setitem(sys.modules, kind.value, fake)
    for step in (1, 2, 3):  # a start and two resumes
        (sink,) = build_sinks([kind], tmp_path / "run7", {"name": "sums"})
        sink.log(step, {"a/b": 1.0})
        sink.close()
    assert list(runs.values()) == [[1, 2, 3]]
    (sink,) = build_sinks([kind], tmp_path / "elsewhere/run7", {"name": "sums"})
    sink.log(1, {"a/b": 1.0})
    assert list(runs.values()) == [[1, 2, 3], [1]]


@pytest.mark.parametrize("failing", ["init", "log"])
def test_a_network_fault_warns_once_and_goes_on(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object, **given: object) -> None:
        raise ConnectionError("no route")

    fake = SimpleNamespace(init=lambda **given: None, log=lambda *a, **b: None, finish=lambda: None)
    setattr(fake, failing, fail)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with caplog.at_level(logging.WARNING):
        (sink,) = build_sinks([TrackerKind.WANDB], tmp_path, {})
        for step in range(3):
            sink.log(step, {"a/b": 1.0})
        sink.close()
    assert [r.getMessage().partition(";")[0] for r in caplog.records] == [
        "tracker 'wandb' failed (ConnectionError: no route)"
    ]


def test_none_of_these_modules_imports_torch() -> None:
    code = (
        "import sys, pathlib, tempfile\n"
        "import rlvr.data.load, rlvr.run.record.console, rlvr.run.record.journal, rlvr.run.record.ledger\n"
        "from rlvr.run.record.sinks import build_sinks\n"
        "from rlvr.config.recipe import TrackerKind\n"
        "build_sinks([TrackerKind.TENSORBOARD], pathlib.Path(tempfile.mkdtemp()), {})\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
