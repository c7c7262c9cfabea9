"""Time and peak memory of the LM head and its loss, forward and backward, three ways.

    textbook  all logits, float32 log-softmax, automatic differentiation
    kept      rlvr's head with room for all logits: kept once, in bfloat16, and turned into their gradient in place
    chunked   rlvr's head within --logits-memory-mb

bfloat16 autocast, float32 weights. Each case runs in a process of its own (peak memory is the process's resident
maximum above what weights and hidden states take, or the CUDA allocator's), the cases alternate, and the median and
range of the rounds are printed.

    python tests/bench/lm_head.py [--vocabs 32000 152064] [--width 896] [--tokens 4096] [--rounds 3]
        [--cpu-time] [--output FILE]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

CASES = ("textbook", "kept", "chunked")


def measure(case: str, *, vocab: int, width: int, tokens: int, megabytes: int, cpu_time: bool) -> dict[str, float]:
    """Seconds and peak MiB of one case, in this process."""
    from rlvr.run.launch.process import prepare_process

    prepare_process()
    import torch

    from rlvr.models.head_logprobs import HeadRequest, linear_logprobs
    from rlvr.models.packed.packing import Targets

    torch.set_num_threads(2)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    head = torch.nn.Linear(width, vocab, bias=False, device=device)
    hidden = torch.randn(tokens, width, device=device, requires_grad=True)
    index = torch.arange(tokens, device=device)
    targets = Targets(
        positions=index, source=index, first_target=range(tokens + 1), token_ids=index % vocab, column=index
    )
    request = HeadRequest(
        targets=targets,
        temperature=1.0,
        chunk_bytes=(megabytes if case == "chunked" else 1 << 20) << 20,
        needs_entropy_gradient=False,
    )

    def once() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            if case == "textbook":
                logp = torch.log_softmax(head(hidden).float(), -1)
                chosen = logp.gather(-1, targets.token_ids[:, None])[:, 0]
                with torch.no_grad():
                    (logp.exp() * logp).sum(-1)
            else:
                chosen = linear_logprobs(hidden, head, request=request)[:, 0]
        chosen.sum().backward()
        head.zero_grad()
        hidden.grad = None

    def peak() -> float:
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    before = peak()
    once()  # it also chooses kernels and maps memory, so the second one is timed
    after = peak()
    clock = time.process_time if cpu_time else time.perf_counter
    start = clock()
    once()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return {"seconds": clock() - start, "peak_mib": after - before}


def main() -> None:
    """Prints a line a vocabulary and case and, with --output, writes every measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--vocabs", type=int, nargs="+", default=[32_000, 152_064])
    for name, default in (("width", 896), ("tokens", 4096), ("rounds", 3), ("logits-memory-mb", 512)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--cpu-time", action="store_true", help="CPU seconds: for a busy machine")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.case:
        found = measure(
            options.case,
            vocab=options.vocabs[0],
            width=options.width,
            tokens=options.tokens,
            megabytes=options.logits_memory_mb,
            cpu_time=options.cpu_time,
        )
        print(json.dumps(found))
        return
    rows: dict[tuple[int, str], list[dict[str, float]]] = {}
    for _ in range(options.rounds):
        for vocab in options.vocabs:
            for case in CASES:
                command = [sys.executable, __file__, "--case", case, "--vocabs", str(vocab)]
                for name in ("width", "tokens", "logits_memory_mb"):
                    command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
                command += ["--cpu-time"] if options.cpu_time else []
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                line = done.stdout.strip().splitlines()[-1]
                rows.setdefault((vocab, case), []).append(json.loads(line))
    print(f"{options.tokens} tokens, width {options.width}, chunks of {options.logits_memory_mb} MiB")
    for (vocab, case), found in rows.items():
        seconds = [row["seconds"] for row in found]
        peak = statistics.median(row["peak_mib"] for row in found)
        print(
            f"vocabulary {vocab:7,d}  {case:8s} {statistics.median(seconds):7.2f} s "
            f"({min(seconds):.2f} to {max(seconds):.2f})  peak {peak:7,.0f} MiB"
        )
    if options.output:
        table = [{"vocab": v, "case": c, "rounds": found} for (v, c), found in rows.items()]
        options.output.write_text(json.dumps({**vars(options), "rows": table}, indent=2, default=str))


if __name__ == "__main__":
    main()
