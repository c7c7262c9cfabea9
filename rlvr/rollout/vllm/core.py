"""vLLM's processes: start, calls, failure and shutdown."""

import asyncio
import itertools
import multiprocessing
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from rlvr.config.sections.model import LoraConfig
from rlvr.errors import ConfigError, RolloutError
from rlvr.models.lora import ADAPTER_WEIGHTS
from rlvr.processes import watchdog
from rlvr.rollout.vllm import adapter, environment
from rlvr.rollout.vllm.last_errors import last_errors
from rlvr.rollout.vllm.outline import write_adapters, write_outline
from rlvr.rollout.vllm.settings import EngineSettings
from rlvr.telemetry.facts import facts_here

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

T = TypeVar("T")
SHUTDOWN_S = 10.0
_NOT_STARTED = "the engine was not started; call start or load_weights first"
_CLOSED = "the engine is closed"


class VllmCore:
    """An `AsyncLLM` with its processes. Every exception of vLLM becomes a RolloutError here."""

    def __init__(
        self, settings: EngineSettings, *, architecture: PretrainedConfig, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self._settings = settings
        self._architecture = architecture
        self._tokenizer = tokenizer
        self._llm: AsyncLLM | None = None
        self._folder: Path | None = None
        self._processes: list[psutil.Process] = []
        self._adapters: Path | None = None
        self._numbers = itertools.count()
        self._is_closed = False
        self._changing = asyncio.Lock()

    async def start(self) -> None:
        """Starts vLLM in a thread, so that the event loop stays responsive; does nothing when it runs.

        Raises: ConfigError when this vLLM cannot be used or rejects an argument, RolloutError when it did not start.
        """
        async with self._changing:
            if self._is_closed:
                raise RolloutError(_CLOSED)
            if self._llm is not None:
                return
            before = {child.pid for child in psutil.Process().children(recursive=True)}
            self._folder = environment.make_folder()
            watchdog.guard(self._folder)
            write_outline(self._folder, architecture=self._architecture, tokenizer=self._tokenizer)
            try:
                self._llm = await asyncio.to_thread(self._build, self._folder)
            finally:
                self._processes = [p for p in _children() if p.pid not in before]
            await self.call("init_weight_transfer_engine", adapter.init_request())

    async def close(self) -> None:
        """Stops vLLM's processes and removes its folder."""
        self._is_closed = True
        async with self._changing:
            llm, self._llm = self._llm, None
            if llm is not None:
                await asyncio.to_thread(llm.shutdown, SHUTDOWN_S)
                adapter.retire(llm)
            await asyncio.to_thread(_end, self._processes)
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
                watchdog.forget(self._folder)

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Awaits a method of vLLM's `AsyncLLM`."""
        function: Callable[..., Awaitable[Any]] = getattr(self.llm, method)
        try:
            return await function(*args, **kwargs)
        except Exception as error:  # any exception of vLLM
            raise self._failure(f"vLLM's {method} failed", error) from error

    async def take_adapters(self, file: str, *, names: Iterable[str], lora: LoraConfig) -> Path:
        """Copies a file of adapters, whose owner may remove it at any time, and returns the copy.

        Args: names: of its tensors, as peft writes them.

        Raises: RolloutError when it cannot be copied.
        """
        assert self._folder is not None  # `start` was awaited
        folder = self._folder / f"adapters-{next(self._numbers)}"
        try:
            await asyncio.to_thread(write_adapters, folder, file, names=names, lora=lora)
        except OSError as error:
            raise RolloutError(f"adapters {file} could not be copied to {folder}: {error}") from error
        return folder / ADAPTER_WEIGHTS

    async def load_adapters(self, copy: Path) -> None:
        """Replaces the adapters by those of a copy; running and new requests use them."""
        before, folder = self._adapters, copy.parent
        await self.call("add_lora", adapter.lora_request(str(folder), is_new=True))
        self._adapters = folder
        if before is not None:
            shutil.rmtree(before, ignore_errors=True)

    async def last_output(self, prompt: Any, params: Any, *, name: str) -> Any:
        """The final output of request `name`."""
        last = None
        async for output in self._outputs(prompt, params, name):
            last = output
        if last is None:
            raise RolloutError(f"request {name!r} left vLLM without an output")
        return last

    @property
    def llm(self) -> "AsyncLLM":
        """The running AsyncLLM. Raises RolloutError when none runs."""
        if (trouble := self.trouble()) or self._llm is None:
            raise RolloutError(trouble)
        return self._llm

    def trouble(self) -> str:
        """Why vLLM cannot serve; empty when it can. Checks the processes without waiting."""
        if self._is_closed:
            return _CLOSED
        if self._llm is None:
            return _NOT_STARTED
        for process in self._processes:
            state = _state(process)
            if state in (None, psutil.STATUS_ZOMBIE):
                return f"vLLM's process {process.pid} is gone (killed, or out of memory); start a new engine"
            if state == psutil.STATUS_STOPPED:
                return f"vLLM's process {process.pid} is stopped (SIGSTOP) and answers nothing"
        if not self._llm.errored:
            return ""
        return f"vLLM's core has died (killed, out of memory, or: {last_errors() or 'see its log'})"

    def memory_bytes(self) -> int:
        """Resident memory of all vLLM processes (shared pages count in each)."""
        return sum(p.memory_info().rss for p in self._processes if _state(p) is not None)

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The ids of vLLM's processes."""
        return tuple(process.pid for process in self._processes)

    def _build(self, folder: Path) -> "AsyncLLM":
        environment.prepare_environment(self._settings.environment)
        environment.require_no_strangers(environment.strangers(), torch_version=str(torch.__version__))
        if self._settings.is_cpu:
            environment.require_libraries()
        missing = adapter.missing_capabilities()
        if missing:
            raise ConfigError(
                f"rollout.engine=vllm: this vLLM lacks {', '.join(missing)}; install {environment.TESTED}"
            )
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = self._settings.call_arguments(str(folder))
        environment.require_known(
            arguments, known=adapter.known_arguments(), version=environment.installed_vllm().version
        )
        try:
            with environment.sockets_in(folder):
                return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), stat_loggers=_stat_loggers())
        except (ValueError, RuntimeError, OSError, TypeError) as error:
            cause = last_errors()
            raise RolloutError(
                f"vLLM did not start: {type(error).__name__}: {error}. "
                + (f"Its processes wrote: {cause}. " if cause else "")
                + "VLLM_LOGGING_LEVEL=INFO logs more"
            ) from error

    async def _outputs(self, prompt: Any, params: Any, name: str) -> AsyncIterator[Any]:
        lora = None if self._adapters is None else adapter.lora_request(str(self._adapters))
        outputs = self.llm.generate(prompt, params, request_id=name, lora_request=lora)
        while True:
            try:
                output = await anext(outputs)
            except StopAsyncIteration:
                return
            except Exception as error:  # any exception of vLLM
                raise self._failure(f"request {name!r} failed", error) from error
            yield output

    def _failure(self, what: str, error: Exception) -> RolloutError:
        return RolloutError(f"{what}: {self.trouble() or f'{type(error).__name__}: {error}'}")


