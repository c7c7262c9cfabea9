"""Weight syncs by broadcast, by file and through shared memory of one device, into vLLM engines on this machine.

    python tests/bench/weight_transport.py [--syncs 20] [--layers 8] [--hidden 512] [--dtype float32]

Prints a row per sync and the medians of each transport. Broadcast and file alternate on one engine; shared memory needs
an engine of its own, which follows. Everything between the learner and vLLM's worker is what runs on GPUs, except that
on a CPU gloo carries the broadcast and a mapped file replaces CUDA IPC.

difference: of the log-probs of the canary's tokens between learner and engine after the sync, in nats. seconds: from
the end of the learner's step until the engine serves the new weights. frozen: the part in which nothing is generated.
bytes: what was transported, also as a multiple of the model in bfloat16.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e" / "vllm"))
import ipc_stubs
import transfer_cases
import vllm_cases as cases

from rlvr.models.policy import Policy, build_tiny
from rlvr.protocols import LoadReceipt
from rlvr.records import Transport, WeightsRef
from rlvr.rollout.vllm.settings import EXTENSION
from rlvr.run.weights.answers import deliver
from rlvr.transfer.chunks import Chunk, ChunkSource

BUFFER_BYTES = 32 << 20
HEADER = "sync transport  largest difference     mean  seconds  frozen         bytes  of bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sync. largest, mean: differences of log-probs in nats."""

    largest: float
    mean: float
    seconds: float
    frozen_s: float
    num_bytes: int


class Bench:
    """A policy whose weights change before each sync, and the rows of the table."""

    def __init__(self, policy: Policy, folder: Path, *, dtype: str) -> None:
        self.rows: dict[Transport, list[Row]] = {}
        self._policy = policy
        self._folder = folder
        self._dtype = dtype
        self._start = [parameter.detach().clone() for parameter in policy.model.parameters()]
        self._chunk_bytes = 0
        self._bf16_bytes = 2 * sum(parameter.numel() for parameter in policy.model.parameters())

    async def measure(self, transports: tuple[Transport, ...], *, num_syncs: int, extension: str = EXTENSION) -> None:
        """Syncs an engine `num_syncs` times by each transport, in turns. Args: transports: the engine's own first."""
        learner = transfer_cases.learner_of(
            self._policy, self._folder, dtype=getattr(torch, self._dtype), transport=transports[0]
        )
        build = {
            "engine-0": lambda: cases.engine_for(
                self._policy, f"rollout.engine_dtype={self._dtype}", transport=transports[0], extension=extension
            )
        }
        fleet = transfer_cases.fleet_of(learner, build, events=[], buffer_bytes=BUFFER_BYTES, transport=transports[0])
        with closing(learner):
            await fleet.start()
            try:
                for number in range(num_syncs + 1):
                    for transport in transports:
                        row = await self._sync(fleet, learner, transport, seed=number)
                        if number:  # the first sync of each transport connects
                            self.rows.setdefault(transport, []).append(row)
                            print(self._line(f"{number:4}", transport, row), flush=True)
            finally:
                await fleet.close()

    def print_medians(self) -> None:
        """A line per transport; of the differences the largest and the mean over all syncs."""
        print(HEADER)
        for transport, rows in self.rows.items():
            median = Row(
                largest=max(row.largest for row in rows),
                mean=statistics.fmean(row.mean for row in rows),
                seconds=statistics.median(row.seconds for row in rows),
                frozen_s=statistics.median(row.frozen_s for row in rows),
                num_bytes=int(statistics.median(row.num_bytes for row in rows)),
            )
            print(self._line(" all", transport, median))

    def count_chunks(self, patch: pytest.MonkeyPatch) -> None:
        """Counts the bytes of the chunks that pass through shared memory."""
        original = ChunkSource.next

        def counted(source: ChunkSource) -> Chunk | None:
            chunk = original(source)
            self._chunk_bytes += sum(chunk.sizes) if chunk is not None else 0
            return chunk

        patch.setattr(ChunkSource, "next", counted)

    async def _sync(self, fleet: Any, learner: Any, transport: Transport, *, seed: int) -> Row:
        self._change(learner, seed=seed * len(Transport) + list(Transport).index(transport))
        before = self._moved()
        started = time.perf_counter()
        ref: WeightsRef | None = await asyncio.to_thread(learner.publish)
        if transport is Transport.FILE:
            ref = await asyncio.to_thread(learner.write_file, ref)
        assert ref is not None
        assert ref.transport is transport
        ref, receipt = await deliver(fleet, ref, canary=cases.CANARY)
        seconds = time.perf_counter() - started - receipt.canary_s
        num_bytes = Path(ref.uri).stat().st_size if transport is Transport.FILE else self._moved() - before
        gaps = differences(receipt, learner.score(cases.CANARY))
        return Row(
            largest=max(gaps),
            mean=statistics.fmean(gaps),
            seconds=seconds,
            frozen_s=receipt.frozen_s,
            num_bytes=num_bytes,
        )

    def _change(self, learner: Any, *, seed: int) -> None:
        """Other weights each time, all as far from the first ones: the policy becomes no sharper from sync to sync."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter, first in zip(self._policy.model.parameters(), self._start, strict=True):
                parameter.copy_(first + 0.02 * torch.randn(first.shape, generator=generator))
        learner._publication.has_changed = True

    def _moved(self) -> int:
        return transfer_cases.sent_bytes(self._folder) + self._chunk_bytes

    def _line(self, number: str, transport: Transport, row: Row) -> str:
        return (
            f"{number} {transport.value:9} {row.largest:19.1e} {row.mean:8.1e} {row.seconds:8.3f} {row.frozen_s:7.3f} "
            f"{row.num_bytes:13,} {row.num_bytes / self._bf16_bytes:8.3f}"
        )


def differences(receipt: LoadReceipt, scores: Any) -> list[float]:
    """The differences of all log-probs of the canary between an engine and the learner, nats."""
    return [
        gap
        for one in receipt.each
        for row, own in zip(one.canary_logprobs, scores, strict=True)
        for gap in cases.differences(row, own)
    ]


def main() -> None:
    """Reads the arguments and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--syncs", type=int, default=20)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of engine and transport")
    given = parser.parse_args()
    sizes = {"layers": given.layers, "hidden_size": given.hidden, "intermediate_size": 3 * given.hidden}
    policy = cases.sharper(build_tiny(cases.TINY.model_copy(update=sizes), seed=0), seed=0, scale=1.0)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        transfer_cases.prepare(patch, Path(name))
        patch.setattr(tempfile, "tempdir", name)  # for the files that replace CUDA IPC
        bench = Bench(policy, Path(name), dtype=given.dtype)
        bench.count_chunks(patch)
        print(f"{sum(p.numel() for p in policy.model.parameters()):,} parameters, engine in {given.dtype}\n{HEADER}")
        asyncio.run(bench.measure((Transport.NCCL, Transport.FILE), num_syncs=given.syncs))
        asyncio.run(bench.measure((Transport.IPC,), num_syncs=given.syncs, extension=ipc_stubs.EXTENSION))
        bench.print_medians()


if __name__ == "__main__":
    main()
