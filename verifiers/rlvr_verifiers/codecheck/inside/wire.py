"""Plain values as tagged JSON, the only data that crosses between boxes. No pickle, marshal, eval or repr.

None, bool, int, float and str are written unchanged; everything else is a list whose first item is a tag.

    "l" list   "t" tuple   "d" dict as pairs   "S" set   "F" frozenset   "b" bytes   "B" bytearray   "i" large int
    "c" complex   "D" Decimal   "Q" Fraction   "r" range   "u" text with surrogates   "T" date or time
    "q" deque   "O" OrderedDict   "C" Counter   "y" a built-in type or exception class by its name
    "=" the mutable container with that number, in order of first occurrence: keeps aliases and cycles

A subclass of a plain type is sent as its base value, so nothing that it overrides runs on the other side. Objects that
are not plain data are passed to `foreign`, which returns a reference. This file also runs inside the boxes: standard
library only.

>>> encoded = Encoder().encode({(1, 2.0): ["a", {3}]})
>>> encoded
['d', [[['t', [1, 2.0]], ['l', ['a', ['S', [3]]]]]]]
>>> Decoder().decode(encoded)
{(1, 2.0): ['a', {3}]}
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# Values of any type are handled by their class, so the types of their items are unknown.

import builtins
import json
import operator
import struct
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

HEADER = struct.Struct(">I")
MAX_FRAME_BYTES = 32 << 20
NONCE_BYTES = 8
REQUEST, REPLY, CALLBACK, ANSWER, OUTCOME, DONE = b"Q", b"R", b"C", b"A", b"O", b"D"
_SMALL_BITS = 1024
_MAX_HASHED = 500
_PLAIN_TYPES = "bool int float complex str bytes bytearray list tuple dict set frozenset range object type slice"
SENDABLE_TYPES: dict[str, Any] = {name: getattr(builtins, name) for name in _PLAIN_TYPES.split()}
SENDABLE_TYPES.update(
    (name, value)
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException)
)
_NOTHING = object()
Foreign = Callable[[Any], Any]
_to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_from_json = json.JSONDecoder().decode
_TIMES = ("date", "datetime", "time")
_NAMES_OF_TYPES = {value: name for name, value in SENDABLE_TYPES.items()}


class WireError(ValueError):
    """The received data violates the format, or a value cannot be expressed in it."""


class TooManyNodes(WireError):  # noqa: N818 - a finding about the value, not a fault
    """The value exceeds the reader's limit."""


def refuse(value: Any) -> NoReturn:
    """The `foreign` of a side that accepts plain values only. Raises WireError."""
    raise WireError("a " + type(value).__name__ + " is not a plain value")


