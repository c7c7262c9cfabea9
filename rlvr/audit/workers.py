"""Verdicts for an audit: from one warm worker for each hash seed, or from a `VerifierService`."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from rlvr.audit.canary import Canary
from rlvr.audit.probe import probe_source
from rlvr.errors import PluginError
from rlvr.plugin import completion_from_text
from rlvr.records import Check, Execution, Json, Prompt, Verdict
from rlvr.registry import PluginSource
from rlvr.verification.jailed.jail import Jail, JailSpec, spec_of
from rlvr.verification.jailed.verifier import require_possible
from rlvr.verification.pool import VerifierPool
from rlvr.verification.pools import SandboxHolder
from rlvr.verification.references import problems_in_pool
from rlvr.verification.service import VerifierService

_WINDOW = 4  # items that are open at once; each of them may hang before the first is known to
_MOST_CRASHES = 5  # of the worker, after which no further item is started
_TELL_EVERY = 32
_MAX_ITEMS = 1 << 40  # a worker is never replaced because of its age


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One completion to verify. is_alone: nothing else is open meanwhile, because it may hang."""

    prompt: Prompt
    text: str
    is_alone: bool = False


class Answers(Protocol):
    """Where verdicts come from."""

    def submit(self, prompt: Prompt, text: str) -> "Future[Verdict]":
        """The verdict of a completion; a hang or a crash is a FAIL with `details["cause"]`."""
        ...

    def reference_problems(self, references: Mapping[str, Json]) -> dict[str, str]:
        """Why references, by their JSON, cannot be used."""
        ...


class AuditWorkers:
    """The worker processes of one or more audits, one for each hash seed, and the folder of their canaries.

    Args: sandbox: for jailed workers.
    """

    def __init__(self, *, deadline_s: float, sandbox: tuple[str, Mapping[str, Any]] = ("auto", {})) -> None:
        self.deadline_s = deadline_s
        self.canary = Canary()
        self._sandbox = SandboxHolder(sandbox)
        self._pools: dict[tuple[int, JailSpec | None], VerifierPool] = {}

    def worker(self, source: PluginSource, check: Check, *, hash_seed: int, is_jailed: bool = False) -> "WarmWorker":
        """The worker with this hash seed, which begins to build the verifier; started when it is first asked for.

        A jailed one sees the folder of the canaries, so that an execution of their text is found there too.
        """
        if is_jailed:
            self.canary.share()
        spec = spec_of(check, source, writable=(str(self.canary.folder),)) if is_jailed else None
        pool = self._pools.get((hash_seed, spec))
        if pool is None:
            jail = None if spec is None else Jail(sandbox=self._sandbox.for_workers, spec=spec)
            pool = VerifierPool(1, self.deadline_s, max_items=_MAX_ITEMS, hash_seed=hash_seed, jail=jail)
            self._pools[hash_seed, spec] = pool
        return WarmWorker(pool, source, check.settings, folder=self.canary.folder)

    def close(self) -> None:
        """Ends the workers and their sandbox, and removes the folder."""
        for pool in self._pools.values():
            pool.close()
        self._sandbox.close()
        self.canary.close()


class WarmWorker:
    """One verifier in a worker process, which is kept until an item hangs or kills it.

    Args: folder: where the worker writes the tokens of executed completions.
    """

    def __init__(self, pool: VerifierPool, source: PluginSource, settings: Mapping[str, Any], *, folder: Path) -> None:
        self._name = source.name
        self._pool = pool
        self._start = time.perf_counter()
        given = {"plugin": asdict(source), "settings": dict(settings), "folder": str(folder)}
        self.partial_credit = 0.0  # that the verifier declares; known when it is built
        self._key = pool.register(probe_source(), given)
        self._built = pool.build(self._key)

    def wait(self) -> float:
        """Waits until the verifier is built; returns the seconds that it took. Raises PluginError."""
        built = self._built.result()
        if not built.passed:
            raise PluginError(f"verifier {self._name!r}: {built.reason}")
        if self._pool.is_jailed:
            require_possible(self._name, Execution(built.details["execution"]), Execution.JAILED)
        self.partial_credit = float(built.details["partial_credit"])
        return time.perf_counter() - self._start

    def submit(self, prompt: Prompt, text: str) -> "Future[Verdict]":
        """The verdict of a completion."""
        completion = completion_from_text(text, prompt_id=prompt.prompt_id)
        return self._pool.submit(self._key, prompt, completion, has_retry=False)

    def reference_problems(self, references: Mapping[str, Json]) -> dict[str, str]:
        """Why references, by their JSON, cannot be used."""
        return problems_in_pool(self._pool, self._key, list(references))


