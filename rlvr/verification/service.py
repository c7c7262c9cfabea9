"""Verdicts for completions: one `VerifierService` per run, over a pool of killable worker processes.

verify(prompt, completion) -> for each check: prejudge in the parent, else by the verifier's `execution`
    PROCESS    the pool (`rlvr.verification.pool`): a hard deadline for each item; a hang or a crash is a FAIL
    JAILED     the pool, with the worker inside the sandbox's jail
    ASYNC      awaited in the caller's event loop; a timeout is an ERROR, because the service is unreachable
    SANDBOXED  in a thread, or awaited; the sandbox enforces deadlines and isolation

Items of a pooled verifier with the same `work_key` are verified once. References are parsed in the pool too, so that a
hostile one cannot hang the run's process.
"""

import asyncio
import inspect
import json
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlvr.errors import PLUGIN_FAULTS, DataError, PluginError, VerifierError
from rlvr.protocols import Execution, SupportsClose, SupportsParseReference, SupportsPrejudge, SupportsWorkKey
from rlvr.records import Check, Completion, Prompt, Status, Verdict
from rlvr.registry import VERIFIERS, PluginSource, find
from rlvr.verification.entries import Entry, build_entry
from rlvr.verification.pool import VerifierPool
from rlvr.verification.pools import Pools, SandboxHolder
from rlvr.verification.readiness import require_started, start_problem
from rlvr.verification.references import problem_here, problems_in_pool
from rlvr.verification.shared import SharedWork
from rlvr.verification.steps import require_spans, step_spans, steps_verdict
from rlvr.verification.wire import as_verdict, error_verdict

__all__ = ["VerifierCounters", "VerifierPool", "VerifierService"]

_MAX_LISTED_ROWS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierCounters:
    """Counts of a VerifierService since it was built.

    num_items: verdicts given, of which `num_prejudged` in the parent. num_timeouts, num_crashes:
    FAIL verdicts of completions that hung or killed their checker. busy_s: seconds of work,
    summed over workers.
    """

    num_items: int = 0
    num_prejudged: int = 0
    num_timeouts: int = 0
    num_crashes: int = 0
    num_errors: int = 0
    busy_s: float = 0.0