def _stat_loggers() -> list[Any] | None:
    """What takes vLLM's statistics; None if the run serves no metrics, and vLLM then collects none."""
    facts = facts_here()
    if facts is None or not facts.metrics_port:
        return None
    from rlvr.rollout.vllm.usage import UsageLogger

    return [UsageLogger]


def _children() -> list[psutil.Process]:
    """The child processes that compute or schedule, without Python's resource tracker."""
    found: list[psutil.Process] = []
    for child in psutil.Process().children(recursive=True):
        try:
            command = child.cmdline()
        except psutil.NoSuchProcess:
            continue
        if not any("resource_tracker" in word for word in command):
            found.append(child)
    return found


def _state(process: psutil.Process) -> str | None:
    """A process's psutil status; None when it is gone."""
    try:
        return process.status() if process.is_running() else None
    except psutil.NoSuchProcess:
        return None


def _end(processes: Sequence[psutil.Process]) -> None:
    """Kills vLLM's remaining processes."""
    left = [p for p in processes if _state(p) not in (None, psutil.STATUS_ZOMBIE)]
    for process in left:
        process.terminate()
    _, stubborn = psutil.wait_procs(left, timeout=SHUTDOWN_S)
    for process in stubborn:
        process.kill()
    psutil.wait_procs(stubborn, timeout=SHUTDOWN_S)
    multiprocessing.active_children()  # reaps dead children, which would otherwise stay zombies
