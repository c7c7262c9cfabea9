"""Forward and backward pass with the prompt of a group run once, and run with every row.

Groups as GSM8K gives them: a question in the R1-Zero template, completions with the lengths of solutions. Both cases
are packed; they alternate, and the median and range of the rounds are printed.

    python tests/bench/prefix_sharing.py [--model tiny] [--groups 2] [--sizes 8 16] [--rounds 3] [--cpu-time]
        [--output FILE]
"""

import argparse
import json
import statistics
from functools import partial
from pathlib import Path

from rlvr.run.launch.process import prepare_process

prepare_process()

import torch  # noqa: E402 - the process is prepared first
from gsm8k_rows import alternate, batch_of, load, spread  # noqa: E402
from packing import run  # noqa: E402

from rlvr.config.sections.learner import Layout  # noqa: E402


def main() -> None:
    """Prints two lines a group size and, with --output, writes every measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["tiny", "smollm2"], default="smollm2")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 16])
    for name, default in (("groups", 2), ("micro-batch-tokens", 8192), ("rounds", 3), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--cpu-time", action="store_true", help="CPU seconds: for a busy machine")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load(options.model).model.to(device)
    found: dict[int, dict[str, object]] = {}
    for size in options.sizes:
        batch = batch_of(options.groups, size, vocab=model.config.vocab_size)
        prompts = batch.loss_mask.int().argmax(1).float()
        completions = batch.loss_mask.sum(1).float()
        cases = {
            name: partial(run, model, batch, layout=Layout.PACKED, share=share, budget=options.micro_batch_tokens)
            for name, share in (("shared", True), ("unshared", False))
        }
        seconds = alternate(cases, rounds=options.rounds, cpu_time=options.cpu_time)
        ratio = statistics.median(seconds["unshared"]) / statistics.median(seconds["shared"])
        print(
            f"{options.model}, {options.groups} groups of {size}, prompts of {prompts.mean():.0f} tokens, completions "
            f"of {completions.mean():.0f}: sharing is {ratio:.2f} times as fast"
        )
        for name, values in seconds.items():
            print(f"    {name:9s} {spread(values)}")
        found[size] = {"seconds": seconds, "ratio": ratio}
    if options.output:
        everything = {**vars(options), "device": str(device), "sizes": found}
        options.output.write_text(json.dumps(everything, indent=2, default=str))


if __name__ == "__main__":
    main()
