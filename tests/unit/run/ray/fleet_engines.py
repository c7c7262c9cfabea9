"""Engines for tests of the fleet: simulated ones that fulfil MemberEngine, and can be made to fail in every way."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from rlvr.errors import RolloutError
from rlvr.protocols import EngineHealth, GenerationRequest, LoadReceipt, Sampling
from rlvr.records import Completion, FinishReason, TensorEntry, Transport, WeightsKind, WeightsRef
from rlvr.run.ray.workers.engine_member import EngineLost

CHECKSUM = 7


def weights(version: int) -> WeightsRef:
    """A reference with one tensor."""
    return WeightsRef(
        policy_version=version,
        kind=WeightsKind.FULL,
        transport=Transport.FILE,
        uri=f"/nowhere/v{version}.safetensors",
        dtype="float32",
        manifest=(TensorEntry(name="w", shape=(1,), checksum=CHECKSUM),),
    )


def request(name: str, *, seed: int = 0, max_tokens: int = 4) -> GenerationRequest:
    return GenerationRequest(
        request_id=name,
        prompt_id=name.partition("#")[0],
        prefix_token_ids=(1, 2),
        sample_index=0,
        seed=seed,
        sampling=Sampling(temperature=1.0, max_tokens=max_tokens),
    )


class SimulatedEngine:
    """Answers each request after `delay_s`, with tokens that depend on its seed alone.

    is_frozen: it answers nothing any more. dies_after: completions, then its process is gone. fails: every generation
    raises. canary: what it computes there. load_s: how long a load takes.
    """

    def __init__(
        self,
        name: str,
        *,
        delay_s: float = 0.0,
        dies_after: int | None = None,
        fails: bool = False,
        canary: float = -1.0,
        load_s: float = 0.0,
    ) -> None:
        self.name = name
        self.place = f"node of {name}"
        self.node = ""
        self.delay_s = delay_s
        self.dies_after = dies_after
        self.fails = fails
        self.canary = canary
        self.load_s = load_s
        self.is_frozen = False
        self.is_killed = False
        self.is_closed = False
        self.version = -1
        self.calls: list[list[str]] = []
        self.loads: list[int] = []

    async def generate(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Completion]:
        self.calls.append([r.request_id for r in requests])
        if self.fails:
            raise RolloutError("generation failed: OutOfMemoryError: CUDA out of memory")
        for r in requests:
            await self._time(self.delay_s)
            if self.dies_after is not None:
                if self.dies_after == 0:
                    raise EngineLost("the process was killed")
                self.dies_after -= 1
            yield Completion(
                completion_id=r.request_id,
                prompt_id=r.prompt_id,
                sample_index=r.sample_index,
                prompt_token_ids=r.prefix_token_ids,
                token_ids=(r.seed, 5),
                logprobs=(-0.5, -0.5),
                sampled_mask=(True, True),
                text="x",
                finish_reason=FinishReason.STOP,
                policy_versions=(self.version, self.version),
            )

    async def load_weights(self, ref: WeightsRef, *, canary: Sequence[Sequence[int]] = ()) -> LoadReceipt:
        start = time.perf_counter()
        await self._time(self.load_s)
        self.version = ref.policy_version
        self.loads.append(ref.policy_version)
        return LoadReceipt(
            policy_version=ref.policy_version,
            checksums={"w": CHECKSUM},
            seconds=time.perf_counter() - start,
            canary_logprobs=((self.canary,),),
        )

    async def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        await self._time(0)
        return [[self.canary] * (len(row) - 1) for row in rows]

    async def health(self) -> EngineHealth:
        await self._time(0)
        return EngineHealth(is_healthy=True, policy_version=self.version, num_open_requests=0)

    async def close(self) -> None:
        self.is_closed = True

    async def kill(self) -> None:
        self.is_killed = True

    async def _time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        while self.is_frozen:
            await asyncio.sleep(0.005)
