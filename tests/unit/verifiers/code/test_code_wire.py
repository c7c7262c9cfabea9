"""Plain values cross exactly; nothing else crosses; what is hostile is a WireError."""

import contextlib
import math
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from datetime import UTC, date, datetime, timedelta
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr_verifiers.codecheck.inside import wire


def there_and_back(value: Any) -> Any:
    return wire.Decoder().decode(wire.parse(wire.dump({"v": wire.Encoder().encode(value)}))["v"])


def canonical(value: Any) -> str:
    """Type and text of a value, the items of sets in a fixed order; two nans are alike."""
    kind = type(value).__name__
    if isinstance(value, set | frozenset):
        return f"{kind}{sorted(map(canonical, value))}"
    if isinstance(value, dict):
        return f"{kind}{[(canonical(key), canonical(item)) for key, item in value.items()]}"
    if isinstance(value, list | tuple):
        return f"{kind}{[canonical(item) for item in value]}"
    return f"{kind} {value!r}".replace("-nan", "nan")


KEYS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.complex_numbers(),
    st.decimals(allow_nan=False),
    st.fractions(),
)
TEXTS = st.text(st.characters())  # surrogates included
VALUES = st.recursive(
    KEYS | TEXTS,
    lambda inner: st.one_of(
        st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(KEYS, inner), st.sets(KEYS), st.frozensets(KEYS)
    ),
    max_leaves=20,
)


@given(VALUES)
@settings(max_examples=200, deadline=None)
def test_a_plain_value_comes_back_with_the_same_text_and_type(value: Any) -> None:
    back = there_and_back(value)
    assert canonical(back) == canonical(value)


@pytest.mark.parametrize(
    "value",
    [
        1 << 5000, -(1 << 5000), -0.0, 5e-324, math.inf, "\ud83d\ude00", "a\ud800b", "é", b"\x00\xff", bytearray(b"xy"),
        range(3, 9, 2), range(1 << 70), deque([1, 2], maxlen=5), OrderedDict([("b", 1), ("a", 2)]), Counter("aab"),
        date(2024, 2, 29), datetime(2024, 2, 29, 1, 2, 3, 4), datetime(2024, 1, 1, tzinfo=UTC), timedelta(-1, 5),
        int, ValueError, {(1, frozenset({2})): [None]},
    ],
)  # fmt: skip
def test_rare_values_come_back_equal_and_of_their_type(value: Any) -> None:
    back = there_and_back(value)
    assert (type(back), repr(back)) == (type(value), repr(value))


def test_a_subclass_travels_as_its_base_value_and_none_of_its_methods_run() -> None:
    class Liar(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

        def __add__(self, other: int) -> int:
            raise AssertionError("must not run")

    class Text(str):
        def __str__(self) -> str:
            return "another"

    class Colour(IntEnum):
        RED = 7

    point = namedtuple("point", "x y")
    back = there_and_back([Liar(5), Text("one"), Colour.RED, point(1, 2), defaultdict(int, a=1)])
    assert back == [5, "one", 7, (1, 2), {"a": 1}]
    assert [type(item) for item in back] == [int, str, int, tuple, dict]


def test_a_pair_of_surrogates_is_not_joined() -> None:
    assert len(there_and_back("\ud83d\ude00")) == 2


def test_aliases_and_cycles_survive() -> None:
    row = [0]
    loop: list[Any] = [row, row]
    loop.append(loop)
    back = there_and_back(loop)
    assert back[0] is back[1]
    assert back[2] is back
    back[0].append(1)
    assert back[1] == [0, 1]


def test_what_is_not_plain_is_refused() -> None:
    for value in (object(), lambda: 0, iter([]), wire):
        with pytest.raises(wire.WireError):
            wire.Encoder().encode(value)


HOSTILE: list[Any] = [
    {}, [], [1], ["?", 1], ["l"], ["l", 5], ["l", {}], ["d", [1]], ["d", [[1]]], ["d", [[["l", []], 1]]], ["=", 5],
    ["=", -1], ["=", "a"], ["i", 5], ["i", "zz"], ["b", "z"], ["S", [["l", []]]], ["D", "x"], ["D", []],
    ["Q", "1", "0"],
    ["c", "a", 1], ["r", 1, 2, 0], ["r", 1.5, 2, 3], ["y", "eval"], ["y", []], ["T", "date", "no"], ["T", "os", "x"],
    ["q", [], -1], ["q", [], "a"], ["u", "ff"], ["u", 3], ["O", 3], ["C", [[1]]], ["o", 0, "f", "x"], [["l"]], [None],
]  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE, ids=repr)
def test_a_hostile_value_is_a_wire_error_or_a_value_error(data: Any) -> None:
    with pytest.raises((wire.WireError, ValueError)):
        wire.Decoder().decode(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
)
TAGGED = st.recursive(
    JSON, lambda inner: st.tuples(st.sampled_from("ltdSFbBicDQruTqOCy="), inner, inner).map(list), max_leaves=8
)


@given(TAGGED)
@settings(max_examples=400, deadline=None)
def test_no_json_makes_the_decoder_raise_anything_but_a_value_error(data: Any) -> None:
    with contextlib.suppress(ValueError):
        wire.Decoder(max_nodes=100).decode(data)


def test_a_bounded_decoder_refuses_many_values_aliases_and_large_tables_of_keys() -> None:
    row = [0] * 10
    aliased: list[Any] = [row] * 9
    colliding = {k * ((1 << 61) - 1): None for k in range(600)}
    for value in ([0] * 101, aliased, colliding, set(colliding), frozenset(colliding)):
        with pytest.raises(wire.TooManyNodes):
            wire.Decoder(max_nodes=100).decode(wire.Encoder().encode(value))
    assert wire.Decoder(max_nodes=100).decode(["l", [1] * 100]) == [1] * 100


def test_only_an_object_is_a_message_and_a_deep_one_is_refused() -> None:
    for body in (b"[]", b"1", b"\xff", b"{", b"[" * 100_000, b'{"a":' * 100_000):
        with pytest.raises(wire.WireError):
            wire.parse(body)
