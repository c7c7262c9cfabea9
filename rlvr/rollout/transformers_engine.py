"""The rollout engine that needs only transformers; it runs in the learner's process.

`engine_dtype: shared` reads the learner's tensors, in the learner's arithmetic. The other settings keep a copy that
`load_weights` refreshes in place, so that the engine may generate while the learner trains: `float32` in the learner's
arithmetic, `bfloat16` in half the memory. A copy's log-probs differ from the learner's through the layout of the
computation or through precision, so ratios then use the learner's proximal log-probs, and the difference is reported
as `mismatch/*`.
A copy is refreshed from the learner's tensors or, in a separate process, from the files that the learner publishes.
"""

import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rlvr.config.recipe import EngineDtype
from rlvr.errors import RolloutError
from rlvr.models import lora
from rlvr.models.checksum import tensor_checksum
from rlvr.models.policy import Policy
from rlvr.models.prompting import decode, stop_text
from rlvr.models.scoring import score_rows
from rlvr.protocols import EngineHealth, GenerationRequest, LoadReceipt
from rlvr.records import Completion, Transport, WeightsRef
from rlvr.rollout.decode import Row, decode_rows
from rlvr.rollout.next_token import Way, way_of
from rlvr.rollout.waves import Emit, WaveScheduler

COPY_DTYPES = {EngineDtype.BFLOAT16: torch.bfloat16, EngineDtype.FLOAT32: torch.float32}


