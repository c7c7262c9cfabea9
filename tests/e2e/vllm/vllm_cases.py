"""What the tests of the vLLM engine share: a tiny policy, published weights, an engine and the loop it lives in."""

import asyncio
import dataclasses
import gc
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaForCausalLM

from rlvr.config.load import load_recipe
from rlvr.config.recipe import Recipe, TinyModel
from rlvr.models.checksum import tensor_checksum
from rlvr.models.policy import Policy, build_tiny
from rlvr.protocols import GenerationRequest, Sampling
from rlvr.records import Completion, TensorEntry, Transport, WeightsKind, WeightsRef
from rlvr.rollout.vllm.build import build_vllm_engine
from rlvr.rollout.vllm.engine import VllmEngine
from rlvr.rollout.vllm.outline import outline_of
from rlvr.rollout.vllm.settings import EXTENSION

T = TypeVar("T")
TINY = TinyModel(layers=2, hidden_size=128, heads=4, intermediate_size=384, max_positions=512, characters="0123456789:")
CANARY = ((1, 5, 6, 7, 8, 9), (1, 4, 4, 4), (1, 9, 10, 11, 12, 13, 14, 5, 6))


def recipe_of(*changes: str) -> Recipe:
    """The tiny recipe with a vLLM engine in float32."""
    return load_recipe(
        "tiny",
        [
            "rollout.engine=vllm",
            "cluster.backend=ray",
            "rollout.engine_dtype=float32",
            "data.max_prompt_tokens=256",
            "rollout.max_completion_tokens=200",
            *changes,
        ],
    ).recipe


def sharper(policy: Policy, *, seed: int, scale: float = 2.0) -> Policy:
    """Other weights, sharper than at birth, so that texts differ, and norms that are not all one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.mul_(scale).add_(0.02 * noise)
    return policy


def tiny_policy(*, seed: int) -> Policy:
    """A tied policy."""
    return sharper(build_tiny(TINY, seed=seed), seed=seed)


def untied_policy(*, seed: int) -> Policy:
    """The same architecture with a head of its own."""
    tied = build_tiny(TINY, seed=seed)
    config = type(tied.model.config).from_dict(tied.model.config.to_dict() | {"tie_word_embeddings": False})
    torch.manual_seed(seed)
    return sharper(dataclasses.replace(tied, model=LlamaForCausalLM(config)), seed=seed)


def without_end(policy: Policy) -> Policy:
    """The policy with no stop token, so that only the limit ends a completion."""
    return dataclasses.replace(policy, stop_token_ids=())


def tensors_of(policy: Policy, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {n: p.detach().to(dtype).clone() for n, p in policy.model.named_parameters()}


def publish(tensors: dict[str, Tensor], path: Path, *, version: int) -> WeightsRef:
    """The reference of `tensors`, written to `path`."""
    save_file(tensors, path)
    return WeightsRef(
        policy_version=version,
        kind=WeightsKind.FULL,
        transport=Transport.FILE,
        uri=str(path),
        dtype="float32",
        manifest=tuple(
            TensorEntry(name=name, shape=tuple(tensor.shape), checksum=tensor_checksum(tensor))
            for name, tensor in tensors.items()
        ),
    )


def engine_for(
    policy: Policy,
    *changes: str,
    extension: str = EXTENSION,
    transport: Transport = Transport.FILE,
    name: str = "engine-0",
) -> VllmEngine:
    recipe = recipe_of(*changes)
    return build_vllm_engine(
        recipe,
        text=policy.text,
        engine_id=name,
        run="test",
        outline=outline_of(policy.model, lora=recipe.model.lora),
        extension=extension,
        transport=transport,
    )


def request(
    name: str,
    prefix: Sequence[int] = (1, 5, 6, 7),
    *,
    seed: int = 0,
    temperature: float = 0.8,
    max_tokens: int = 24,
    deadline_s: float = 120.0,
    **sampling: Any,
) -> GenerationRequest:
    return GenerationRequest(
        request_id=name,
        prompt_id="p",
        prefix_token_ids=tuple(prefix),
        sample_index=0,
        seed=seed,
        sampling=Sampling(temperature=temperature, max_tokens=max_tokens, **sampling),
        deadline_s=deadline_s,
    )


async def collect(engine: VllmEngine, requests: Sequence[GenerationRequest]) -> dict[str, Completion]:
    return {c.completion_id: c async for c in engine.generate(requests)}


def expected_logprobs(policy: Policy, row: Sequence[int], *, start: int = 1, temperature: float = 1.0) -> list[float]:
    """Log-probs of tokens `start` and on, from transformers' logits in float64."""
    exact = LlamaForCausalLM(policy.model.config).double()
    exact.load_state_dict({k: v.double() for k, v in policy.model.state_dict().items()})
    with torch.no_grad():
        logits = exact.eval()(torch.tensor([list(row)])).logits[0] / (temperature or 1.0)
    table = torch.log_softmax(logits, -1)
    return [table[i - 1, row[i]].item() for i in range(start, len(row))]


def differences(got: Sequence[float], expected: Sequence[float]) -> list[float]:
    assert len(got) == len(expected)
    return [abs(a - b) for a, b in zip(got, expected, strict=True)]


class Living:
    """An event loop, and the engine that lives in it."""

    def __init__(self, engine: VllmEngine) -> None:
        self.loop = asyncio.new_event_loop()
        self.engine = engine

    def run(self, work: Coroutine[Any, Any, T], *, within_s: float = 240.0) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, within_s))

    def generate(self, *requests: GenerationRequest) -> dict[str, Completion]:
        return self.run(collect(self.engine, requests))

    def end(self) -> None:
        self.run(self.engine.close())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        gc.collect()
