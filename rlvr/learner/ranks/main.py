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
from typing import Any, NoReturn

import torch
from transformers import PreTrainedModel

from rlvr.config.sections.learner import LearnerConfig
from rlvr.learner.consequences import is_consequence
from rlvr.learner.ranks.loading import WeightSource, weight_source
from rlvr.learner.ranks.memory import attach
from rlvr.learner.ranks.messages import Message, decode, encode
from rlvr.learner.ranks.server import RankServer
from rlvr.models.allocator import keep_freed_memory
from rlvr.models.policy import Policy
from rlvr.processes.frames import ParentPipe
from rlvr.telemetry.process import begin_process

_SIGN_OF_LIFE_S = 1.0


class _Parent:
    """The parent's requests and our answers."""

    def __init__(self) -> None:
        self._pipe = ParentPipe()
        self._requests: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._last_sign = 0.0
        threading.Thread(target=self._listen, daemon=True).start()

    def next(self) -> Message:
        """The next request; waits for the parent."""
        return self._requests.get()

    def send(self, message: Message) -> None:
        """Answers."""
        self._pipe.send(encode(message))

    def alive(self) -> None:
        """A sign of life, at most one per second."""
        now = time.monotonic()
        if now - self._last_sign >= _SIGN_OF_LIFE_S:
            self._last_sign = now
            self.send(Message(body={"op": "alive"}))

    def _listen(self) -> None:
        while (frame := self._pipe.receive()) is not None:
            self._requests.put(decode(frame))
        os._exit(0)  # the parent closed the pipe, or is gone


class _Warnings(logging.Handler):
    """Sends warnings to the parent, whose log the user reads."""

    def __init__(self, parent: _Parent) -> None:
        super().__init__(level=logging.WARNING)
        self._parent = parent

    def emit(self, record: logging.LogRecord) -> None:
        body = {"level": record.levelno, "name": record.name, "message": record.getMessage()}
        self._parent.send(Message(body={"op": "log", **body}))


def build_server(first: Message, parent: _Parent) -> RankServer:
    """The rank that the first frame describes."""
    body = first.body
    torch.set_num_threads(body["num_threads"])
    policy: Policy = _attached(first, "policy")
    reference: PreTrainedModel | None = None
    if body["reference_is_policy"]:
        reference = policy.model
    elif "reference" in body["segments"]:
        reference = _attached(first, "reference")
    source = None if body["source"] is None else WeightSource.from_json(body["source"])
    if source is not None and body["is_far"]:
        source = weight_source(source.model, policy.model, seed=source.seed)
    return RankServer(
        policy,
        reference=reference,
        source=source,
        config=LearnerConfig.model_validate(body["config"]),
        rank=body["rank"],
        size=body["size"],
        device_type=body["device_type"],
        device_index=body["device_index"],
        meeting=body["meeting"],
        alive=parent.alive,
    )


def _attached(first: Message, name: str) -> Any:
    return attach(first.body["segments"][name], first.tensors[name], content=first.tensors.get(f"{name}.content"))


def main() -> NoReturn:
    """Runs the rank until its standard input closes or something fails."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    keep_freed_memory()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)  # the parent asks a silent rank for its stack
    parent = _Parent()
    logging.getLogger("rlvr").addHandler(_Warnings(parent))
    try:
        first = parent.next()
        begin_process(f"learner-{first.body['rank']}")
        server = build_server(first, parent)
        parent.send(Message(body={"op": "done"}))
        while True:
            parent.send(server.answer(parent.next()))
    except Exception as error:  # noqa: BLE001 - process boundary: the parent gets the reason
        traceback.print_exc()
        sys.stderr.flush()
        parent.send(
            Message(
                body={
                    "op": "failed",
                    "kind": type(error).__name__,
                    "message": str(error),
                    "is_consequence": is_consequence(error),
                }
            )
        )
        os._exit(1)  # without waiting for collectives of other threads


if __name__ == "__main__":
    main()
