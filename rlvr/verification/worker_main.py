"""The child process of the verifier pool: builds verifiers and verifies items, one at a time.

Started by `rlvr.verification.worker_process` with the bytes of memory it may use; it ends with its parent. It trusts
its parent and the plugins, but not the completions: it may hang or die on any item, and the parent then
kills and replaces it.

    parent -> worker    {"op": "build", "key", "plugin", "settings", "deadline_s"}      -> built |
    build_failed
                        {"op": "verify", "id", "key", "prompt", "completion"}           -> verdict
                        {"op": "parse", "id", "key", "references"}                      -> verdict
                        {"op": "steps", "id", "key", "prompt", "completion", "steps"}   -> verdict
                        {"op": "load", "plugin", "cpu_deadline_s", "wall_deadline_s", "data_bytes"}   -> loaded |
    load_failed
    worker -> parent    {"op": "ready"} once, then one answer to each message, in order; before it, {"op": "importing"}
                        while a module is looked up, whose loading must not count against an item
"""

import asyncio
import contextlib
import inspect
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from rlvr.errors import PluginError
from rlvr.plugin import VerifierContext
from rlvr.processes.frames import ParentPipe, encode
from rlvr.protocols import SupportsParseReference, SupportsPrejudge, SupportsWarmUp, Verifier
from rlvr.records import Status, Verdict
from rlvr.registry import PluginSource, build_verifier, load, load_failure
from rlvr.verification.steps import steps_verdict
from rlvr.verification.wire import (
    MEMORY_EXIT_CODE,
    as_verdict,
    completion_from_json,
    error_verdict,
    facts_of,
    label_of,
    prompt_from_json,
    source_from_json,
    verdict_to_json,
)

_MAX_REASON_CHARS = 500
_TELL_EVERY_S = 0.05
_WATCH_EVERY_S = 0.2


class SendsFrames(Protocol):
    """Where a worker's answers go."""

    def send(self, data: bytes) -> None:
        """Sends an encoded frame."""
        ...


