"""Whole runs of a recipe under several settings and seeds: held-out curves, clip and drop rates, seconds.

Each run is `rlvr train` in a process of its own, with one thread; `--parallel 2` keeps two cores busy with equal load.

    python tests/bench/sweep.py variants               every loss, four minibatches a step and a staleness of 2, tiny
    python tests/bench/sweep.py group_size --recipe tiny        groups of 2, 8 and 16 at equal completions
    python tests/bench/sweep.py group_size --recipe quickstart

Prints a table and writes every curve to --output (JSON).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

OFF_POLICY = [
    "rollout.max_staleness=2",
    "rollout.engine_dtype=float32",
    "learner.minibatches_per_step=4",
    "learner.lr=1e-4",
]
TOKEN_TIS = ["algorithm.correction.weight=token"]
VARIANTS: dict[str, list[str]] = {
    "clipped": TOKEN_TIS,
    "clipped, clip-higher": [*TOKEN_TIS, "algorithm.loss.clip_high=0.28"],
    "clipped, dual clip 3": [*TOKEN_TIS, "algorithm.loss.dual_clip=3.0"],
    "clipped, base behavior": ["algorithm.correction.ratio_base=behavior"],
    "clipped, IcePop": [*TOKEN_TIS, "algorithm.correction.bound=mask", "algorithm.correction.weight_min=0.5"],
    "gspo": [
        *TOKEN_TIS,
        "algorithm.loss={kind: gspo, clip_low: 0.003, clip_high: 0.004}",
        "algorithm.aggregation=sequence_mean",
    ],
    "cispo": ["algorithm.loss=cispo", "algorithm.correction.ratio_base=behavior"],
    "sapo": [*TOKEN_TIS, "algorithm.loss=sapo"],
    "dppo": ["algorithm.loss=dppo", "algorithm.correction.ratio_base=behavior"],
    "policy_gradient": [*TOKEN_TIS, "algorithm.loss=policy_gradient"],
    "dr_grpo": [*TOKEN_TIS, "algorithm.advantage=dr_grpo", "algorithm.aggregation=constant_length"],
    "on-policy, one minibatch": [
        "rollout.max_staleness=0",
        "rollout.engine_dtype=shared",
        "learner.minibatches_per_step=1",
    ],
}


def group_size_settings(prompts: int, group: int) -> dict[str, list[str]]:
    """Groups of 2, 8 and 16 with the recipe's number of completions a step."""
    completions = prompts * group
    return {
        f"{completions // size} x {size}": [
            f"rollout.prompts_per_step={completions // size}",
            f"rollout.group_size={size}",
        ]
        for size in (2, 8, 16)
    }


def run(recipe: str, overrides: Sequence[str], *, seed: int, folder: Path) -> dict[str, Any]:
    """One run: its held-out curve, the mean of some metrics over its steps, its seconds (wall and CPU)."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "rlvr.cli", "train", recipe, f"seed={seed}", *overrides]
    command += ["learner.num_threads=1", "run.trackers=[]", "--run-dir", str(folder)]
    start = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\n{log.read_text()[-4000:]}")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (key,) = {k for row in rows for k in row if k.endswith("pass@1")}
    curve = [(row["step"], row["time_s"], row[key]) for row in rows if key in row]
    names = (
        "policy/clip_rate",
        "mismatch/masked_token_rate",
        "mismatch/truncated_weight_rate",
        "mismatch/kl_k3",
        "mismatch/ess",
        "policy/staleness_mean",
        "policy/entropy",
        "reward/zero_variance_rate",
        "time/step_s",
    )
    later = [row for row in rows if row["step"] > 2]
    means = {
        name: statistics.fmean(row[name] for row in later if name in row)
        for name in names
        if any(name in row for row in later)
    }
    cpu_s = usage.ru_utime + usage.ru_stime
    return {"seed": seed, "curve": curve, "means": means, "seconds": seconds, "cpu_s": cpu_s}


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: held-out at the evaluations (mean over seeds), the last one by seed, rates, seconds.

    CPU s is the whole run on its one thread: what a quiet core would need, also when others work on the machine.
    """
    first = next(iter(results.values()))[0]["curve"]
    steps = [step for step, _, _ in first]
    lines = [
        "| setting | "
        + " | ".join(f"@{step}" for step in steps)
        + " | last, by seed | clip rate | truncated | masked | ess | staleness | s a step | CPU s |",
        "|---" * (len(steps) + 9) + "|",
    ]

    def mean(runs: list[dict[str, Any]], name: str) -> str:
        values = [r["means"][name] for r in runs if name in r["means"]]
        return f"{statistics.fmean(values):.3g}" if values else ""

    for name, runs in results.items():
        held = [f"{statistics.fmean(r['curve'][i][2] for r in runs):.3f}" for i in range(len(steps))]
        last = " ".join(f"{r['curve'][-1][2]:.3f}" for r in runs)
        rates = [
            mean(runs, key)
            for key in (
                "policy/clip_rate",
                "mismatch/truncated_weight_rate",
                "mismatch/masked_token_rate",
                "mismatch/ess",
                "policy/staleness_mean",
                "time/step_s",
            )
        ]
        cpu_s = f"{statistics.median(r['cpu_s'] for r in runs):.0f}"
        lines.append("| " + " | ".join([name, *held, last, *rates, cpu_s]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs the sweep and prints its table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sweep", choices=["variants", "group_size"])
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--only", default="", help="settings whose name contains this")
    parser.add_argument("--output", type=Path)
    parser.add_argument("overrides", nargs="*", help="more key=value for every run")
    options = parser.parse_intermixed_args()
    if options.sweep == "variants":
        settings = {name: [*OFF_POLICY, *keys] for name, keys in VARIANTS.items()}
    else:
        from rlvr.config.load import load_recipe

        rollout = load_recipe(options.recipe, options.overrides).recipe.rollout
        settings = group_size_settings(rollout.prompts_per_step, rollout.group_size)
    chosen = {name: keys for name, keys in settings.items() if options.only in name}
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as parent, ThreadPoolExecutor(options.parallel) as pool:
        futures = {
            (name, seed): pool.submit(
                run, options.recipe, [*options.overrides, *keys], seed=seed, folder=Path(parent) / f"{index}-{seed}"
            )
            for seed in range(options.seeds)
            for index, (name, keys) in enumerate(chosen.items())
        }
        for (name, seed), future in futures.items():
            results.setdefault(name, []).append(future.result())
            curve = [round(value, 3) for _, _, value in results[name][-1]["curve"]]
            print(f"{name}, seed {seed}: {curve} in {results[name][-1]['seconds']:.0f} s", flush=True)
    print(table(results))
    if options.output:
        options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
