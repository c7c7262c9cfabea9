"""The pool of killable worker processes behind `rlvr.verify`: hard deadlines without signals or pickles.

    submit -> queue (unbounded; callers bound their own open items)
           -> dispatcher thread, one per worker: takes a small chunk, builds what it needs, reads
           verdicts one by one -> Future[Verdict]

The deadline of an item runs in the parent, from the answer before it. A worker that is late or dead
is killed with all it started and replaced: the item goes to the end of the queue, to be tried once
more alone in a fresh worker, and the rest of its chunk to the front. The second failure is a FAIL
with `details["cause"]`, because a completion that breaks its checker must not escape its zero. Safe
from any thread; nothing here touches signals or the event loop.
"""

import itertools
import json
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from typing import Any

from rlvr.records import Completion, Prompt, Status, Verdict
from rlvr.registry import PluginSource
from rlvr.verify_process import WorkerLost, WorkerProcess
from rlvr.verify_wire import completion_to_json, frame, prompt_to_json, verdict_from_json

CHUNK_ITEMS = 8
BUILD_DEADLINE_S = 60.0
MAX_BUILD_LOSSES = 2


@dataclass(slots=True, kw_only=True, eq=False)
class _Job:
    """One item, or with an empty `payload` only the wish that a plugin be built in a worker."""

    id: int
    key: str
    payload: bytes
    future: "Future[Verdict]" = field(default_factory=Future)
    is_running: bool = False
    is_retry: bool = False
    spent_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class _Plugin:
    """A verifier as workers know it; `broken` is why no worker can build it."""

    source: PluginSource
    settings: Mapping[str, Any]
    label: str
    num_losses: int = 0
    broken: str = ""


