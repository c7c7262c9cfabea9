"""How many groups a second one core can direct: fleet, sampler, buffer and recording over simulated engines.

    python tests/bench/ray_controller.py [--groups 4000]

No Ray and no model: engines answer at once with finished completions, so what is measured is the controller alone, with
everything written that a run writes. Groups of 8 completions of 32 tokens.
"""

import argparse
import asyncio
import io
import os
import resource
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import torch

from rlvr.batch import Batch, Denominators, StepReport
from rlvr.config.recipe import Recipe
from rlvr.data.load import open_eval, open_train
from rlvr.models.policy import PolicyText, build_tiny
from rlvr.processes.supervised_fleet import Supervision
from rlvr.protocols import EngineHealth, GenerationRequest, LoadReceipt
from rlvr.records import Completion, FinishReason, Prompt, Status, Transport, Verdict, WeightsKind, WeightsRef
from rlvr.run.launch.assemble import assemble
from rlvr.run.launch.backend import RunContext, Workers
from rlvr.run.launch.preflight import OpenedData
from rlvr.run.loop import run_loop
from rlvr.run.ray.workers.engine_fleet import EngineFleet
from rlvr.run.record.console import Console
from rlvr.run.record.directory import RunDirectory
from rlvr.run.record.recorder import Recorder
from rlvr.run.step.stop import StopRequest

GROUP_SIZE = 8
NUM_TOKENS = 32
PROMPTS_PER_STEP = 256


class InstantEngine:
    """Answers at once."""

    def __init__(self, name: str) -> None:
        self.place = name
        self.node = ""
        self._version = 0

    async def generate(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Completion]:
        await asyncio.sleep(0)
        for request in requests:
            yield Completion(
                completion_id=request.request_id,
                prompt_id=request.prompt_id,
                sample_index=request.sample_index,
                prompt_token_ids=request.prefix_token_ids,
                token_ids=(5,) * NUM_TOKENS,
                logprobs=(-1.0,) * NUM_TOKENS,
                sampled_mask=(True,) * NUM_TOKENS,
                text="1" * NUM_TOKENS,
                finish_reason=FinishReason.STOP,
                policy_versions=(self._version,) * NUM_TOKENS,
            )

    async def load_weights(self, ref: WeightsRef, *, canary: Sequence[Sequence[int]] = ()) -> LoadReceipt:
        self._version = ref.policy_version
        return LoadReceipt(policy_version=ref.policy_version)

    async def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        return [[-1.0] * (len(row) - 1) for row in rows]

    async def health(self) -> EngineHealth:
        return EngineHealth(is_healthy=True, policy_version=self._version, num_open_requests=0)

    async def close(self) -> None: ...

    async def kill(self) -> None: ...


class InstantVerifier:
    """Pays every second completion."""

    async def verify(self, prompt: Prompt, completion: Completion) -> dict[str, Verdict]:
        passed = completion.sample_index % 2 == 0
        return {
            check.name: Verdict(
                status=Status.PASS if passed else Status.FAIL,
                score=float(passed),
                reason="by its index",
                verifier="bench@1",
                seconds=0.0,
            )
            for check in prompt.checks
        }


class InstantLearner:
    """Takes a step without computing."""

    def __init__(self) -> None:
        self._version = 0

    def annotate(self, batch: Batch) -> Batch:
        return batch

    def accumulate(self, batch: Batch) -> None: ...

    def apply(self, denominators: Denominators) -> StepReport:
        return StepReport(metrics={})

    def step(self, batch: Batch) -> StepReport:
        self._version += 1
        return StepReport(metrics={"learner/loss_tokens": float(batch.num_loss_tokens)})

    def publish(self) -> WeightsRef:
        return WeightsRef(
            policy_version=self._version, kind=WeightsKind.FULL, transport=Transport.SHARED, uri="", dtype="float32"
        )

    def start_save(self, folder: Path) -> None:
        (folder / "learner").write_text(str(self._version))

    def is_saved(self, *, waits: bool) -> bool:
        return True

    def restore(self, folder: Path) -> None: ...


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


def direct(num_engines: int, num_groups: int) -> tuple[float, float, float]:
    """Groups a second of wall time, groups a second of this process's CPU time, and milliseconds a group."""

    recipe = recipe_of(num_groups)
    text = build_tiny(recipe.model.tiny, seed=0).text  # type: ignore[arg-type] # set above
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

        used = resource.getrusage(resource.RUSAGE_SELF)
        start = time.perf_counter()
        asyncio.run(
            run_with(
                recipe, InstantEngine, num_engines, InstantLearner(), text=text, directory=directory, recorder=recorder
            )
        )
        wall = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_SELF)
        recorder.close()
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    done = (num_groups // PROMPTS_PER_STEP) * PROMPTS_PER_STEP
    return done / wall, done / cpu, 1000 * cpu / done


async def run_with(
    recipe: Recipe,
    make_engine: Callable[[str], InstantEngine],
    num_engines: int,
    learner: InstantLearner,
    *,
    text: PolicyText,
    directory: RunDirectory,
    recorder: Recorder,
) -> None:
    """Runs the recipe to its end over engines that `make_engine` makes by name."""

    async def spawn(name: str) -> InstantEngine:
        return make_engine(name)

    fleet = EngineFleet(spawn, num_engines=num_engines, supervision=Supervision(), on_event=recorder.event)
    await fleet.start()
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
    workers = Workers(learner=learner, set_correction=lambda _: None, engine=fleet, verifier=InstantVerifier())
    parts = assemble(context, workers, text=text, data=data)
    try:
        await run_loop(parts)
    finally:
        await fleet.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=4096)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)  # two would spin for the one core
    direct(1, PROMPTS_PER_STEP)  # warm
    print(
        f"{'engines':>8} {'groups/s':>10} {'groups/cpu s':>13} {'ms/group':>9}"
    )  # and as a bar, 20 columns a millisecond
    for num_engines in (1, 4, 16, 64, 256):
        wall, cpu, each = direct(num_engines, arguments.groups)
        print(f"{num_engines:>8} {wall:>10.0f} {cpu:>13.0f} {each:>9.2f}  {'█' * round(20 * each)}")


if __name__ == "__main__":
    main()
