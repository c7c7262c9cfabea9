"""The contracts between the parts of a run. What crosses them are records, never a concrete class.

`Learner` stands in `rlvr.batch`, because it speaks of tensors.
"""

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel

from rlvr.records import Completion, Json, Prompt, Verdict, WeightsRef


class Execution(StrEnum):
    """How a verifier runs.

    PROCESS: in a killable worker process with a hard deadline for each item (the default).
    ASYNC: in the run's event loop, cancelled at its deadline; for judges behind a network.
    SANDBOXED: in the parent, because all waiting and all danger are delegated to a sandbox.
    """

    PROCESS = "process"
    ASYNC = "async"
    SANDBOXED = "sandboxed"


class Capability(StrEnum):
    """What a sandbox can do beyond `run`."""

    SESSION = "session"


@runtime_checkable
class Verifier(Protocol):
    """Judges completions. Built as `VerifierClass(config, context)`; see verifiers/README.md for the shortest form.

    Optional methods, looked up by name:
        `parse_reference(reference)`: raises ValueError on a reference that cannot be used; run on all data at load.
        `prejudge(reference, completion) -> Verdict | None`: pure and quick; runs in the parent, so that easy items
            never cross a process border. None means: ask `verify`.
        `warm_up()`: called once in a worker process before its first item, on time of its own; import heavy
            libraries here, so that no item pays for them.
        `verify_group(prompt, completions) -> list[Verdict]`: shares work among the completions of one prompt.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    execution: ClassVar[Execution]
    Config: ClassVar[type[BaseModel]]

    def verify(self, prompt: Prompt, completion: Completion) -> Verdict | Awaitable[Verdict]:
        """The verdict on one completion; `prompt` is narrowed to this check, so `prompt.reference` is its gold.

        Raises: anything it raises becomes an ERROR verdict and an alarm, never a reward of zero.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a program may use in a sandbox."""

    wall_s: float = 6.0
    memory_mb: int = 1024
    pids: int = 64
    output_bytes: int = 8_388_608
    file_bytes: int = 67_108_864


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a sandboxed program ended; `timed_out` and `out_of_memory` are results, not errors."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    seconds: float
    timed_out: bool = False
    out_of_memory: bool = False


class SandboxSession(Protocol):
    """A running program that answers framed messages."""

    async def send(self, frame: bytes) -> None:
        """Raises SandboxError when the box broke."""
        ...

    async def receive(self, timeout_s: float) -> bytes:
        """Waits for one frame. Raises TimeoutError when none came, EOFError when the program ended."""
        ...

    async def close(self) -> RunResult:
        """Ends the program and everything it started."""
        ...


@runtime_checkable
class Sandbox(Protocol):
    """Runs untrusted programs. The first line of each backend's docstring says what it does not stop."""

    name: ClassVar[str]
    capabilities: ClassVar[frozenset[Capability]]

    async def run(
        self, program: Sequence[str], files: Mapping[str, bytes], stdin: bytes, limits: Limits
    ) -> RunResult:
        """Runs `program` to its end. Raises SandboxError when the box broke; a failing program is a result."""
        ...

    async def open_session(
        self, program: Sequence[str], files: Mapping[str, bytes], limits: Limits
    ) -> SandboxSession:
        """Starts a program to talk with; only where `capabilities` include SESSION."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn. temperature 0 is greedy. A stop string or token ends the completion and stays in it."""

    temperature: float
    max_tokens: int
    stop_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One completion asked of an engine: tokens in, tokens out.

    seed: decides every draw of this completion, whatever batch it sits in. deadline_s: seconds from submission, after
    which the engine returns what it has with finish reason ABORT.
    """

    request_id: str
    prompt_id: str
    prefix_token_ids: tuple[int, ...]
    sample_index: int
    seed: int
    sampling: Sampling
    deadline_s: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReceipt:
    """An engine's own word on the weights it now uses; `checksums` are computed from what the engine holds."""

    policy_version: int
    checksums: Mapping[str, int] = field(default_factory=dict[str, int])
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineHealth:
    """Whether an engine can serve, which version it serves, and how much is waiting."""

    is_healthy: bool
    policy_version: int
    num_open_requests: int
    detail: str = ""


class RolloutEngine(Protocol):
    """Generates completions and loads weights."""

    def generate(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Completion]:
        """Yields each completion as it finishes. Raises RolloutError when the engine cannot go on."""
        ...

    async def load_weights(self, ref: WeightsRef) -> LoadReceipt:
        """Waits for running work to end, switches to `ref`, and reports what it now holds."""
        ...

    async def health(self) -> EngineHealth:
        """Answers at once, even while generating."""
        ...

    async def close(self) -> None:
        """Frees what the engine holds; open requests fail with RolloutError."""
        ...


class MetricSink(Protocol):
    """Takes one row of metrics a step (`area/name` -> number)."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes one row. Must not raise for a network fault: it warns once and goes on."""
        ...

    def close(self) -> None:
        """Flushes."""
        ...


__all__ = [
    "Capability", "EngineHealth", "Execution", "GenerationRequest", "Json", "Limits", "LoadReceipt", "MetricSink",
    "RolloutEngine", "RunResult", "Sampling", "Sandbox", "SandboxSession", "Verifier",
]  # fmt: skip
