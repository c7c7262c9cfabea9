"""Receives weights that the learner sends: by a broadcast to all workers, or in chunks that the driver passes on."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict

from rlvr.errors import RolloutError, TransferError
from rlvr.records import Transport, WeightsRef
from rlvr.rollout.vllm import adapter, mapping
from rlvr.rollout.vllm.core import VllmCore
from rlvr.rollout.vllm.settings import EngineSettings
from rlvr.transfer.chunks import Chunk
from rlvr.transfer.rendezvous import Rendezvous

_SHOWN = 8  # tensors named in a message


class Receiver:
    """One engine in the group of a run. is_partial: a receipt failed, and the weights are a mixture."""

    def __init__(self, core: VllmCore, settings: EngineSettings) -> None:
        self.is_partial = False
        self._core = core
        self._shapes = settings.weight_shapes
        self._name = f"engine {settings.engine_id or 'vllm'!r}"
        self._deadline_s = 0.0
        self._chunks: asyncio.Queue[tuple[Chunk | None, asyncio.Future[None]]] = asyncio.Queue()

    async def join(self, rendezvous: Rendezvous, *, first_rank: int) -> None:
        """See `rlvr.transfer.engines.JoinsTransfers`."""
        self._deadline_s = rendezvous.deadline_s
        self._chunks = asyncio.Queue()
        request = adapter.init_request(rendezvous=asdict(rendezvous), first_rank=first_rank)
        await self._core.call("init_weight_transfer_engine", request)
        await self._received()

    async def feed(self, chunk: Chunk | None) -> None:
        """Passes a chunk to the load that is running, and waits until it was read; None ends the load."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._chunks.put_nowait((chunk, done))
        await done

    async def receive(self, ref: WeightsRef) -> dict[str, int]:
        """Receives and loads all tensors of `ref`; returns the checksums of what arrived.

        Raises: RolloutError for tensors that the model does not have, before anything has changed; TransferError when
            they did not arrive.
        """
        problems = mapping.shape_problems({entry.name: entry.shape for entry in ref.manifest}, self._shapes)
        if problems:
            more = f", and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            raise RolloutError(
                f"weights of version {ref.policy_version}: {self._name} has another model than the learner: "
                f"{'; '.join(problems[:_SHOWN])}{more}"
            )
        self.is_partial = True
        await self._core.call("start_weight_update")
        late = ""
        if ref.transport is Transport.NCCL:
            await self._core.call("update_weights", adapter.broadcast_request(ref))
        else:
            try:
                async for chunk in self._arriving():
                    await self._core.call("update_weights", adapter.update_request(**chunk.to_json()))
            except TimeoutError:
                late = (
                    f"{self._name}: the weights did not arrive within {self._deadline_s:g} s (cluster.sync_deadline_s)"
                )
        await self._core.call("finish_weight_update")
        checksums = await self._received()
        if late:
            raise TransferError(late)
        await self._core.call("collective_rpc", "rlvr_repack")
        await self._core.call("update_weight_version", str(ref.policy_version))
        return checksums

    async def _arriving(self) -> AsyncIterator[Chunk]:
        """The chunks of one load. Raises TimeoutError."""
        until = time.monotonic() + self._deadline_s
        while True:
            async with asyncio.timeout(until - time.monotonic()):
                chunk, done = await self._chunks.get()
            try:
                if chunk is None:
                    return
                yield chunk
            finally:
                done.set_result(None)

    async def _received(self) -> dict[str, int]:
        """What every worker received since the last call. Raises TransferError with what failed in a worker."""
        answers: Sequence[tuple[dict[str, int], str]] = await self._core.call("collective_rpc", "rlvr_received")
        failures = [problem for _, problem in answers if problem]
        if failures:
            raise TransferError(f"{self._name}: {failures[0]}")
        checksums = dict(answers[0][0])
        if any(dict(other) != checksums for other, _ in answers):
            raise TransferError(f"the workers of {self._name} received different bytes")
        return checksums
