"""What the driver costs with many engines and verifier pools: CPU time per group and per weight sync, and memory.

    python tests/bench/ray_controller.py [--engines 1,8,64,256,1024] [--pools 1,64] [--groups 4096] [--rounds 3]
    python tests/bench/ray_controller.py --latency 1,20 [--engines 1,1024] [--pools 1,64]

No Ray and no model: the members are simulated, and everything between them and the run directory is the run's own code
(fleets, sampler, buffer, loop, recording). Engines and pools answer at once; with `--latency` a completion takes
between these seconds of wall time, so thousands of requests are open. Groups of 8 completions of 32 tokens, 1,024 a
step. All figures are CPU time of this process, the rounds alternate between the rows, and each row is a median.
"""

import argparse
import asyncio
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from simulated_cluster import NUM_TOKENS, CopiedLearner, InstantEngine, InstantLearner, SlowEngine, started

from rlvr.config.recipe import Recipe
from rlvr.config.sections.proof import ProofConfig
from rlvr.data.load import open_eval, open_train
from rlvr.models.policy import PolicyText, build_tiny
from rlvr.run.launch.assemble import assemble, training_plan
from rlvr.run.launch.backend import RunContext, Workers
from rlvr.run.launch.preflight import OpenedData
from rlvr.run.loop import run_loop
from rlvr.run.record.console import Console
from rlvr.run.record.directory import RunDirectory
from rlvr.run.record.recorder import Recorder
from rlvr.run.step.learner_thread import LearnerThread
from rlvr.run.step.sampler import SingleTurnSampler
from rlvr.run.step.stop import StopRequest
from rlvr.run.weights.answers import Compared
from rlvr.run.weights.canary import ROW_TOKENS, build_canary
from rlvr.run.weights.proof import WeightProof
from rlvr.run.weights.sync import sync_weights

GROUP_SIZE = 8
PROMPTS_PER_STEP = 1024
NUM_SYNCS = 12


def recipe_of(num_groups: int) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "bench",
            "model": {"tiny": {"layers": 1, "hidden_size": 16, "heads": 2, "characters": "0123456789:"}},
            "data": {
                "train": [
                    {
                        "source": "generator:sort_digits",
                        "settings": {"length": 5},
                        "template": "plain",
                        "verifier": "text_match",
                    }
                ]
            },
            "rollout": {
                "engine": "toy",
                "prompts_per_step": PROMPTS_PER_STEP,
                "group_size": GROUP_SIZE,
                "max_completion_tokens": NUM_TOKENS,
            },
            "run": {"steps": num_groups // PROMPTS_PER_STEP, "trackers": [], "eval_every_steps": 0},
        }
    )


async def run_with(
    recipe: Recipe,
    make_engine: Callable[[str], InstantEngine],
    num_engines: int,
    learner: InstantLearner,
    *,
    text: PolicyText,
    directory: RunDirectory,
    recorder: Recorder,
    num_pools: int = 1,
) -> None:
    """Runs the recipe to its end over engines that `make_engine` makes by name."""
    async with started(make_engine, num_engines, num_pools, recorder.event) as (fleet, verifiers):
        data = OpenedData(
            stream=open_train(recipe.data, seed=0, is_too_long=None),
            evals=open_eval(recipe.data, 0, seed=0, is_too_long=None),
            reopen=lambda _: (data.stream, data.evals),
        )
        context = RunContext(
            recipe=recipe,
            directory=directory,
            recorder=recorder,
            console=Console(file=io.StringIO()),
            stop=StopRequest(),
            resumed=None,
        )
        workers = Workers(learner=learner, set_correction=lambda _: None, engine=fleet, verifier=verifiers)
        await run_loop(assemble(context, workers, text=text, data=data))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One run: its groups per second of wall time, and CPU milliseconds per group."""

    groups_per_s: float
    cpu_ms: float


def direct(
    num_engines: int, num_pools: int, num_groups: int, make_engine: Callable[[str], InstantEngine] = InstantEngine
) -> Cost:
    """What a run of this many groups costs."""
    recipe = recipe_of(num_groups)
    assert recipe.model.tiny is not None
    text = build_tiny(recipe.model.tiny, seed=0).text
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory.create(Path(folder) / "run", recipe.name)
        recorder = Recorder(
            directory,
            console=Console(file=io.StringIO()),
            sinks=[],
            prompt_text=lambda prompt: prompt.text or "",
            keep_checkpoints=1,
            show_rollout_every_steps=0,
        )
        run = run_with(
            recipe,
            make_engine,
            num_engines,
            InstantLearner(),
            text=text,
            directory=directory,
            recorder=recorder,
            num_pools=num_pools,
        )
        cpu, wall = time.process_time(), time.perf_counter()
        asyncio.run(run)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        recorder.close()
    done = recipe.run.steps * PROMPTS_PER_STEP
    return Cost(groups_per_s=done / wall, cpu_ms=1000 * cpu / done)


# Weight syncs


async def sync_costs(num_engines: int) -> tuple[float, float]:
    """CPU milliseconds of a sync with the short canary (median), and of the first one, which has the wide canary."""
    ignore: Any = lambda *_, **__: None  # noqa: E731 - one line
    async with started(InstantEngine, num_engines, 1, ignore) as (fleet, _):
        learner, thread = CopiedLearner(), LearnerThread()
        config = ProofConfig(drift_every_syncs=0)
        canary = build_canary(
            [], vocabulary=range(1000), num_tokens=config.canary_tokens, max_row_tokens=ROW_TOKENS, seed=0
        )
        compared = Compared(config=config, canary=canary, learner=learner, engine=fleet, thread=thread, record=ignore)
        proof, costs = WeightProof(compared), []
        for _ in range(NUM_SYNCS):
            start = time.process_time()
            await sync_weights(learner, fleet, thread=thread, proof=proof)
            costs.append(1000 * (time.process_time() - start))
        thread.close()
    return statistics.median(costs[1:]), costs[0]


# Memory


async def memory(num_engines: int, num_groups: int) -> tuple[float, float]:
    """KiB of this process per idle engine, and per open group of an engine that does not answer."""
    ignore: Any = lambda *_, **__: None  # noqa: E731 - one line
    recipe = recipe_of(PROMPTS_PER_STEP)
    assert recipe.model.tiny is not None
    tokenizer = build_tiny(recipe.model.tiny, seed=0).text.tokenizer
    stream = open_train(recipe.data, seed=0, is_too_long=None)
    before = rss_kib()
    async with started(partial(SlowEngine, low=1e6, high=1e6), num_engines, 1, ignore) as (fleet, verifiers):
        await fleet.load_weights(InstantLearner().publish())
        idle = rss_kib()
        sampler = SingleTurnSampler(
            engine=fleet, verifier=verifiers, tokenizer=tokenizer, reward=recipe.reward, run_seed=0
        )
        plan, making = training_plan(recipe), []
        for index in range(num_groups):
            group = sampler.make_group(f"{index:08d}", stream.take().prompt, plan=plan, policy_version=0)
            making.append(asyncio.create_task(group))
        await asyncio.sleep(1.0)
        full = rss_kib()
        for task in making:
            task.cancel()
        await asyncio.gather(*making, return_exceptions=True)
    return (idle - before) / num_engines, (full - idle) / num_groups


def rss_kib() -> float:
    """The resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024