class TransformersEngine:
    """Generates with `policy.model` (shared) or with a copy of it."""

    def __init__(
        self, policy: Policy, *, engine_dtype: EngineDtype, autocast: bool, max_batch_rows: int, engine_id: str = ""
    ) -> None:
        """Args:
        autocast: whether the learner computes in bfloat16 autocast; an engine in float32 then does too.
        engine_id: its name in receipts, if it is one of several.
        """
        if engine_dtype is EngineDtype.AUTO:
            raise RolloutError(
                "rollout.engine_dtype=auto must be chosen before the engine is built: see rlvr.run.launch.choose_dtypes"
            )
        self._policy = policy
        self._engine_id = engine_id
        self._shared = engine_dtype is EngineDtype.SHARED
        self._autocast = autocast and engine_dtype is not EngineDtype.BFLOAT16
        self._max_batch_rows = max_batch_rows
        self._version = 0
        # Measured on the policy and not on a copy: it is in float32, so that rounding hides nothing.
        self._way = way_of(policy.model)
        self._waves = WaveScheduler(self._run_wave, name="rlvr-engine")
        if self._shared:
            self._model = policy.model
        else:
            self._model = lora.plain_copy(policy.model, dtype=COPY_DTYPES[engine_dtype])
            # No gradient is taken, but torch looks at the flag: kernels are chosen by it (else the last bits would not
            # be the learner's), and autocast keeps a weight's cast for the next token only where it is set.
            self._model.requires_grad_(engine_dtype is EngineDtype.FLOAT32)

    def generate(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Completion]:
        """Yields each completion as it finishes; all requests of one turn of the event loop share a wave."""
        return self._waves.generate(requests)

    async def load_weights(self, ref: WeightsRef, *, canary: Sequence[Sequence[int]] = ()) -> LoadReceipt:
        """Switches to `ref` after earlier waves. Raises RolloutError when the loaded tensors are not those sent."""
        return await self._waves.call(lambda: self._load(ref, canary))

    async def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probs of each row's tokens but the first, with the current weights, each row in its own shape."""
        return await self._waves.call(lambda: self._score(rows))

    async def health(self) -> EngineHealth:
        """Always healthy: it dies with the process."""
        return EngineHealth(is_healthy=True, policy_version=self._version, num_open_requests=self._waves.num_open)

    async def close(self) -> None:
        """Ends the engine's thread."""
        self._waves.close()

    def _load(self, ref: WeightsRef, canary: Sequence[Sequence[int]]) -> LoadReceipt:
        start = time.perf_counter()
        if self._shared != (ref.transport is Transport.SHARED):
            raise RolloutError(f"weights of transport {ref.transport} cannot be loaded by this engine")
        checksums = {} if self._shared else self._refresh(ref)
        self._version = ref.policy_version
        loaded = time.perf_counter()
        scores = self._score(canary)
        return LoadReceipt(
            policy_version=ref.policy_version,
            checksums=checksums,
            seconds=time.perf_counter() - start,
            canary_logprobs=tuple(tuple(row) for row in scores),
            canary_s=time.perf_counter() - loaded,
            frozen_s=loaded - start,
            engine_id=self._engine_id,
        )

    def _refresh(self, ref: WeightsRef) -> dict[str, int]:
        """Copies the published tensors into the engine's own; returns the checksums of the result."""
        target = dict(self._model.named_parameters())
        where = f"weights of version {ref.policy_version}"
        own = str(next(iter(target.values())).dtype).removeprefix("torch.")
        if ref.dtype.removeprefix("torch.") != own:
            raise RolloutError(
                f"{where} are {ref.dtype}, and the engine holds {own}; rollout.engine_dtype must be the same on both "
                "sides"
            )
        with torch.no_grad():
            if ref.transport is Transport.FILE:
                _copy_from_file(ref, target, where=where)
            else:
                for name, weight in lora.merged_weights(self._policy.model):
                    target[name].copy_(weight)
        checksums = {entry.name: tensor_checksum(target[entry.name]) for entry in ref.manifest}
        wrong = [e.name for e in ref.manifest if checksums[e.name] != e.checksum]
        if wrong:
            raise RolloutError(
                f"{where}: {len(wrong)} of {len(ref.manifest)} tensors differ from the learner's, first "
                f"{wrong[0]!r}; the engine must not generate with them"
            )
        return checksums

    def _score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        with self._arithmetic():
            return score_rows(self._model, rows)

    def _arithmetic(self) -> AbstractContextManager[object]:
        if not self._autocast:
            return nullcontext()
        return torch.autocast(next(self._model.parameters()).device.type, torch.bfloat16)

    def _run_wave(self, requests: Sequence[GenerationRequest], emit: Emit) -> None:
        version = self._version
        was_training = self._model.training
        self._model.eval()

        def finished(row: Row) -> None:
            emit(self._completion(row, version=version))

        try:
            for batch in self._batches(requests):
                with self._arithmetic():
                    decode_rows(
                        self._model,
                        batch,
                        way=self._way,
                        stop_token_ids=self._policy.stop_token_ids,
                        pad_token_id=self._policy.pad_token_id,
                        to_text=lambda ids: stop_text(ids, self._policy.tokenizer),
                        finished=finished,
                    )
        finally:
            self._model.train(was_training)

    def _batches(self, requests: Sequence[GenerationRequest]) -> Iterator[Sequence[GenerationRequest]]:
        """Batches of at most `max_batch_rows` requests, with prompts of equal length if the way needs it."""
        parts: dict[int, list[GenerationRequest]] = {}
        for request in requests:
            length = len(request.prefix_token_ids) if self._way is Way.EQUAL_LENGTHS else 0
            parts.setdefault(length, []).append(request)
        for part in parts.values():
            for start in range(0, len(part), self._max_batch_rows):
                yield part[start : start + self._max_batch_rows]

    def _completion(self, row: Row, *, version: int) -> Completion:
        if row.finish_reason is None:
            raise RolloutError(f"request {row.request.request_id!r} left the engine unfinished")
        count = len(row.token_ids)
        return Completion(
            completion_id=row.request.request_id,
            prompt_id=row.request.prompt_id,
            sample_index=row.request.sample_index,
            prompt_token_ids=row.request.prefix_token_ids,
            token_ids=tuple(row.token_ids),
            logprobs=tuple(row.logprobs),
            sampled_mask=(True,) * count,
            text=decode(row.token_ids, self._policy.tokenizer),
            finish_reason=row.finish_reason,
            policy_versions=(version,) * count,
        )


def _copy_from_file(ref: WeightsRef, target: Mapping[str, Tensor], *, where: str) -> None:
    """Raises RolloutError with the tensors that are missing, unknown or of another shape."""
    sent = {entry.name for entry in ref.manifest}
    try:
        with safe_open(ref.uri, framework="pt") as file:
            there = set(file.keys())
            missing = sorted((set(target) | sent) - there)
            unknown = sorted((there | sent) - set(target))
            if missing or unknown:
                raise RolloutError(
                    f"{where}: {len(missing)} tensors are missing (first: {missing[:3]}) and {len(unknown)} are "
                    f"unknown (first: {unknown[:3]}) in {ref.uri}; learner and engine must use the same model"
                )
            for name, tensor in target.items():
                arrived = file.get_tensor(name)
                if arrived.shape != tensor.shape:
                    raise RolloutError(
                        f"{where}: {name!r} has shape {list(arrived.shape)} in {ref.uri}, and the engine's has "
                        f"{list(tensor.shape)}; learner and engine must use the same model"
                    )
                tensor.copy_(arrived)
    except (OSError, SafetensorError) as error:
        raise RolloutError(f"{where} cannot be read from {ref.uri}: {error}") from error
