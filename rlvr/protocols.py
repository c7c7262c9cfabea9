"""The contracts between the parts of a run. Only records cross them, never concrete classes; none uses tensors, so the
contract `Learner` is in `rlvr.batch`.
"""

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel

from rlvr.records import Completion, Execution, Json, Prompt, Verdict, WeightsRef


class Capability(StrEnum):
    """What a sandbox can do beyond `run`.

    SESSION: `open_session` and `open_sessions`, programs that answer framed messages.
    PRELOAD: `preload`, trusted sources that are compiled once and then cost runs nothing.
    WORKER: `start_worker` of `rlvr.jails.SupportsWorkers`, for verifiers whose execution is JAILED.
    """

    SESSION = "session"
    PRELOAD = "preload"
    WORKER = "worker"


@runtime_checkable
class Verifier(Protocol):
    """Judges completions. Built as `VerifierClass(config, context)`; see verifiers/README.md for the shortest form.

    A verifier may also have the members of the `Supports...` protocols below, of `verification.steps.SupportsSteps` and
    of `verification.readiness.SupportsReady`, without a base class.
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


@runtime_checkable
class SupportsParseReference(Protocol):
    """A verifier that checks the references of all data at load (if it is pooled, in a worker, under its deadline)."""

    def parse_reference(self, reference: Json) -> object:
        """Raises ValueError on a reference that cannot be used."""
        ...


@runtime_checkable
class SupportsPrejudge(Protocol):
    """A verifier that judges easy items in the parent, so that they never cross a process boundary."""

    def prejudge(self, reference: Json, completion: Completion) -> Verdict | None:
        """Pure and quick. None means: call `verify`."""
        ...


@runtime_checkable
class SupportsWarmUp(Protocol):
    """A verifier with heavy imports."""

    def warm_up(self) -> None:
        """Called once in a worker process before its first item, outside item deadlines; import libraries here."""
        ...


@runtime_checkable
class SupportsWorkKey(Protocol):
    """A verifier that gives the same verdict to items with equal keys, which are verified once."""

    def work_key(self, reference: Json, completion: Completion) -> str:
        """The key of an item; pure and quick."""
        ...


@runtime_checkable
class SupportsMaxOpen(Protocol):
    """An ASYNC verifier with a maximum of concurrent items; deadlines of waiting items start later."""

    max_open: int


@runtime_checkable
class SupportsClose(Protocol):
    """A verifier with connections."""

    def close(self) -> None:
        """Called once at the end, in the parent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a program may use in a sandbox.

    wall_s: seconds; without those in which the program was ready but no core was free, if the box can measure them.
    cpu_s: seconds of each process; 0 means `wall_s` + 1. memory_mb: of all processes together if the box can measure
    that, else of each. pids: processes and threads. output_bytes: of stdout; more sets `overflowed`. stderr_bytes: kept
    of stderr (its end). file_bytes: of one file, and of all files together if the box can measure that.
    """

    wall_s: float = 6.0
    cpu_s: float = 0.0
    memory_mb: int = 1024
    pids: int = 64
    output_bytes: int = 8_388_608
    stderr_bytes: int = 65_536
    file_bytes: int = 67_108_864

    @property
    def longest_s(self) -> float:
        """Seconds after which a program is killed, however little CPU time it got."""
        return 10.0 * self.wall_s + 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a sandboxed program ended: facts from the kernel, which it cannot forge. All are results, not errors.

    exit_code: 0 to 255, or -signal when a signal ended the program (as in `subprocess`).
    stdout: at most `output_bytes` bytes, not decoded; `overflowed` when the program wrote more.
    stderr: at most `stderr_bytes` bytes, the end of what was written.
    seconds: wall time. cpu_s, memory_mb: CPU time of all its processes that ended in order, and the largest resident
        set of one of them; 0 if the box cannot measure it.
    delay_s: seconds of the wall time in which the program was ready and got no core; None if the box cannot measure it.
    starved: ended after `Limits.longest_s`, most of which it waited for a core; `timed_out` is then True, too.
    timed_out: ended by the wall limit; without a `cpu_s` also after `wall_s` seconds of CPU time of all its processes,
        if the box can measure that.
    out_of_memory: ended by the memory limit (a MemoryError that the program saw itself is an ordinary exit).
    """

    exit_code: int
    stdout: bytes
    stderr: bytes
    seconds: float
    cpu_s: float = 0.0
    memory_mb: float = 0.0
    delay_s: float | None = None
    timed_out: bool = False
    starved: bool = False
    out_of_memory: bool = False
    overflowed: bool = False

    @property
    def signal(self) -> int:
        """The number of the signal that ended the program, else 0."""
        return -self.exit_code if self.exit_code < 0 else 0

    @property
    def is_clean(self) -> bool:
        """Exit code 0 within every limit."""
        return not (self.exit_code or self.timed_out or self.out_of_memory or self.overflowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program for a session: its argv, the files in its working directory (relative names), and its limits."""

    argv: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    limits: Limits = field(default_factory=Limits)


class SandboxSession(Protocol):
    """A running program that answers framed messages.

    The program reads frames from descriptor 3 and writes frames to descriptor 4: four bytes of length, big-endian, then
    that many bytes (at most 32 MiB). Its wall limit counts from the start to `close`. What it sends is a claim.
    """

    async def send(self, frame: bytes) -> None:
        """Raises EOFError when the program ended or no longer reads, SandboxError when the box broke."""
        ...

    async def receive(self, timeout_s: float) -> bytes:
        """Waits for one frame.

        Raises: TimeoutError when none came in time, EOFError when the program ended or its wall limit passed,
            ValueError when the length is above 32 MiB, SandboxError when the box broke.
        """
        ...

    async def close(self) -> RunResult:
        """Kills the program and everything it started, and returns how it ended; the same result when called again.

        A program that was still running is killed: exit_code -9, timed_out False.
        """
        ...


@runtime_checkable
class Sandbox(Protocol):
    """Runs untrusted programs. The first line of each backend's docstring says what it does not stop.

    Built as `SandboxClass(config)` without side effects; `start` (or the first run) builds it. All methods may be
    called from any thread that has an event loop.

    A program is an argv. `("python", "main.py", ...)` runs that file of `files` as `__main__` in a warm interpreter;
    `("preloaded", name, ...)` runs a preloaded source as `__main__`; anything else is executed (`("./a.out",)`).
    `files` are put into the empty working directory first; names are relative and stay below it.

    Where `capabilities` include PRELOAD, it also has the method of `SupportsPreload`.
    """

    name: ClassVar[str]
    capabilities: ClassVar[frozenset[Capability]]
    Config: ClassVar[type[BaseModel]]

    async def start(self) -> None:
        """Builds the boxes; does nothing when started. Raises SandboxError with the reason and the fix."""
        ...

    async def run(self, program: Sequence[str], files: Mapping[str, bytes], stdin: bytes, limits: Limits) -> RunResult:
        """Runs `program` to its end, when a slot is free. A failing program is a result.

        Raises: SandboxError when the box broke twice, ValueError when the call itself is wrong (a file name that leaves
            the working directory, no argv).
        """
        ...

    async def open_session(self, program: Sequence[str], files: Mapping[str, bytes], limits: Limits) -> SandboxSession:
        """Starts a program for a session, when a slot is free; only if `capabilities` include SESSION."""
        ...

    async def open_sessions(self, programs: Sequence[Program]) -> list[SandboxSession]:
        """Starts programs that run at the same time: it waits for all their slots and takes all or none.

        Callers that need two boxes must open them here: callers that each hold one and wait for another would deadlock.
        """
        ...

    async def self_test(self) -> tuple[str, ...]:
        """Safety problems of this box on this machine, each with its fix; empty when it may be used."""
        ...

    async def close(self) -> None:
        """Closes every box; open runs fail with SandboxError."""
        ...


@runtime_checkable
class SupportsPreload(Protocol):
    """A sandbox that compiles trusted sources once."""

    def preload(self, sources: Mapping[str, str]) -> None:
        """Takes trusted Python sources by name; may be called before `start`."""
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

    seed: decides every draw of this completion, in any batch. deadline_s: seconds from submission, after
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
    """An engine's report on the weights it now uses.

    checksums: of the received bytes, by tensor name. canary_logprobs: for each canary row of `load_weights`
        the log-probs of its tokens but the first, at temperature 1, computed with the new weights in a fixed shape.
    canary_s: the part of `seconds` that the canary took. frozen_s: the part during which nothing could be generated.
    engine_id: the engine's name; "" if there is only one. members: of a fleet, one receipt for each engine.
    has_weights: False if it has none to prove. sent: the reference with checksums that were computed while sending.
    """

    policy_version: int
    checksums: Mapping[str, int] = field(default_factory=dict[str, int])
    seconds: float = 0.0
    canary_logprobs: tuple[tuple[float, ...], ...] = ()
    canary_s: float = 0.0
    frozen_s: float = 0.0
    engine_id: str = ""
    has_weights: bool = True
    members: "tuple[LoadReceipt, ...]" = ()
    sent: WeightsRef | None = None

    @property
    def each(self) -> "tuple[LoadReceipt, ...]":
        """The receipts of single engines."""
        return self.members or (self,)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineHealth:
    """Whether an engine can serve, which version it serves, and how many requests wait."""

    is_healthy: bool
    policy_version: int
    num_open_requests: int
    detail: str = ""


class RolloutEngine(Protocol):
    """Generates completions and loads weights. It may also have the methods of `SupportsStart` and `SupportsSleep`."""

    def generate(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Completion]:
        """Yields each completion as it finishes. Raises RolloutError when the engine fails."""
        ...

    async def load_weights(self, ref: WeightsRef, *, canary: Sequence[Sequence[int]] = ()) -> LoadReceipt:
        """Switches to `ref` and reports the weights that it now holds.

        An engine waits for running work, or freezes it, switches, and continues; then a completion's
        `policy_versions` record which weights sampled which token.

        Args: canary: rows of token ids; the receipt holds their log-probs, computed with the new weights.

        Raises: RolloutError when the tensors that it now holds are not those of `ref.manifest`.
        """
        ...

    async def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """For each row the log-probs (nats, temperature 1) of its tokens but the first, teacher-forced.

        They are computed with the loaded weights, without cached values.
        """
        ...

    async def health(self) -> EngineHealth:
        """The engine's state; returns at once, even while it generates."""
        ...

    async def close(self) -> None:
        """Frees the engine's resources; open requests fail with RolloutError."""
        ...


@runtime_checkable
class SupportsStart(Protocol):
    """An engine with processes of its own."""

    async def start(self) -> None:
        """Called once before all other methods. Raises RolloutError when a process does not start."""
        ...


@runtime_checkable
class SupportsSleep(Protocol):
    """An engine that can give its devices to a learner on the same devices (`cluster.placement: colocated`)."""

    async def sleep(self) -> object:
        """Frees the devices' memory; nothing is generated until `wake`."""
        ...

    async def wake(self) -> None:
        """Takes the devices back."""
        ...


class MetricSink(Protocol):
    """Takes one row of metrics per step (`area/name` -> number)."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes one row. Must not raise on network errors: it warns once and continues."""
        ...

    def close(self) -> None:
        """Flushes."""
        ...
