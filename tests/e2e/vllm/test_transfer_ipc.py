"""Chunks in shared memory of one GPU, with a mapped file in its place: engine and learner compute the same."""

import asyncio
import os
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")
sys.path.insert(0, str(Path(__file__).parent))
import ipc_stubs
import transfer_cases
import vllm_cases as cases
from transfer_cases import change, fleet_of, largest_gap, learner_of

from rlvr.records import Transport
from rlvr.run.weights.answers import deliver

pytestmark = pytest.mark.cluster


def test_chunks_reach_an_engine_on_the_learners_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    transfer_cases.prepare(monkeypatch, tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # for the files that replace CUDA's shared memory
    monkeypatch.delenv("VLLM_ALLOW_INSECURE_SERIALIZATION", raising=False)
    policy = cases.tiny_policy(seed=1)
    events: list[tuple[str, dict[str, Any]]] = []
    build = {"engine-0": lambda: cases.engine_for(policy, transport=Transport.IPC, extension=ipc_stubs.EXTENSION)}

    async def work() -> None:
        with closing(learner_of(policy, tmp_path, transport=Transport.IPC)) as learner:
            fleet = fleet_of(learner, build, events=events, transport=Transport.IPC)
            await fleet.start()
            try:
                for number in range(3):
                    if number:
                        change(learner, policy, seed=number)
                    ref = learner.publish()
                    assert ref.transport is Transport.IPC
                    ref, receipt = await deliver(fleet, ref, canary=cases.CANARY)
                    assert None not in {entry.checksum for entry in ref.manifest}
                    assert largest_gap(receipt, learner.score(cases.CANARY)) < 2e-4
                    assert ipc_stubs.num_exports == number + 1  # one buffer for all chunks of a sync
            finally:
                await fleet.close()

    asyncio.run(work())
    assert events == []
    assert "VLLM_ALLOW_INSECURE_SERIALIZATION" not in os.environ
