"""The process of one rank: `rlvr.learner.ranks.process` starts it bound to its own (`rlvr.processes.lifeline`).

The first frame describes the rank; then it answers one frame after another. It trusts only its parent. A separate
thread reads standard input and exits the process when that closes, so that no rank waits indefinitely in a collective
that another has left. The kernel also kills it with its parent, in case that thread cannot run.
"""

import faulthandler
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from typing import NoReturn

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from rlvr.config.sections.learner import LearnerConfig
from rlvr.learner.ranks.frames import Frame, encode, take_frame
from rlvr.learner.ranks.memory import attach
from rlvr.learner.ranks.server import RankServer
from rlvr.models.allocator import keep_freed_memory
from rlvr.models.policy import Policy

_READ_BYTES = 1 << 20
_SIGN_OF_LIFE_S = 1.0


class _Pipes:
    """The two descriptors that lead to the parent."""

    def __init__(self, fd_in: int, fd_out: int) -> None:
        self._fd_in = fd_in
        self._fd_out = fd_out
        self._requests: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self._last_sign = 0.0
        self._sending = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def next(self) -> Frame:
        """The next request; waits for the parent."""
        return self._requests.get()

    def send(self, frame: Frame) -> None:
        """Answers."""
        data = memoryview(encode(frame))
        with self._sending:
            while data:
                data = data[os.write(self._fd_out, data) :]

    def alive(self) -> None:
        """A sign of life, at most one per second."""
        now = time.monotonic()
        if now - self._last_sign >= _SIGN_OF_LIFE_S:
            self._last_sign = now
            self.send(Frame(body={"op": "alive"}))

    def _listen(self) -> None:
        buffer = bytearray()
        while data := os.read(self._fd_in, _READ_BYTES):
            buffer += data
            while (frame := take_frame(buffer)) is not None:
                self._requests.put(frame)
        os._exit(0)  # the parent closed the pipe, or is gone


class _Warnings(logging.Handler):
    """Sends warnings to the parent, whose log the user reads."""

    def __init__(self, pipes: _Pipes) -> None:
        super().__init__(level=logging.WARNING)
        self._pipes = pipes

    def emit(self, record: logging.LogRecord) -> None:
        body = {"level": record.levelno, "name": record.name, "message": record.getMessage()}
        self._pipes.send(Frame(body={"op": "log", **body}))


def build_server(first: Frame, pipes: _Pipes) -> RankServer:
    """The rank that the first frame describes."""
    body = first.body
    torch.set_num_threads(body["num_threads"])
    segments = body["segments"]
    policy: Policy = attach(segments["policy"], first.tensors["policy"])
    reference: PreTrainedModel | None = None
    if body["reference_is_policy"]:
        reference = policy.model
    elif "reference" in segments:
        reference = attach(segments["reference"], first.tensors["reference"])
    return RankServer(
        policy,
        reference=reference,
        config=LearnerConfig.model_validate(body["config"]),
        rank=body["rank"],
        size=body["size"],
        device_type=body["device_type"],
        store_file=body["store_file"],
        alive=pipes.alive,
    )


def main() -> NoReturn:
    """Runs the rank until its standard input closes or something fails."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    keep_freed_memory()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)  # the parent asks a silent rank for its stack
    fd_in, fd_out = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # library output goes to standard error and cannot corrupt a frame
    pipes = _Pipes(fd_in, fd_out)
    logging.getLogger("rlvr").addHandler(_Warnings(pipes))
    try:
        server = build_server(pipes.next(), pipes)
        pipes.send(Frame(body={"op": "done"}))
        while True:
            pipes.send(server.answer(pipes.next()))
    except Exception as error:  # noqa: BLE001 - process boundary: the parent gets the reason
        traceback.print_exc()
        sys.stderr.flush()
        pipes.send(
            Frame(
                body={
                    "op": "failed",
                    "kind": type(error).__name__,
                    "message": str(error),
                    "is_consequence": isinstance(error, dist.DistError) or "gloo" in str(error),
                }
            )
        )
        os._exit(1)  # without waiting for collectives of other threads


if __name__ == "__main__":
    main()