class Encoder:
    """Writes values as JSON values; containers are numbered from `len(known)` on.

    foreign: called with anything that is not plain data; returns a tagged list or raises.
    known: containers that the other side already has, in the order of their numbers.
    lists_arrays: send numpy arrays as lists; otherwise they are passed to `foreign`.
    """

    def __init__(self, foreign: Foreign = refuse, known: Iterable[Any] = (), lists_arrays: bool = True) -> None:
        self.foreign = foreign
        self.lists_arrays = lists_arrays
        self.objects = list(known)
        self.numbers = {id(value): number for number, value in enumerate(self.objects)}

    def encode(self, value: Any) -> Any:
        """The value as a JSON value."""
        kind = type(value)
        if value is None or kind is bool or kind is float:
            return value
        if kind is str:
            return _encode_text(value)
        if kind is int:
            return value if value.bit_length() <= _SMALL_BITS else ["i", int.__format__(value, "x")]
        if issubclass(kind, (list, dict, set, bytearray, deque)):
            return self._container(value, kind)
        if issubclass(kind, tuple):
            return ["t", self._items(tuple.__iter__(value))]
        if issubclass(kind, str):
            return _encode_text(str.__str__(value))
        if issubclass(kind, int):
            return self.encode(int.__add__(value, 0))
        if issubclass(kind, float):
            return float.__float__(value)
        if issubclass(kind, bytes):
            return ["b", bytes.__getitem__(value, slice(None)).hex()]
        if issubclass(kind, frozenset):
            return ["F", self._items(frozenset.__iter__(value))]
        return self._rare(value, kind)

    def contents(self, container: Any) -> Any:
        """The items of a container, without its tag."""
        kind = type(container)
        if issubclass(kind, list):
            return self._items(list.__iter__(container))
        if issubclass(kind, dict):
            pairs = (OrderedDict if issubclass(kind, OrderedDict) else dict).items(container)
            return [[self.encode(key), self.encode(value)] for key, value in pairs]
        if issubclass(kind, set):
            return self._items(set.__iter__(container))
        if issubclass(kind, deque):
            return self._items(deque.__iter__(container))
        return bytes(container).hex()

    def _items(self, iterator: Iterable[Any]) -> list[Any]:
        return [self.encode(item) for item in iterator]

    def _container(self, value: Any, kind: Any) -> list[Any]:
        number = self.numbers.get(id(value))
        if number is not None:
            return ["=", number]
        self.numbers[id(value)] = len(self.objects)
        self.objects.append(value)
        if issubclass(kind, list):
            tag = "l"
        elif issubclass(kind, dict):
            tag = "O" if issubclass(kind, OrderedDict) else "C" if issubclass(kind, Counter) else "d"
        elif issubclass(kind, set):
            tag = "S"
        elif issubclass(kind, deque):
            return ["q", self.contents(value), value.maxlen]
        else:
            tag = "B"
        return [tag, self.contents(value)]

    def _rare(self, value: Any, kind: Any) -> Any:
        if issubclass(kind, complex):
            return ["c", complex.real.__get__(value), complex.imag.__get__(value)]
        if kind is range:
            return ["r", self.encode(value.start), self.encode(value.stop), self.encode(value.step)]
        if kind is _loaded("decimal", "Decimal"):
            return ["D", str(value)]
        if kind is _loaded("fractions", "Fraction"):
            return ["Q", format(value.numerator, "x"), format(value.denominator, "x")]
        if any(kind is _loaded("datetime", name) for name in _TIMES):
            utc = _loaded("datetime", "timezone").utc
            if getattr(value, "tzinfo", None) in (None, utc):
                return ["T", kind.__name__, value.isoformat()]
        elif kind is _loaded("datetime", "timedelta"):
            return ["T", "timedelta", [value.days, value.seconds, value.microseconds]]
        elif isinstance(value, type) and value in _NAMES_OF_TYPES:
            return ["y", _NAMES_OF_TYPES[value]]
        elif (
            kind.__module__ == "numpy"
            and callable(getattr(value, "tolist", None))
            and (self.lists_arrays or not getattr(value, "shape", ()))
        ):
            return self.encode(value.tolist())
        return self.foreign(value)


