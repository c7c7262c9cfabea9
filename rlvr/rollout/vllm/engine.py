"""`VllmEngine`: vLLM's AsyncLLM behind the RolloutEngine contract.

    generate --> one task a request --> AsyncLLM --(zmq)--> core process: scheduler, worker, model
                 waits for the last output, or for its deadline, then aborts and takes the tokens so far

    load_weights: inspect the file --> freeze --> transfer --> repack --> set version --> thaw --> canary
                  (adapters alone: their base once, then each set replaces the previous one)
                  (a broadcast: freeze --> receive, summing what arrives --> repack --> ...; after a failure the engine
                  stays frozen until another load succeeds)
                  requests in flight keep their tokens; their prefix is recomputed with the new weights

Every request has a cache salt specific to this load of weights, so no prefix of another policy is ever read.
vLLM's environment must be set before any call; `build.build_vllm_engine` does that.
"""

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig

from rlvr.errors import RolloutError, TransferError
from rlvr.models.policy import PolicyText
from rlvr.models.prompting import decode
from rlvr.protocols import EngineHealth, GenerationRequest, LoadReceipt
from rlvr.records import Completion, TensorEntry, WeightsRef
from rlvr.rollout.vllm import adapter, mapping
from rlvr.rollout.vllm.core import VllmCore
from rlvr.rollout.vllm.inspection import Inspected, inspect_file, require_loadable
from rlvr.rollout.vllm.receiving import Receiver
from rlvr.rollout.vllm.settings import EngineSettings
from rlvr.transfer.chunks import Chunk
from rlvr.transfer.rendezvous import Rendezvous

ABORT_GRACE_S = 30.0  # how long vLLM may take to return the tokens of an aborted request
_SHOWN = 8  # tensors named in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checked:
    """A load that was checked. whole: to load, None if it is loaded. adapters: the copied file, to load after it."""

    whole: WeightsRef | None
    adapters: Path | None
    checksums: Mapping[str, int]


