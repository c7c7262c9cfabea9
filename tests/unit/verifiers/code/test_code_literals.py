"""Asserts that are evaluated outside keep Python's semantics, and those that need a box are left to it."""

import pytest

from rlvr_verifiers.codecheck.references.literals import NotHere, read_assert

HOLDS = [
    ("assert f(1) == 2", 2.0, True),
    ("assert f(1) == 2.0", 2, True),
    ("assert f(1) == True", 1, True),
    ("assert f(1) == (1, 2)", [1, 2], False),
    ("assert f(1) == [1, 2]", (1, 2), False),
    ("assert f(1) == [1, 2]", [1, 2], True),
    ("assert f(1) == {'a': 1, 'b': 2}", {"b": 2, "a": 1}, True),
    ("assert f(1) == {1, 2}", {2, 1}, True),
    ("assert f(1) == {1, 2}", frozenset({1, 2}), True),
    ("assert f(1) == '2'", 2, False),
    ("assert f(1) == b'2'", "2", False),
    ("assert f(1) == 1.0", float("nan"), False),
    ("assert f(1) != 1.0", float("nan"), True),
    ("assert f(1) == 0.3", 0.1 + 0.2, False),
    ("assert f(1) is True", 1, False),
    ("assert f(1) is True", True, True),
    ("assert f(1) is None", None, True),
    ("assert f(1) is not None", None, False),
    ("assert f(1)", [], False),
    ("assert f(1)", [0], True),
    ("assert not f(1)", "", True),
    ("assert f(1) < 3", 2, True),
    ("assert f(1) < 3", "2", False),
    ("assert f(1) in (1, 2)", 2, True),
    ("assert 2 in f(1)", [1, 2], True),
    ("assert 2 in f(1)", 5, False),
    ("assert 4 == f(1)", 4, True),
    ("assert abs(f(2) - 1.5) < 1e-6", 1.5000001, True),
    ("assert abs(f(2) - 1.5) < 1e-6", 1.6, False),
    ("assert abs(1.5 - f(2)) <= 0.1", 1.6, False),
    ("assert round(f(2), 2) == 1.23", 1.2345, True),
    ("assert math.isclose(f(2), 100.0, rel_tol=0.01)", 100.5, True),
    ("assert math.isclose(f(2), 100.0)", 100.5, False),
    ("assert f(-1, x={'a': (1,)}, y=[2j]) == 'ok', 'message'", "ok", True),
    ("assert Solution().run([1], 2) == 3", 3, True),
]


@pytest.mark.parametrize(("source", "value", "holds"), HOLDS)
def test_an_assert_holds_as_it_does_in_python(source: str, value: object, holds: bool) -> None:
    item = read_assert(source, "Solution" if "Solution" in source else "f", tolerance=None)
    assert item is not None
    assert (item.verify(value) == "") is holds


BOXES = [
    "assert f(x) == 2", "assert f(g(1)) == 2", "assert g(f(1)) == 2", "assert f(1) == g(2)", "assert f(1) == f(2)",
    "assert set(f(1)) == {1}", "assert f(1) == 1 == 1", "assert f(1) and f(2)", "assert f(1)[0] == 1",
    "assert f(*[1]) == 2",
    "assert f(**{}) == 2", "assert f(1).x == 2", "x = f(1)\nassert x == 2", "assert f(1) is 5", "assert g(1) == 2",
    "assert len(f(1)) == 2", "assert f(2 ** 3) == 1", "assert abs(f(1), f(2)) == 1", "assert f(1) == [f(1)]",
    "assert S()._x(1) == 2", "assert f(lambda: 1) == 2", "assert f(1) == float('nan')",
]  # fmt: skip


@pytest.mark.parametrize("source", BOXES)
def test_any_other_assert_needs_the_boxes(source: str) -> None:
    assert read_assert(source, "f", tolerance=None) is None


def test_a_value_that_could_cost_much_is_left_to_the_boxes() -> None:
    item = read_assert("assert f(1) == 2", "f", tolerance=None)
    assert item is not None
    for value in (1 << 5000, [1 << 5000], {"a": 1 << 5000}, range(3), 2j, bytearray()):
        with pytest.raises(NotHere):
            item.verify(value)
    rounding = read_assert("assert round(f(1), 2) == 2", "f", tolerance=None)
    assert rounding is not None
    with pytest.raises(NotHere):
        rounding.verify("text")


def test_an_overflow_is_a_failed_assert() -> None:
    item = read_assert("assert abs(f(2) - 1.5) < 1e-6", "f", tolerance=None)
    assert item is not None
    assert "OverflowError" in item.verify(1 << 4000)


def test_a_tolerance_reaches_into_lists_but_keeps_types() -> None:
    item = read_assert("assert f(1) == [1.0, (2.0, 'a')]", "f", tolerance=(1e-3, 0.0))
    assert item is not None
    assert item.verify([1.0004, (2, "a")]) == ""
    assert item.verify([1.01, (2, "a")]) != ""
    assert item.verify((1.0, (2.0, "a"))) != ""


def test_the_reason_names_both_sides_and_is_short() -> None:
    item = read_assert("assert f(1) == 'x'", "f", tolerance=None)
    assert item is not None
    assert item.verify("y") == "expected 'x', got 'y'"
    assert len(item.verify("y" * 10_000)) < 300
    assert len(item.verify([["z" * 50] * 90] * 90)) < 300
