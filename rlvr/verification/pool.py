"""The pool of killable worker processes behind `rlvr.verification.service`: hard deadlines, no signals, no pickle.

    submit -> queue (unbounded; callers bound their own open items)
           -> dispatcher thread, one per worker: takes a small chunk, builds its plugins, reads
           verdicts one by one -> Future[Verdict]

The parent enforces an item's deadline, counted from the previous answer. A late or dead worker is killed with all its
child processes and replaced: the item goes to the end of the queue for one retry, alone in a fresh worker, and the rest
of its chunk to the front. A second failure is a FAIL with `details["cause"]`, because a completion that breaks its
checker must not avoid a zero. From the first item on a spare worker is ready with every plugin built, so that a loss
costs no start. Safe to use from any thread; uses neither signals nor the event loop.
"""

import itertools
import json
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any

from rlvr.errors import ConfigError
from rlvr.processes.frames import encode
from rlvr.records import Completion, Json, Prompt, Verdict
from rlvr.registry import PluginSource
from rlvr.verification.dispatcher import BUILD_DEADLINE_S, Dispatcher, Job, Plugin, build, error_of, rehearse
from rlvr.verification.jailed.jail import Jail
from rlvr.verification.spare import Spare
from rlvr.verification.wire import completion_to_json, prompt_to_json
from rlvr.verification.worker_process import WorkerProcess

CHUNK_ITEMS = 8
# A jailed worker forks for each chunk. Its chunks are large enough for the fork to cost little compared with the items.
MOST_JAILED_ITEMS = 128
_JAILED_CHUNK_S = 0.08
_LEAST_ITEM_S = 1e-6
_MEDIAN_STEP = 1.05  # by which each item moves the running median


def most_workers() -> int:
    """The most workers of one pool; verification is CPU-bound, so more than a few per core only use memory."""
    return max(64, 8 * (os.cpu_count() or 1))


