"""The process that holds a reward model, and the queue in front of it.

score -> queue (bounded by the verifier's `max_open`) -> one thread: takes what is queued, at most two batches,
         sends it, waits for the child's answer -> Future of each pair

There is one process for each model in the process that verifies (the run's own, and each of Ray's verifier actors),
however many verifier workers and checks there are: a model needs memory once, and pairs that arrive together are
computed together. The thread owns the child, which ends with it.
"""

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from rlvr.errors import ConfigError, VerifierError
from rlvr.processes.child import Child, move, start_module
from rlvr.processes.frames import encode

IDLE_S = 900.0  # an unused process ends after this long and is started again when needed
_MAX_LOSSES = 3
_POLL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What the model said about itself."""

    labels: tuple[str, ...]
    max_input_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPair:
    """The model's outputs for a pair; see `scorer.Scored`."""

    logits: tuple[float, ...]
    num_tokens: int
    problem: str


@dataclass(frozen=True, slots=True)
class _Queued:
    pair: Mapping[str, Any]
    future: "Future[ScoredPair]"


class SharedProcesses:
    """The processes in use, one for each model and its settings; safe to use from any thread."""

    def __init__(self) -> None:
        self._users: dict[str, tuple[ScorerProcess, int]] = {}
        self._lock = threading.Lock()

    def take(self, settings: Mapping[str, Any], *, load_deadline_s: float, score_deadline_s: float) -> "ScorerProcess":
        """The process with these settings, started when it is first needed, with the deadlines of its first user.

        `give_back` ends the use.
        """
        key = json.dumps(dict(settings), sort_keys=True)
        with self._lock:
            process, num_users = self._users.get(key) or (
                ScorerProcess(settings, load_deadline_s=load_deadline_s, score_deadline_s=score_deadline_s),
                0,
            )
            self._users[key] = (process, num_users + 1)
        return process

    def give_back(self, process: "ScorerProcess") -> None:
        """Ends one use; the process ends with its last."""
        with self._lock:
            key, num_users = next((key, num) for key, (one, num) in self._users.items() if one is process)
            if num_users > 1:
                self._users[key] = (process, num_users - 1)
                return
            del self._users[key]
        process.close()