def main() -> None:
    numbers: Callable[[str], list[int]] = lambda text: [int(part) for part in text.split(",")]  # noqa: E731 - one line
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=numbers, default=[1, 8, 64, 256, 1024])
    parser.add_argument("--pools", type=numbers, default=[1, 64])
    parser.add_argument("--groups", type=int, default=4 * PROMPTS_PER_STEP, help="of one run; whole steps are made")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", help="seconds of a completion, LOW,HIGH; without it members answer at once")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)  # two would spin for the one core
    make_engine: Callable[[str], InstantEngine] = InstantEngine
    if arguments.latency:
        low, high = map(float, arguments.latency.split(","))
        make_engine = partial(SlowEngine, low=low, high=high)
    else:
        per_engine, per_group = asyncio.run(memory(max(arguments.engines), 4 * PROMPTS_PER_STEP))
        print(
            f"memory: {per_engine:.1f} KiB per engine, {per_group:.1f} KiB per open group; {rss_kib() / 1024:.0f} MiB"
        )
    direct(1, 1, PROMPTS_PER_STEP)  # warm

    rows = [(engines, pools) for pools in arguments.pools for engines in arguments.engines]
    costs: dict[tuple[int, int], list[Cost]] = {row: [] for row in rows}
    syncs: dict[int, list[tuple[float, float]]] = {engines: [] for engines in arguments.engines}
    for _ in range(arguments.rounds):
        for row in rows:
            costs[row].append(direct(*row, arguments.groups, make_engine))
        for engines, found in syncs.items():
            if not arguments.latency:
                found.append(asyncio.run(sync_costs(engines)))

    print(f"{'pools':>6} {'engines':>8} {'groups/s':>9} {'CPU ms/group':>13} {'growth':>7}")
    base = statistics.median(cost.cpu_ms for cost in costs[rows[0]])
    for pools, engines in ((pools, engines) for engines, pools in rows):
        found_costs = costs[engines, pools]
        cpu_ms = statistics.median(cost.cpu_ms for cost in found_costs)
        speed = statistics.median(cost.groups_per_s for cost in found_costs)
        print(f"{pools:>6} {engines:>8} {speed:>9.0f} {cpu_ms:>13.3f} {cpu_ms / base:>7.2f}")
    if arguments.latency:
        print(f"{rss_kib() / 1024:.0f} MiB")
        return
    print(f"{'engines':>8} {'CPU ms/sync':>12} {'per engine':>11} {'wide canary':>12} {'per engine':>11}")
    for engines, found in syncs.items():
        short, wide = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"{engines:>8} {short:>12.1f} {short / engines:>11.3f} {wide:>12.1f} {wide / engines:>11.3f}")


if __name__ == "__main__":
    main()
