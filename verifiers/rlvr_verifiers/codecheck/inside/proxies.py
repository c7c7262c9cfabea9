"""The candidate's objects as the tests see them: proxies that turn every use into a request. Runs in the tests' box.

An object that is not plain data is a `Remote`, which never equals a test's value, whatever its class says. The tests
can pass plain data, handles of the candidate's own objects, and numbers of functions that the candidate may call back.
"""

import builtins
import os
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from rlvr_verifiers.codecheck.inside.failures import CannotSend, Dead, local_exception, with_args
from rlvr_verifiers.codecheck.inside.wire import (
    ANSWER,
    CALLBACK,
    HEADER,
    REQUEST,
    Decoder,
    Encoder,
    WireError,
    dump,
    parse,
)

MAX_ITEMS = 2_000_000
BATCHES = (4, 16, 64, 256)
_EMPTY: dict[Any, Any] = {}
_VIEWS = (type(_EMPTY.keys()), type(_EMPTY.values()), type(_EMPTY.items()))
_SENDABLE_FUNCTIONS: tuple[Any, ...] = (abs, all, any, len, max, min, pow, round, sorted, sum, ord, chr, repr)


class Link:
    """Requests to the candidate, through the trusted process in between."""

    def __init__(self, reads: int = 3, writes: int = 4) -> None:
        self.reads, self.writes = reads, writes
        self.waiting = b""
        self.functions: list[Callable[..., Any]] = []
        self.remotes: dict[int, Remote] = {}
        self.exceptions: dict[int, type[BaseException]] = {}
        self.dead = ""
        self.fault = ""

    def receive(self) -> tuple[bytes, bytes]:
        """(kind, body) of the next frame. Raises Dead at the end."""
        (size,) = HEADER.unpack(self._exactly(HEADER.size))
        data = self._exactly(size)
        return data[:1], data[1:]

    def send_later(self, kind: bytes, body: bytes) -> None:
        """Queues a frame, to be written with the next one: each write wakes the process in between."""
        data = kind + body
        self.waiting += HEADER.pack(len(data)) + data

    def send(self, kind: bytes, body: bytes) -> None:
        """Writes one frame, after the queued ones."""
        data = kind + body
        view = memoryview(self.waiting + HEADER.pack(len(data)) + data)
        self.waiting = b""
        while view:
            view = view[os.write(self.writes, view[:1048576]) :]

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            part = os.read(self.reads, min(size, 1048576))
            if not part:
                raise self.died("the program ended")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def died(self, why: str) -> Dead:
        """The Dead to raise; every later request raises it too."""
        self.dead = self.dead or why
        return Dead(self.dead)

    def ask(self, op: str, encoder: Encoder | None = None, **request: Any) -> dict[str, Any]:
        """The candidate's reply to one request. Raises the candidate's exception."""
        if self.dead:
            raise Dead(self.dead)
        self.send(REQUEST, dump({"op": op, **request}))
        while True:
            kind, body = self.receive()
            if kind != CALLBACK:
                break
            self.send(ANSWER, dump(self.serve(body)))
        try:
            reply = parse(body)
            decoder = Decoder(self.resolve, encoder.objects if encoder else ())
            value = decoder.decode(reply["v"]) if "v" in reply else None
            for number, contents in reply.get("m", ()):
                decoder.fill(decoder.objects[number], contents)
            error = self.exception(reply) if "x" in reply else None
        except (WireError, KeyError, IndexError, TypeError, ValueError, RecursionError) as broken:
            why = "the program sent what cannot be read: " + str(broken)[:100]
            raise self.died(why) from broken
        if error is not None:
            raise error
        reply["value"] = value
        return reply

    def value(self, op: str, *, operands: Iterable[Any] = (), **request: Any) -> Any:
        """The value that a request returns."""
        encoder = Encoder(self.refer, lists_arrays=False)
        if op == "do":
            request["a"] = [encoder.encode(item) for item in operands]
        return self.ask(op, encoder, **request)["value"]

    def call(self, number: int, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Any:
        """Calls an object of the candidate; changes that it makes to containers among the arguments are copied."""
        encoder = Encoder(self.refer, lists_arrays=False)
        request = {"o": number, "a": encoder.encode(list(args)), "k": encoder.encode(kwargs)}
        return self.ask("call", encoder, **request)["value"]

    def serve(self, body: bytes) -> dict[str, Any]:
        """Calls one of the tests' functions for the candidate."""
        try:
            message = parse(body)
            decoder = Decoder(self.resolve)
            args, kwargs = decoder.items([message["a"], message["k"]])
            value = self.functions[message["cb"]](*args, **kwargs)  # pyright: ignore[reportUnknownVariableType]  # of any value
            return {"v": Encoder(self.refer_quietly, lists_arrays=False).encode(value)}
        except Exception as error:  # noqa: BLE001 - any exception is passed to the candidate
            return {"x": type(error).__name__, "s": str(error)[:200]}

    def exception(self, reply: dict[str, Any]) -> BaseException:
        """The local exception for one that the candidate raised."""
        if "args" in reply:
            args = tuple(Decoder(self.resolve).items(reply["args"]))
        else:
            args = (reply["s"],)
        for number in reply["h"]:
            if number in self.exceptions:
                return with_args(self.exceptions[number], args)
        for name in reply["x"]:
            kind = getattr(builtins, name, None) if type(name) is str else None
            if isinstance(kind, type) and issubclass(kind, BaseException):
                if not issubclass(kind, Exception):
                    return self.died("the program raised " + name)
                if issubclass(kind, (StopIteration, StopAsyncIteration)):
                    return RuntimeError("the program raised " + name)
                return with_args(kind, args)
        return self.died("the program raised something that is not an exception")

    def resolve(self, data: Any) -> Any:
        """The proxy of a candidate's object; the same object always has the same proxy."""
        if data[0] != "o" or type(data[1]) is not int:
            raise WireError("unknown tag")
        number, kind = data[1], data[2]
        if kind == "e":
            if number not in self.exceptions:
                self.exceptions[number] = local_exception(data[4])
            return self.exceptions[number]
        if kind == "a":
            return self.wait_for(number)
        if number not in self.remotes:
            self.remotes[number] = Remote(self, number, kind)
        return self.remotes[number]

    async def wait_for(self, number: int) -> Any:
        """A coroutine that runs one of the candidate."""
        return self.value("do", f="await", operands=[Remote(self, number, "a")])

    def refer(self, value: Any) -> list[Any]:
        """The reference by which the candidate knows an object of the tests. Raises CannotSend."""
        found = self.reference(value)
        if found is not None:
            return found
        name = type(value).__name__
        if isinstance(value, (types.CoroutineType, BaseException)):
            raise TypeError("cannot pass a " + name)  # the program may be the cause
        self.fault = "the tests pass a " + name + ", which cannot leave their box"
        raise CannotSend(self.fault)

    def refer_quietly(self, value: Any) -> list[Any]:
        """The same for the result of a callback, for which the candidate may be the cause."""
        found = self.reference(value)
        if found is None:
            raise TypeError("cannot pass a " + type(value).__name__)
        return found

    def reference(self, value: Any) -> list[Any] | None:
        """The tagged list for an object that is not plain data; None if there is none."""
        if isinstance(value, Remote):
            return ["h", value._rlvr_number]  # pyright: ignore[reportPrivateUsage]  # in this file's own class
        for number, kind in self.exceptions.items():
            if value is kind:
                return ["h", number]
        if type(value).__module__ == "numpy" and hasattr(value, "dtype"):
            return ["n", value.dtype.str, list(value.shape), Encoder().encode(value.tolist())]
        if isinstance(value, (Iterator, *_VIEWS)):
            return ["it", self.keep(_puller(iter(value)))]  # pyright: ignore[reportUnknownArgumentType]  # of any value
        if any(value is function for function in _SENDABLE_FUNCTIONS):
            return ["fn", value.__name__]
        if callable(value):
            return ["cb", self.keep(value), str(getattr(value, "__name__", "function"))]
        return None

    def keep(self, function: Callable[..., Any]) -> int:
        """The number under which the candidate may call a function."""
        self.functions.append(function)
        return len(self.functions) - 1


def _puller(iterator: Iterator[Any]) -> Callable[[], list[Any]]:
    def pull() -> list[Any]:
        for item in iterator:
            return [item]
        return []

    return pull


def _binary(name: str) -> Callable[["Remote", Any], Any]:
    def method(self: "Remote", other: Any) -> Any:
        if not isinstance(other, Remote):
            return NotImplemented
        return self._rlvr_do(name, other)  # pyright: ignore[reportPrivateUsage]  # in this file's own class

    return method


def _unary(name: str) -> Callable[["Remote"], Any]:
    def method(self: "Remote") -> Any:
        return self._rlvr_do(name)  # pyright: ignore[reportPrivateUsage]  # in this file's own class

    return method


def _conversion(kind: type, name: str) -> Callable[["Remote"], Any]:
    def method(self: "Remote") -> Any:
        return self._rlvr_typed(kind, name)  # pyright: ignore[reportPrivateUsage]  # in this file's own class

    return method


class Remote:
    """An object of the candidate that is not plain data: every operation on it is carried out in the candidate's box.

    It is unequal to any plain value, and arithmetic or ordering with one is a TypeError, so the tests' values stay
    here. Between two of these objects the candidate's own operators apply.
    """

    __slots__ = ("_rlvr_kind", "_rlvr_link", "_rlvr_number")

    def __init__(self, link: Link, number: int, kind: str) -> None:
        # declared here: class annotations would look like the candidate's
        self._rlvr_kind: str
        self._rlvr_link: Link
        self._rlvr_number: int
        object.__setattr__(self, "_rlvr_link", link)
        object.__setattr__(self, "_rlvr_number", number)
        object.__setattr__(self, "_rlvr_kind", kind)

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride] - nobody sets it
        return types.GeneratorType if self._rlvr_kind == "g" else Remote

    def _rlvr_do(self, name: str, *operands: Any) -> Any:
        return self._rlvr_link.value("do", f=name, operands=[self, *operands])

    def _rlvr_typed(self, kind: type, name: str, *operands: Any) -> Any:
        value = self._rlvr_do(name, *operands)
        if type(value) is not kind:
            raise self._rlvr_link.died("the program's " + name + " gave no " + kind.__name__)
        return value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._rlvr_link.call(self._rlvr_number, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__name__", "__doc__", "__qualname__"):
            raise AttributeError(name)
        return self._rlvr_link.value("get", o=self._rlvr_number, attr=name)

    def __setattr__(self, name: str, value: Any) -> None:
        encoder = Encoder(self._rlvr_link.refer, lists_arrays=False)
        self._rlvr_link.ask("set", encoder, o=self._rlvr_number, attr=name, v=encoder.encode(value))

    def __delattr__(self, name: str) -> None:
        self._rlvr_do("delattr", name)

    def __iter__(self) -> Iterator[Any]:
        iterator = self._rlvr_do("iter")
        if not isinstance(iterator, Remote):
            raise self._rlvr_link.died("the program's iterator is none")
        return iterator._rlvr_items()

    def _rlvr_items(self) -> Iterator[Any]:
        number, total, sizes = self._rlvr_number, 0, iter(BATCHES)
        while True:
            encoder = Encoder(self._rlvr_link.refer, lists_arrays=False)
            reply = self._rlvr_link.ask("next", encoder, o=number, n=next(sizes, 256))
            found = reply["value"]
            if type(found) is not list:
                raise self._rlvr_link.died("the program's iterator gave no list")
            yield from found
            if reply.get("end"):
                return
            total += len(found)  # pyright: ignore[reportUnknownArgumentType]  # of any value
            if total > MAX_ITEMS:
                raise self._rlvr_link.died("the program's iterator has no end")

    def __next__(self) -> Any:
        encoder = Encoder(self._rlvr_link.refer, lists_arrays=False)
        reply = self._rlvr_link.ask("next", encoder, o=self._rlvr_number, n=1)
        found = reply["value"]
        if type(found) is list and len(found) == 1:  # pyright: ignore[reportUnknownArgumentType]  # of any value
            return found[0]  # pyright: ignore[reportUnknownVariableType]  # of any value
        if reply.get("end"):
            raise StopIteration
        raise self._rlvr_link.died("the program's iterator gave nothing")

    def __reversed__(self) -> Iterator[Any]:
        return iter(self._rlvr_do("reversed"))

    def __len__(self) -> int:
        return self._rlvr_typed(int, "len")

    def __getitem__(self, key: Any) -> Any:
        return self._rlvr_do("getitem", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._rlvr_do("setitem", key, value)

    def __delitem__(self, key: Any) -> None:
        self._rlvr_do("delitem", key)

    def __bool__(self) -> bool:
        return self._rlvr_typed(bool, "bool")

    def __hash__(self) -> int:
        return self._rlvr_typed(int, "hash")

    def __copy__(self) -> Any:
        return self._rlvr_do("copy")

    def __deepcopy__(self, memo: Any) -> Any:
        return self._rlvr_do("deepcopy")

    def __instancecheck__(self, value: Any) -> bool:
        return type(value) is Remote and value._rlvr_typed(bool, "isinstance", self)

    def __subclasscheck__(self, value: Any) -> bool:
        return type(value) is Remote and value._rlvr_typed(bool, "issubclass", self)

    def __enter__(self) -> Any:
        method = self._rlvr_link.value("get", o=self._rlvr_number, attr="__enter__")
        return self._rlvr_link.call(method._rlvr_number, (), {})

    def __exit__(self, *details: Any) -> bool:
        method = self._rlvr_link.value("get", o=self._rlvr_number, attr="__exit__")
        nothing = (None, None, None)
        is_handled = bool(self._rlvr_link.call(method._rlvr_number, nothing, {}))
        return is_handled and details[0] is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and (
            self._rlvr_number == other._rlvr_number or self._rlvr_typed(bool, "eq", other)
        )

    def __ne__(self, other: object) -> bool:
        return not isinstance(other, Remote) or self._rlvr_typed(bool, "ne", other)


_BINARY = "lt le gt ge add sub mul truediv floordiv mod pow matmul and or xor lshift rshift"
for _name in _BINARY.split():
    setattr(Remote, f"__{_name}__", _binary(_name + "_" if _name in ("and", "or") else _name))
for _name in ("neg", "pos", "invert", "abs"):
    setattr(Remote, f"__{_name}__", _unary(_name))
for _kind, _name in ((str, "str"), (str, "repr"), (int, "int"), (float, "float")):
    setattr(Remote, f"__{_name}__", _conversion(_kind, _name))
