"""An engine under test, with a tiny policy whose weights it is sent as a run sends them."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from rlvr.config.recipe import EngineTraits, ModelConfig, TinyModel
from rlvr.learner.weights.publication import Publication
from rlvr.models.checksum import tensor_checksum
from rlvr.models.policy import Policy, build_tiny
from rlvr.models.scoring import score_rows
from rlvr.protocols import GenerationRequest, LoadReceipt, RolloutEngine, Sampling, SupportsStart
from rlvr.records import Completion, Transport, WeightsRef
from rlvr.rollout.context import EngineContext

DEADLINE_S = 60.0  # of one clause
START_DEADLINE_S = 300.0  # of the constructor, and of `start` with the first load
GRACE_S = 5.0  # for an engine to end after it missed a deadline
MAX_TOKENS = 12
MODEL = TinyModel(layers=2, hidden_size=64, heads=2, intermediate_size=128, characters="0123456789:")
PROMPTS = ((1, 5, 6, 7), (1, 9), (1, 4, 4, 4, 4, 8))
CANARY = ((1, 5, 6, 7, 8, 9), (1, 10, 11, 4))
_SEED = 1
_SHARPER = 2.0  # at birth a tiny model is nearly uniform, and one policy looks like another

Factory = Callable[[EngineContext], RolloutEngine]
Problems = list[str]


class WatchedEngine:
    """The engine under test; it forwards all methods. running: those that have not returned, in order of their calls.

    Implements RolloutEngine, and the optional `start` if the engine has it.
    """

    def __init__(self, engine: RolloutEngine) -> None:
        self._engine = engine
        self.running: list[str] = []
        if isinstance(engine, SupportsStart):  # from Python 3.12 on isinstance does not see what __getattr__ returns
            self.start = partial(self._call, "start", engine.start)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._engine, name)
        return partial(self._stream if name == "generate" else self._call, name, method)

    async def _call(self, name: str, method: Callable[..., Awaitable[Any]], *arguments: Any, **named: Any) -> Any:
        with self._noted(name):
            return await method(*arguments, **named)

    async def _stream(
        self, name: str, method: Callable[..., AsyncIterator[Completion]], requests: Sequence[GenerationRequest]
    ) -> AsyncIterator[Completion]:
        with self._noted(name):
            async for completion in method(requests):
                yield completion

    @contextmanager
    def _noted(self, name: str) -> Generator[None]:
        self.running.append(name)
        try:
            yield
        finally:
            self.running.remove(name)


@dataclass(slots=True, kw_only=True)
class EngineTrial:
    """One engine and the policy whose weights it gets.

    version: of the weights that were loaded last. sees_policy: whether the engine was given `policy` itself.
    """

    engine: Any  # a WatchedEngine
    traits: EngineTraits
    policy: Policy
    publication: Publication
    sees_policy: bool
    version: int = 0
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _checksums: list[int] = field(default_factory=list[int])

    @property
    def vocab_size(self) -> int:
        """Rows of the policy's embedding; a token id is below."""
        return self.policy.model.get_input_embeddings().weight.shape[0]  # type: ignore[union-attr] # no stub

    def request(
        self,
        prompt: Sequence[int] = PROMPTS[0],
        *,
        seed: int = 0,
        sample_index: int = 0,
        temperature: float = 1.0,
        max_tokens: int = MAX_TOKENS,
        **sampling: Any,
    ) -> GenerationRequest:
        """A request with an id of its own."""
        return GenerationRequest(
            request_id=f"check/{next(self._numbers)}",
            prompt_id="check",
            prefix_token_ids=tuple(prompt),
            sample_index=sample_index,
            seed=seed,
            sampling=Sampling(temperature=temperature, max_tokens=max_tokens, **sampling),
            deadline_s=10 * DEADLINE_S,
        )

    def group(self, count: int = 4, **sampling: Any) -> list[GenerationRequest]:
        """`count` requests for each of the prompts, each with a seed of its own."""
        return [
            self.request(prompt, seed=100 * place + index, sample_index=index, **sampling)
            for place, prompt in enumerate(PROMPTS)
            for index in range(count)
        ]

    async def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """Completions in the order of the requests; those that did not come are left out."""
        found = [completion async for completion in self.engine.generate(requests)]
        by_id = {completion.completion_id: completion for completion in found}
        return [by_id[r.request_id] for r in requests if r.request_id in by_id]

    def publish(self) -> WeightsRef:
        """The present weights of the policy, under the next version."""
        self.publication.has_changed = True
        return self.publication.publish(self.policy.model)

    async def load(self, ref: WeightsRef) -> LoadReceipt:
        """Has the engine load them and score the canary."""
        receipt = await self.engine.load_weights(ref, canary=CANARY)
        self.version = ref.policy_version
        return receipt

    def change_weights(self, *, seed: int) -> None:
        """Moves every weight of the policy, so that its log-probs change by tenths of a nat."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in self.policy.model.parameters():
                noise = torch.randn(weight.shape, generator=generator)
                weight.add_(noise * weight.std())
        self._checksums = self._sum_policy()

    def is_policy_written(self) -> bool:
        """Whether the engine changed tensors of the policy since the last call or `change_weights`."""
        before, self._checksums = self._checksums, self._sum_policy()
        return bool(before) and before != self._checksums

    def _sum_policy(self) -> list[int]:
        return [tensor_checksum(weight) for weight in self.policy.model.parameters()] if self.sees_policy else []

    def reference(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """What `score` must give: the policy's own log-probs (nats, temperature 1)."""
        return score_rows(self.policy.model, rows)

    def expected_logits(self, completion: Completion) -> torch.Tensor:
        """The policy's logits for each token of a completion, [tokens, vocab]."""
        ids = [*completion.prompt_token_ids, *completion.token_ids]
        was_training = self.policy.model.training
        self.policy.model.eval()
        with torch.no_grad():
            logits = self.policy.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        self.policy.model.train(was_training)
        return logits[len(completion.prompt_token_ids) - 1 : -1].float()


def make_trial(factory: Factory, *, traits: EngineTraits, transport: Transport) -> EngineTrial:
    """A trial whose engine was built and not started. Raises whatever the engine's constructor raises."""
    policy = _sharp_policy()
    model = ModelConfig(tiny=MODEL)
    given: Policy | None = None
    if traits.has_weights and not traits.needs_own_process:
        given = policy if transport is not Transport.FILE else _sharp_policy()
    has_copy = traits.has_weights and transport is not Transport.SHARED
    context = EngineContext(
        text=policy.text,
        policy=given,
        model=model,
        seed=_SEED,
        transport=transport,
        dtype=torch.float32 if has_copy else None,
        has_autocast=False,
        max_batch_rows=64,
    )
    return EngineTrial(
        engine=WatchedEngine(factory(context)),
        traits=traits,
        policy=policy,
        sees_policy=given is policy,
        publication=Publication(transport=transport, dtype=torch.float32),
    )


def _sharp_policy() -> Policy:
    policy = build_tiny(MODEL, seed=_SEED)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.mul_(_SHARPER)
    return policy


Check = Callable[[EngineTrial], Awaitable[Problems]]
Checks = Mapping[str, Check]
