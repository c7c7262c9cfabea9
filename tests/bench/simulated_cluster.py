"""Simulated engines, verifier pools and learners, and real fleets over them, for benches of the driver."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from rlvr.batch import Batch, Denominators, StepReport
from rlvr.processes.supervised_fleet import OnEvent, Supervision
from rlvr.protocols import EngineHealth, GenerationRequest, LoadReceipt
from rlvr.records import (
    Completion,
    FinishReason,
    Prompt,
    Status,
    TensorEntry,
    Transport,
    Verdict,
    WeightsKind,
    WeightsRef,
)
from rlvr.run.ray.workers.engine_fleet import EngineFleet
from rlvr.run.ray.workers.verifier_fleet import Item, ItemVerdicts, VerifierFleet
from rlvr.transfer.chunks import Chunk
from rlvr.transfer.rendezvous import Rendezvous
from rlvr.verification.service import VerifierService

NUM_TOKENS = 32
NUM_TENSORS = 300  # of a model of 7B parameters


class InstantEngine:
    """Answers at once, as an engine that holds a copy of the weights."""

    def __init__(self, name: str) -> None:
        self.place = name
        self.node = ""
        self._version = 0

    async def generate(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Completion]:
        await asyncio.sleep(0)
        for request in requests:
            yield self.completion(request)

    def completion(self, request: GenerationRequest) -> Completion:
        return Completion(
            completion_id=request.request_id,
            prompt_id=request.prompt_id,
            sample_index=request.sample_index,
            prompt_token_ids=request.prefix_token_ids,
            token_ids=(5,) * NUM_TOKENS,
            logprobs=(-1.0,) * NUM_TOKENS,
            sampled_mask=(True,) * NUM_TOKENS,
            text="1" * NUM_TOKENS,
            finish_reason=FinishReason.STOP,
            policy_versions=(self._version,) * NUM_TOKENS,
        )

    async def load_weights(self, ref: WeightsRef, *, canary: Sequence[Sequence[int]] = ()) -> LoadReceipt:
        self._version = ref.policy_version
        await asyncio.sleep(0)
        return LoadReceipt(
            policy_version=ref.policy_version,
            checksums={entry.name: entry.checksum or 0 for entry in ref.manifest},
            canary_logprobs=scores_of(canary, self._version),
        )

    async def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        return [[-1.0] * (len(row) - 1) for row in rows]

    async def join(self, rendezvous: Rendezvous, *, first_rank: int) -> None: ...

    async def feed(self, chunk: Chunk | None) -> None: ...

    async def health(self) -> EngineHealth:
        return EngineHealth(is_healthy=True, policy_version=self._version, num_open_requests=0)

    async def close(self) -> None: ...

    async def kill(self) -> None: ...


class SlowEngine(InstantEngine):
    """Answers each request after a time between `low` and `high` seconds that depends on the request's seed alone."""

    def __init__(self, name: str, low: float, high: float) -> None:
        super().__init__(name)
        self._low, self._high = low, high

    async def generate(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Completion]:
        done: asyncio.Queue[GenerationRequest] = asyncio.Queue()
        for request in requests:
            share = request.seed % 1000 / 1000
            delay_s = self._low + share * (self._high - self._low)
            asyncio.get_running_loop().call_later(delay_s, done.put_nowait, request)
        for _ in requests:
            yield self.completion(await done.get())


class InstantPool:
    """Pays every second completion."""

    def __init__(self, name: str) -> None:
        self.place = name
        self.node = ""

    async def verify(self, items: Sequence[Item]) -> AsyncIterator[ItemVerdicts]:
        await asyncio.sleep(0)
        for item in items:
            passed = item.completion.sample_index % 2 == 0
            verdict = Verdict(
                status=Status.PASS if passed else Status.FAIL,
                score=float(passed),
                reason="by its index",
                verifier="bench@1",
                seconds=0.0,
            )
            yield ItemVerdicts(number=item.number, verdicts={check.name: verdict for check in item.prompt.checks})

    async def health(self) -> None: ...

    async def kill(self) -> None: ...


class Here(VerifierService):
    """Leaves every item to the pools."""

    def prejudge(self, prompt: Prompt, completion: Completion) -> dict[str, Verdict]:
        return {}


class InstantLearner:
    """Takes a step without computing."""

    def __init__(self) -> None:
        self._version = 0

    def annotate(self, batch: Batch) -> Batch:
        return batch

    def accumulate(self, batch: Batch) -> None: ...

    def apply(self, denominators: Denominators) -> StepReport:
        return StepReport(metrics={})

    def step(self, batch: Batch) -> StepReport:
        self._version += 1
        return StepReport(metrics={"learner/loss_tokens": float(batch.num_loss_tokens)})

    def publish(self) -> WeightsRef:
        return WeightsRef(
            policy_version=self._version, kind=WeightsKind.FULL, transport=Transport.SHARED, uri="", dtype="float32"
        )

    def start_save(self, folder: Path) -> None:
        (folder / "learner").write_text(str(self._version))

    def is_saved(self, *, waits: bool) -> bool:
        return True

    def restore(self, folder: Path) -> None: ...


class CopiedLearner(InstantLearner):
    """Publishes a model of `NUM_TENSORS` tensors as a file, all of which change with each version."""

    def publish(self) -> WeightsRef:
        self._version += 1
        manifest = tuple(
            TensorEntry(name=f"model.layers.{i}.weight", shape=(64, 64), checksum=1000 * self._version + i)
            for i in range(NUM_TENSORS)
        )
        return WeightsRef(
            policy_version=self._version,
            kind=WeightsKind.FULL,
            transport=Transport.FILE,
            uri="/nowhere",
            dtype="float32",
            manifest=manifest,
        )

    def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        return [list(row) for row in scores_of(rows, self._version)]

    def tensor_groups(self, *, most: int) -> Mapping[str, tuple[str, ...]]:
        return {}

    def perturb(self, names: Sequence[str], *, scale: float) -> None: ...

    def unperturb(self) -> None: ...


def scores_of(rows: Sequence[Sequence[int]], version: int) -> tuple[tuple[float, ...], ...]:
    """Log-probs that depend on the tokens and on the version."""
    return tuple(tuple(-1.0 - 0.01 * version - token % 7 for token in row[1:]) for row in rows)


@asynccontextmanager
async def started(
    make_engine: Callable[[str], InstantEngine], num_engines: int, num_pools: int, on_event: OnEvent
) -> AsyncIterator[tuple[EngineFleet, VerifierFleet]]:
    """Context with both fleets running, supervised as in a run."""

    async def spawn(name: str) -> InstantEngine:
        return make_engine(name)

    async def spawn_pool(name: str) -> InstantPool:
        return InstantPool(name)

    fleet = EngineFleet(spawn, num_engines=num_engines, supervision=Supervision(), on_event=on_event)
    verifiers = VerifierFleet(
        spawn_pool,
        names=[f"verifier-{i}" for i in range(num_pools)],
        here=Here(workers=1, deadline_s=5.0),
        supervision=Supervision(),
        on_event=on_event,
    )
    await asyncio.gather(fleet.start(), verifiers.start())
    try:
        yield fleet, verifiers
    finally:
        await asyncio.gather(fleet.close(), verifiers.close())
