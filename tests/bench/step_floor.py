"""Seconds per training step compared with their floor: the step's FLOPs over this machine's speed of matrix products.

    floor = generation 2 P for each prompt (once a group) and sampled token
            + training 6 P for each prompt (once a group) and completion token, the head on completion tokens alone
            over the FLOPs a second of products in the model's own shapes, in the learner's arithmetic

Groups without a gradient are run forward only, so less is computed than that; `as run` counts 2 P for them. Products
are timed before and after the run, whose first steps are left out; nothing else should run on the machine.

    python tests/bench/step_floor.py quickstart [KEY=VALUE ...] [--steps 8]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rlvr.run.launch.process import prepare_process

prepare_process()

import pyarrow.parquet as pq  # noqa: E402 - the process is prepared first
import torch  # noqa: E402

from rlvr.config.load import load_recipe  # noqa: E402
from rlvr.models.dtype_speed import linear_shapes  # noqa: E402
from rlvr.models.policy import outline  # noqa: E402

WARM_UP_STEPS = 2  # the allocator grows in them


def product_speed(shapes: list[tuple[int, int]], dtype: torch.dtype, tokens: int) -> float:
    """FLOPs a second of x W' in these shapes, the median of 15 rounds."""
    pairs = [
        (torch.randn(tokens, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)) for outputs, inputs in shapes
    ]
    seconds: list[float] = []
    for _ in range(18):
        start = time.perf_counter()
        for x, weight in pairs:
            torch.mm(x, weight.t())
        seconds.append(time.perf_counter() - start)
    flops = sum(2 * tokens * outputs * inputs for outputs, inputs in shapes)
    return flops / statistics.median(seconds[3:])


def tokens_of(rollouts: Path) -> tuple[int, int]:
    """(prompt tokens, once a group; completion tokens) of a step's file."""
    rows = pq.read_table(rollouts, columns=["group_id", "prompt_token_ids", "token_ids"]).to_pylist()
    prompts = {row["group_id"]: len(row["prompt_token_ids"]) for row in rows}
    return sum(prompts.values()), sum(len(row["token_ids"]) for row in rows)


def main() -> None:
    """Runs the recipe and prints seconds, floor and ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    model = outline(load_recipe(options.recipe, options.overrides).recipe.model)
    head = model.get_output_embeddings().weight.numel()
    body = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        fixed = [f"run.steps={options.steps}", "run.eval_every_steps=0", "run.eval_prompts=2"]
        command = ["rlvr", "train", options.recipe, *options.overrides, *fixed, "--run-dir", str(run)]
        print("load before", os.getloadavg())
        before: dict[str, Any] = {}
        shapes = linear_shapes(model)
        for dtype in (torch.float32, torch.bfloat16):
            before[str(dtype)] = product_speed(shapes, dtype, 600)
        command[0] = str(Path(sys.executable).with_name("rlvr"))
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        stored = load_recipe(str(run / "recipe.yaml")).recipe
        dtype = torch.float32 if stored.learner.dtype.value == "float32" else torch.bfloat16
        speeds = [before[str(dtype)], product_speed(shapes, dtype, 600)]
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        found = [row for row in rows if row["step"] > WARM_UP_STEPS]
        names = sorted((run / "rollouts").glob("*.parquet"))
        counted = {name.stem: tokens_of(name) for name in names if "eval" not in name.stem}
    speed = statistics.mean(speeds)
    print(f"{dtype}: products before and after {', '.join(f'{s / 1e9:.0f}' for s in speeds)} GFLOP/s")
    table: dict[str, list[float]] = {}
    for row, (_, (prompts, completions)) in zip(found, sorted(counted.items())[-len(found) :], strict=True):
        skipped = row.get("learner/forward_only_rate", 0.0)
        generate = 2 * (prompts * body + completions * (body + head)) / speed
        train = 6 * (prompts * body + completions * (body + head)) / speed
        values = {
            "step_s": row["time/step_s"],
            "generate_s": row["time/generate_s"],
            "train_s": row["time/train_s"],
            "sync_s": row["time/sync_s"],
            "floor generate": generate,
            "floor train": train,
            "floor": generate + train,
            "step over floor": row["time/step_s"] / (generate + train),
            "forward only": skipped,
            "floor as run": generate + train * (1 - 2 / 3 * skipped),
            "step over floor as run": row["time/step_s"] / (generate + train * (1 - 2 / 3 * skipped)),
        }
        for name, value in values.items():
            table.setdefault(name, []).append(value)
    for name, values in table.items():
        print(f"  {name:24} {statistics.median(values):7.2f}  ({min(values):.2f} to {max(values):.2f})")
    print("load after", os.getloadavg())


if __name__ == "__main__":
    main()