class Worker:
    """The state of the child: its pipe to the parent and the verifiers it has built."""

    def __init__(self, pipe: ParentPipe) -> None:
        self.pipe: SendsFrames = pipe
        self._parent = pipe
        self.verifiers: dict[str, Verifier] = {}
        self.deadline_s = 0.0

    def run(self) -> None:
        """Answers messages until the parent closes the pipe."""
        self.send({"op": "ready"})
        while (request := self._parent.receive()) is not None:
            try:
                self.send(self.answer(request.body))
            except MemoryError:
                os._exit(MEMORY_EXIT_CODE)

    def importing(self) -> None:
        """Tells the parent that an item is waiting for an import."""
        _limit_cpu(self.deadline_s)
        self.send({"op": "importing"})

    def answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        if message["op"] == "build":
            return self.build(message)
        if message["op"] == "load":
            return self.load(message)
        verifier = self.verifiers[message["key"]]
        _limit_cpu(self.deadline_s)
        with _Imports(self.importing):
            verdict = _ANSWERS[message["op"]](verifier, message)
        reply = {"op": "verdict", "id": message["id"], "verdict": verdict_to_json(verdict)}
        try:
            encode(reply)
        except (TypeError, ValueError, RecursionError) as error:
            broken = error_verdict(label_of(verifier), error, seconds=verdict.seconds)
            reply["verdict"] = verdict_to_json(broken)
        return reply

    def build(self, message: Mapping[str, Any]) -> dict[str, Any]:
        key = message["key"]
        self.deadline_s = message["deadline_s"]
        lift_cpu_limit()  # a build has its own deadline
        try:
            context = VerifierContext(deadline_s=self.deadline_s)
            source = source_from_json(message["plugin"])
            verifier = build_verifier(source, message["settings"], context)
            if isinstance(verifier, SupportsWarmUp):
                verifier.warm_up()
        except MemoryError:
            raise
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything, SystemExit too
            reason = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
            return {"op": "build_failed", "key": key, "reason": reason[:2000]}
        self.verifiers[key] = verifier
        return {"op": "built", "key": key, "label": label_of(verifier), "facts": facts_of(verifier)}

    def load(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Imports a plugin that may hang; after a deadline another thread answers with the current line."""
        source = source_from_json(message["plugin"])
        _limit(resource.RLIMIT_DATA, message["data_bytes"])
        watch = _ImportWatch(source, message["cpu_deadline_s"], message["wall_deadline_s"], answer=self.send)
        watch.start()
        try:
            with _Imports(lambda: (watch.note_import(), self.send({"op": "importing"}))):
                load(source)
        except KeyboardInterrupt as error:  # raised by the plugin: Ctrl-C does not reach a worker
            reason = load_failure(source, error)
        except PluginError as error:
            reason = str(error)
            if isinstance(error.__cause__, MemoryError):
                reason += f". An import may use {message['data_bytes'] >> 20} MiB; load large data in `warm_up`"
        else:
            reason = ""
        watch.has_ended.set()
        return {"op": "load_failed", "reason": reason[:2000]} if reason else {"op": "loaded"}

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends one message; safe from any thread."""
        self.pipe.send(encode(message))


class _ImportWatch(threading.Thread):
    """Answers for a plugin whose import does not finish, with its current line."""

    def __init__(
        self,
        source: PluginSource,
        cpu_deadline_s: float,
        wall_deadline_s: float,
        *,
        answer: Callable[[Mapping[str, Any]], None],
    ) -> None:
        super().__init__(daemon=True)
        self.has_ended = threading.Event()
        self._source = source
        self._cpu_deadline_s = cpu_deadline_s
        self._wall_deadline_s = wall_deadline_s
        self._answer = answer
        self._importer = threading.get_ident()
        self.note_import()

    def note_import(self) -> None:
        """Called when a further module is looked up: restarts the clocks, including the kernel's limit."""
        _limit_cpu(self._cpu_deadline_s / 2)
        self._since = time.process_time(), time.monotonic()

    def run(self) -> None:
        """Checks the clocks until the import has finished."""
        while not self.has_ended.wait(_WATCH_EVERY_S):
            cpu_s = time.process_time() - self._since[0]
            wall_s = time.monotonic() - self._since[1]
            if cpu_s > self._cpu_deadline_s or wall_s > self._wall_deadline_s:
                self._answer({"op": "load_failed", "reason": self._reason(cpu_s, wall_s)})
                return

    def _reason(self, cpu_s: float, wall_s: float) -> str:
        file_name = self._source.target.rpartition(":")[0]
        frame_now = sys._current_frames().get(self._importer)
        place = ""
        while frame_now is not None and not place:
            if frame_now.f_code.co_filename == file_name:
                place = f" at {file_name}:{frame_now.f_lineno}"
            frame_now = frame_now.f_back
        spent = f"{cpu_s:.0f} s of CPU time, {wall_s:.0f} s in all"
        return (
            f"plugin {self._source.name!r} failed to load: its import has not finished after {spent}{place}; "
            "put long work into `warm_up`, not into the module"
        )


class _Imports:
    """A module finder placed first while an item is verified: calls `tell` when a module is looked up."""

    def __init__(self, tell: Callable[[], object]) -> None:
        self._tell = tell
        self._pid = os.getpid()
        self._last = 0.0

    def __enter__(self) -> None:
        sys.meta_path.insert(0, self)

    def __exit__(self, *_: object) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Finds nothing; the other finders do."""
        now = time.monotonic()
        if now - self._last >= _TELL_EVERY_S and os.getpid() == self._pid:
            self._last = now
            self._tell()


def _verify(verifier: Verifier, message: Mapping[str, Any]) -> Verdict:
    label = label_of(verifier)
    start = time.perf_counter()
    try:
        prompt = prompt_from_json(message["prompt"])
        completion = completion_from_json(message["completion"])
        start = time.perf_counter()
        answer: Any = None
        if message.get("prejudge") and isinstance(verifier, SupportsPrejudge):
            answer = verifier.prejudge(prompt.reference, completion)
        if answer is None:
            answer = verifier.verify(prompt, completion)
        if inspect.isawaitable(answer):
            answer = asyncio.run(_await(answer))
        return as_verdict(label, answer, seconds=time.perf_counter() - start)
    except MemoryError:
        raise
    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything, SystemExit too
        return error_verdict(label, error, seconds=time.perf_counter() - start)


def _parse(verifier: Verifier, message: Mapping[str, Any]) -> Verdict:
    """Calls `parse_reference` on each reference: PASS, or FAIL with the reasons by number."""
    problems: dict[str, str] = {}
    start = time.perf_counter()
    for number, reference in enumerate(message["references"]):
        try:
            if isinstance(verifier, SupportsParseReference):
                verifier.parse_reference(reference)
        except MemoryError:
            raise
        except ValueError as error:
            problems[str(number)] = str(error)[:_MAX_REASON_CHARS]
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything, SystemExit too
            problems[str(number)] = f"{type(error).__name__}: {error}"[:_MAX_REASON_CHARS]
    return Verdict(
        status=Status.FAIL if problems else Status.PASS,
        score=0.0 if problems else 1.0,
        reason=f"{len(problems)} of {len(message['references'])} references cannot be used",
        verifier=label_of(verifier),
        seconds=time.perf_counter() - start,
        details={"problems": problems},
    )


def _score_steps(verifier: Verifier, message: Mapping[str, Any]) -> Verdict:
    """Calls `verify_steps`: PASS with the scores in `details`, or an ERROR."""
    label = label_of(verifier)
    start = time.perf_counter()
    try:
        prompt, completion = prompt_from_json(message["prompt"]), completion_from_json(message["completion"])
        return steps_verdict(verifier, prompt, completion, [(start, end) for start, end in message["steps"]])
    except MemoryError:
        raise
    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything, SystemExit too
        return error_verdict(label, error, seconds=time.perf_counter() - start)


_ANSWERS = {"verify": _verify, "parse": _parse, "steps": _score_steps}


def _limit_cpu(deadline_s: float) -> None:
    """Has the kernel end this process some time after its deadline, in case the parent is stopped."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = int(used.ru_utime + used.ru_stime + 2 * deadline_s) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def lift_cpu_limit() -> None:
    """Undoes `_limit_cpu`."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))


async def _await(answer: Awaitable[Any]) -> Any:
    """Waits for an asynchronous verifier; the parent's deadline ends it."""
    return await answer


def confine(memory_bytes: int) -> None:
    """Makes this process ignore Ctrl-C (the parent decides), limits its memory, and has it leave no core file."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit(resource.RLIMIT_AS, memory_bytes)


def _limit(kind: int, num_bytes: int) -> None:
    """Sets the soft limit, as far as the hard limit allows."""
    hard = resource.getrlimit(kind)[1]
    limit = num_bytes if hard == resource.RLIM_INFINITY else min(num_bytes, hard)
    resource.setrlimit(kind, (limit, hard))


def main() -> None:
    """Runs the worker; its standard input and output carry the protocol and are hidden from plugins."""
    confine(int(sys.argv[1]))
    with contextlib.suppress(BrokenPipeError):  # the parent is gone
        Worker(ParentPipe()).run()


if __name__ == "__main__":
    main()