class ScorerProcess:
    """A reward model in a process of its own; safe to use from several threads and event loops.

    Args:
        settings: the arguments of `Scorer`.
        load_deadline_s, score_deadline_s: seconds for loading the model, and for one answer of the process, after which
            it is killed.
        idle_s: seconds without a pair, after which the process ends to free its memory.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        load_deadline_s: float,
        score_deadline_s: float,
        idle_s: float = IDLE_S,
        module: str = "rlvr_verifiers.reward_model.worker_main",
    ) -> None:
        self._settings = dict(settings)
        self._most_pairs = 2 * int(settings.get("batch_size", 1))
        self._load_deadline_s = load_deadline_s
        self._score_deadline_s = score_deadline_s
        self._idle_s = idle_s
        self._module = module
        self._changed = threading.Condition()
        self._queue: deque[_Queued] = deque()
        self._taken: list[_Queued] = []
        self._loaded: Future[Loaded] | None = None
        self._child: Child | None = None
        self._thread: threading.Thread | None = None
        self._num_losses = 0
        self._is_closed = False

    async def ready(self) -> Loaded:
        """Starts the process if it does not run, and waits until the model is loaded.

        Raises: ConfigError when the model cannot be used, VerifierError when the process was lost.
        """
        return await asyncio.shield(asyncio.wrap_future(self._start()))

    async def score(self, messages: list[dict[str, str]], completion: str) -> ScoredPair:
        """The model's outputs for a pair. Raises the errors of `ready`, and VerifierError when scoring failed."""
        await self.ready()
        queued = _Queued({"messages": messages, "completion": completion}, Future())
        with self._changed:
            self._require_open()
            self._queue.append(queued)
            self._start()  # in case it became idle or was lost since it was ready
            self._changed.notify_all()
        return await asyncio.wrap_future(queued.future)

    def close(self) -> None:
        """Ends the process; open pairs fail with VerifierError. May be called twice."""
        with self._changed:
            self._is_closed = True
            child, thread = self._child, self._thread
            self._changed.notify_all()
        if child is not None:
            child.kill()
        if thread is not None:
            thread.join()

    def _start(self) -> "Future[Loaded]":
        with self._changed:
            self._require_open()
            if self._loaded is None:
                if self._num_losses >= _MAX_LOSSES:
                    raise VerifierError(
                        f"the process of the reward model {self._settings['path']!r} was lost {self._num_losses} times "
                        "and is not started again"
                    )
                self._loaded = Future()
                self._loaded.set_running_or_notify_cancel()
                self._thread = threading.Thread(
                    target=self._run, args=(self._loaded,), name="reward-model", daemon=True
                )
                self._thread.start()
            return self._loaded

    def _require_open(self) -> None:
        if self._is_closed:
            raise VerifierError("the reward model was closed")

    def _run(self, loaded: "Future[Loaded]") -> None:
        """The life of one child: load, answer, and end with a reason for whoever still waits."""
        child: Child | None = None
        problem: Exception = VerifierError("the reward model was closed")
        try:
            child = Child(start_module(self._module, environment=_environment(int(self._settings.get("threads", 1)))))
            with self._changed:
                self._child = child
                is_closed = self._is_closed
            if not is_closed:
                self._load(child, loaded)
                self._serve(child)
        except ConfigError as error:
            problem = error
        except (VerifierError, OSError, ValueError) as error:
            ending = child.kill() if child is not None else "never started"
            problem = VerifierError(f"the process of the reward model was lost ({error}; {ending})")
        finally:
            if child is not None:
                child.kill()
                child.close_pipes()
            self._end(loaded, problem)

    def _load(self, child: Child, loaded: "Future[Loaded]") -> None:
        child.send(encode({"op": "load", "scorer": self._settings}))
        answer = self._receive(child, self._load_deadline_s, "was not loaded")
        if answer["op"] == "failed":
            raise ConfigError(f"reward model {self._settings['path']!r}: {answer['reason']}")
        loaded.set_result(Loaded(labels=tuple(answer["labels"]), max_input_tokens=answer["max_input_tokens"]))

    def _serve(self, child: Child) -> None:
        """Answers what is queued, until the process is closed or idle."""
        while taken := self._take():
            self._taken = taken  # `_end` fails them if the process is lost
            child.send(encode({"op": "score", "pairs": [queued.pair for queued in taken]}))
            answer = self._receive(child, self._score_deadline_s, "gave no answer")
            self._taken = []
            if answer["op"] == "scored":
                for queued, scored in zip(taken, answer["scores"], strict=True):
                    queued.future.set_result(ScoredPair(**scored | {"logits": tuple(scored["logits"])}))
                continue
            for queued in taken:
                queued.future.set_exception(VerifierError(f"the reward model failed: {answer['reason']}"))

    def _take(self) -> list[_Queued]:
        """The next pairs, without those that nobody waits for; waits for them. Empty when closed or idle."""
        with self._changed:
            while True:
                if not self._changed.wait_for(lambda: self._queue or self._is_closed, self._idle_s):
                    self._loaded = None  # within the lock: whoever comes next starts another process
                    return []
                if self._is_closed:
                    return []
                taken = [self._queue.popleft() for _ in range(min(self._most_pairs, len(self._queue)))]
                if kept := [queued for queued in taken if queued.future.set_running_or_notify_cancel()]:
                    return kept

    def _receive(self, child: Child, deadline_s: float, what: str) -> Mapping[str, Any]:
        """The child's next answer. Raises VerifierError when it ends or is late."""
        until = time.monotonic() + deadline_s
        while (frame := child.next_frame()) is None:
            left_s = until - time.monotonic()
            if left_s <= 0.0:
                raise VerifierError(f"it {what} within {deadline_s:g} s")
            ready, _ = move([child], min(left_s, _POLL_S))
            if ready and not child.read():
                raise VerifierError("it ended")
        return frame.body

    def _end(self, loaded: "Future[Loaded]", problem: Exception) -> None:
        """Completes what is open; a model that cannot be used stays so, a lost process may be started again."""
        with self._changed:
            if self._loaded is not loaded and self._loaded is not None:
                return  # idle, and another process has been started meanwhile
            taken, self._taken = self._taken, []
            waiting, self._queue = self._queue, deque()
            if self._is_closed:
                problem = VerifierError("the reward model was closed")
            elif isinstance(problem, VerifierError) and self._loaded is loaded:
                self._num_losses += 1
            if not isinstance(problem, ConfigError):
                self._loaded = None
            self._child = None
        if not loaded.done():
            loaded.set_exception(problem)
        for queued in taken:
            queued.future.set_exception(problem)
        for queued in waiting:
            if queued.future.set_running_or_notify_cancel():
                queued.future.set_exception(problem)


def _environment(threads: int) -> dict[str, str]:
    """Of the child: threads that do not depend on the machine, and no progress bars."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