class VerifierService:
    """Gives verdicts; safe to use from several threads and event loops.

    Args:
        workers: processes for PROCESS verifiers, and as many for each kind of jail of JAILED ones; started by
            `preflight` or the first item that needs one.
        deadline_s: wall-clock seconds allowed for one item.
        sandbox: (name, settings) for SANDBOXED and JAILED verifiers; built and started only if needed. None: SANDBOXED
            ones get none, and the jail is that of `auto`.
        sources: by name, the sources of verifiers that cannot be looked up here: single files of another machine.

    Example:
        service = VerifierService(workers=2, deadline_s=5.0)
        service.preflight(prompt.checks)
        verdicts = await service.verify(prompt, completion)   # {"math": Verdict(...)}
    """

    def __init__(
        self,
        workers: int,
        deadline_s: float,
        sandbox: tuple[str, Mapping[str, Any]] | None = None,
        *,
        sources: Mapping[str, PluginSource] | None = None,
    ) -> None:
        self.deadline_s = deadline_s
        self._sources = dict(sources or {})
        self._sandbox = SandboxHolder(sandbox)
        self._pools = Pools(workers, deadline_s, self._sandbox)
        self._entries: dict[tuple[Any, ...], Entry] = {}
        self._shared = SharedWork()
        self._counters = VerifierCounters()
        self._lock = threading.RLock()

    @property
    def counters(self) -> VerifierCounters:
        """A snapshot of the counts."""
        return self._counters

    def label(self, check: Check) -> str:
        """`name@version` of the check's verifier. Raises PluginError when it cannot be built."""
        return self._entry(check).label

    @property
    def jailed(self) -> list[tuple[str, str, str]]:
        """(`name@version`, backend of the sandbox, interpreter or "") of each jailed verifier that was built."""
        entries = [(key, entry) for key, entry in self._entries.items() if entry.execution is Execution.JAILED]
        return [(entry.label, self._sandbox.backend, str(key[3])) for key, entry in entries]

    def preflight(self, checks: Iterable[Check]) -> None:
        """Builds every distinct verifier here and in a worker, and starts the sandbox; waits for both.

        Raises: PluginError, which names the plugin and its problem; SandboxError (SandboxUnavailable when no backend
            isolates) with the reason and the fix.
        """
        entries = {id(entry): entry for entry in map(self._entry, checks)}.values()
        pooled = [entry for entry in entries if entry.execution.is_pooled]
        builds = [(entry, entry.pool.build(entry.pool_key)) for entry in pooled]
        for entry, build in builds:
            answer = build.result()
            if not answer.passed:
                raise PluginError(f"verifier {entry.source.name!r}: {answer.reason}")
        require_started(entry.verifier for entry in entries)
        self._sandbox.start()

    def check_references(self, prompts: Iterable[Prompt], *, places: Mapping[str, str] | None = None) -> None:
        """Has each verifier with `parse_reference` parse its references; waits for the workers.

        Args:
            places: the place of each prompt's row ("train.jsonl:12"), by prompt id.

        Raises: DataError, which lists the first ten unusable references and counts the others.
        """
        rows = [(prompt, check) for prompt in prompts for check in prompt.checks]
        reasons = self.reference_problems([check for _, check in rows])
        problems = [
            f"{_place(prompt, places)} ({check.name}): {check.reference!r}: {reason}"
            for (prompt, check), reason in zip(rows, reasons, strict=True)
            if reason
        ]
        if problems:
            listed = problems[:_MAX_LISTED_ROWS]
            num_more = len(problems) - len(listed)
            more = f"\n  and {num_more} more" if num_more else ""
            raise DataError(
                f"{len(problems)} reference(s) cannot be used by their verifier; correct or remove "
                "these rows:\n  " + "\n  ".join(listed) + more
            )

    def reference_problems(self, checks: Sequence[Check]) -> list[str]:
        """For each check, why its verifier cannot use its reference; "" if it can. Waits for the workers."""
        problems = [""] * len(checks)
        pooled: dict[str, dict[str, list[int]]] = {}  # verifier -> reference -> indices of checks
        pools: dict[str, VerifierPool] = {}
        for index, check in enumerate(checks):
            entry = self._entry(check)
            if not isinstance(entry.verifier, SupportsParseReference):
                continue
            try:
                reference = json.dumps(check.reference)
            except (TypeError, ValueError, RecursionError) as error:
                problems[index] = f"it is not a JSON value: {error}"
                continue
            if entry.execution.is_pooled:
                pools[entry.pool_key] = entry.pool
                pooled.setdefault(entry.pool_key, {}).setdefault(reference, []).append(index)
            else:
                problems[index] = problem_here(entry.verifier, check.reference)
        for key, places in pooled.items():
            for reference, reason in problems_in_pool(pools[key], key, list(places)).items():
                for index in places[reference]:
                    problems[index] = reason
        return problems

    def prejudge(self, prompt: Prompt, completion: Completion) -> dict[str, Verdict]:
        """The verdicts, by check name, that need no worker and no waiting; others are
        omitted.
        """
        settled: dict[str, Verdict] = {}
        for check in prompt.checks:
            entry = self._entry(check)
            if not isinstance(entry.verifier, SupportsPrejudge):
                continue
            start = time.perf_counter()
            try:
                answer = entry.verifier.prejudge(check.reference, completion)
                seconds = time.perf_counter() - start
                verdict = None
                if answer is not None:
                    verdict = as_verdict(entry.label, answer, seconds=seconds)
            except PLUGIN_FAULTS as error:
                verdict = error_verdict(entry.label, error, seconds=time.perf_counter() - start)
            if verdict is not None:
                settled[check.name] = verdict
                self._count(verdict, is_prejudged=True)
        return settled

    async def verify(
        self, prompt: Prompt, completion: Completion, *, settled: dict[str, Verdict] | None = None
    ) -> dict[str, Verdict]:
        """One verdict for each check, by check name; a verifier sees only its own check.

        Args:
            settled: what `prejudge` returned for the same pair, if the caller has called it
                already.

        Raises: PluginError when a verifier cannot be built (never after `preflight`).
        """
        verdicts = self.prejudge(prompt, completion) if settled is None else dict(settled)
        open_checks = [check for check in prompt.checks if check.name not in verdicts]
        answers = await asyncio.gather(
            *(self._verify(prompt.for_check(check.name), completion) for check in open_checks)
        )
        verdicts |= {check.name: answer for check, answer in zip(open_checks, answers, strict=True)}
        return {check.name: verdicts[check.name] for check in prompt.checks}

    def verify_batch(self, pairs: Sequence[tuple[Prompt, Completion]]) -> list[dict[str, Verdict]]:
        """The verdicts of all pairs, in order. Runs its own event loop; inside one, await `verify`
        instead.
        """

        async def together() -> list[dict[str, Verdict]]:
            return await asyncio.gather(*(self.verify(*pair) for pair in pairs))

        return asyncio.run(together())

    def verify_steps(
        self, prompt: Prompt, completion: Completion, steps: Sequence[tuple[int, int]] | None = None
    ) -> list[float]:
        """A score in [0, 1] for each step of a completion; waits for the verifier.

        Args:
            prompt: with one check, whose verifier has `verify_steps`.
            steps: character spans of the text; None: its lines that are not blank.

        Raises: ValueError for spans outside the text; VerifierError when the verifier has no `verify_steps`, raises,
            hangs, or returns anything else than one score for each step.
        """
        entry = self._entry(prompt.checks[0])
        spans = step_spans(completion.text) if steps is None else list(steps)
        require_spans(completion.text, spans)
        if entry.execution.is_pooled:
            verdict = entry.pool.score_steps(entry.pool_key, prompt, completion, spans).result()
        else:
            try:
                verdict = steps_verdict(entry.verifier, prompt, completion, spans)
            except PLUGIN_FAULTS as error:
                verdict = error_verdict(entry.label, error)
        if not verdict.passed:
            raise VerifierError(verdict.reason)
        return list(verdict.details["scores"])

    def close(self) -> None:
        """Ends the workers; open items become ERROR."""
        self._pools.close()
        for entry in self._entries.values():
            if isinstance(entry.verifier, SupportsClose):
                entry.verifier.close()
        self._sandbox.close()

    def _entry(self, check: Check) -> Entry:
        try:
            settings = json.dumps(dict(check.settings), sort_keys=True)
        except (TypeError, ValueError) as error:
            raise PluginError(f"settings of verifier {check.verifier!r} are not JSON values: {error}") from error
        key = (check.verifier, settings, check.execution, check.python, check.readable)
        entry = self._entries.get(key)
        if entry is None:
            with self._lock:
                entry = self._entries.get(key) or self._build(check)
                self._entries[key] = entry
        return entry

    def _build(self, check: Check) -> Entry:
        source = self._sources.get(check.verifier) or find(VERIFIERS, check.verifier)
        return build_entry(check, source, pools=self._pools, sandbox=self._sandbox, deadline_s=self.deadline_s)

    async def _verify(self, narrowed: Prompt, completion: Completion) -> Verdict:
        entry = self._entry(narrowed.checks[0])
        if entry.execution.is_pooled:
            verdict = await self._verify_pooled(entry, narrowed, completion)
        else:
            verdict = await self._verify_here(entry, narrowed, completion)
        self._count(verdict, is_prejudged=False)
        return verdict

    async def _verify_pooled(self, entry: Entry, narrowed: Prompt, completion: Completion) -> Verdict:
        """Verifies in the pool; an item with the `work_key` of an earlier one shares its verdict."""
        if not isinstance(entry.verifier, SupportsWorkKey):
            future = entry.pool.submit(entry.pool_key, narrowed, completion)
            return await asyncio.wrap_future(future)
        try:
            text = entry.verifier.work_key(narrowed.reference, completion)
        except PLUGIN_FAULTS as error:
            return error_verdict(entry.label, error)
        future, is_first = self._shared.future_of(
            entry.pool_key, text, lambda: entry.pool.submit(entry.pool_key, narrowed, completion)
        )
        # a cancelled waiter must not cancel the others
        verdict = await asyncio.shield(asyncio.wrap_future(future))
        return verdict if is_first else replace(verdict, seconds=0.0)

    async def _verify_here(self, entry: Entry, narrowed: Prompt, completion: Completion) -> Verdict:
        if entry.execution is Execution.ASYNC:
            async with entry.places.here():
                if problem := await start_problem(entry.verifier):
                    return error_verdict(entry.label, problem)
                return await self._verify_now(entry, narrowed, completion)
        return await self._verify_now(entry, narrowed, completion)

    async def _verify_now(self, entry: Entry, narrowed: Prompt, completion: Completion) -> Verdict:
        start = time.perf_counter()
        is_async = entry.execution is Execution.ASYNC
        try:
            answer: Any
            if is_async or inspect.iscoroutinefunction(entry.verifier.verify):
                answer = entry.verifier.verify(narrowed, completion)
            else:
                answer = await asyncio.to_thread(entry.verifier.verify, narrowed, completion)
            if inspect.isawaitable(answer):
                limit_s = self.deadline_s if is_async else None
                answer = await asyncio.wait_for(answer, limit_s)
            return as_verdict(entry.label, answer, seconds=time.perf_counter() - start)
        except TimeoutError as error:
            seconds = time.perf_counter() - start
            if not is_async or seconds < self.deadline_s:
                return error_verdict(entry.label, error, seconds=seconds)
            return Verdict(
                status=Status.ERROR,
                score=None,
                reason=f"{entry.label} gave no verdict in {self.deadline_s:g} s: unreachable",
                verifier=entry.label,
                seconds=seconds,
                details={"cause": "timeout"},
            )
        except PLUGIN_FAULTS as error:
            return error_verdict(entry.label, error, seconds=time.perf_counter() - start)

    def _count(self, verdict: Verdict, *, is_prejudged: bool) -> None:
        is_error = verdict.status is Status.ERROR
        cause = "" if is_error else verdict.details.get("cause", "")
        with self._lock:
            old = self._counters
            self._counters = VerifierCounters(
                num_items=old.num_items + 1,
                num_prejudged=old.num_prejudged + is_prejudged,
                num_timeouts=old.num_timeouts + (cause == "timeout"),
                num_crashes=old.num_crashes + (cause == "crash"),
                num_errors=old.num_errors + is_error,
                busy_s=old.busy_s + verdict.seconds,
            )


def _place(prompt: Prompt, places: Mapping[str, str] | None) -> str:
    place = (places or {}).get(prompt.prompt_id, "")
    return f"{place}: {prompt.prompt_id}" if place else prompt.prompt_id
