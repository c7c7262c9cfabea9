"""Constraints written as JSON: ["<", "a", ["+", "b", 1]]. They are checked and compiled to closures, never evaluated
as text.

    ["and", e, ...]  ["or", e, ...]  ["not", e]  ["implies", e, f]  ["iff", e, f]  ["xor", e, f]
    ["exactly", n, e, ...]  ["at_least", n, e, ...]  ["at_most", n, e, ...]      how many of the expressions hold
    ["==", x, y]  ["!=", x, y]  ["in", x, v, w, ...]  ["all_different", x, y, ...]
    ["<", x, y]  ["<=", x, y]  [">", x, y]  [">=", x, y]                         whole numbers
    ["+", x, ...]  ["-", x, y]  ["*", x, ...]  ["abs", x]  ["mod", x, n]         whole numbers

A text that is the name of a variable is that variable; any other text must be a value of some variable.

>>> rule = compile_rule(["<", "a", ["+", "b", 1]], {"a": (1, 2, 3), "b": (1, 2)})
>>> sorted(rule.variables), rule.holds({"a": 2, "b": 2}), rule.holds({"a": 3, "b": 1})
(['a', 'b'], True, False)
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from rlvr.records import Json

Value = bool | int | str
Assignment = Mapping[str, Value]
Domains = Mapping[str, Sequence[Value]]
MAX_NODES = 2_000
MAX_DEPTH = 50
MAX_NUMBER = 10**12
_ALIASES = {"->": "implies", "=>": "implies", "<=>": "iff", "=": "==", "&": "and", "|": "or"}
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_COUNTS: dict[str, Callable[[int, int], bool]] = {
    "exactly": operator.eq,
    "at_least": operator.ge,
    "at_most": operator.le,
}
_PAIRS: dict[str, Callable[[bool, bool], bool]] = {"implies": operator.le, "iff": operator.eq, "xor": operator.ne}
_MIN_PARTS = 2


class Kind(StrEnum):
    """The kind of value that an expression has."""

    TRUTH = "truth value"
    NUMBER = "number"
    TEXT = "text"
    MIXED = "mixed value"


Evaluate = Callable[[Assignment], Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """A compiled constraint. variables: those that it names. holds: whether an assignment of them satisfies it."""

    variables: frozenset[str]
    holds: Callable[[Assignment], bool]


def compile_rule(expression: Json, domains: Domains) -> Rule:
    """The constraint. Raises ValueError if the expression is not one over these variables."""
    compiler = _Compiler(domains)
    kind, evaluate = compiler.compile(expression, depth=0)
    if kind is not Kind.TRUTH:
        raise ValueError(f"{_shown(expression)} is a {kind} and not a constraint")
    return Rule(frozenset(compiler.variables), evaluate)


class _Compiler:
    """Compiles one constraint and notes the variables that it names."""

    def __init__(self, domains: Domains) -> None:
        self._domains = domains
        self._texts = {value for domain in domains.values() for value in domain if isinstance(value, str)}
        self._num_nodes = 0
        self.variables: set[str] = set()

    def compile(self, expression: Json, *, depth: int) -> tuple[Kind, Evaluate]:
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES or depth > MAX_DEPTH:
            raise ValueError(f"a constraint has more than {MAX_NODES} parts or is nested deeper than {MAX_DEPTH}")
        if not isinstance(expression, (list, tuple)):
            return self._term(expression)
        items = list(cast("Sequence[Json]", expression))
        if not items or not isinstance(items[0], str):
            raise ValueError(f"{_shown(expression)} does not begin with an operator")
        name, parts = _ALIASES.get(items[0], items[0]), items[1:]
        if name in _COUNTS:
            return Kind.TRUTH, self._count(name, parts, expression, depth)
        if name == "in":
            return Kind.TRUTH, self._member(parts, expression, depth)
        compiled = [self.compile(part, depth=depth + 1) for part in parts]
        return self._apply(name, compiled, expression)

    def _term(self, term: Json) -> tuple[Kind, Evaluate]:
        if isinstance(term, bool):
            return Kind.TRUTH, lambda _: term
        if isinstance(term, int):
            if abs(term) > MAX_NUMBER:
                raise ValueError(f"the number {str(term)[:30]} is larger than {MAX_NUMBER}")
            return Kind.NUMBER, lambda _: term
        if isinstance(term, str) and term in self._domains:
            self.variables.add(term)
            return kind_of(self._domains[term]), operator.itemgetter(term)
        if isinstance(term, str) and term in self._texts:
            return Kind.TEXT, lambda _: term
        raise ValueError(f"{_shown(term)} is neither a variable, nor a value of one, nor a whole number")

    def _apply(self, name: str, compiled: list[tuple[Kind, Evaluate]], expression: Json) -> tuple[Kind, Evaluate]:
        kinds, parts = [kind for kind, _ in compiled], [evaluate for _, evaluate in compiled]
        if name in ("and", "or", "not", *_PAIRS):
            _require(kinds, Kind.TRUTH, expression)
        if name in ("+", "-", "*", "abs", "mod", *_ORDERS):
            _require(kinds, Kind.NUMBER, expression)
        match name, parts:
            case "and", [_, *_]:
                return Kind.TRUTH, lambda a: all(part(a) for part in parts)
            case "or", [_, *_]:
                return Kind.TRUTH, lambda a: any(part(a) for part in parts)
            case "not", [x]:
                return Kind.TRUTH, lambda a: not x(a)
            case (("implies" | "iff" | "xor"), [x, y]):
                joins = _PAIRS[name]
                return Kind.TRUTH, lambda a: joins(x(a), y(a))
            case (("<" | "<=" | ">" | ">="), [x, y]):
                compares = _ORDERS[name]
                return Kind.TRUTH, lambda a: compares(x(a), y(a))
            case (("==" | "!="), [x, y]):
                _require_comparable(kinds, expression)
                is_equal = name == "=="
                return Kind.TRUTH, lambda a: _same(x(a), y(a)) is is_equal
            case "all_different", [_, _, *_]:
                _require_comparable(kinds, expression)
                return Kind.TRUTH, lambda a: len({value_key(part(a)) for part in parts}) == len(parts)
            case "+", [_, *_]:
                return Kind.NUMBER, lambda a: sum(part(a) for part in parts)
            case "*", [_, *_]:
                return Kind.NUMBER, lambda a: math.prod(part(a) for part in parts)
            case "-", [x, y]:
                return Kind.NUMBER, lambda a: x(a) - y(a)
            case "abs", [x]:
                return Kind.NUMBER, lambda a: abs(x(a))
            case "mod", [x, _]:
                modulus = cast("list[Json]", expression)[2]
                if isinstance(modulus, bool) or not isinstance(modulus, int) or modulus < 1:
                    raise ValueError(f"{_shown(expression)}: a modulus is a whole number from 1 up")
                return Kind.NUMBER, lambda a: x(a) % modulus
            case _:
                raise ValueError(f"{_shown(expression)}: there is no operator {name!r} for {len(parts)} parts")

    def _count(self, name: str, parts: list[Json], expression: Json, depth: int) -> Evaluate:
        if len(parts) < _MIN_PARTS or isinstance(parts[0], bool) or not isinstance(parts[0], int):
            raise ValueError(f"{_shown(expression)}: write [{name!r}, n, expression, ...]")
        number, compares = parts[0], _COUNTS[name]
        compiled = [self.compile(part, depth=depth + 1) for part in parts[1:]]
        _require([kind for kind, _ in compiled], Kind.TRUTH, expression)
        counted = [evaluate for _, evaluate in compiled]
        return lambda a: compares(sum(part(a) for part in counted), number)

    def _member(self, parts: list[Json], expression: Json, depth: int) -> Evaluate:
        compiled = [self.compile(part, depth=depth + 1) for part in parts]
        if len(compiled) < _MIN_PARTS:
            raise ValueError(f"{_shown(expression)}: write ['in', x, value, ...]")
        _require_comparable([kind for kind, _ in compiled], expression)
        x, *values = [evaluate for _, evaluate in compiled]
        return lambda a: any(_same(x(a), value(a)) for value in values)


def kind_of(domain: Sequence[Value]) -> Kind:
    """The kind of the values of a domain."""
    if all(isinstance(value, bool) for value in domain):
        return Kind.TRUTH
    if any(isinstance(value, bool) for value in domain):
        return Kind.MIXED
    if all(isinstance(value, int) for value in domain):
        return Kind.NUMBER
    return Kind.TEXT if all(isinstance(value, str) for value in domain) else Kind.MIXED


def value_key(value: Value) -> tuple[bool, Value]:
    """A key that tells true from 1."""
    return isinstance(value, bool), value


def _same(x: Value, y: Value) -> bool:
    return value_key(x) == value_key(y)


def _require(kinds: list[Kind], wanted: Kind, expression: Json) -> None:
    for kind in kinds:
        if kind is not wanted:
            raise ValueError(f"{_shown(expression)}: a {kind} where a {wanted} is needed")


def _require_comparable(kinds: list[Kind], expression: Json) -> None:
    plain = set(kinds) - {Kind.MIXED}
    if len(plain) > 1:
        raise ValueError(f"{_shown(expression)} compares a {' with a '.join(sorted(plain))}")


def _shown(expression: Json) -> str:
    return f"{expression!r:.200}"