class VllmEngine:
    """One vLLM engine. Its processes start with `start`, or with the first load of weights.

    It is bound to the event loop in which it was first used.
    """

    def __init__(self, settings: EngineSettings, *, text: PolicyText, architecture: PretrainedConfig) -> None:
        self._settings = settings
        self._text = text
        self._core = VllmCore(settings, architecture=architecture, tokenizer=text.tokenizer)
        self._receiver = Receiver(self._core, settings)
        self._version = -1
        self._base: tuple[TensorEntry, ...] = ()  # the base of adapters
        self._is_sleeping = False
        self._has_cache = True  # False after `wake` from level 2, until weights are loaded
        self._salt = ""  # of the loaded weights; empty while there are none
        self._open: set[asyncio.Task[Completion]] = set()
        self._ended = ""  # why open requests were ended by the engine
        self._broken = ""  # why it can never serve again
        self._names = itertools.count()
        self._loading = asyncio.Lock()

    async def start(self) -> None:
        """Starts vLLM's processes (seconds; minutes if it compiles); does nothing when they run.

        Raises: ConfigError when this vLLM cannot be used or refuses an argument, RolloutError when it did not start.
        """
        await self._core.start()

    async def generate(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Completion]:
        """Yields each completion as it finishes; a caller that stops early, or is cancelled, aborts the rest.

        Raises: RolloutError when the engine has no weights, sleeps, is closed or died, or rejects a request.
        """
        self._require_serving()
        tasks = [asyncio.create_task(self._complete(request)) for request in requests]
        self._open.update(tasks)
        try:
            for done in asyncio.as_completed(tasks):
                try:
                    completion = await done
                except asyncio.CancelledError:
                    caller = asyncio.current_task()
                    if self._ended and not (caller and caller.cancelling()):
                        raise RolloutError(f"generation failed: {self._ended}") from None
                    raise
                yield completion
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._open.difference_update(tasks)

    async def load_weights(self, ref: WeightsRef, *, canary: Sequence[Sequence[int]] = ()) -> LoadReceipt:
        """Loads the file of `ref`, or receives it from the learner, and scores the canary.

        Requests in flight are frozen meanwhile, then continue.
        A file is inspected before generation pauses. On an accelerator its bytes are compared while they load.

        Raises: RolloutError with each tensor that is missing, unknown, misshapen or different from the learner's;
            nothing has changed then, but for bytes that differ on an accelerator: these, and a failure of vLLM during
            the load, end the open requests and the engine. TransferError when what the learner sends did not arrive:
            the engine is well, but frozen until it is sent again.
        """
        require_loadable(ref, has_adapters=self._settings.lora is not None)
        await self.start()
        async with self._loading:
            if self._is_sleeping or self._broken:
                raise RolloutError(self._broken or "the engine sleeps; call wake before load_weights")
            begin = time.perf_counter()
            checked = None if ref.transport.is_sent else await self._check(ref)
            paused = time.perf_counter()
            try:
                await self._core.call("pause_generation", mode="keep", clear_cache=True)
                checksums = await (self._receive(ref) if checked is None else self._transfer(ref, checked))
                if not self._has_cache:
                    await self._core.call("wake_up", tags=["kv_cache"])
                    self._has_cache = True
            finally:
                if not self._trouble() and self._has_cache and not self._receiver.is_partial:
                    await self._core.call("resume_generation")
            loaded = time.perf_counter()
            scores = await self._score(canary)
            end = time.perf_counter()
            return LoadReceipt(
                policy_version=self._version,
                checksums=checksums,
                seconds=end - begin,
                canary_s=end - loaded,
                frozen_s=loaded - paused,
                canary_logprobs=tuple(tuple(row) for row in scores),
                engine_id=self._settings.engine_id,
            )

    async def join(self, rendezvous: Rendezvous, *, first_rank: int) -> None:
        """Joins the learner's group with its workers; see `rlvr.transfer.engines.JoinsTransfers`."""
        await self.start()
        async with self._loading:
            await self._receiver.join(rendezvous, first_rank=first_rank)

    async def feed(self, chunk: Chunk | None) -> None:
        """Passes a chunk to the running `load_weights`; see `rlvr.transfer.engines.JoinsTransfers`."""
        await self._receiver.feed(chunk)

    async def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """Teacher-forced log-probs at temperature 1. Each row is computed alone, so equal weights give equal bits.

        Raises: RolloutError when a row is too long, or the engine cannot serve.
        """
        self._require_serving()
        return await self._score(rows)

    async def sleep(self, *, level: int = 2) -> tuple[int, int]:
        """Frees the device for others; returns the bytes in use on it before and after.

        Level 1 keeps the weights in host memory, level 2 keeps nothing: weights must be loaded after `wake`. On a CPU
        vLLM frees nothing: generation stops, memory stays, and the bytes are those of vLLM's processes.

        Raises: RolloutError when requests are open.
        """
        if self._open:
            raise RolloutError(f"the engine cannot sleep with {len(self._open)} open requests; wait for them first")
        before = await self._used_bytes()
        self._is_sleeping = True
        await self._core.call("sleep", level=level, mode="abort")
        if level > 1 and not self._settings.is_cpu:
            self._salt, self._base = "", ()
        return before, await self._used_bytes()

    async def wake(self) -> None:
        """Takes the memory back; after level 2, only that of the weights, and `load_weights` must follow.

        The memory of the key-value cache follows at the end of the load, which needs room of its own; so does a learner
        on the same device, until it has sent the weights.
        """
        if self._salt:
            await self._core.call("wake_up")
        else:
            await self._core.call("wake_up", tags=["weights"])
            self._has_cache = False
        self._is_sleeping = False

    async def health(self) -> EngineHealth:
        """The engine's state, without a call to vLLM."""
        detail = self._trouble()
        return EngineHealth(
            is_healthy=not detail, policy_version=self._version, num_open_requests=len(self._open), detail=detail
        )

    async def close(self) -> None:
        """Stops vLLM's processes; open requests fail with RolloutError."""
        self._end_open("the engine is closed")
        await self._core.close()

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The ids of vLLM's processes, for a watchdog."""
        return self._core.process_ids

    def memory_bytes(self) -> int:
        """Resident memory of all vLLM processes."""
        return self._core.memory_bytes()

    async def _complete(self, request: GenerationRequest) -> Completion:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        prompt = adapter.token_prompt(request.prefix_token_ids, cache_salt=self._salt)
        params = SamplingParams(
            **mapping.sampling_arguments(request, stop_token_ids=self._text.stop_token_ids),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        name = f"{request.request_id}#{next(self._names)}"  # a retried request gets a new name
        last = asyncio.create_task(self._core.last_output(prompt, params, name=name))
        try:
            await asyncio.wait([last], timeout=request.deadline_s)
            if not last.done():
                await self._core.call("abort", name)
                await asyncio.wait([last], timeout=ABORT_GRACE_S)
            if not last.done():
                raise RolloutError(
                    f"request {request.request_id!r} passed its deadline of {request.deadline_s:g} s, and vLLM did not "
                    f"abort it within {ABORT_GRACE_S:g} s"
                )
            output = last.result()
        finally:
            if not last.done():
                last.cancel()
                await asyncio.gather(last, return_exceptions=True)
        return mapping.completion_of(request, output.outputs[0], to_text=lambda ids: decode(ids, self._text.tokenizer))

    async def _check(self, ref: WeightsRef) -> _Checked:
        """Inspects the files of `ref` and has the workers map the whole weights; requests continue meanwhile.

        Raises: RolloutError; nothing has changed then.
        """
        lora, adapters = self._settings.lora, None
        checksums: Mapping[str, int] = {}
        whole = ref if ref.base is None else ref.base
        if whole is not ref and lora is not None:
            names = [entry.name for entry in ref.manifest]
            adapters = await self._core.take_adapters(ref.uri, names=names, lora=lora)
            shapes = {entry.name: entry.shape for entry in ref.manifest}
            inspected = await self._inspect(ref, str(adapters), shapes=shapes, sums_bytes=True)
            checksums = inspected.checksums
        is_known = whole.manifest == self._base
        if not is_known:
            on_device = not self._settings.is_cpu
            shapes = self._settings.weight_shapes
            inspected = await self._inspect(whole, whole.uri, shapes=shapes, sums_bytes=not on_device)
            arguments = (whole.uri, inspected.file_id, on_device)
            answers: Sequence[str] = await self._core.call("collective_rpc", "rlvr_map", args=arguments)
            self._refuse(whole, [answer for answer in answers if answer])
            checksums = inspected.checksums if adapters is None else checksums
        return _Checked(whole=None if is_known else whole, adapters=adapters, checksums=checksums)

    async def _transfer(self, ref: WeightsRef, checked: _Checked) -> dict[str, int]:
        """Loads the files' weights into every worker; returns the checksums of the loaded tensors."""
        checksums = dict(checked.checksums)
        try:
            if checked.whole is not None:
                await self._core.call("start_weight_update")
                await self._core.call("update_weights", adapter.update_request(path=checked.whole.uri))
                await self._core.call("finish_weight_update")
                await self._core.call("collective_rpc", "rlvr_repack")
                if not self._settings.is_cpu:
                    received = await self._received(checked.whole)
                    checksums = checksums if checked.adapters is not None else received
            if checked.adapters is not None:
                await self._core.load_adapters(checked.adapters)
                self._base = ref.base.manifest if ref.base is not None else ()
            await self._core.call("update_weight_version", str(ref.policy_version))
        except BaseException:  # a cancelled load also leaves half of the weights
            self._broken = f"weights of version {ref.policy_version} were loaded only in part; start a new engine"
            self._end_open(self._broken)
            raise
        self._serve(ref)
        return checksums

    async def _receive(self, ref: WeightsRef) -> dict[str, int]:
        """Receives whole weights in every worker; returns the checksums of what arrived."""
        try:
            checksums = await self._receiver.receive(ref)
        except TransferError:
            raise
        except BaseException:  # a cancelled load also leaves half of the weights
            if self._receiver.is_partial:
                self._broken = f"weights of version {ref.policy_version} arrived only in part; start a new engine"
                self._end_open(self._broken)
            raise
        self._serve(ref)
        return checksums

    def _serve(self, ref: WeightsRef) -> None:
        self._receiver.is_partial = False
        self._version = ref.policy_version
        self._salt = f"{self._settings.run}:{ref.policy_version}:{uuid.uuid4().hex}"

    async def _received(self, ref: WeightsRef) -> dict[str, int]:
        """Checksums of the tensors on the workers' devices. Raises RolloutError when they are not the learner's."""
        answers: Sequence[tuple[dict[str, int], str]] = await self._core.call("collective_rpc", "rlvr_received")
        for received, _ in answers:
            self._refuse(ref, _wrong_bytes(ref, received), outcome="must be replaced")
        return answers[0][0]

    async def _inspect(
        self, ref: WeightsRef, path: str, *, shapes: Mapping[str, Sequence[int]], sums_bytes: bool
    ) -> Inspected:
        """What the file at `path` holds. Raises RolloutError unless it is what the learner's manifest says."""
        inspected = await asyncio.to_thread(inspect_file, path, shapes=shapes, sums_bytes=sums_bytes)
        wrong = _wrong_bytes(ref, inspected.checksums) if inspected.checksums else []
        self._refuse(ref, [*inspected.problems, *wrong])
        return inspected

    def _refuse(self, ref: WeightsRef, problems: Sequence[str], *, outcome: str = "") -> None:
        """Raises RolloutError when there are problems. Args: outcome: for the engine; by default nothing changed."""
        problems = list(dict.fromkeys(problems))  # several workers report the same
        if problems:
            more = f", and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            raise RolloutError(
                f"weights of version {ref.policy_version} from {ref.uri}: {'; '.join(problems[:_SHOWN])}{more}. "
                f"Engine {self._settings.engine_id or 'vllm'!r} {outcome or f'keeps version {self._version}'}"
            )

    async def _score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        longest = max((len(row) for row in rows), default=0)
        if longest >= self._settings.max_model_len:
            raise RolloutError(
                f"a row of {longest} tokens cannot be scored: at most {self._settings.max_model_len - 1} (one less "
                "than max_model_len); shorten the row or raise rollout.engine_args.max_model_len"
            )
        params = SamplingParams(**mapping.scoring_arguments(), output_kind=RequestOutputKind.FINAL_ONLY)

        async def one(row: Sequence[int]) -> list[float]:
            if len(row) < 2:
                return []
            name = f"{mapping.SCORE_PREFIX}{next(self._names)}"
            prompt = adapter.token_prompt(row, cache_salt=f"{self._salt}:{name}")
            output = await self._core.last_output(prompt, params, name=name)
            return mapping.prompt_logprobs(output.prompt_logprobs, count=len(row) - 1)

        return list(await asyncio.gather(*(one(row) for row in rows)))

    async def _used_bytes(self) -> int:
        if self._settings.is_cpu:
            return self._core.memory_bytes()
        used: Sequence[int] = await self._core.call("collective_rpc", "rlvr_used_bytes")
        return sum(used)

    def _trouble(self) -> str:
        return self._core.trouble() or self._broken

    def _end_open(self, why: str) -> None:
        self._ended = why
        for task in self._open:
            task.cancel()

    def _require_serving(self) -> None:
        if trouble := self._trouble():
            raise RolloutError(trouble)
        if self._is_sleeping:
            raise RolloutError("the engine sleeps; call wake first")
        if not self._salt:
            raise RolloutError(
                "the engine has no weights (none were loaded yet, or it slept at level 2); call load_weights first"
            )


def _wrong_bytes(ref: WeightsRef, checksums: Mapping[str, int]) -> list[str]:
    """What differs between the checksums of tensors that arrived and the learner's manifest, one line per tensor."""
    sent = {entry.name: entry.checksum for entry in ref.manifest}
    found = [
        f"{name!r} arrived with bytes that differ from the learner's"
        for name, checksum in checksums.items()
        if sent.get(name, checksum) != checksum
    ]
    found += [f"{name!r} arrived but is not in the learner's manifest" for name in checksums if name not in sent]
    return found + [f"{name!r} was sent but did not arrive" for name in sent if name not in checksums]