class VerifierPool:
    """N worker processes that verify items, each under a deadline.

    Args:
        num_workers: processes, and dispatcher threads.
        deadline_s: wall-clock seconds allowed for one item in a worker; building a plugin has its own limit
            of 60 s.
        max_items: a worker is replaced after this number of items, so that leaks stay small.
        memory_bytes: address space of a worker; needing more counts as a crash.
        hash_seed: of the workers' Python, so that the iteration order of sets is the same in all of them.
        jail: starts the workers inside a jail; each then forks for its chunks, so `max_items` does not apply.
    """

    def __init__(
        self,
        num_workers: int,
        deadline_s: float,
        *,
        max_items: int = 10_000,
        memory_bytes: int = 4 << 30,
        hash_seed: int = 0,
        jail: Jail | None = None,
    ) -> None:
        if num_workers < 1 or deadline_s <= 0:
            raise ValueError(f"num_workers={num_workers} and deadline_s={deadline_s} must be positive")
        if num_workers > most_workers():
            raise ConfigError(
                f"{num_workers:,} verifier workers: each is a process, and at most {most_workers()} are allowed on "
                f"this machine of {os.cpu_count()} cores; lower reward.verifier_workers (or --workers)"
            )
        if not math.isfinite(deadline_s):
            raise ConfigError(f"the deadline of one item cannot be {deadline_s} s; give seconds, for example 5")
        self.num_workers = num_workers
        self.deadline_s = deadline_s
        self.max_items = max_items
        self.memory_bytes = memory_bytes
        self.hash_seed = hash_seed
        self.num_restarts = 0
        self._jail = jail
        self._item_s = _JAILED_CHUNK_S / CHUNK_ITEMS  # a running median; the first items of a fork take longer
        self._plugins: dict[str, Plugin] = {}
        self._queue: deque[Job] = deque()
        self._changed = threading.Condition()
        self._ids = itertools.count()
        self._is_closed = False
        self._dispatchers: list[Dispatcher] = []
        self._spare = Spare(self._start_spare)

    @property
    def is_jailed(self) -> bool:
        """Whether its workers run in a jail."""
        return self._jail is not None

    def start(self) -> None:
        """Starts the workers once; `submit` also does."""
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the verifier pool is closed")
            if not self._dispatchers:
                self._dispatchers = [Dispatcher(self, index) for index in range(self.num_workers)]
                for dispatcher in self._dispatchers:
                    dispatcher.start()

    def register(self, source: PluginSource, settings: Mapping[str, Any]) -> str:
        """The key of this verifier for `submit`; the same plugin and settings give the same
        key.

        Raises: TypeError or ValueError when the settings are not JSON values.
        """
        key = json.dumps([asdict(source), dict(settings)], sort_keys=True)
        with self._changed:
            self._plugins.setdefault(key, Plugin(source=source, settings=dict(settings), label=source.name))
        return key

    def submit(self, key: str, prompt: Prompt, completion: Completion, *, has_retry: bool = True) -> "Future[Verdict]":
        """A Future of the verdict; it never raises because of a plugin or a completion.

        Args:
            key: from `register`.
            prompt: reduced to the one check of this verifier.
            has_retry: whether an item that hangs or kills its worker is tried again in a fresh one.
        """
        message: dict[str, Any] = {"op": "verify", "key": key}
        if self._jail is not None:
            message["prejudge"] = True  # its `prejudge` does not run in this process
        message |= {"prompt": prompt_to_json(prompt), "completion": completion_to_json(completion)}
        self._plugins[key].prompt = self._plugins[key].prompt or message["prompt"]
        future = self._send(message, has_retry=has_retry)
        self._spare.begin()
        return future

    def parse(self, key: str, references: Sequence[Json]) -> "Future[Verdict]":
        """A Future of the result of the verifier's `parse_reference`, under one deadline for all references.

        PASS when all can be used. FAIL with the reasons in `details["problems"]`, by the reference's number as text, or
        with `details["cause"]` when they hung or killed the worker, which is not retried.
        """
        message = {"op": "parse", "key": key, "references": list(references)}
        return self._send(message, has_retry=False)

    def score_steps(
        self, key: str, prompt: Prompt, completion: Completion, steps: Sequence[tuple[int, int]]
    ) -> "Future[Verdict]":
        """A Future that is a PASS with the result of `verify_steps` in `details["scores"]`; no second try."""
        message = {"op": "steps", "key": key, "steps": list(steps)}
        message |= {"prompt": prompt_to_json(prompt), "completion": completion_to_json(completion)}
        return self._send(message, has_retry=False)

    def build(self, key: str) -> "Future[Verdict]":
        """A Future that is a PASS once a worker has built this plugin, and an ERROR if that
        fails.
        """
        return self._enqueue(Job(id=next(self._ids), key=key, payload=b""))

    def close(self) -> None:
        """Kills the workers; open items end as ERROR. May be called twice."""
        with self._changed:
            self._is_closed = True
            waiting = list(self._queue)
            self._queue.clear()
            self._changed.notify_all()
        for job in waiting:
            self.finish(job, error_of(self._plugins[job.key].label, "the verifier pool was closed"))
        for dispatcher in self._dispatchers:
            dispatcher.stop()
        self._spare.close()

    def _send(self, message: dict[str, Any], *, has_retry: bool) -> "Future[Verdict]":
        job_id, key = next(self._ids), message["key"]
        try:
            payload = encode(message | {"id": job_id})
        except (TypeError, ValueError, RecursionError) as error:
            future: Future[Verdict] = Future()
            reason = f"the item cannot be serialised as JSON: {error}"
            future.set_result(error_of(self._plugins[key].label, reason))
            return future
        return self._enqueue(Job(id=job_id, key=key, payload=payload, has_retry=has_retry))

    def _start_spare(self, started: Callable[[WorkerProcess], None]) -> None:
        """Starts a worker with every known plugin; runs in the spare's thread. Raises WorkerLost, OSError."""
        worker = self.new_worker()
        started(worker)
        worker.wait_ready(BUILD_DEADLINE_S)
        for key in list(self._plugins):
            build(worker, key, self)
            rehearse(worker, key, self)

    def _enqueue(self, job: Job) -> "Future[Verdict]":
        self.start()
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the verifier pool is closed")
            self._queue.append(job)
            self._changed.notify()
        return job.future

    # called by dispatchers

    def take(self) -> list[Job] | None:
        """The next chunk; waits for `submit`. None when the pool is closed. A retry is a chunk of its own."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._queue or self._is_closed)
                if self._is_closed:
                    return None
                share = -(-len(self._queue) // self.num_workers)
                chunk: list[Job] = []
                while self._queue and len(chunk) < min(self._chunk_items(), share):
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

    def _chunk_items(self) -> int:
        """The most items of one chunk."""
        if self._jail is None:
            return CHUNK_ITEMS
        return max(CHUNK_ITEMS, min(MOST_JAILED_ITEMS, int(_JAILED_CHUNK_S / self._item_s)))

    def give_back(self, jobs: list[Job], *, front: bool) -> None:
        """Puts jobs back into the queue; after `close` they end as ERROR."""
        with self._changed:
            if not self._is_closed:
                if front:
                    self._queue.extendleft(reversed(jobs))
                else:
                    self._queue.extend(jobs)
                self._changed.notify_all()
                return
        for job in jobs:
            self.finish(job, error_of(self._plugins[job.key].label, "the verifier pool was closed"))

    def finish(self, job: Job, verdict: Verdict) -> None:
        """Completes one job, unless it was cancelled before it ran."""
        if job.is_running or job.future.set_running_or_notify_cancel():
            job.is_running = True
            self._item_s = max(self._item_s, _LEAST_ITEM_S)
            self._item_s *= _MEDIAN_STEP if verdict.seconds > self._item_s else 1 / _MEDIAN_STEP
            job.future.set_result(verdict)

    def plugin(self, key: str) -> Plugin:
        """The registered verifier with this key."""
        return self._plugins[key]

    def count_restart(self) -> None:
        """Counts a replaced worker."""
        with self._changed:
            self.num_restarts += 1

    def new_worker(self) -> WorkerProcess:
        """Starts a worker. Raises OSError; SandboxError when there is no jail for it."""
        if self._jail is None:
            return WorkerProcess.start(memory_bytes=self.memory_bytes, hash_seed=self.hash_seed)
        return self._jail.start(memory_bytes=self.memory_bytes, hash_seed=self.hash_seed)

    def take_spare(self) -> WorkerProcess | None:
        """A ready worker; None when there is none."""
        return self._spare.take()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed
