"""Ranks that die, hang or lose their parent: the call says which and why, and none is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlvr.errors import LearnerError
from tests.unit.learner.group_cases import make_batch, make_policy, start_group


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_a_rank_that_dies_in_mid_step_ends_the_step_and_all_ranks(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    policy = make_policy()
    policy.model.set_attn_implementation("eager")  # of which the ranks warn: it cannot be packed
    with start_group(2, tmp_path, reference=None, policy=policy) as group:
        group.step(make_batch())
        warned = [r.getMessage() for r in caplog.records if "padded layout" in r.getMessage()]
        assert len(warned) == 1
        assert warned[0].startswith("rank ")
        pids = group.pids
        os.kill(pids[1], signal.SIGSTOP)  # so that rank 0 waits for it in the middle of the step
        threading.Timer(1.0, os.kill, (pids[1], signal.SIGKILL)).start()
        started = time.monotonic()
        with pytest.raises(LearnerError, match=r"rank 1 of 2 ended \(signal SIGKILL\) during accumulate"):
            group.step(make_batch())
        assert time.monotonic() - started < 15
        assert not any(is_running(pid) for pid in pids)
        with pytest.raises(LearnerError, match="ended by an earlier failure"):
            group.step(make_batch())


@pytest.mark.slow
def test_a_rank_that_fails_or_hangs_is_named_with_its_last_lines(tmp_path: Path):
    batch = make_batch()
    ids = batch.token_ids.clone()
    ids[int(batch.loss_mask.any(1).nonzero()[3]), 0] = 10_000  # beyond the vocabulary
    with start_group(2, tmp_path, reference=None) as group:
        pids = group.pids
        with pytest.raises(
            LearnerError,
            match=r"(?s)rank \d of 2 failed with IndexError: index out of range.*exit code 1.*lines:.*embedding",
        ):
            group.step(replace(batch, token_ids=ids, group_index=torch.arange(16)))
        assert not any(is_running(pid) for pid in pids)
    with start_group(2, tmp_path, reference=None, silence_s=4.0) as group:
        group.step(batch)
        os.kill(group.pids[0], signal.SIGSTOP)
        with pytest.raises(LearnerError, match=r"rank 0 of 2 gave no sign of life for \d s and does not react"):
            group.step(batch)


ORPHANS = """
import os, signal, sys
from pathlib import Path
from tests.unit.learner.group_cases import start_group

if __name__ == "__main__":
    group = start_group(2, Path(sys.argv[1]), reference=None)
    print(*group.pids, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_ranks_end_when_their_parent_is_killed(tmp_path: Path):
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", ORPHANS, str(tmp_path)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2, done.stderr
    until = time.monotonic() + 20
    while any(is_running(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(is_running(pid) for pid in pids)
    assert not list(tmp_path.glob("rlvr-ranks-*"))
