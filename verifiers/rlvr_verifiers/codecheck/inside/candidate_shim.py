"""Runs in the candidate's box, after the candidate's own code and in its interpreter, and serves calls on it.

Frames arrive on descriptor 3 and leave on descriptor 4. The first request, `load`, runs main.py and reports which of
the given names it defines. Nothing that this process sends is trusted beyond "this is the value that I claim": it never
sees a test, an expected value or a comparison. It echoes the nonce of a request, which ties the reply to the request.

    {"op": "load", "names": [...]}                    -> {"names": {name: value}}
    {"op": "call", "o": handle, "a": args, "k": kwargs} -> {"v": value, "m": [[number, contents], ...]}
    {"op": "run", "name", "a": [args, kwargs, ...], "method"} -> {"v": value}
    {"op": "get" | "set", "o", "attr", "v"}           {"op": "next", "o", "n"} -> {"v": [...], "end": bool}
    {"op": "do", "f": name, "a": [...]}               an operator or built-in of `ACTIONS`
    any of them may return                            -> {"x": [class names], "s": message}
"""

import builtins
import copy
import operator
import os
import sys
import time
import types
from collections.abc import Callable, Generator, Iterator
from typing import Any, NoReturn

from rlvr_verifiers.codecheck.inside.wire import (
    ANSWER,
    CALLBACK,
    HEADER,
    MAX_FRAME_BYTES,
    NONCE_BYTES,
    REPLY,
    Decoder,
    Encoder,
    WireError,
    dump,
    parse,
)

FILE = "main.py"
MODULE = "solution"
BATCH_S = 0.05
_OPERATORS = """
    eq ne lt le gt ge add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift neg pos invert abs
    getitem setitem delitem index
"""
ACTIONS: dict[str, Callable[..., Any]] = {name: getattr(operator, name) for name in _OPERATORS.split()}
ACTIONS.update(
    len=len,
    str=str,
    repr=repr,
    bool=bool,
    int=int,
    float=float,
    round=round,
    hash=hash,
    iter=iter,
    isinstance=isinstance,
    issubclass=issubclass,
    copy=copy.copy,
    deepcopy=copy.deepcopy,
    delattr=delattr,
    complex=complex,
    bytes=bytes,
    reversed=reversed,
)


