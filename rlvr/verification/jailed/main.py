"""The worker of a jailed verifier: builds verifiers as `worker_main` does, and forks a child for each chunk of items.

Started by a sandbox (`rlvr.jails`), inside the jail. A child executes the policy's text if the verifier does, so of
what it sends only the verdict of the item that is due is passed on; no completion of the policy is verified outside it.

    parent -> worker    the messages of `worker_main`, and
                        {"op": "rehearse", "key", "prompt"}   two harmless items, whose imports the worker then keeps
                        {"op": "chunk", "count"}              the next `count` messages are the items of one child
                        {"op": "abort"}                       ends the child, and with it the rest of its chunk
    worker -> parent    the answers of `worker_main`, and
                        rehearsed, aborted
                        {"op": "lost", "cause", "ending"}     the child died; the rest of its chunk is not answered
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from rlvr.jails import WorkerJail
from rlvr.plugin import completion_from_text
from rlvr.processes.frames import ParentPipe, encode, take_frame
from rlvr.verification.wire import MEMORY_EXIT_CODE, completion_to_json
from rlvr.verification.worker_main import Worker, confine, lift_cpu_limit

WRONG_ANSWER = "I do not know."
REHEARSAL_S = 20.0
_READ_BYTES = 1 << 18
_MAX_ANSWER_BYTES = 16 << 20  # of one item
_LOOK_EVERY_MS = 50.0
_GATHER_S = 0.002  # after an answer, so that quick ones are passed on together
_END_S = 1.0  # that a child which closed its pipe has to end by itself
_MAX_MODULES = 2000


class _ChildPipe:
    """The child's end of the pipe to the worker."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def send(self, data: bytes) -> None:
        """Writes a frame. Raises BrokenPipeError when the worker is gone."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]


class _Child:
    """A forked child with the items of one chunk, as the worker sees it."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self.descriptor = descriptor
        self._status: int | None = None
        self._incoming = bytearray()

    def has_ended(self) -> bool:
        """Whether it has exited; what it started may still run."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = status if pid else None
        return self._status is not None

    def read(self) -> bool:
        """Reads what has arrived; False at the end of the pipe."""
        data = os.read(self.descriptor, _READ_BYTES)
        self._incoming += data
        return bool(data)

    def next_answer(self) -> Mapping[str, Any] | None:
        """The next whole frame. Raises ValueError for anything that is not a short frame."""
        if len(self._incoming) > _MAX_ANSWER_BYTES:
            raise ValueError("its answer is too long")
        frame = take_frame(self._incoming)
        return None if frame is None else frame.body

    def end(self) -> str:
        """Kills it unless it has ended; returns how it ended."""
        if not self.has_ended():
            os.kill(self.pid, signal.SIGKILL)
            _, self._status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(self._status or 0)
        if code < 0:
            return f"signal {signal.Signals(-code).name}"
        return "out of memory" if code == MEMORY_EXIT_CODE else f"exit code {code}"

    def end_soon(self) -> str:
        """Waits for its end for a moment; returns how it ended."""
        limit = time.monotonic() + _END_S
        while not self.has_ended() and time.monotonic() < limit:
            time.sleep(0.005)
        return self.end()


class JailedWorker(Worker):
    """The state of the worker: its pipe to the parent, the jail, and the verifiers it has built."""

    def __init__(self, pipe: ParentPipe, jail: WorkerJail) -> None:
        super().__init__(pipe)
        self._jail = jail

    def answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Answers one message of the parent; a chunk is answered item by item, and then with nothing."""
        if message["op"] == "rehearse":
            return self._rehearse(message)
        if message["op"] == "abort":  # its chunk had ended
            return {"op": "aborted", "ending": ""}
        return super().answer(message)

    def run(self) -> None:
        """Answers messages until the parent closes the pipe."""
        self.send({"op": "ready"})
        while (request := self._parent.receive()) is not None:
            if request.body["op"] != "chunk":
                self.send(self.answer(request.body))
                continue
            items: list[Mapping[str, Any]] = []
            for _ in range(request.body["count"]):
                if (item := self._parent.receive()) is None:
                    return
                items.append(item.body)
            self._chunk(items)

    def build(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Builds a verifier; refuses one that has started threads, which a fork would lose."""
        before = set(threading.enumerate())
        reply = super().build(message)
        started = [thread.name for thread in threading.enumerate() if thread not in before]
        if reply["op"] == "built" and started:
            reason = (
                f"it starts threads while it is built ({', '.join(started)[:200]}); a jailed verifier is forked for "
                "its items, in which no thread goes on: start them in `verify`"
            )
            return {"op": "build_failed", "key": message["key"], "reason": reason}
        self._settle()
        return reply

    def _settle(self) -> None:
        """Objects that exist now are never collected, so that a fork does not copy their pages."""
        lift_cpu_limit()
        gc.collect()
        gc.freeze()

    def _rehearse(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Verifies harmless texts in a child, and imports here what the child had to import.

        A child that ended in time without threads shows that the wrong answer can also be verified here.
        """
        reading, writing = os.pipe()
        pid = self._jail.fork()
        if pid == 0:
            os.close(reading)
            self._leave_parent()
            self._rehearse_here(message, writing)
        os.close(writing)
        text = bytearray()
        end = time.monotonic() + REHEARSAL_S
        child = _Child(pid, reading)
        while (left := end - time.monotonic()) > 0:
            if not select.select([reading], [], [], left)[0] or not (data := os.read(reading, _READ_BYTES)):
                break
            text += data
        child.end()
        os.close(reading)
        self._jail.clean()
        with contextlib.suppress(ValueError):
            found = json.loads(text.decode(errors="replace"))
            for name in found["modules"][:_MAX_MODULES]:
                with contextlib.suppress(Exception):  # a module that needs others first, or fails
                    importlib.import_module(name)
            if not found["threads"]:
                super().answer(self._rehearsal(message, WRONG_ANSWER))  # fills the verifier's own caches
        self._settle()
        return {"op": "rehearsed"}

    def _rehearsal(self, message: Mapping[str, Any], text: str) -> dict[str, Any]:
        completion = completion_to_json(completion_from_text(text, prompt_id="rehearsal"))
        item = {"op": "verify", "id": -1, "key": message["key"], "prompt": message["prompt"]}
        return item | {"completion": completion, "prejudge": True}

    def _rehearse_here(self, message: Mapping[str, Any], writing: int) -> NoReturn:
        """In the child: verifies a wrong answer and the reference, and names the modules that this imported."""
        self.pipe = _ChildPipe(os.open(os.devnull, os.O_WRONLY))
        before = set(sys.modules)
        reference = message["prompt"]["checks"][0]["reference"]
        texts = [WRONG_ANSWER, *([str(reference)] if isinstance(reference, str | int | float) else [])]
        try:
            for text in texts:
                super().answer(self._rehearsal(message, text))
            names = [name for name in list(sys.modules) if name not in before]
            threads = threading.active_count() - 1
            _ChildPipe(writing).send(json.dumps({"modules": names, "threads": threads}).encode())
        finally:
            os._exit(0)

    def _leave_parent(self) -> None:
        """In a child: closes the pipes to the parent."""
        self._parent.close()

    def _chunk(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Has a child answer the items, and passes its answers on."""
        reading, writing = os.pipe()
        pid = self._jail.fork()
        if pid == 0:
            os.close(reading)
            self._leave_parent()
            self._answer_here(items, writing)
        os.close(writing)
        child = _Child(pid, reading)
        try:
            loss = self._pass_on(child, items)
        finally:
            child.end()
            os.close(reading)
            self._jail.clean()
        if loss is not None:
            self.send(loss)

    def _answer_here(self, items: Sequence[Mapping[str, Any]], writing: int) -> NoReturn:
        """In the child: answers the items one by one."""
        try:
            self.pipe = _ChildPipe(writing)
            for item in items:
                self.send(super().answer(item))
            os._exit(0)
        except MemoryError:
            os._exit(MEMORY_EXIT_CODE)
        finally:
            os._exit(1)

    def _pass_on(self, child: _Child, items: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        """Sends the child's answers to the parent; returns the message about its loss, if it is lost."""
        poll = select.poll()
        poll.register(child.descriptor, select.POLLIN)
        poll.register(self._parent.descriptor, select.POLLIN)
        num_answered = 0
        while num_answered < len(items):
            ready = {descriptor for descriptor, _ in poll.poll(_LOOK_EVERY_MS)}
            if child.descriptor in ready:
                time.sleep(_GATHER_S)
                is_open = child.read()
                passed_on: list[bytes] = []
                try:
                    while num_answered < len(items) and (answer := child.next_answer()) is not None:
                        if answer.get("op") == "importing":
                            passed_on.append(encode({"op": "importing"}))
                        elif answer.get("op") == "verdict" and answer.get("id") == items[num_answered]["id"]:
                            num_answered += 1
                            passed_on.append(encode(answer))
                        else:
                            raise ValueError("an answer that is not due")
                except (TypeError, ValueError, RecursionError):
                    return _lost(child.end())
                finally:
                    if passed_on:
                        self.pipe.send(b"".join(passed_on))
                if not is_open and num_answered < len(items):
                    return _lost(child.end_soon())
            elif self._parent.descriptor in ready:
                self._parent.receive()  # "abort", or the end of the parent, after which nothing is read any more
                return {"op": "aborted", "ending": child.end()}
            elif child.has_ended():
                return _lost(child.end())
            elif self._jail.is_above_limit():
                child.end()
                return _lost("out of memory")
        return None


def _lost(ending: str) -> dict[str, Any]:
    return {"op": "lost", "cause": "timeout" if ending == "signal SIGXCPU" else "crash", "ending": ending}


def main(arguments: Sequence[str], jail: WorkerJail) -> None:
    """Runs the worker. arguments: the bytes of memory that a process may use."""
    confine(int(arguments[0]))
    with contextlib.suppress(BrokenPipeError):  # the parent is gone
        JailedWorker(ParentPipe(), jail).run()
