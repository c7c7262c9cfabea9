"""The learner's handles of ranks on other nodes: frames by way of a `RankHost`."""

import os
import queue
import select
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray import exceptions as ray_errors

from rlvr.config.recipe import Recipe
from rlvr.errors import ConfigError
from rlvr.learner.ranks.messages import Message, encode
from rlvr.learner.ranks.start import FarRank, Spread
from rlvr.processes.child import Poller
from rlvr.processes.frames import Frame, take_frame
from rlvr.run.ray.calls import reason_of
from rlvr.run.ray.connect import end_actor
from rlvr.run.ray.workers.rank_host import ENDED, RankHost, interface_of

_ANSWER_S = 5.0  # of a host that is asked about a silent rank


@dataclass(frozen=True, slots=True, kw_only=True)
class FarBundle:
    """A reservation for ranks away from the learner's actor. options: of its host's actor."""

    num_ranks: int
    options: dict[str, Any]


class RankHosts:
    """The hosts of a learner, which end with the process that made this object, or with the ranks."""

    def __init__(self, recipe: Recipe, bundles: Sequence[FarBundle]) -> None:
        start: Any = RankHost
        self._bundles = bundles
        self._num_threads = recipe.learner.num_threads
        self._hosts = [start.options(**bundle.options).remote(recipe.model) for bundle in bundles]

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._hosts)

    def download(self) -> None:
        """Waits until the model's files are on every host's node."""
        self._ask("download")

    def downloaded_bytes(self) -> int:
        """How much has arrived on all of them."""
        return sum(self._ask("downloaded_bytes"))

    def addresses(self) -> list[str]:
        """Their nodes."""
        return self._ask("address")

    def require(self, *, is_on_cuda: bool, run_dir: str) -> None:
        """Raises ConfigError unless every host has its devices and sees the run directory."""
        asked = [
            host.require.remote(bundle.num_ranks, is_on_cuda=is_on_cuda, run_dir=run_dir)
            for host, bundle in zip(self._hosts, self._bundles, strict=True)
        ]
        problems = [problem for problem in ray.get(asked) if problem]
        if problems:
            raise ConfigError(
                f"{'; '.join(problems)}; learners on several nodes need a file system that all of these share: choose "
                "such a --run-dir, or set cluster.learners and cluster.learners_per_node so that one node holds them"
            )

    def spread(self) -> Spread:
        """All their ranks, for a `LearnerGroup`."""
        threads = self._ask("num_threads")
        far = [
            FarRank(
                start=partial(
                    RemoteRank, host, num_threads=self._threads(total, bundle.num_ranks), device_index=device_index
                ),
                device_index=device_index,
                num_threads=self._threads(total, bundle.num_ranks),
            )
            for host, bundle, total in zip(self._hosts, self._bundles, threads, strict=True)
            for device_index in range(bundle.num_ranks)
        ]
        address = ray.util.get_node_ip_address()
        return Spread(far=far, address=address, interface=interface_of(address))

    def _ask(self, method: str) -> list[Any]:
        """The answers of all hosts."""
        return ray.get([getattr(host, method).remote() for host in self._hosts]) if self._hosts else []

    def _threads(self, total: int, num_ranks: int) -> int:
        return self._num_threads or max(1, total // num_ranks)


class RemoteRank:
    """Implements `rlvr.learner.ranks.process.RankHandle`: a thread exchanges frames with the host."""

    def __init__(self, host: Any, rank: int, *, num_threads: int, device_index: int) -> None:
        self.rank = rank
        self.last_sign = time.monotonic()
        self._host = host
        self._started = host.start.remote(rank, num_threads, device_index)
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._frames: deque[Frame] = deque()
        self._ended = threading.Event()
        self._how, self._tail = "", ""
        self._is_closed = False
        self._reader, self._writer = os.pipe()  # readable when there is something to read
        self._piping = threading.RLock()  # no thread may write to a descriptor that is closed, or another's by now
        self._has_closed_pipe = False
        for end in (self._reader, self._writer):
            os.set_blocking(end, False)
        threading.Thread(target=self._exchange, name=f"rlvr-rank-{rank}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id, on its node."""
        return ray.get(self._started)

    def request(self, message: Message) -> None:
        """Queues a request, which the thread sends."""
        self.last_sign = time.monotonic()
        self._requests.put(encode(message))

    def register(self, poller: Poller) -> tuple[int, int]:
        """Has the poller wait for frames."""
        poller.register(self._reader, select.POLLIN)
        return self._reader, -1

    def write(self) -> None:
        """Nothing: the thread writes."""

    def read(self) -> bool:
        """Takes note of a sign of life; False when it has ended and every frame was read."""
        with suppress(BlockingIOError):
            os.read(self._reader, 4096)
        if self._ended.is_set() and not self._frames:
            return False
        if self._ended.is_set():
            self._wake()  # for the end, after these frames
        self.last_sign = time.monotonic()
        return True

    def next_frame(self) -> Frame | None:
        """The next frame; None when there is none."""
        return self._frames.popleft() if self._frames else None

    def wait(self, timeout_s: float) -> str | None:
        """How it ended; None when it still runs after the timeout."""
        if self._is_closed or self._ended.is_set():
            return self._how or "closed"
        try:  # after its last answer the thread waits for a request
            return ray.get(self._host.wait.remote(self.rank, timeout_s), timeout=timeout_s + _ANSWER_S)
        except ray_errors.RayError:
            return None

    def ask_for_stack(self) -> bool:
        """Has it print its stack; False when it, or its host, does not answer."""
        try:
            return ray.get(self._host.ask_for_stack.remote(self.rank), timeout=_ANSWER_S)
        except ray_errors.RayError:
            return False

    def tail(self) -> str:
        """The last lines of its standard error; "" when its host does not answer."""
        if self._ended.is_set():
            return self._tail
        try:
            return ray.get(self._host.tail.remote(self.rank), timeout=_ANSWER_S)
        except ray_errors.RayError:
            return ""

    def close_input(self) -> None:
        """Ends the thread; the rank ends with its host."""
        self._is_closed = True
        self._requests.put(None)

    def end(self) -> None:
        """Ends the host, and with it all of its ranks; closes the descriptors."""
        self._requests.put(None)
        end_actor(self._host)
        with self._piping:
            if not self._has_closed_pipe:
                self._has_closed_pipe = True
                os.close(self._reader)
                os.close(self._writer)

    def _exchange(self) -> None:
        """Sends each request and queues the frames that answer it, until there are no more requests."""
        how, tail = "closed", ""
        try:
            ray.get(self._started)
            while (request := self._requests.get()) is not None:
                for sent in self._host.exchange.options(num_returns="streaming").remote(self.rank, request):
                    frame = take_frame(bytearray(ray.get(sent)))
                    assert frame is not None
                    if frame.body["op"] == ENDED:
                        how, tail = frame.body["how"], frame.body["tail"]
                        return
                    self._frames.append(frame)
                    self._wake()
        except ray_errors.RayTaskError as error:
            how = f"its host failed: {type(error.cause).__name__}: {error.cause}"
        except ray_errors.RayError as error:
            how = f"its host or node was lost: {reason_of(error)}"
        finally:
            self._how, self._tail = how, tail
            self._ended.set()
            self._wake()

    def _wake(self) -> None:
        with self._piping, suppress(BlockingIOError):  # a full pipe is readable already
            if not self._has_closed_pipe:
                os.write(self._writer, b"x")