class Decoder:
    """Builds exact built-in types from JSON values.

    foreign: called with a tagged list that this file does not define.
    known: as for `Encoder`.
    max_nodes: how many values may be built; 0 for no limit. With a limit, aliases are refused, and also sets and dicts
        so large that hostile keys with equal hashes would take seconds.
    """

    def __init__(self, foreign: Foreign = refuse, known: Iterable[Any] = (), max_nodes: int = 0) -> None:
        self.foreign = foreign
        self.objects = list(known)
        self.max_nodes = max_nodes
        self.num_nodes = 0

    def decode(self, data: Any) -> Any:
        """The value. Raises WireError for anything that `Encoder` never writes."""
        if type(data) is not list:
            if data is None or type(data) in (bool, int, float, str):
                return data
            raise WireError("a JSON object is not a value")
        if not data or type(data[0]) is not str:
            raise WireError("a value without a tag")
        try:
            return self._tagged(data[0], data)
        except (IndexError, TypeError, AttributeError, ArithmeticError, KeyError) as error:
            raise WireError("a bad value of tag " + repr(data[0])[:20]) from error

    def fill(self, container: Any, contents: Any) -> None:
        """Replaces the contents of an existing container by decoded ones."""
        if type(container) is list:
            container[:] = self.items(contents)
        elif isinstance(container, dict):
            pairs = self._pairs(contents)
            container.clear()
            # Counter.update would add counts, and dict.update would lose the order of an OrderedDict
            (OrderedDict if type(container) is OrderedDict else dict).update(container, pairs)
        elif type(container) is bytearray:
            container[:] = bytes.fromhex(contents)
        else:
            items = self.items(contents)
            container.clear()
            (container.update if type(container) is set else container.extend)(items)

    def items(self, data: Any) -> list[Any]:
        """The decoded items of a JSON list."""
        if type(data) is not list:
            raise WireError("items are a list")
        if self.max_nodes:
            self.num_nodes += len(data)
            if self.num_nodes > self.max_nodes:
                raise TooManyNodes("more than " + str(self.max_nodes) + " values")
        decode = self.decode
        return [decode(item) if type(item) in (list, dict) else item for item in data]

    def _pairs(self, data: Any) -> list[tuple[Any, Any]]:
        return [(self.decode(key), self.decode(value)) for key, value in self._raw_pairs(data)]

    def _raw_pairs(self, data: Any) -> Any:
        self._bound_hashing(data)
        self.num_nodes += 2 * len(data)
        return data

    def _bound_hashing(self, data: Any) -> None:
        if self.max_nodes and len(data) > _MAX_HASHED:
            raise TooManyNodes("more than " + str(_MAX_HASHED) + " keys")

    def _tagged(self, tag: str, data: Any) -> Any:
        if tag == "l":
            return self._new([], data[1])
        if tag == "t":
            return tuple(self.items(data[1]))
        if tag == "d":
            return self._new({}, data[1])
        if tag == "S":
            self._bound_hashing(data[1])
            return self._new(set(), data[1])
        if tag == "F":
            self._bound_hashing(data[1])
            return frozenset(self.items(data[1]))
        if tag == "=":
            return self._alias(data[1])
        if tag == "i":
            return int(data[1], 16)
        if tag == "u":
            return bytes.fromhex(data[1]).decode("utf-32-le", "surrogatepass")
        if tag == "b":
            return bytes.fromhex(data[1])
        return self._rare(tag, data)

    def _rare(self, tag: str, data: Any) -> Any:
        if tag == "B":
            return self._new(bytearray(), data[1])
        if tag == "O":
            return self._new(OrderedDict(), data[1])
        if tag == "C":
            return self._new(Counter(), data[1])
        if tag == "q":
            return self._new(deque(maxlen=data[2]), data[1])
        if tag == "c":
            return complex(data[1], data[2])
        if tag == "D":
            from decimal import Decimal

            return Decimal(data[1])
        if tag == "Q":
            from fractions import Fraction

            return Fraction(int(data[1], 16), int(data[2], 16))
        if tag == "r":
            return range(*(operator.index(self.decode(part)) for part in data[1:4]))
        if tag == "y":
            return SENDABLE_TYPES[data[1]]
        if tag == "T":
            import datetime

            if data[1] == "timedelta":
                return datetime.timedelta(*data[2])
            if data[1] not in _TIMES:
                raise WireError("no time")
            return getattr(datetime, data[1]).fromisoformat(data[2])
        return self.foreign(data)

    def _new(self, container: Any, contents: Any) -> Any:
        self.objects.append(container)
        self.fill(container, contents)
        return container

    def _alias(self, number: Any) -> Any:
        if type(number) is not int or not 0 <= number < len(self.objects):
            raise WireError("an alias of nothing")
        if self.max_nodes:
            raise TooManyNodes("aliases are not allowed with a bound")
        return self.objects[number]


def _loaded(module: str, name: str) -> Any:
    """A class of a module, if the module is loaded; otherwise no value can be an instance of it.

    Decimals, fractions and times are rare, and importing their modules would slow the start of every box.
    """
    return getattr(sys.modules.get(module), name, _NOTHING)


def _encode_text(text: str) -> Any:
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return ["u", text.encode("utf-32-le", "surrogatepass").hex()]
    return text


def dump(message: Any) -> bytes:
    """A JSON value as ASCII bytes. Raises WireError when it is above the size limit of a frame."""
    body = _to_json(message).encode("ascii")
    if len(body) > MAX_FRAME_BYTES - 64:
        raise WireError("a value of " + str(len(body)) + " bytes is above the size limit of a frame")
    return body


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in these bytes. Raises WireError for anything else."""
    try:
        message = _from_json(body.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise WireError("not JSON") from error
    if type(message) is not dict:
        raise WireError("a message is an object")
    return message
