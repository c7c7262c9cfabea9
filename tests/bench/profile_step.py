"""Where the seconds of one optimiser step go: CPU time of the operators, by what they belong to.

A batch of the quickstart's shape (6 groups of 8, 12 completion tokens after a question of about 40 tokens) through
`PolicyLearner.step`, with float32 master weights. Self time of the operators of three steps after a warm-up.

    python tests/bench/profile_step.py [--model tiny] [--dtype float32] [--groups 6] [--size 8] [--tokens 12]
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from rlvr.run.launch.process import prepare_process

prepare_process()

import torch  # noqa: E402 - the process is prepared first
from gsm8k_rows import load  # noqa: E402

from rlvr.algorithms.build import build_loss  # noqa: E402
from rlvr.config.sections.algorithm import AlgorithmConfig  # noqa: E402
from rlvr.config.sections.learner import LearnerConfig, LearnerDtype  # noqa: E402
from rlvr.data.collate import collate_rows  # noqa: E402
from rlvr.learner.learner import PolicyLearner  # noqa: E402
from rlvr.records import Completion, FinishReason, Transport  # noqa: E402

STEPS = 3
PARTS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::linear", "mkldnn"),
    "attention": ("attention",),
    "optimiser": ("_fused_adam", "_foreach", "Optimizer"),
    "casts and copies": ("aten::copy_", "aten::to", "_to_copy", "aten::cat", "aten::contiguous"),
    "gather and scatter": ("index", "gather", "scatter", "embedding"),
    "softmax and reductions": ("softmax", "logsumexp", "aten::sum", "aten::mean", "norm", "amax"),
}


def rows(groups: int, size: int, tokens: int, vocab: int) -> list[tuple[int, Completion, float]]:
    """Random tokens in the shape of a step."""
    draw = torch.Generator().manual_seed(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, vocab, (count,), generator=draw).tolist())

    found: list[tuple[int, Completion, float]] = []
    for group in range(groups):
        prompt = ids(40)
        for index in range(size):
            completion = Completion(
                completion_id=f"{group}/{index}",
                prompt_id=str(group),
                sample_index=index,
                prompt_token_ids=prompt,
                token_ids=ids(tokens),
                logprobs=(-1.0,) * tokens,
                sampled_mask=(True,) * tokens,
                text="",
                finish_reason=FinishReason.STOP,
                policy_versions=(0,) * tokens,
            )
            found.append((group, completion, 1.0 if index % 2 else -1.0))
    return found


def part_of(operator: str) -> str:
    """What an operator belongs to."""
    for part, names in PARTS.items():
        if any(name in operator for name in names):
            return part
    return "elementwise and the rest"


def main() -> None:
    """Prints the share of each part and the ten most expensive operators."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["tiny", "smollm2"], default="smollm2")
    parser.add_argument("--dtype", choices=["float32", "bfloat16_autocast"], default="bfloat16_autocast")
    for name, default in (("groups", 6), ("size", 8), ("tokens", 12), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    policy = load(options.model)
    vocab = policy.model.config.vocab_size
    learner = PolicyLearner(
        policy,
        config=LearnerConfig(lr=1e-9, dtype=LearnerDtype(options.dtype)),
        loss=build_loss(AlgorithmConfig(), max_completion_tokens=options.tokens, uses_proximal=True),
        temperature=1.0,
        transport=Transport.IN_PLACE_COPY,
        reference=None,
        fault_folder=Path(tempfile.gettempdir()),
    )
    batch = collate_rows(rows(options.groups, options.size, options.tokens, vocab), pad_token_id=0)
    batch = replace(batch, behavior_logprobs=torch.full(batch.token_ids.shape, -10.0))
    learner.step(batch)
    start = time.process_time()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(STEPS):
            learner.step(batch)
    seconds = (time.process_time() - start) / STEPS
    events = [(event.key, event.self_cpu_time_total / 1e6 / STEPS) for event in profile.key_averages()]
    total = sum(value for _, value in events)
    parts: dict[str, float] = {}
    for key, value in events:
        parts[part_of(key)] = parts.get(part_of(key), 0.0) + value
    print(f"a step: {seconds:.2f} CPU s on {options.threads} threads, {total:.2f} s in operators")
    for part, value in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"  {part:26} {value:7.3f} s  {value / total:6.1%}")
    print("most expensive operators")
    for key, value in sorted(events, key=lambda item: -item[1])[:10]:
        print(f"  {key:44} {value:7.3f} s  {value / total:6.1%}")


if __name__ == "__main__":
    main()
