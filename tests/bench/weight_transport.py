"""Weight syncs by file and by broadcast, alternating, into one vLLM engine on this machine.

    python tests/bench/weight_transport.py [--syncs 20] [--layers 8] [--hidden 512]

On a CPU gloo carries the broadcast; the rest is what runs on GPUs. `freeze` is the time in which nothing is generated,
`seconds` from the end of the learner's step until the engine serves the new weights.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e" / "vllm"))
import transfer_cases
import vllm_cases as cases

from rlvr.models.policy import build_tiny
from rlvr.records import Transport
from rlvr.run.weights.answers import deliver


async def measure(folder: Path, *, num_syncs: int, layers: int, hidden: int) -> None:
    """Prints a line for each sync, and the medians of both ways."""
    tiny = cases.TINY.model_copy(update={"layers": layers, "hidden_size": hidden, "intermediate_size": 3 * hidden})
    policy = cases.sharper(build_tiny(tiny, seed=0), seed=0, scale=1.0)
    learner = transfer_cases.learner_of(policy, folder)
    build = {"engine-0": lambda: cases.engine_for(policy, transport=Transport.NCCL)}
    fleet = transfer_cases.fleet_of(learner, build, events=[], buffer_bytes=32 << 20)
    await fleet.start()
    found: dict[str, list[tuple[float, float]]] = {"nccl (gloo)": [], "file": []}
    print(f"{sum(p.numel() for p in policy.model.parameters()):,} parameters in float32")
    try:
        for number in range(num_syncs + 2):
            transfer_cases.change(learner, policy, seed=number)
            before = transfer_cases.sent_bytes(folder)
            started = time.perf_counter()
            ref = await asyncio.to_thread(learner.publish)
            way = "file" if number % 2 else "nccl (gloo)"
            if way == "file":
                ref = await asyncio.to_thread(learner.write_file, ref)
                assert ref is not None
            ref, receipt = await deliver(fleet, ref, canary=cases.CANARY)
            seconds = time.perf_counter() - started - receipt.canary_s
            gap = transfer_cases.largest_gap(receipt, learner.score(cases.CANARY))
            freeze = receipt.frozen_s
            num_bytes = ref.num_bytes if way == "file" else transfer_cases.sent_bytes(folder) - before
            if number < 2:
                continue  # the first of each way
            found[way].append((seconds, freeze))
            print(
                f"{number - 1:3} {way:12} difference {gap:.1e} nats  {seconds:6.3f} s  {num_bytes:12,} bytes  "
                f"freeze {freeze:6.3f} s"
            )
    finally:
        await fleet.close()
        learner.close()
    for way, rows in found.items():
        seconds, freeze = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"median  {way:12} {seconds:.3f} s, freeze {freeze:.3f} s")


def main() -> None:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--syncs", type=int, default=20)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        transfer_cases.prepare(patch, Path(name))
        asyncio.run(measure(Path(name), num_syncs=given.syncs, layers=given.layers, hidden=given.hidden))


if __name__ == "__main__":
    main()