class Channel:
    """Frames over two descriptors, read and written without any function that the candidate can replace by name."""

    def __init__(self, reads: int = 3, writes: int = 4) -> None:
        self.reads, self.writes = reads, writes
        self._read, self._write = os.read, os.write

    def receive(self) -> tuple[bytes, bytes, bytes]:
        """(nonce, kind, body) of the next frame. Raises EOFError at the end."""
        (size,) = HEADER.unpack(self._exactly(HEADER.size))
        data = self._exactly(size)
        return data[:NONCE_BYTES], data[NONCE_BYTES : NONCE_BYTES + 1], data[NONCE_BYTES + 1 :]

    def send(self, nonce: bytes, kind: bytes, body: bytes) -> None:
        """Writes one frame."""
        data = nonce + kind + body
        if len(data) > MAX_FRAME_BYTES:
            raise WireError("a frame is above the size limit")
        view = memoryview(HEADER.pack(len(data)) + data)
        while view:
            view = view[self._write(self.writes, view[:1048576]) :]

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            part = self._read(self.reads, min(size, 1048576))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class Server:
    """Serves requests on one module; re-entrant, because functions of the tests may call back."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.module = types.ModuleType(MODULE)
        self.handles: dict[int, Any] = {}
        self.numbers: dict[int, int] = {}
        self.nonce = b""
        self.loop: Any = None

    def serve(self) -> None:
        """Answers until the other side closes."""
        try:
            while True:
                self.nonce, _, body = self.channel.receive()
                self.answer(body)
        except EOFError:
            return

    def answer(self, body: bytes) -> None:
        """Carries out one request and sends the reply with the same nonce."""
        nonce = self.nonce
        request = parse(body)
        decoder = Decoder(self.resolve)
        before: list[Any] | None = None
        try:
            if request["op"] == "call":
                call = decoder.items([request["a"], request["k"]])
                before = [copy.copy(container) for container in decoder.objects]
                reply = self.values(self.handles[request["o"]](*call[0], **call[1]), decoder)
            else:
                reply = getattr(self, "op_" + request["op"])(request, decoder)
        except BaseException as error:  # noqa: BLE001 - any exception of the program is its reply
            reply = self.failure(error)
        try:
            if before is not None:
                self.add_mutations(reply, decoder, before)
            reply.pop("encoder", None)
            frame = dump(reply)
        except BaseException as error:  # noqa: BLE001 - reading its objects may raise too
            frame = dump(self.failure(error))
        self.nonce = nonce
        self.channel.send(nonce, REPLY, frame)

    def values(self, value: Any, decoder: Decoder) -> dict[str, Any]:
        """The reply that carries one value; a container of the request is named by its number."""
        encoder = Encoder(self.refer, decoder.objects)
        return {"v": encoder.encode(value), "encoder": encoder}

    def add_mutations(self, reply: dict[str, Any], decoder: Decoder, before: list[Any]) -> None:
        """The changes that the call made to containers among its arguments."""
        encoder = reply.get("encoder") or Encoder(self.refer, decoder.objects)
        changed = [
            [number, encoder.contents(now)]
            for number, (now, old) in enumerate(zip(decoder.objects, before, strict=False))
            if _differs(now, old)
        ]
        if changed:
            reply["m"] = changed

    def failure(self, error: BaseException) -> dict[str, Any]:
        """The reply for an exception: the names of its classes, and its message."""
        try:
            message = str(error)[:500]
        except BaseException:  # noqa: BLE001 - the exception is the program's own
            message = ""
        names = [kind.__name__ for kind in type(error).__mro__]
        handles = [self.number(kind) for kind in type(error).__mro__ if kind.__module__ == MODULE]
        reply: dict[str, Any] = {"x": names, "s": message.encode("ascii", "backslashreplace").decode(), "h": handles}
        try:
            reply["args"] = [Encoder().encode(item) for item in error.args]
        except Exception:  # noqa: BLE001 - the message is enough
            reply.pop("args", None)
        return reply

    def number(self, value: Any) -> int:
        """The handle of an object; the same one each time."""
        number = self.numbers.get(id(value))
        if number is None:
            number = self.numbers[id(value)] = len(self.handles)
            self.handles[number] = value
        return number

    def refer(self, value: Any) -> list[Any]:
        """The reference to an object that is not plain data: its handle and its kind."""
        kind = ""
        names: list[str] = []
        if isinstance(value, type):
            names = [base.__name__ for base in value.__mro__]
            kind = "e" if issubclass(value, Exception) else "c"
        elif isinstance(value, types.CoroutineType):
            kind = "a"
        elif isinstance(value, types.GeneratorType):
            kind = "g"
        elif callable(value):
            kind = "f"
        reference: list[Any] = ["o", self.number(value), kind, type(value).__name__[:60]]  # pyright: ignore[reportUnknownArgumentType]  # of any value
        if kind == "e":
            reference.append(names)
        return reference

    def resolve(self, data: Any) -> Any:
        """The object behind a reference: an object of this side, a function or iterator of the tests, an array."""
        if data[0] == "h":
            return self.handles[data[1]]
        if data[0] == "cb":
            return self.stub(data[1], data[2])
        if data[0] == "it":
            return self.pull(data[1])
        if data[0] == "fn":
            return getattr(builtins, data[1])
        if data[0] == "n":
            import numpy

            return numpy.array(Decoder().decode(data[3]), dtype=data[1]).reshape(data[2])
        raise WireError("unknown tag")

    def stub(self, number: int, name: str) -> Callable[..., Any]:
        """A function that calls one of the tests' functions, which stays in their box."""

        def call(*args: Any, **kwargs: Any) -> Any:
            return self.call_back(number, args, kwargs)

        call.__name__ = call.__qualname__ = name
        return call

    def pull(self, number: int) -> Iterator[Any]:
        """Iterates over an iterator of the tests."""
        while True:
            found = self.call_back(number, (), {})
            if not found:
                return
            yield found[0]

    def call_back(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls a function of the tests and waits; it may call back in turn."""
        nonce = self.nonce
        encoder = Encoder(self.refer)
        question = {"cb": number, "a": encoder.encode(list(args)), "k": encoder.encode(kwargs)}
        self.channel.send(nonce, CALLBACK, dump(question))
        while True:
            incoming, kind, body = self.channel.receive()
            if kind == ANSWER:
                self.nonce = nonce
                break
            self.nonce = incoming
            self.answer(body)
        message = parse(body)
        if "x" in message:
            kind = getattr(builtins, message["x"], RuntimeError)
            is_simple = isinstance(kind, type) and issubclass(kind, Exception)
            raise (kind if is_simple and not issubclass(kind, UnicodeError) else RuntimeError)(message["s"])
        return Decoder(self.resolve).decode(message["v"])

    def op_load(self, request: dict[str, Any], decoder: Decoder) -> dict[str, Any]:
        """Runs the candidate's file as a module and returns the requested names."""
        with open(FILE, "rb") as file:
            source = file.read()
        names = self.module.__dict__
        names["__file__"] = FILE
        sys.modules[MODULE] = sys.modules["__main__"] = self.module
        sys.argv = [FILE]
        exec(compile(source, FILE, "exec", dont_inherit=True), names)
        encoder = Encoder(self.refer)
        return {"names": {n: encoder.encode(names[n]) for n in request["names"] if n in names}}

    def op_run(self, request: dict[str, Any], decoder: Decoder) -> dict[str, Any]:
        """Calls a name of the module, and optionally a method of the result; the value does not alias the arguments."""
        args, kwargs, method_args, method_kwargs = decoder.items(request["a"])
        value = self.module.__dict__[request["name"]](*args, **kwargs)
        if request["method"]:
            value = getattr(value, request["method"])(*method_args, **method_kwargs)
        return {"v": Encoder(self.refer).encode(value)}

    def op_get(self, request: dict[str, Any], decoder: Decoder) -> dict[str, Any]:
        """An attribute."""
        return self.values(getattr(self.handles[request["o"]], request["attr"]), decoder)

    def op_set(self, request: dict[str, Any], decoder: Decoder) -> dict[str, Any]:
        """Sets an attribute."""
        setattr(self.handles[request["o"]], request["attr"], decoder.decode(request["v"]))
        return {"v": None}

    def op_next(self, request: dict[str, Any], decoder: Decoder) -> dict[str, Any]:
        """The next items of an iterator: at most `n`, and as many as come within BATCH_S."""
        iterator, end = self.handles[request["o"]], False
        found: list[Any] = []
        start = time.monotonic()
        for _ in range(request["n"]):
            try:
                found.append(next(iterator))
            except StopIteration:
                end = True
                break
            except BaseException as error:
                if not found:
                    raise
                # the items before the exception count; the next request raises it
                self.handles[request["o"]] = _raising(error)
                break
            if time.monotonic() - start > BATCH_S:
                break
        return {**self.values(found, decoder), "end": end}

    def op_do(self, request: dict[str, Any], decoder: Decoder) -> dict[str, Any]:
        """An operator or a built-in function on handles and plain values."""
        args = decoder.items(request["a"])
        if request["f"] == "await":
            import asyncio  # expensive, and rarely needed

            self.loop = self.loop or asyncio.new_event_loop()
            return self.values(self.loop.run_until_complete(args[0]), decoder)
        return self.values(ACTIONS[request["f"]](*args), decoder)


def _raising(error: BaseException) -> Generator[None, None, NoReturn]:
    raise error
    yield


def _differs(now: Any, old: Any) -> bool:
    if len(now) != len(old):
        return True
    if isinstance(now, dict):
        pairs = zip(now.items(), old.items(), strict=True)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # of any value
        return any(a is not c or b is not d for (a, b), (c, d) in pairs)  # pyright: ignore[reportUnknownVariableType]  # of any value
    if isinstance(now, set):
        return {id(item) for item in now} != {id(item) for item in old}  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # of any value
    if isinstance(now, bytearray):
        return now != old
    return any(a is not b for a, b in zip(now, old, strict=True))


class _Nowhere(Channel):
    """A channel that drops what is sent."""

    def send(self, nonce: bytes, kind: bytes, body: bytes) -> None:
        """Drops one frame."""


def _append(items: list[Any], more: int = 0) -> list[Any]:
    return [*items, more]


def rehearse() -> None:
    """Answers some requests, so that the interpreter has specialised this code before it is forked for each run."""
    for _ in range(20):
        server = Server(_Nowhere())
        server.module.__dict__["f"] = _append
        handle = server.number(_append)
        nothing: list[Any] = ["d", []]
        args: list[Any] = ["l", [["l", [1, "a", ["t", [2]]]]]]
        server.answer(dump({"op": "call", "o": handle, "a": args, "k": nothing}))
        args = [args, nothing, ["l", []], nothing]
        server.answer(dump({"op": "run", "name": "f", "method": "", "a": args}))


def main() -> None:
    """Serves descriptors 3 and 4 until they close, and ends at once."""
    Server(Channel()).serve()
    os._exit(0)


if __name__ == "__main__":
    main()
