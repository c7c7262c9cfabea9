"""Tokens/s, MFU and peak memory of the learner's optimiser step, compared with TRL's GRPOTrainer on the same rows.

A Qwen3-0.6B-shaped model with random weights (throughput does not depend on their values), rows of 4,096 tokens (256
of the prompt), one row (4k tokens) or eight (32k) a step, in bfloat16 autocast with float32 master weights. Every case
runs in a process of its own; warm-up steps first; the device is synchronised around each timed step; median of several.

    python tests/gpu/learner_speed.py [--output FILE]          on a GPU
    python tests/gpu/learner_speed.py --small                  the same script on a CPU, with a model of two layers

MFU = FLOPs of `rlvr.learner.flops` over seconds and the dense bfloat16 peak of the device (H100, H200: 989 TFLOP/s).
The rate that one large matrix product reaches on this machine is printed too.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROW_TOKENS, PROMPT_TOKENS = 4096, 256
SHAPE = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_936,
    "max_position_embeddings": 40_960,
    "tie_word_embeddings": True,
}
SMALL = SHAPE | {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 4096,
}
LOGITS_MB = {"plain": 1_000_000, "chunked": 0, "small chunks": 512}
CASES: list[dict[str, Any]] = [
    {"rows": 1, "head": "plain"},
    {"rows": 1, "head": "chunked"},
    {"rows": 8, "head": "small chunks"},
    {"rows": 8, "head": "chunked"},
    {"rows": 8, "head": "chunked", "gradient_checkpointing": True},
    {"rows": 8, "head": "plain", "gradient_checkpointing": True},
    {"rows": 8, "head": "chunked", "compile": True},
    {"rows": 8, "head": "chunked", "kernels": "liger"},
    {"rows": 1, "trainer": "trl"},
    {"rows": 8, "trainer": "trl", "gradient_checkpointing": True},
]


def synchronise() -> None:
    """Waits for the device."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def make_model(shape: dict[str, Any]) -> Any:
    """Random weights in float32, on the device."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = Qwen3Config(**shape, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    return Qwen3ForCausalLM(config).to(device)


def rlvr_step(case: dict[str, Any], shape: dict[str, Any], row_tokens: int) -> Any:
    """A function that takes one optimiser step, and the FLOPs of it."""
    import torch

    from rlvr.algorithms.build import build_loss
    from rlvr.batch import Batch
    from rlvr.config.recipe import TinyModel
    from rlvr.config.sections.algorithm import AlgorithmConfig
    from rlvr.config.sections.learner import LearnerConfig, LearnerDtype
    from rlvr.learner.flops import model_cost
    from rlvr.learner.learner import PolicyLearner
    from rlvr.models.policy import Policy, build_tiny
    from rlvr.records import Transport

    tiny = build_tiny(TinyModel(), seed=0)
    policy = Policy(model=make_model(shape), tokenizer=tiny.tokenizer, stop_token_ids=(2,), pad_token_id=0)
    config = LearnerConfig(
        dtype=LearnerDtype.BFLOAT16_AUTOCAST,
        lr=1e-9,
        micro_batch_tokens=case["rows"] * row_tokens,
        share_prompt_prefix=False,
        logits_memory_mb=LOGITS_MB[case["head"]],
        gradient_checkpointing=case.get("gradient_checkpointing", False),
        compile=case.get("compile", False),
        kernels=case.get("kernels", "torch"),
    )
    learner = PolicyLearner(
        policy,
        config=config,
        loss=build_loss(AlgorithmConfig(), max_completion_tokens=row_tokens, uses_proximal=True),
        temperature=1.0,
        transport=Transport.IN_PLACE_COPY,
        reference=None,
        fault_folder=Path(tempfile.gettempdir()),
    )
    rows = case["rows"]
    ids = torch.randint(3, shape["vocab_size"], (rows, row_tokens))
    everything = torch.ones_like(ids, dtype=torch.bool)
    loss_mask = everything.clone()
    loss_mask[:, :PROMPT_TOKENS] = False
    batch = Batch(
        token_ids=ids,
        attention_mask=everything,
        loss_mask=loss_mask,
        behavior_logprobs=torch.full(ids.shape, -10.0),
        advantages=torch.randn(rows, 1).expand(ids.shape).clone(),
        group_index=torch.arange(rows),
        group_num_tokens=loss_mask.sum(1),
        num_loss_tokens=int(loss_mask.sum()),
        num_sequences=rows,
        num_prompts=rows,
    )
    cost = model_cost(policy.model).of(batch, shares_prompts=False)
    return lambda: learner.step(batch), cost


def trl_step(case: dict[str, Any], shape: dict[str, Any], row_tokens: int) -> Any:
    """The trainer's own loss on prepared rows, backward, clip and optimiser, as its training step does them."""
    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from rlvr.config.recipe import TinyModel
    from rlvr.models.policy import build_tiny

    tiny = build_tiny(TinyModel(), seed=0)
    tiny.tokenizer.padding_side = "left"
    rows, has_gpu = case["rows"], torch.cuda.is_available()
    model = make_model(shape)
    trainer = GRPOTrainer(
        model=model,
        processing_class=tiny.tokenizer,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=2,
            num_generations=2,
            max_completion_length=row_tokens - PROMPT_TOKENS,
            bf16=True,
            use_cpu=not has_gpu,
            gradient_checkpointing=case.get("gradient_checkpointing", False),
            report_to=[],
            beta=0.0,
        ),
        train_dataset=Dataset.from_list([{"prompt": "1"}] * 4),
    )
    trainer.current_gradient_accumulation_steps = 1
    device = next(model.parameters()).device
    ids = torch.randint(3, shape["vocab_size"], (rows, row_tokens), device=device)
    completion = ids[:, PROMPT_TOKENS:]
    inputs = {
        "prompt_ids": ids[:, :PROMPT_TOKENS],
        "prompt_mask": torch.ones_like(ids[:, :PROMPT_TOKENS]),
        "completion_ids": completion,
        "completion_mask": torch.ones_like(completion),
        "advantages": torch.randn(rows, device=device),
        "num_items_in_batch": torch.tensor(completion.numel(), device=device),
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9, fused=True)
    model.train()

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = trainer._compute_loss(model, dict(inputs))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, 0.0


