"""A tiny learner with engines on files, honest and faulty, and the proof between them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from rlvr.algorithms.build import build_loss
from rlvr.config.recipe import EngineDtype, ModelConfig, TinyModel
from rlvr.config.sections.algorithm import AlgorithmConfig
from rlvr.config.sections.learner import LearnerConfig, LearnerDtype
from rlvr.config.sections.model import LoraConfig
from rlvr.config.sections.proof import ProofConfig
from rlvr.learner.learner import PolicyLearner
from rlvr.models.policy import Policy, load_policy
from rlvr.protocols import EngineHealth, GenerationRequest, LoadReceipt
from rlvr.records import Completion, Json, Transport, WeightsRef
from rlvr.rollout.transformers_engine import COPY_DTYPES, TransformersEngine
from rlvr.run.step.learner_thread import LearnerThread
from rlvr.run.weights.answers import Compared
from rlvr.run.weights.canary import Rows, build_canary
from rlvr.run.weights.proof import WeightProof
from rlvr.run.weights.sync import Sync, first_sync, sync_weights
from tests.unit.learner.learner_cases import make_batch

TINY = TinyModel(layers=2, hidden_size=32, heads=4, intermediate_size=64, characters="0123456789:")


def tiny_policy(*, seed: int = 3, rank: int = 0) -> Policy:
    lora = LoraConfig(rank=rank)
    policy = load_policy(ModelConfig(tiny=TINY, lora=lora), seed=seed)
    with torch.no_grad():  # sharper than at birth
        for parameter in policy.model.parameters():
            parameter.mul_(2.0)
    return policy


class Wrapped:
    """A transformers engine behind the protocol; faulty ones change `load_weights`."""

    def __init__(self, inner: TransformersEngine) -> None:
        self.inner = inner
        self.num_loads = 0

    def generate(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Completion]:
        return self.inner.generate(requests)

    async def load_weights(self, ref: WeightsRef, *, canary: Sequence[Sequence[int]] = ()) -> LoadReceipt:
        self.num_loads += 1
        return await self.load(ref, tuple(map(tuple, canary)))

    async def load(self, ref: WeightsRef, canary: Rows) -> LoadReceipt:
        return await self.inner.load_weights(ref, canary=canary)

    async def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        return await self.inner.score(rows)

    async def health(self) -> EngineHealth:
        return await self.inner.health()

    async def close(self) -> None:
        await self.inner.close()

    async def claim(self, ref: WeightsRef, canary: Rows) -> LoadReceipt:
        """The receipt of one who did not load, with the log-probs of what it holds."""
        scores = await self.inner.score(canary)
        return LoadReceipt(
            policy_version=ref.policy_version,
            checksums={entry.name: entry.checksum for entry in ref.manifest},
            canary_logprobs=tuple(tuple(row) for row in scores),
            engine_id=self.inner._engine_id,
        )


class Corrupting(Wrapped):
    """One tensor of the file is damaged on its way. checks: whether the engine looks at what it received."""

    tensor = "model.layers.1.mlp.up_proj.weight"
    checks = True

    async def load(self, ref: WeightsRef, canary: Rows) -> LoadReceipt:
        if ref.policy_version != 1:
            return await super().load(ref, canary)
        tensors = load_file(ref.uri)
        tensors[self.tensor][0, 0] += 1e-3
        path = str(Path(ref.uri).with_name("damaged.safetensors"))
        save_file(tensors, path, metadata={"format": "pt"})
        if self.checks:
            return await super().load(replace(ref, uri=path), canary)
        receipt = await super().load(ref, canary)
        return replace(receipt, checksums={**receipt.checksums, self.tensor: 1})


class Skipping(Wrapped):
    """Claims version 2 and keeps what it has."""

    async def load(self, ref: WeightsRef, canary: Rows) -> LoadReceipt:
        return await (self.claim(ref, canary) if ref.policy_version == 2 else super().load(ref, canary))


class Lying(Wrapped):
    """Says that it serves another version."""

    async def load(self, ref: WeightsRef, canary: Rows) -> LoadReceipt:
        receipt = await super().load(ref, canary)
        return replace(receipt, policy_version=ref.policy_version - 1)


class StaleHead(Wrapped):
    """Copies everything, and computes with a head that was packed before."""

    def __init__(self, inner: TransformersEngine) -> None:
        super().__init__(inner)
        head: Any = inner._model.get_output_embeddings()
        packed = head.weight.detach().clone()
        head.forward = lambda hidden: torch.nn.functional.linear(hidden, packed)


class Drifting(Wrapped):
    """Its arithmetic goes wrong a little more with every load after the start."""

    by = 2e-3

    async def load(self, ref: WeightsRef, canary: Rows) -> LoadReceipt:
        receipt = await super().load(ref, canary)
        off = self.by * max(0, ref.policy_version)
        rows = tuple(tuple(x + off * (-1) ** i for i, x in enumerate(r)) for r in receipt.canary_logprobs)
        return replace(receipt, canary_logprobs=rows)


class Cached(Wrapped):
    """Answers the canary from a cache."""

    def __init__(self, inner: TransformersEngine) -> None:
        super().__init__(inner)
        self.cache: dict[tuple[int, ...], tuple[float, ...]] = {}

    async def load(self, ref: WeightsRef, canary: Rows) -> LoadReceipt:
        receipt = await super().load(ref, canary)
        for row, scores in zip(canary, receipt.canary_logprobs, strict=True):
            self.cache.setdefault(row, scores)
        return replace(receipt, canary_logprobs=tuple(self.cache[row] for row in canary))


class Pair(Wrapped):
    """Two engines behind one handle."""

    def __init__(self, first: Wrapped, second: Wrapped) -> None:
        super().__init__(first.inner)
        self.both = (first, second)

    async def load(self, ref: WeightsRef, canary: Rows) -> LoadReceipt:
        receipts = [await engine.load_weights(ref, canary=canary) for engine in self.both]
        return replace(receipts[0], engine_id="", members=tuple(receipts))

    async def close(self) -> None:
        for engine in self.both:
            await engine.close()


class ProofWorld:
    """What a run has of a proof; `run` does the first sync and then steps with syncs."""

    def __init__(
        self,
        folder: Path,
        *,
        dtype: EngineDtype = EngineDtype.FLOAT32,
        autocast: bool = False,
        seed: int = 3,
        rank: int = 0,
        transport: Transport = Transport.FILE,
        lr: float = 1e-3,
        **proof: Any,
    ) -> None:
        self.policy = tiny_policy(seed=seed, rank=rank)
        self.dtype, self.autocast = dtype, autocast
        self.seed = seed
        kind = LearnerDtype.BFLOAT16_AUTOCAST if autocast else LearnerDtype.FLOAT32
        self.learner = PolicyLearner(
            self.policy,
            config=LearnerConfig(dtype=kind, lr=lr),
            loss=build_loss(AlgorithmConfig(), max_completion_tokens=8, uses_proximal=False),
            temperature=1.0,
            transport=transport,
            reference=None,
            fault_folder=folder,
            published_dtype=COPY_DTYPES[dtype],
            weights_folder=folder / "weights",
        )
        self.config = ProofConfig(**{"canary_tokens": 512, "drift_every_syncs": 2, **proof})
        self.events: list[tuple[str, Mapping[str, Json]]] = []
        self.lines: list[str] = []

    def engine(self, engine_id: str = "") -> TransformersEngine:
        return TransformersEngine(
            self.policy, engine_dtype=self.dtype, autocast=self.autocast, max_batch_rows=8, engine_id=engine_id
        )

    def run(
        self, build: Callable[[TransformersEngine], Wrapped] = Wrapped, *, syncs: int = 4, engine: Wrapped | None = None
    ) -> list[Sync]:
        return asyncio.run(self._run(engine or build(self.engine()), syncs))

    async def _run(self, engine: Wrapped, syncs: int) -> list[Sync]:
        thread = LearnerThread()
        canary = build_canary(
            [[1, 5, 6, 7]], vocabulary=range(4, 15), num_tokens=self.config.canary_tokens, max_row_tokens=33, seed=0
        )

        def record(kind: str, line: str, fields: Mapping[str, Json]) -> None:
            self.events.append((kind, fields))
            self.lines.append(line)

        proof = WeightProof(
            Compared(
                config=self.config, canary=canary, learner=self.learner, engine=engine, thread=thread, record=record
            )
        )
        try:
            done = [await first_sync(self.learner, engine, thread=thread, proof=proof)]
            for step in range(syncs):
                batch = make_batch(seed=100 * self.seed + step)
                await thread.run(lambda b=batch: self.learner.step(b))
                done.append(await sync_weights(self.learner, engine, thread=thread, proof=proof))
            return done
        finally:
            thread.close()
            await engine.close()
            self.learner.close()
