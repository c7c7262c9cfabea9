"""Forward and backward pass in the packed and in the padded layout, over rows with the lengths of GSM8K solutions.

One question and one solution a row, no prompt shared, the same budget of tokens for each micro-batch; a rate counts
real tokens (no padding). The layouts alternate; median and range of the rounds.

    python tests/bench/packing.py [--model tiny] [--rows 96] [--micro-batch-tokens 8192] [--rounds 5] [--cpu-time]
        [--output FILE]
"""

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rlvr.run.launch.process import prepare_process

prepare_process()

import torch  # noqa: E402 - the process is prepared first
from gsm8k_rows import alternate, batch_of, load, spread  # noqa: E402

from rlvr.batch import Batch  # noqa: E402
from rlvr.config.sections.learner import Layout  # noqa: E402
from rlvr.learner.batching import plan_micro_batches  # noqa: E402
from rlvr.models.logprobs import token_logprobs  # noqa: E402


def run(model: torch.nn.Module, batch: Batch, *, layout: Layout, share: bool, budget: int) -> None:
    """All micro-batches of a step, forward and backward."""
    plan = plan_micro_batches(batch, max_tokens=budget, layout=layout, share_prompt_prefix=share)
    device = next(model.parameters()).device
    for rows in plan:
        micro = batch.rows(torch.tensor(rows)).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            out = token_logprobs(
                model,
                token_ids=micro.token_ids,
                attention_mask=micro.attention_mask,
                loss_mask=micro.loss_mask,
                group_index=micro.group_index,
                temperature=1.0,
                layout=layout,
                share_prompt_prefix=share,
                logits_memory_mb=512,
                needs_entropy_gradient=False,
            )
        (out.logprobs * micro.advantages).sum().backward()
    model.zero_grad(set_to_none=True)


def main() -> None:
    """Prints a line a layout and, with --output, writes every measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["tiny", "smollm2"], default="tiny")
    for name, default in (("rows", 96), ("micro-batch-tokens", 8192), ("rounds", 5), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--cpu-time", action="store_true", help="CPU seconds: for a busy machine")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load(options.model).model.to(device)
    batch = batch_of(options.rows, 1, vocab=model.config.vocab_size)
    lengths = batch.attention_mask.sum(1)
    num_tokens, width = int(lengths.sum()), int(lengths.max())
    print(
        f"{options.model}, {len(lengths)} rows of {int(lengths.min())} to {width} tokens, "
        f"{1 - num_tokens / (len(lengths) * width):.0%} of the padded batch is padding"
    )
    cases: dict[str, Callable[[], None]] = {
        layout.value: partial(run, model, batch, layout=layout, share=False, budget=options.micro_batch_tokens)
        for layout in Layout
    }
    seconds = alternate(cases, rounds=options.rounds, cpu_time=options.cpu_time)
    for name, values in seconds.items():
        rate = num_tokens / statistics.median(values)
        print(f"{name:8s} {spread(values)}  {rate:8.0f} tokens/s")
    ratio = statistics.median(seconds["padded"]) / statistics.median(seconds["packed"])
    print(f"packed is {ratio:.2f} times as fast")
    if options.output:
        found = {"device": str(device), "tokens": num_tokens, "seconds": seconds, "ratio": ratio}
        options.output.write_text(json.dumps({**vars(options), **found}, indent=2, default=str))


if __name__ == "__main__":
    main()
