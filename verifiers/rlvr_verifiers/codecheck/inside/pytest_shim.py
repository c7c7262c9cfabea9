"""A stand-in for pytest in the tests' box: raises, approx, fail, fixture, mark.parametrize.

Other marks do nothing. `ATTRIBUTES` lists everything; tests that use more are refused when they are loaded. This
file also runs inside the boxes: standard library only.
"""

import contextlib
import itertools
import math
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

ATTRIBUTES = ("raises", "approx", "fail", "fixture", "mark", "param", "main")


class _Raises(contextlib.AbstractContextManager[Any]):
    def __init__(self, kinds: Any, match: str | None) -> None:
        self.kinds, self.match = kinds, match
        self.value: Any = None

    @property
    def type(self) -> Any:
        """The class of the raised exception."""
        return type(self.value)  # pyright: ignore[reportUnknownVariableType]  # of any value

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        if error is None:
            raise AssertionError("DID NOT RAISE " + str(self.kinds))
        if not isinstance(error, self.kinds):
            return False
        self.value = error
        if self.match is not None and not re.search(self.match, str(error)):
            raise AssertionError("the exception says " + str(error)[:100])
        return True


def raises(kinds: Any, *args: Any, match: str | None = None, **named: Any) -> _Raises:
    """A context that must raise one of the exceptions; or calls a function that must."""
    context = _Raises(kinds, match)
    if not args:
        return context
    with context:
        args[0](*args[1:], **named)
    return context


class approx:  # noqa: N801 - its name in pytest
    """Equals numbers that are close, alone or in lists, tuples and dicts."""

    def __init__(self, expected: Any, rel: float | None = None, abs: float | None = None, nan_ok: bool = False) -> None:
        self.expected, self.nan_ok = expected, nan_ok
        self.rel = rel if rel is not None else (0.0 if abs is not None else 1e-6)
        self.abs = abs if abs is not None else 1e-12

    def __eq__(self, other: object) -> bool:
        return self._is_close(other, self.expected)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __repr__(self) -> str:
        return "approx(" + repr(self.expected) + ")"

    __hash__ = None  # type: ignore[assignment]

    def _is_close(self, got: Any, wanted: Any) -> bool:
        kind: type = type(wanted)  # pyright: ignore[reportUnknownVariableType]  # of any value
        if kind in (list, tuple):
            is_same = type(got) in (list, tuple) and len(got) == len(wanted)
            return is_same and all(map(self._is_close, got, wanted))
        if kind is dict:
            is_same = type(got) is dict and got.keys() == wanted.keys()
            return is_same and all(self._is_close(got[key], wanted[key]) for key in wanted)
        numbers = (int, float, bool)
        if type(got) not in numbers or type(wanted) not in numbers:
            return got == wanted
        if got == wanted or (self.nan_ok and got != got and wanted != wanted):
            return True
        far = max(self.abs, self.rel * abs(wanted))
        return math.isfinite(got) and math.isfinite(wanted) and abs(got - wanted) <= far


def fail(reason: str = "") -> NoReturn:
    """Fails the test."""
    raise AssertionError(reason)


def fixture(function: Any = None, **_: Any) -> Any:
    """Marks a function whose value tests request by name."""
    if function is None:
        return fixture
    function.rlvr_fixture = True
    return function


def param(*values: Any, **_: Any) -> Any:
    """One row of parametrize."""
    return values if len(values) != 1 else values[0]


def _unchanged(function: Any) -> Any:
    return function


def _main(*_: Any, **__: Any) -> int:
    return 0


class _Mark:
    def parametrize(self, names: Any, rows: Iterable[Any], **_: Any) -> Callable[[Any], Any]:
        """Runs a test once for each row."""
        keys = [n.strip() for n in names.split(",") if n.strip()] if type(names) is str else names
        is_single = type(names) is str and "," not in names
        cases = [dict(zip(keys, [row] if is_single else row, strict=True)) for row in rows]

        def mark(function: Any) -> Any:
            function.rlvr_cases = [*getattr(function, "rlvr_cases", ()), cases]
            return function

        return mark

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def mark(*args: Any, **_: Any) -> Any:
            return args[0] if len(args) == 1 and callable(args[0]) else _unchanged

        return mark


def install() -> None:
    """Registers the stand-in, so that `import pytest` finds it."""
    module = types.ModuleType("pytest")
    module.__dict__.update(raises=raises, approx=approx, fail=fail, fixture=fixture, param=param)
    module.__dict__.update(mark=_Mark(), main=_main)
    sys.modules["pytest"] = module


def cases_of(function: Any, names: dict[str, Any]) -> Iterator[Callable[[], dict[str, Any]]]:
    """The arguments of each run of a test: its rows of parametrize with the values of its fixtures, as thunks."""
    code = function.__code__
    asked = code.co_varnames[: code.co_argcount]
    for rows in itertools.product(*getattr(function, "rlvr_cases", ())):
        given = {key: value for row in rows for key, value in row.items()}
        wanted = [n for n in asked if n not in given and _is_fixture(names.get(n))]
        yield lambda given=given, wanted=wanted: given | {n: value_of(n, names) for n in wanted}


def value_of(name: str, names: dict[str, Any]) -> Any:
    """The value of a fixture, including the fixtures that it requests."""
    function = names[name]
    code = function.__code__
    found = function(**{n: value_of(n, names) for n in code.co_varnames[: code.co_argcount]})
    return next(found) if isinstance(found, types.GeneratorType) else found  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # of any value


def _is_fixture(value: Any) -> bool:
    return getattr(value, "rlvr_fixture", False) is True
