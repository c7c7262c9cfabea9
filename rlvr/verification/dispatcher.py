"""A dispatcher thread of the verifier pool, with its worker process and the jobs that it takes."""

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from rlvr.errors import RlvrError
from rlvr.processes.frames import encode
from rlvr.records import Status, Verdict
from rlvr.registry import PluginSource
from rlvr.verification.wire import verdict_from_json
from rlvr.verification.worker_process import LOST_JAIL, WorkerLost, WorkerProcess

BUILD_DEADLINE_S = 60.0
MAX_BUILD_LOSSES = 2
MAX_LOST_JAILS = 3
CPU_LIMIT_ENDING = "signal SIGXCPU"


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One item; an empty `payload` only asks that a plugin be built in a worker.

    has_retry: retried after a first loss; False if the caller handles the loss.
    num_lost_jails: how often its worker was lost for a reason that no item can cause.
    """

    id: int
    key: str
    payload: bytes
    future: "Future[Verdict]" = field(default_factory=Future)
    is_running: bool = False
    is_retry: bool = False
    has_retry: bool = True
    num_lost_jails: int = 0
    spent_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class Plugin:
    """A registered verifier as sent to workers; `broken` says why no worker can build it.

    facts: from a worker that built it; see `wire.facts_of`. prompt: the first that was verified, as JSON.
    """

    source: PluginSource
    settings: Mapping[str, Any]
    label: str
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    prompt: Mapping[str, Any] = field(default_factory=dict[str, Any])
    num_losses: int = 0
    broken: str = ""


class JobQueue(Protocol):
    """What a dispatcher needs of the pool."""

    deadline_s: float
    max_items: int

    def new_worker(self) -> WorkerProcess:
        """Starts a worker. Raises OSError, RlvrError."""
        ...

    @property
    def is_closed(self) -> bool:
        """Whether the pool was closed; open items then end as ERROR."""
        ...

    def take(self) -> list[Job] | None:
        """The next chunk; waits for it. None when the pool is closed."""
        ...

    def give_back(self, jobs: list[Job], *, front: bool) -> None:
        """Puts jobs back into the queue."""
        ...

    def finish(self, job: Job, verdict: Verdict) -> None:
        """Completes one job."""
        ...

    def plugin(self, key: str) -> Plugin:
        """The registered verifier with this key."""
        ...

    def count_restart(self) -> None:
        """Counts a replaced worker."""
        ...

    def take_spare(self) -> WorkerProcess | None:
        """A ready worker; None when there is none."""
        ...


class Dispatcher:
    """One thread and its worker process. The thread that starts a worker must outlive it, because of PDEATHSIG."""

    def __init__(self, pool: JobQueue, index: int) -> None:
        self.pool = pool
        self.worker: WorkerProcess | None = None
        self.was_started = False
        self.thread = threading.Thread(target=self._run, name=f"verifier-{index}", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """Kills the worker, which wakes the thread, and waits for the thread."""
        worker = self.worker
        if worker is not None:
            worker.kill()
        if self.thread is not threading.current_thread():
            self.thread.join()

    def _run(self) -> None:
        try:
            self._ensure()
        except (OSError, RlvrError, WorkerLost):
            self._discard()  # the first chunk retries, and can report the failure
        while (chunk := self.pool.take()) is not None:
            try:
                self._serve(chunk)
            except Exception as error:  # noqa: BLE001 - every Future must be completed
                self._discard()
                for job in chunk:
                    if not job.future.done():
                        what = str(error) if isinstance(error, RlvrError) else f"{type(error).__name__}: {error}"
                        reason = f"no worker could verify it: {what}"
                        self.pool.finish(job, error_of(self.pool.plugin(job.key).label, reason))
        self._discard()

    def _ensure(self) -> WorkerProcess:
        if self.worker is None:
            if self.was_started:
                self.pool.count_restart()
                self.worker = self.pool.take_spare()
            self.was_started = True
        if self.worker is None:
            self.worker = self.pool.new_worker()
            if self.pool.is_closed:
                self.worker.kill()
            self.worker.wait_ready(BUILD_DEADLINE_S)
        elif self.pool.is_closed:
            self.worker.kill()
        return self.worker

    def _discard(self) -> str:
        """Kills the worker; returns how it ended."""
        worker, self.worker = self.worker, None
        if worker is None:
            return "never started"
        ending = worker.kill()
        worker.close_pipes()
        return ending

    def _serve(self, chunk: list[Job]) -> None:
        worker = self.worker
        if worker is not None and not worker.forks:
            is_old = worker.num_items >= self.pool.max_items
            if is_old or (chunk[0].is_retry and worker.num_items):
                self._discard()
        worker = self._ensure()
        ready: list[Job] = []
        for position, job in enumerate(chunk):
            try:
                problem = build(worker, job.key, self.pool)
                rehearse(worker, job.key, self.pool)
            except WorkerLost as loss:
                others = ready + chunk[position + 1 :]
                chunk.clear()  # jobs given back are no longer this thread's
                self._lost_in_build(job, loss)
                self.pool.give_back(others, front=True)
                return
            if problem:
                self.pool.finish(job, error_of(self.pool.plugin(job.key).label, problem))
            elif job.payload:
                ready.append(job)
            else:
                self.pool.finish(job, _built(self.pool.plugin(job.key)))
        if worker.forks and ready:
            worker.send(encode({"op": "chunk", "count": len(ready)}))
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

    def _lost_in_build(self, job: Job, loss: WorkerLost) -> None:
        """A worker that dies while it builds a plugin says nothing about the completion: retries once, then
        ERROR.
        """
        ending = self._discard()
        if loss.cause == LOST_JAIL:
            self._lost_jail(job, loss)
            return
        plugin = self.pool.plugin(job.key)
        plugin.num_losses += 1
        if plugin.num_losses < MAX_BUILD_LOSSES:
            self.pool.give_back([job], front=True)
            return
        plugin.broken = f"the worker was lost ({loss}; {ending}) while it built the plugin"
        self.pool.finish(job, error_of(plugin.label, plugin.broken))

    def _lost(self, job: Job, error: Exception) -> None:
        cause = error.cause if isinstance(error, WorkerLost) else "crash"
        worker = self.worker
        ending = worker.end_item(error) if worker is not None and isinstance(error, WorkerLost) else ""
        ending = ending or self._discard()
        if cause == LOST_JAIL:
            self._lost_jail(job, error)
            return
        if ending == CPU_LIMIT_ENDING:
            cause = "timeout"
        if job.has_retry and not job.is_retry:
            job.is_retry = True
            self.pool.give_back([job], front=False)
            return
        if self.pool.is_closed:
            self.pool.finish(job, error_of(self.pool.plugin(job.key).label, "the verifier pool was closed"))
            return
        if cause == "timeout":
            what = f"took longer than {self.pool.deadline_s:g} s"
        else:
            what = f"ended its worker ({ending})"
        again = ", and so did a retry in a fresh worker" if job.is_retry else ""
        verdict = Verdict(
            status=Status.FAIL,
            score=0.0,
            reason=f"checking this completion {what}{again}",
            verifier=self.pool.plugin(job.key).label,
            seconds=job.spent_s,
            details={"cause": cause, "ending": ending},
        )
        self.pool.finish(job, verdict)

    def _lost_jail(self, job: Job, error: Exception) -> None:
        """Says nothing about the completion: it is verified again in a new jail, and at last it has no verdict."""
        job.num_lost_jails += 1
        if job.num_lost_jails < MAX_LOST_JAILS and not self.pool.is_closed:
            self.pool.give_back([job], front=True)
        else:
            self.pool.finish(job, error_of(self.pool.plugin(job.key).label, f"its jail was lost: {error}"))


def build(worker: WorkerProcess, key: str, pool: JobQueue) -> str:
    """Builds a plugin in the worker unless it has it; returns why that failed, or "".

    Raises: WorkerLost.
    """
    plugin = pool.plugin(key)
    if plugin.broken or key in worker.built:
        return plugin.broken
    message = {"op": "build", "key": key, "plugin": asdict(plugin.source)}
    message |= {"settings": dict(plugin.settings), "deadline_s": pool.deadline_s}
    worker.send(encode(message))
    reply = worker.receive(BUILD_DEADLINE_S)
    if reply["op"] != "built":
        plugin.broken = f"the plugin cannot be built in a worker: {reply.get('reason', reply)}"
        return plugin.broken
    plugin.label, plugin.facts = reply["label"], reply["facts"]
    worker.built.add(key)
    return ""


def rehearse(worker: WorkerProcess, key: str, pool: JobQueue) -> None:
    """Has a worker that forks import what the verifier imports late, once, with a prompt of the data.

    Raises: WorkerLost.
    """
    prompt = pool.plugin(key).prompt
    if worker.forks and prompt and key in worker.built and key not in worker.rehearsed:
        worker.rehearsed.add(key)
        worker.send(encode({"op": "rehearse", "key": key, "prompt": dict(prompt)}))
        worker.receive(BUILD_DEADLINE_S)


def error_of(label: str, reason: str) -> Verdict:
    return Verdict(status=Status.ERROR, score=None, reason=reason, verifier=label, seconds=0.0)


def _built(plugin: Plugin) -> Verdict:
    return Verdict(
        status=Status.PASS,
        score=1.0,
        reason="built in a worker",
        verifier=plugin.label,
        seconds=0.0,
        details=plugin.facts,
    )