class VerifierPool:
    """N worker processes that judge items under a deadline each.

    Args:
        num_workers: processes, and dispatcher threads.
        deadline_s: wall-clock seconds that one item may take in a worker; building a plugin has 60
            s of its own.
        max_items: a worker is replaced after so many items, so that leaks stay small.
        memory_bytes: address space of a worker; an item that needs more is a crash.
    """

    def __init__(
        self,
        num_workers: int,
        deadline_s: float,
        *,
        max_items: int = 10_000,
        memory_bytes: int = 4 << 30,
    ) -> None:
        if num_workers < 1 or deadline_s <= 0:
            raise ValueError(
                f"num_workers={num_workers} and deadline_s={deadline_s} must be positive"
            )
        self.num_workers = num_workers
        self.deadline_s = deadline_s
        self.max_items = max_items
        self.memory_bytes = memory_bytes
        self.num_restarts = 0
        self._plugins: dict[str, _Plugin] = {}
        self._queue: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._ids = itertools.count()
        self._is_closed = False
        self._dispatchers: list[_Dispatcher] = []

    def start(self) -> None:
        """Starts the workers, once; `submit` does it by itself."""
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the verifier pool is closed")
            if not self._dispatchers:
                self._dispatchers = [_Dispatcher(self, index) for index in range(self.num_workers)]
                for dispatcher in self._dispatchers:
                    dispatcher.start()

    def register(self, source: PluginSource, settings: Mapping[str, Any]) -> str:
        """The key under which `submit` finds this verifier; the same plugin and settings give the same key.

        Raises: TypeError or ValueError when the settings are not JSON values.
        """
        key = json.dumps([asdict(source), dict(settings)], sort_keys=True)
        with self._changed:
            self._plugins.setdefault(
                key, _Plugin(source=source, settings=dict(settings), label=source.name)
            )
        return key

    def submit(self, key: str, prompt: Prompt, completion: Completion) -> "Future[Verdict]":
        """A Future of the verdict; it never raises for what a plugin or a completion does.

        Args:
            key: from `register`.
            prompt: narrowed to the one check that this verifier serves.
        """
        label = self._plugins[key].label
        job_id = next(self._ids)
        message = {"op": "judge", "id": job_id, "key": key}
        message |= {"prompt": prompt_to_json(prompt), "completion": completion_to_json(completion)}
        try:
            payload = frame(message)
        except (TypeError, ValueError, RecursionError) as error:
            future: Future[Verdict] = Future()
            future.set_result(_error(label, f"the item cannot be written as JSON: {error}"))
            return future
        return self._enqueue(_Job(id=job_id, key=key, payload=payload))

    def build(self, key: str) -> "Future[Verdict]":
        """A Future that is a PASS once a worker has built this plugin, and an ERROR when it cannot."""
        return self._enqueue(_Job(id=next(self._ids), key=key, payload=b""))

    def close(self) -> None:
        """Kills the workers; open items end as ERROR. May be called twice."""
        with self._changed:
            self._is_closed = True
            waiting = list(self._queue)
            self._queue.clear()
            self._changed.notify_all()
        for job in waiting:
            self.finish(job, _error(self._plugins[job.key].label, "the verifier pool was closed"))
        for dispatcher in self._dispatchers:
            dispatcher.stop()

    def _enqueue(self, job: _Job) -> "Future[Verdict]":
        self.start()
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the verifier pool is closed")
            self._queue.append(job)
            self._changed.notify()
        return job.future

    # what dispatchers call

    def take(self) -> list[_Job] | None:
        """The next chunk; waits for `submit`. None when the pool is closed. A retry comes alone."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._queue or self._is_closed)
                if self._is_closed:
                    return None
                share = -(-len(self._queue) // self.num_workers)
                chunk: list[_Job] = []
                while self._queue and len(chunk) < min(CHUNK_ITEMS, share):
                    if chunk and self._queue[0].is_retry:
                        break
                    job = self._queue.popleft()
                    if not job.is_running and not job.future.set_running_or_notify_cancel():
                        continue
                    job.is_running = True
                    chunk.append(job)
                    if job.is_retry:
                        break
                if chunk:
                    return chunk

    def give_back(self, jobs: list[_Job], *, front: bool) -> None:
        """Puts jobs into the queue again; after `close` they end as ERROR."""
        with self._changed:
            if not self._is_closed:
                if front:
                    self._queue.extendleft(reversed(jobs))
                else:
                    self._queue.extend(jobs)
                self._changed.notify_all()
                return
        for job in jobs:
            self.finish(job, _error(self._plugins[job.key].label, "the verifier pool was closed"))

    def finish(self, job: _Job, verdict: Verdict) -> None:
        """Answers one job; one that was cancelled before it ran needs no answer."""
        if job.is_running or job.future.set_running_or_notify_cancel():
            job.is_running = True
            job.future.set_result(verdict)

    def plugin(self, key: str) -> _Plugin:
        """What is known of a registered verifier."""
        return self._plugins[key]

    def count_restart(self) -> None:
        """One more worker was replaced."""
        with self._changed:
            self.num_restarts += 1

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed


class _Dispatcher:
    """One thread and its worker process. The thread that starts a worker outlives it: PDEATHSIG needs that."""

    def __init__(self, pool: VerifierPool, index: int) -> None:
        self.pool = pool
        self.worker: WorkerProcess | None = None
        self.was_started = False
        self.thread = threading.Thread(target=self._run, name=f"verifier-{index}", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """Kills the worker, which wakes the thread; waits for the thread."""
        worker = self.worker
        if worker is not None:
            worker.kill()
        if self.thread is not threading.current_thread():
            self.thread.join()

    def _run(self) -> None:
        try:
            self._ensure()
        except (OSError, WorkerLost):
            self._discard()  # tried again for the first chunk, where the failure has someone to
            tell
        while (chunk := self.pool.take()) is not None:
            try:
                self._serve(chunk)
            except Exception as error:  # noqa: BLE001 - the thread must live, and no Future may stay open
                self._discard()
                for job in chunk:
                    if not job.future.done():
                        reason = f"no worker could judge: {type(error).__name__}: {error}"
                        self.pool.finish(job, _error(self.pool.plugin(job.key).label, reason))
        self._discard()

    def _ensure(self) -> WorkerProcess:
        if self.worker is None:
            if self.was_started:
                self.pool.count_restart()
            self.was_started = True
            worker = WorkerProcess(memory_bytes=self.pool.memory_bytes)
            self.worker = worker
            if self.pool.is_closed:
                worker.kill()
            worker.wait_ready(BUILD_DEADLINE_S)
        return self.worker

    def _discard(self) -> str:
        """Kills the worker; returns how it ended."""
        worker, self.worker = self.worker, None
        if worker is None:
            return "never started"
        ending = worker.kill()
        worker.close_pipes()
        return ending

    def _serve(self, chunk: list[_Job]) -> None:
        worker = self.worker
        if worker is not None and (
            worker.num_items >= self.pool.max_items or (chunk[0].is_retry and worker.num_items)
        ):
            self._discard()
        worker = self._ensure()
        ready: list[_Job] = []
        for position, job in enumerate(chunk):
            try:
                problem = self._build(worker, job.key)
            except WorkerLost as loss:
                others = ready + chunk[position + 1 :]
                chunk.clear()  # what is given back is no longer this thread's to answer
                self._lost_in_build(job, loss)
                self.pool.give_back(others, front=True)
                return
            if problem:
                self.pool.finish(job, _error(self.pool.plugin(job.key).label, problem))
            elif job.payload:
                ready.append(job)
            else:
                self.pool.finish(job, _built(self.pool.plugin(job.key).label))
        for job in ready:
            worker.send(job.payload)
        for position, job in enumerate(ready):
            start = time.monotonic()
            try:
                reply = worker.receive(self.pool.deadline_s)
                if reply["id"] != job.id:
                    raise WorkerLost("crash", f"it answered item {reply['id']}, not {job.id}")
                verdict = verdict_from_json(reply["verdict"])
            except (WorkerLost, KeyError, TypeError, ValueError) as error:
                job.spent_s += time.monotonic() - start
                chunk.clear()
                self._lost(job, error)
                self.pool.give_back(ready[position + 1 :], front=True)
                return
            worker.num_items += 1
            self.pool.finish(job, verdict)

    def _build(self, worker: WorkerProcess, key: str) -> str:
        """Builds a plugin in the worker unless it has it; returns why that is impossible, or ""."""
        plugin = self.pool.plugin(key)
        if plugin.broken or key in worker.built:
            return plugin.broken
        message = {"op": "build", "key": key, "plugin": asdict(plugin.source)}
        message |= {"settings": dict(plugin.settings), "deadline_s": self.pool.deadline_s}
        worker.send(frame(message))
        reply = worker.receive(BUILD_DEADLINE_S)
        if reply["op"] != "built":
            plugin.broken = f"the plugin cannot be built in a worker: {reply.get('reason', reply)}"
            return plugin.broken
        plugin.label = reply["label"]
        worker.built.add(key)
        return ""

    def _lost_in_build(self, job: _Job, loss: WorkerLost) -> None:
        """A worker that dies over a plugin's import says nothing about the completion: once more, then ERROR."""
        ending = self._discard()
        plugin = self.pool.plugin(job.key)
        plugin.num_losses += 1
        if plugin.num_losses < MAX_BUILD_LOSSES:
            self.pool.give_back([job], front=True)
            return
        plugin.broken = f"the worker was lost ({loss}; {ending}) while it built the plugin"
        self.pool.finish(job, _error(plugin.label, plugin.broken))

    def _lost(self, job: _Job, error: Exception) -> None:
        cause = error.cause if isinstance(error, WorkerLost) else "crash"
        ending = self._discard()
        if not job.is_retry:
            job.is_retry = True
            self.pool.give_back([job], front=False)
            return
        if self.pool.is_closed:
            self.pool.finish(
                job, _error(self.pool.plugin(job.key).label, "the verifier pool was closed")
            )
            return
        if cause == "timeout":
            what = f"took longer than {self.pool.deadline_s:g} s"
        else:
            what = f"ended its worker ({ending})"
        verdict = Verdict(
            status=Status.FAIL,
            score=0.0,
            reason=f"checking this completion {what}, twice; the second time alone in a fresh worker",
            verifier=self.pool.plugin(job.key).label,
            seconds=job.spent_s,
            details={"cause": cause, "ending": ending},
        )
        self.pool.finish(job, verdict)


def _error(label: str, reason: str) -> Verdict:
    return Verdict(
        status=Status.ERROR,
        score=None,
        reason=reason,
        verifier=label,
        seconds=0.0,
    )


def _built(label: str) -> Verdict:
    return Verdict(
        status=Status.PASS,
        score=1.0,
        reason="built in a worker",
        verifier=label,
        seconds=0.0,
    )
