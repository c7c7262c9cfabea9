"""Whether generation and training overlap: seconds per step, compared with the longer of the two.

    python tests/bench/ray_overlap.py [--steps 20]

The parts of `ray_controller.py`, but a wave of the engine takes a stated time and a step of the learner another one. At
staleness 0 a step takes their sum; at staleness 1 it should take no more than 1.05 times the longer one.
"""

import argparse
import asyncio
import io
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ray_controller import recipe_of, run_with
from simulated_cluster import InstantEngine, InstantLearner

from rlvr.batch import Batch, StepReport
from rlvr.config.recipe import Recipe
from rlvr.models.policy import build_tiny
from rlvr.protocols import GenerationRequest
from rlvr.records import Completion
from rlvr.run.record.console import Console
from rlvr.run.record.directory import RunDirectory
from rlvr.run.record.recorder import Recorder

PROMPTS = 8
WARM_STEPS = 3  # the first ones fill the buffer


class TimedEngine(InstantEngine):
    """Takes `seconds_per_step` for the completions of one step; one wave after the other."""

    def __init__(self, name: str, seconds_per_step: float) -> None:
        super().__init__(name)
        self._seconds = seconds_per_step / (PROMPTS * 8)
        self._lock = asyncio.Lock()

    async def generate(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Completion]:
        async with self._lock:
            await asyncio.sleep(self._seconds * len(requests))
            async for completion in super().generate(requests):
                yield completion


class TimedLearner(InstantLearner):
    """Takes `seconds` a step, in the learner's thread."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self.ends: list[float] = []

    def step(self, batch: Batch) -> StepReport:
        time.sleep(self._seconds)
        self.ends.append(time.perf_counter())
        return super().step(batch)


def seconds_a_step(*, generate_s: float, train_s: float, staleness: int, steps: int) -> float:
    """The mean over all steps but the first ones."""
    values: dict[str, Any] = recipe_of(1024).model_dump(mode="json")
    values["rollout"] |= {"prompts_per_step": PROMPTS, "max_staleness": staleness}
    values["algorithm"]["correction"]["weight"] = "token"
    values["run"]["steps"] = steps
    recipe = Recipe.model_validate(values)
    assert recipe.model.tiny is not None
    text = build_tiny(recipe.model.tiny, seed=0).text
    learner = TimedLearner(train_s)
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

        engine = partial(TimedEngine, seconds_per_step=generate_s)
        asyncio.run(run_with(recipe, engine, 1, learner, text=text, directory=directory, recorder=recorder))
        recorder.close()
    ends = learner.ends[WARM_STEPS:]
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    steps = parser.parse_args().steps
    print(f"{'generate s':>10} {'train s':>8} {'staleness':>9} {'step s':>8} {'of longer':>9}")
    for generate_s, train_s in ((0.5, 0.5), (0.8, 0.4), (0.4, 0.8)):
        for staleness in (0, 1):
            each = seconds_a_step(generate_s=generate_s, train_s=train_s, staleness=staleness, steps=steps)
            share = each / max(generate_s, train_s)
            print(f"{generate_s:>10} {train_s:>8} {staleness:>9} {each:>8.3f} {share:>9.3f}")


if __name__ == "__main__":
    main()
