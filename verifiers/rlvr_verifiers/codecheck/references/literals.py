"""Asserts that can be evaluated outside the sandbox: one call with literal arguments, compared with a literal.

    assert f(1, [2]) == (3,)          assert not f("x")             assert f(2) is None
    assert abs(f(2) - 1.5) < 1e-6     assert round(f(2), 2) == 1.5  assert math.isclose(f(2), 1.5, rel_tol=1e-3)
    assert Solution().run([1]) == 2

The candidate's box computes the call and returns plain data; the rest of the assert is evaluated here by the node
types below. Nothing is evaluated as code, and every value is bounded, so that no answer can be expensive.
"""

import ast
import math
import operator
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

MAX_NODES = 20_000
MAX_BITS = 4_096
_COMPARE: Mapping[type[ast.cmpop], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Eq: ("==", operator.eq),
    ast.NotEq: ("!=", operator.ne),
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
    ast.Is: ("is", operator.is_),
    ast.IsNot: ("is not", operator.is_not),
    ast.In: ("in", lambda left, right: left in right),
    ast.NotIn: ("not in", lambda left, right: left not in right),
}
_PLAIN = (type(None), bool, int, float, str, bytes, list, tuple, dict, set, frozenset)
_SHOWN_CHARS = 120
_REPR = reprlib.Repr()
_REPR.maxlist = _REPR.maxtuple = _REPR.maxset = _REPR.maxdict = 20
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 100