def measure(case: dict[str, Any], *, is_small: bool, repeats: int) -> dict[str, Any]:
    """Seconds, tokens/s, MFU and peak memory of one case."""
    import torch

    from rlvr.learner.flops import peak_flops, peak_memory_gb

    shape = SMALL if is_small else SHAPE
    row_tokens = 384 if is_small else ROW_TOKENS
    build = trl_step if case.get("trainer") == "trl" else rlvr_step
    step, flops = build(case, shape, row_tokens)
    for _ in range(3):
        step()
    seconds = []
    for _ in range(repeats):
        synchronise()
        start = time.perf_counter()
        step()
        synchronise()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = peak_flops(device)
    row = case | {
        "tokens": case["rows"] * row_tokens,
        "seconds": median,
        "tokens_per_s": case["rows"] * row_tokens / median,
        "peak_memory_gb": peak_memory_gb(device),
    }
    if flops and peak:
        row["mfu"] = flops / median / peak
    return row


def matmul_rate() -> float:
    """FLOP/s of one large bfloat16 matrix product on this device."""
    import torch

    size = 8192 if torch.cuda.is_available() else 1024
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    synchronise()
    start = time.perf_counter()
    for _ in range(10):
        a @ a
    synchronise()
    return 10 * 2 * size**3 / (time.perf_counter() - start)


def main() -> None:
    """Every case in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--case", type=int, default=-1)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.case >= 0:
        row = measure(CASES[options.case], is_small=options.small, repeats=options.repeats)
        print("ROW " + json.dumps(row))
        return
    rows: list[dict[str, Any]] = []
    for index, case in enumerate(CASES):
        command = [sys.executable, __file__, "--case", str(index)]
        command += ["--repeats", str(options.repeats), *(["--small"] if options.small else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = [line for line in done.stdout.splitlines() if line.startswith("ROW ")]
        if found:
            rows.append(json.loads(found[0].removeprefix("ROW ")))
        else:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            rows.append(case | {"failed": last})
        print(json.dumps(rows[-1]), flush=True)
    print(f"one large bfloat16 matrix product: {matmul_rate() / 1e12:.2f} TFLOP/s")
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
