"""Random faults at random moments, each followed by a resume: the run ends as one that nothing happened to.

RLVR_CHAOS_FAULTS says how many (20), RLVR_CHAOS_SEED repeats the faults of an earlier test; the seed is printed.
"""

import os
import random
import re
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from tests.e2e.chaos_runs import ForkServer, command_of, digests, family, torn_lines, unfinished_files, wait_until
from tests.e2e.ray.ray_runs import ledger_of, rows_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")]
STEPS = 18
SMALL = [
    f"run.steps={STEPS}", "run.checkpoint_every_steps=3", "run.eval_prompts=8", "run.trackers=[]",
    "cold_start.steps=60", "cold_start.batch_size=32", "cold_start.lr=3.0e-3", "data.train.0.settings.length=3",
    "data.eval.0.settings.length=3", "rollout.max_completion_tokens=4", "rollout.prompts_per_step=4",
    "rollout.group_size=4", "learner.num_threads=1", "learner.lr_warmup_steps=3", "reward.verifier_workers=1",
]  # fmt: skip
# recipe: what makes it, and its share of the faults
VARIANTS = {
    "tiny": (["run.eval_every_steps=5"], 0.5),
    "dynamic": (["run.eval_every_steps=6", "algorithm.dynamic_sampling.enabled=true"], 0.3),
    "two": (["run.eval_every_steps=7", "cluster.learners=2"], 0.2),
}
FAULTS = ("kill", "kill", "kill", "term", "int", "int twice", "stop and kill", "all", "worker")
MOMENTS = ("start", "any", "any", "checkpoint", "rollouts", "evaluation")
COLUMNS = ["step", "purpose", "group_id", "prompt_id", "sample_index", "completion", "reward", "logprobs",
           "policy_versions"]  # fmt: skip
LIMIT_S = 240.0


@dataclass
class Scene:
    """One run under fault: where it is, what was done to it."""

    server: ForkServer
    folder: Path
    name: str
    changes: list[str]
    chance: random.Random
    done: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.run = self.folder / self.name
        self.log = self.folder / f"{self.name}.log"
        self.temporary = self.folder / f"{self.name}.tmpdir"
        self.temporary.mkdir(exist_ok=True)
        self.mark = f"{os.getpid()}-{self.folder.name}-{self.name}"
        self.pid = 0

    def start(self) -> None:
        """Starts the run, or resumes it; `--resume` starts over where there is no checkpoint."""
        resume = ["--resume"] if (self.run / "recipe.yaml").is_file() else []
        if not resume:
            shutil.rmtree(self.run, ignore_errors=True)
        self.log.touch()
        self.begin = self.log.stat().st_size
        arguments = ["train", "tiny", *SMALL, *self.changes, "--run-dir", str(self.run), *resume]
        self.pid = self.server.start(arguments, log=self.log, mark=self.mark, temporary=self.temporary)

    def newest(self) -> int:
        found = (self.run / "checkpoints").glob("step_*/complete.json")
        steps = [f.parent.name.removeprefix("step_") for f in found]
        return max((int(step) for step in steps if step.isdecimal()), default=0)

    def exit_code(self) -> int | None:
        return self.server.exit_code(self.pid)

    def said(self) -> str:
        return self.log.read_bytes()[self.begin :].decode(errors="replace")

    def reach(self, moment: str) -> None:
        """Waits for the moment, or until the run has ended or taken its time."""

        def is_there() -> bool:
            if self.exit_code() is not None:
                return True
            if moment == "evaluation":
                return "step" in self.said() and "eval" in self.said()
            folder = self.run / ("checkpoints" if moment == "checkpoint" else "rollouts")
            return folder.is_dir() and any(p.name.endswith(".tmp") for p in folder.iterdir())

        if moment == "start":
            wait_until(lambda: False, limit_s=self.chance.uniform(0.0, 1.5))
        elif moment == "any":
            limit_s = self.chance.uniform(0.5, 4.0)
            wait_until(lambda: self.exit_code() is not None, limit_s=limit_s)
        else:
            wait_until(is_there, limit_s=5.0)
            wait_until(lambda: False, limit_s=self.chance.uniform(0.0, 0.05))

    def hurt(self, fault: str) -> None:
        """Does it, waits for the end, and sees that nothing is left and that the exit code is right."""
        self.done.append(f"{fault} at {self.newest()}: {self.said().strip()[-60:]!r}")
        others = [pid for pid in family(self.mark) if pid != self.pid]
        allowed = {-signal.SIGKILL, 0}
        if fault == "worker":
            named = {pid: command_of(pid) for pid in others}
            workers = [p for p, c in named.items() if "verify_worker" in c or "rank_main" in c]
            if workers:
                send(self.chance.choice(workers), signal.SIGKILL)
            return  # the run goes on, or ends with exit code 1
        if fault == "all":
            for pid in others:
                send(pid, signal.SIGKILL)
            allowed |= {1}  # of what it has lost, before it is killed itself
        if fault in ("term", "int", "int twice"):
            allowed = {130, 0, -signal.SIGTERM}  # the last before there is a handler
            send(self.pid, signal.SIGTERM if fault == "term" else signal.SIGINT)
            if fault == "int twice":
                wait_until(lambda: False, limit_s=self.chance.uniform(0.0, 0.3))
                send(self.pid, signal.SIGINT)
        else:
            if fault == "stop and kill":
                send(self.pid, signal.SIGSTOP)
                wait_until(lambda: False, limit_s=0.2)
            send(self.pid, signal.SIGKILL)
        assert wait_until(lambda: self.exit_code() is not None, limit_s=LIMIT_S), self.story()
        assert self.exit_code() in allowed, self.story()
        self.see_nothing_left()

    def see_nothing_left(self) -> None:
        """No process, and nothing in the temporary folder."""
        assert wait_until(lambda: not family(self.mark), limit_s=LIMIT_S), self.story() + "".join(
            f"\nleft: {command_of(pid)}" for pid in family(self.mark)
        )

    def finish(self) -> bool:
        """Waits for the end; False where the run has to be resumed."""
        assert wait_until(lambda: self.exit_code() is not None, limit_s=LIMIT_S), self.story()
        self.see_nothing_left()
        if self.exit_code() == 0:
            return True
        if self.newest() == STEPS:  # it was killed between its last checkpoint and its end
            return True
        assert self.exit_code() in (1, 130, -signal.SIGKILL, -signal.SIGTERM), self.story()
        if self.exit_code() == 1:  # a rank was killed
            assert "rank" in self.said(), self.story()
        return False

    def story(self) -> str:
        faults = "\n".join(self.done)
        return f"{self.name}, exit code {self.exit_code()}, after\n{faults}\nlast said:\n{self.said()[-3000:]}"


