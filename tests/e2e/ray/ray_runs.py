"""Runs of the tiny recipe behind Ray, as a user starts them, and ways to hurt their processes."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families

TINY = [
    "rollout.prompts_per_step=4",
    "rollout.group_size=4",
    "run.eval_prompts=12",
    "run.trackers=[]",
    "learner.num_threads=1",
    "run.show_rollout_every_steps=0",
    "run.eval_every_steps=0",
]
TOY = ["rollout.engine=toy", "cold_start.steps=0"]
RAY = ["cluster.backend=ray", "cluster.cpus_per_engine=0.5"]
CLOCK = ("time", "rollout/tokens_per_s", "learner/tokens_per_s", "learner/peak", "learner/mfu")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "rlvr.cli", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def rlvr(*arguments: str, cwd: Path, expect: int = 0, timeout: float = 400) -> str:
    """Output of the command; it must end with the exit code expected."""
    done = subprocess.run(
        command(*arguments), cwd=cwd, capture_output=True, text=True, timeout=timeout, env=environment()
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


class Running:
    """A run in the background; a context manager that ends it."""

    def __init__(self, run: Path, *arguments: str) -> None:
        self.run = run
        self._log = (run.parent / f"{run.name}.log").open("w+")
        self.process = subprocess.Popen(
            command("train", "tiny", *arguments, "--run-dir", str(run)),
            cwd=run.parent,
            env=environment(),
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        for child in [*psutil.Process(self.process.pid).children(recursive=True)] if self.alive else []:
            child.kill()
        self.process.kill()
        self.process.wait()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def output(self) -> str:
        return Path(self._log.name).read_text()

    def until(self, met: Callable[[], bool], *, limit_s: float = 240) -> None:
        """Waits until `met`, while the run lives."""
        end = time.monotonic() + limit_s
        while not met():
            assert self.alive, self.output()
            assert time.monotonic() < end, self.output()
            time.sleep(0.1)

    def finish(self, *, expect: int = 0, limit_s: float = 300) -> str:
        """Waits for the end; returns what was printed."""
        assert self.process.wait(timeout=limit_s) == expect, self.output()
        return self.output()

    def actors(self, kind: str) -> list[psutil.Process]:
        """Processes of the run's actors of a class; Ray names them in their command line."""
        found: list[psutil.Process] = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if child.cmdline() and f"ray::{kind}" in child.cmdline()[0]:
                    found.append(child)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def hurt(self, kind: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Sends the signal to one actor of the class; returns its process id."""
        victim = self.actors(kind)[0]
        os.kill(victim.pid, number)
        return victim.pid

    def num_steps(self) -> int:
        """Steps recorded so far."""
        file = self.run / "metrics.jsonl"
        return len(file.read_text().splitlines()) if file.is_file() else 0


def free_port() -> int:
    """A port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scrape(port: int) -> dict[str, dict[tuple[str, ...], float]]:
    """What the endpoint on loopback shows: by name, the values by all values of labels; {} while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def rows_of(run: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl without what depends on the clock or the machine."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(CLOCK)} for row in rows]


def events_of(run: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def ledger_of(run: Path) -> list[tuple[Any, ...]]:
    """(issue, prompt, state, step) of every prompt that was handed out."""
    with sqlite3.connect(run / "ledger.sqlite") as db:
        query = "SELECT issue_index, prompt_id, state, step FROM issues ORDER BY issue_index"
        return list(db.execute(query))
