"""What the vLLM engine costs on this machine with SmolLM2-135M: start, memory, tokens a second, a load, log-probs.

    python tests/bench/vllm_engine.py bfloat16 [key=value ...]
    python tests/bench/vllm_engine.py bfloat16 model.lora.rank=16 model.lora.sends_alone=true

Each load is compared with a plain copy of the same bytes by one thread. State the machine's load with the numbers.
"""

import copy
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e" / "vllm"))
import vllm_cases as cases
from vllm_cases import Living, request

from rlvr.config.load import load_recipe
from rlvr.learner.weights.publication import Publication
from rlvr.models.policy import load_policy
from rlvr.records import Transport, WeightsKind
from rlvr.rollout.vllm.build import build_vllm_engine

TEXT = "<|im_start|>user\nTell me about {} in detail.<|im_end|>\n<|im_start|>assistant\n"
WORDS = ("rain", "music", "cats", "steel", "bread", "maps", "tides", "glass")


def say(dtype: str, **numbers: object) -> None:
    shown = "  ".join(f"{key}={value}" for key, value in numbers.items())
    print(f"{dtype}  {shown}  load={os.getloadavg()[0]:.1f}", flush=True)


def main(dtype: str, *changes: str) -> None:
    recipe = load_recipe(
        "quickstart",
        [
            "rollout.engine=vllm",
            "cluster.backend=ray",
            f"rollout.engine_dtype={dtype}",
            "data.max_prompt_tokens=128",
            "rollout.max_completion_tokens=128",
            "rollout.max_batch_rows=32",
            *changes,
        ],
    ).recipe
    policy = load_policy(recipe.model, seed=0)
    kind = getattr(torch, dtype)
    prompts = [tuple(policy.tokenizer.encode(TEXT.format(word))) for word in WORDS]
    engine = build_vllm_engine(recipe, text=policy.text)
    living = Living(engine)
    begin = time.perf_counter()
    living.run(engine.start(), within_s=500)
    say(dtype, start_s=round(time.perf_counter() - begin, 1), memory_gb=engine.memory_bytes() / 1e9)

    shm = Path("/dev/shm")
    frozen, whole, copies, written = [], [], [], []
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as folder:
        sent = WeightsKind.ADAPTER if recipe.sends_adapters else WeightsKind.FULL
        publication = Publication(transport=Transport.FILE, dtype=kind, folder=Path(folder), kind=sent)
        for _ in range(6):
            publication.has_changed = True
            begin = time.perf_counter()
            ref = publication.publish(policy.model)
            written.append(time.perf_counter() - begin)
            tensors = load_file(ref.uri)
            num_bytes = sum(tensor.nbytes for tensor in tensors.values())
            begin = time.perf_counter()
            receipt = living.run(engine.load_weights(ref, canary=prompts[:4]))
            frozen.append(receipt.seconds - receipt.canary_s)
            whole.append(time.perf_counter() - begin)
            target = {name: torch.empty_like(tensor) for name, tensor in tensors.items()}
            begin = time.perf_counter()
            for name, tensor in tensors.items():
                target[name].copy_(tensor)
            copies.append(time.perf_counter() - begin)
        publication.close()
    say(
        dtype,
        megabytes=num_bytes // 10**6,
        publish_s=round(statistics.median(written[1:]), 3),
        load_frozen_s=round(statistics.median(frozen[1:]), 3),
        load_and_canary_s=round(statistics.median(whole[1:]), 3),
        memcpy_s=round(statistics.median(copies[1:]), 3),
        memory_gb=engine.memory_bytes() / 1e9,
    )

    begin = time.perf_counter()
    found = living.generate(
        *(request(f"{i}", prompts[i % 8], seed=i, temperature=1.0, max_tokens=128) for i in range(32))
    )
    seconds = time.perf_counter() - begin
    say(dtype, tokens_per_s=round(sum(len(c.token_ids) for c in found.values()) / seconds, 1))

    model = copy.deepcopy(policy.model).to(kind).eval()
    errors: list[float] = []
    for completion in list(found.values())[:8]:
        row = [*completion.prompt_token_ids, *completion.token_ids]
        with torch.no_grad():
            table = torch.log_softmax(model(torch.tensor([row])).logits[0].float(), -1)
        start = len(completion.prompt_token_ids)
        exact = [table[i - 1, row[i]].item() for i in range(start, len(row))]
        errors += cases.differences(completion.logprobs, exact)
    mean = sum(errors) / len(errors)
    say(dtype, difference_mean=f"{mean:.2g}", largest=f"{max(errors):.2g}", num_tokens=len(errors))
    living.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