class NotHere(Exception):  # noqa: N818 - a result, not an error
    """This value must be compared in the boxes, where only they pay for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call with literal arguments. `method`: a method that the assert calls on the result."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    method: str = ""
    method_args: tuple[Any, ...] = ()
    method_kwargs: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteralAssert:
    """An assert over one call. `verify(value)` says why the returned value fails it; "" if it holds.

    is_json: the expected value was JSON, so tuples count as lists.
    """

    source: str
    call: Call
    test: ast.expr
    call_node: ast.Call
    tolerance: tuple[float, float] | None
    is_json: bool = False

    def verify(self, value: Any) -> str:
        """Why the assert fails for this value; "" if it holds. Raises NotHere."""
        check_plain(value)
        if self.is_json:
            value = as_lists(value)
        try:
            left, sign, right = self._sides(value)
            if not sign:
                return "" if left else f"gave {shown(value)}"
            compare = next(function for name, function in _COMPARE.values() if name == sign)
            if sign == "==" and self.tolerance:
                holds = is_close(left, right, *self.tolerance)
            elif sign == "in" and self.is_json:
                tolerance = self.tolerance or (0.0, 0.0)
                holds = any(is_close(left, item, *tolerance) for item in right)
            else:
                holds = bool(compare(left, right))
        except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
            return f"gave {shown(value)}, and the assert raised {type(error).__name__}"
        if holds:
            return ""
        if sign == "==":
            wanted, got = (left, right) if self._is_right_of_call() else (right, left)
            return f"expected {shown(wanted)}, got {shown(got)}"
        return f"{shown(left)} {sign} {shown(right)} does not hold"

    def _sides(self, value: Any) -> tuple[Any, str, Any]:
        test = self.test
        if isinstance(test, ast.Compare):
            sign = _COMPARE[type(test.ops[0])][0]
            return (self._evaluate(test.left, value), sign, self._evaluate(test.comparators[0], value))
        return self._evaluate(test, value), "", None

    def _is_right_of_call(self) -> bool:
        test = self.test
        return isinstance(test, ast.Compare) and _contains(test.comparators[0], self.call_node)

    def _evaluate(self, node: ast.expr, value: Any) -> Any:
        if node is self.call_node:
            return value
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return not self._evaluate(node.operand, value)
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
            left, right = self._evaluate(node.left, value), self._evaluate(node.right, value)
            _check_number(left)
            _check_number(right)
            return left + right if isinstance(node.op, ast.Add) else left - right
        if isinstance(node, ast.Call):
            args = [self._evaluate(argument, value) for argument in node.args]
            for argument in args:
                _check_number(argument)
            names = {k.arg or "": ast.literal_eval(k.value) for k in node.keywords}
            return _FUNCTIONS[_name_of(node.func)](*args, **names)
        return ast.literal_eval(node)


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {"abs": abs, "round": round, "math.isclose": math.isclose}


def read_assert(
    source: str, entry_point: str, *, tolerance: tuple[float, float] | None, is_json: bool = False
) -> LiteralAssert | None:
    """The assert, if it can be evaluated outside; None if it needs the boxes.

    >>> read_assert("assert f(2) == 4", "f", tolerance=None).verify(4)
    ''
    >>> read_assert("assert f(2) == 4", "f", tolerance=None).verify((4,))
    'expected 4, got (4,)'
    >>> read_assert("assert f(g(2)) == 4", "f", tolerance=None) is None
    True
    """
    statements = ast.parse(source).body
    if len(statements) != 1 or not isinstance(statements[0], ast.Assert):
        return None
    test = statements[0].test
    calls = [node for node in ast.walk(test) if isinstance(node, ast.Call)]
    found = [(node, call) for node in calls if (call := _read_call(node, entry_point)) is not None]
    if not found:
        return None
    call_node, call = found[0]
    if isinstance(test, ast.Compare):
        if len(test.ops) != 1:
            return None
        sides = [test.left, test.comparators[0]]
        if isinstance(test.ops[0], (ast.Is, ast.IsNot)) and not _is_singleton(sides[1]):
            return None
    else:
        sides = [test]
    if sum(_contains(side, call_node) for side in sides) != 1:
        return None
    if not all(_is_simple(side, call_node) for side in sides):
        return None
    return LiteralAssert(source=source, call=call, test=test, call_node=call_node, tolerance=tolerance, is_json=is_json)


def is_close(left: Any, right: Any, abs_tol: float, rel_tol: float) -> bool:
    """Whether two values are equal, with numbers within a tolerance, at any depth of lists, tuples and dicts.

    >>> is_close([1.0, (2,)], [1.0000001, (2.0,)], 1e-6, 0.0)
    True
    """
    if type(left) is int and type(right) is int:
        return left == right
    if type(left) in (int, float) and type(right) in (int, float):
        return left == right or math.isclose(left, right, abs_tol=abs_tol, rel_tol=rel_tol)
    if type(left) is type(right) and isinstance(left, (list, tuple)):
        pairs = zip(cast("list[Any]", left), cast("list[Any]", right), strict=False)
        same = len(cast("list[Any]", left)) == len(cast("list[Any]", right))
        return same and all(is_close(a, b, abs_tol, rel_tol) for a, b in pairs)
    if isinstance(left, dict) and isinstance(right, dict):
        mine, other = cast("dict[Any, Any]", left), cast("dict[Any, Any]", right)
        same = mine.keys() == other.keys()
        return same and all(is_close(mine[key], other[key], abs_tol, rel_tol) for key in mine)
    return left == right


def as_lists(value: Any) -> Any:
    """The value with lists in place of its tuples, at any depth of lists, tuples and dicts.

    >>> as_lists((1, [(2,)]))
    [1, [[2]]]
    """
    if isinstance(value, (list, tuple)):
        return [as_lists(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in cast("dict[Any, Any]", value).items()}
    return value


def check_plain(value: Any) -> None:
    """Raises NotHere for a value that is not plain data or may be expensive to compare."""
    if type(value) not in _PLAIN or (type(value) is int and value.bit_length() > MAX_BITS):
        raise NotHere
    if isinstance(value, dict):
        for key, item in cast("dict[Any, Any]", value).items():
            check_plain(key)
            check_plain(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in cast("list[Any]", value):
            check_plain(item)


def shown(value: Any) -> str:
    """A plain value for messages, shortened to one line."""
    text = _REPR.repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"


def _check_number(value: Any) -> None:
    if type(value) not in (bool, int, float):
        raise NotHere


def _read_call(node: ast.Call, entry_point: str) -> Call | None:
    """`entry_point(...)`, or `entry_point(...).method(...)`, with literal arguments."""
    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Call):
        made, literals = _read_call(node.func.value, entry_point), _literals(node)
        if made is None or literals is None or made.method or node.func.attr.startswith("_"):
            return None
        args, kwargs = literals
        return Call(
            name=made.name,
            args=made.args,
            kwargs=made.kwargs,
            method=node.func.attr,
            method_args=args,
            method_kwargs=kwargs,
        )
    if not (isinstance(node.func, ast.Name) and node.func.id == entry_point):
        return None
    literals = _literals(node)
    return None if literals is None else Call(name=entry_point, args=literals[0], kwargs=literals[1])


def _literals(node: ast.Call) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    if any(keyword.arg is None for keyword in node.keywords):
        return None
    try:
        args = tuple(ast.literal_eval(argument) for argument in node.args)
        return args, {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def _is_simple(node: ast.expr, call: ast.Call) -> bool:
    """Whether a side of the assert is the call, a literal, or arithmetic of the kinds above."""
    if node is call:
        return True
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return _is_simple(node.operand, call)
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        return _is_simple(node.left, call) and _is_simple(node.right, call)
    if isinstance(node, ast.Call) and _contains(node, call):
        named = all(keyword.arg and _is_literal(keyword.value) for keyword in node.keywords)
        inner = all(_is_simple(argument, call) for argument in node.args)
        return _name_of(node.func) in _FUNCTIONS and named and inner
    return _is_literal(node)


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return False
    return True


def _is_singleton(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value in (None, True, False)


def _contains(node: ast.AST, wanted: ast.AST) -> bool:
    return any(inner is wanted for inner in ast.walk(node))


def _name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""