def send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def rollouts_of(run: Path) -> list[tuple[str, dict[str, Any]]]:
    files = sorted((run / "rollouts").glob("*.parquet"))
    return [(f.name, row) for f in files for row in pq.read_table(f, columns=COLUMNS).to_pylist()]


def assert_same(run: Path, whole: Path, *, story: str) -> None:
    """A run that was hurt has done what an undisturbed one does, once, and bit by bit."""
    ledger = ledger_of(run)
    trained = Counter(row[1] for row in ledger if row[2] == "trained")
    expected = Counter(row[1] for row in ledger_of(whole) if row[2] == "trained")
    assert trained == expected, f"prompts lost or doubled; {story}"
    assert [row for row in ledger if row[3] is not None] == [row for row in ledger_of(whole) if row[3] is not None], (
        story
    )
    assert [row["step"] for row in rows_of(run)] == list(range(STEPS + 1)), story
    assert rows_of(run) == rows_of(whole), story
    assert rollouts_of(run) == rollouts_of(whole), story
    last = f"checkpoints/step_{STEPS}"
    assert digests(run / last) == digests(whole / last), story
    assert torn_lines(run) == [], story
    assert unfinished_files(run) == [], story


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(tmp_path_factory.mktemp("cwd")) as server:
        yield server


def is_left_behind(name: str) -> bool:
    """Whether this name in shared memory, rlvr-weights-PID-..., belongs to a local run that is gone.

    Other tests may run meanwhile, and copies belong to runs on a cluster.
    """
    found = re.match(r"rlvr-weights-(\d+)-", name)
    is_ours = name.startswith("rlvr-") and not name.startswith("rlvr-weights-copies-")
    return is_ours and (found is None or not psutil.pid_exists(int(found[1])))


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_faults_at_random_moments_lose_nothing_and_leave_nothing(server: ForkServer, tmp_path: Path, variant: str):
    changes, share = VARIANTS[variant]
    num_faults = max(1, round(share * int(os.environ.get("RLVR_CHAOS_FAULTS", "20"))))
    seed = int(os.environ.get("RLVR_CHAOS_SEED") or random.SystemRandom().randrange(10**6))
    sys.stdout.write(f"RLVR_CHAOS_SEED={seed}: {num_faults} faults of {variant}\n")
    chance = random.Random(f"{seed} {variant}")
    shared = set(os.listdir("/dev/shm"))
    whole = Scene(server, tmp_path, "whole", changes, chance)
    whole.start()
    assert whole.finish(), whole.story()
    assert sum(row.get("reward/mean", 0.0) for row in rows_of(whole.run)) > 0.0  # it learns something
    number = 0
    while num_faults > 0:
        number += 1
        scene = Scene(server, tmp_path, f"run{number}", changes, chance)
        scene.done.append(f"RLVR_CHAOS_SEED={seed}")
        scene.start()
        while True:
            if num_faults > 0:
                scene.reach(chance.choice(MOMENTS))
                if scene.exit_code() is None:
                    num_faults -= 1
                    scene.hurt(chance.choice(FAULTS))
                    if scene.exit_code() is None:  # a worker was lost
                        continue
            if scene.finish():
                break
            scene.start()
        assert_same(scene.run, whole.run, story=scene.story())
        assert os.listdir(scene.temporary) == [], scene.story()
    assert not {name for name in set(os.listdir("/dev/shm")) - shared if is_left_behind(name)}