class Service:
    """Verdicts of a verifier that runs in this process: asynchronous, or with a sandbox."""

    def __init__(self, check: Check, *, deadline_s: float, sandbox: tuple[str, Mapping[str, Any]]) -> None:
        start = time.perf_counter()
        self._check = check
        self._service = VerifierService(workers=1, deadline_s=deadline_s, sandbox=sandbox)
        try:
            self._service.preflight([check])
        except BaseException:  # also when interrupted: its workers and its sandbox would stay
            self._service.close()
            raise
        self.start_s = time.perf_counter() - start
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rlvr-audit", daemon=True)
        self._thread.start()

    def submit(self, prompt: Prompt, text: str) -> "Future[Verdict]":
        """The verdict of a completion."""
        return asyncio.run_coroutine_threadsafe(self._verify(prompt, text), self._loop)

    async def _verify(self, prompt: Prompt, text: str) -> Verdict:
        completion = completion_from_text(text, prompt_id=prompt.prompt_id)
        return (await self._service.verify(prompt, completion))[prompt.checks[0].name]

    def reference_problems(self, references: Mapping[str, Json]) -> dict[str, str]:
        """Why references, by their JSON, cannot be used."""
        checks = [replace(self._check, name="main", reference=reference) for reference in references.values()]
        found = self._service.reference_problems(checks)
        return {key: why for key, why in zip(references, found, strict=True) if why}

    def close(self) -> None:
        """Ends the service and its sandbox."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._service.close()


def verdicts(
    answers: Answers,
    items: Sequence[Item],
    *,
    until_s: float,
    at_least: int = 0,
    tell: Callable[[int], None] | None = None,
) -> list[Verdict | None]:
    """The verdict of each item, in order; None for those that were left out, among them all after a hang.

    Args:
        until_s: the value of `time.monotonic` at which no further item is started, except the first `at_least`.
        tell: called with the number of verdicts now and then.
    """
    found: list[Verdict | None] = [None] * len(items)
    open_items: list[tuple[int, Future[Verdict]]] = []
    num_crashes, is_over = 0, False

    def collect(most_open: int) -> None:
        nonlocal num_crashes, is_over
        while len(open_items) > most_open:
            index, future = open_items.pop(0)
            if future.cancelled():
                continue
            found[index] = verdict = future.result()
            num_crashes += is_lost(verdict)
            is_over = is_over or has_hung(verdict) or num_crashes >= _MOST_CRASHES
            if is_over:
                for _, other in open_items:
                    other.cancel()

    for index, item in enumerate(items):
        if index >= at_least and time.monotonic() > until_s:
            break
        if item.is_alone:
            collect(0)
        if is_over:
            break
        open_items.append((index, answers.submit(item.prompt, item.text)))
        collect(0 if item.is_alone else _WINDOW - 1)
        if tell is not None and index % _TELL_EVERY == 0:
            tell(index)
    collect(0)
    return found


def is_lost(verdict: Verdict) -> bool:
    """Whether the item hung or killed its worker."""
    return verdict.details.get("cause") in ("timeout", "crash")


def has_hung(verdict: Verdict) -> bool:
    """Whether there was no verdict before the deadline."""
    return verdict.details.get("cause") == "timeout"
