"""What Ray adds to the driver for each engine: starts, calls, streams and placement, in CPU time of the driver.

    python tests/bench/ray_actors.py [--actors 1,16,64] [--bundles 64,256,1024] [--calls 2000]

The actors do nothing and ask for no core, so a small machine holds some dozens of them. Placement reserves a bundle of
one (claimed) core for each engine and starts nothing there.
"""

import argparse
import asyncio
import os
import secrets
import tempfile
import time
from collections.abc import AsyncIterator
from typing import Any

os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}

import ray
from ray.util.placement_group import placement_group, remove_placement_group

OBJECT_STORE_BYTES = 512 << 20
ARGUMENT_BYTES = 10 << 20  # a pickled tokenizer of 150,000 tokens


@ray.remote(num_cpus=0, max_concurrency=1000)
class Idle:
    """Answers at once."""

    def __init__(self, argument: bytes) -> None:
        self._size = len(argument)

    async def start(self) -> int:
        return self._size

    async def health(self) -> bool:
        return True

    async def generate(self, count: int) -> AsyncIterator[list[int]]:
        for number in range(count):
            yield [number]


class Clock:
    """Prints wall and CPU time of the driver since it was made, per item."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def tell(self, what: str, count: int) -> None:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        print(f"{what:<52} {1000 * wall / count:>10.3f} {1000 * cpu / count:>10.3f}", flush=True)


async def measure(num_actors: int, num_calls: int, argument: Any, *, how: str) -> None:
    """Starts the actors side by side, calls them in turn, and ends them."""
    clock = Clock()
    actors: list[Any] = [Idle.remote(argument) for _ in range(num_actors)]  # type: ignore[attr-defined] # Ray's stub
    await asyncio.gather(*(actor.start.remote() for actor in actors))
    clock.tell(f"{num_actors} actors: start, arguments {how}", num_actors)
    try:
        for _ in range(2):  # the first round connects
            clock = Clock()
            for begin in range(0, num_calls, num_actors):
                await asyncio.gather(*(actor.health.remote() for actor in actors[: num_calls - begin]))
        clock.tell(f"{num_actors} actors: call", num_calls)

        async def read(actor: Any, count: int) -> None:
            async for reference in actor.generate.options(num_returns="streaming").remote(count):
                await reference

        for count in (1, 8):
            clock = Clock()
            for begin in range(0, num_calls // 4, num_actors):
                await asyncio.gather(*(read(actor, count) for actor in actors[: num_calls // 4 - begin]))
            clock.tell(f"{num_actors} actors: stream of {count} bunches", num_calls // 4)
    finally:
        for actor in actors:
            ray.kill(actor)


def place(num_bundles: int) -> None:
    """Reserves a bundle for each engine, as a run does."""
    clock = Clock()
    group = placement_group([{"CPU": 1.0}] * num_bundles)
    ray.get(group.ready(), timeout=120)
    clock.tell(f"{num_bundles} bundles: reserve", num_bundles)
    remove_placement_group(group)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", default="1,16,64")
    parser.add_argument("--bundles", default="64,256,1024")
    parser.add_argument("--calls", type=int, default=2000)
    arguments = parser.parse_args()
    argument = bytes(ARGUMENT_BYTES)
    print(f"{'':<52} {'wall ms':>10} {'CPU ms':>10}")
    with tempfile.TemporaryDirectory() as folder:
        bundles = [int(part) for part in arguments.bundles.split(",")]
        ray.init(
            num_cpus=max(bundles) + 1,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=folder,
        )
        try:
            for count in bundles:
                place(count)
            for count in map(int, arguments.actors.split(",")):
                asyncio.run(measure(count, arguments.calls, argument, how="by value"))
                asyncio.run(measure(count, arguments.calls, ray.put(argument), how="put once"))
        finally:
            ray.shutdown()


if __name__ == "__main__":
    main()
