r"""The value of a reference that is an integral, a sum, a product or a limit, by sympy.

Only references are evaluated, never answers. sympy runs in a child process that is killed at a time limit, because an
integral may take forever and cannot be interrupted inside this process.
"""

import contextlib
import os
import resource
import select
import signal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rlvr.processes.lifeline import end_with_parent
from rlvr_verifiers.mathcheck.text.vocabulary import words
from rlvr_verifiers.mathcheck.tree.nodes import (
    ONE,
    Add,
    Const,
    Div,
    Expr,
    Func,
    Mul,
    Num,
    Pow,
    Unevaluated,
    Var,
    substituted,
    variables,
    walk,
)
from rlvr_verifiers.mathcheck.tree.rewriting import is_unevaluated

if TYPE_CHECKING:
    import sympy

LIMIT_CPU_S = 3  # CPU time of the child, so that other load on the machine does not matter
_LONGEST_S = 30.0
_MAX_BYTES = 4000
_MAX_NODES = 200
_KINDS = frozenset(("int", "sum", "prod", "lim"))
_SAME_NAMES = frozenset(words("sin cos tan cot sec csc sinh cosh tanh coth sech csch floor factorial sign gcd lcm"))
_OTHER_NAMES = {
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "arsinh": "asinh", "arcosh": "acosh",
    "artanh": "atanh", "abs": "Abs", "ceil": "ceiling", "binom": "binomial", "sgn": "sign", "max": "Max", "min": "Min",
}  # fmt: skip


class _NoValueError(ValueError):
    """The expression is not passed to sympy, or sympy finds no value."""


@lru_cache(maxsize=4096)
def value_of(text: str) -> Expr | None:
    r"""The closed form of an expression with an integral, a sum, a product or a limit; None if there is none or sympy
    does not find it in time.

    >>> value_of(r"\int_0^1 x^2\,dx")
    Num(value=Fraction(1, 3))
    """
    from rlvr_verifiers.mathcheck.parse.grammar import parse

    try:
        expr = parse(text)
    except ValueError:
        return None
    nodes = list(walk(expr))
    kinds = {node.kind for node in nodes if isinstance(node, Unevaluated)}
    if not kinds or not kinds <= _KINDS or len(nodes) > _MAX_NODES:
        return None
    names = sorted(variables(expr) | _names_in_bounds(expr, tuple(_KINDS)))
    written = _in_child(expr, names)
    if not written:
        return None
    try:
        found = parse(written)
    except ValueError:
        return None
    given: dict[str, Expr] = {f"a_{index}": Var(name) for index, name in enumerate(names)}
    if is_unevaluated(found) or not variables(found) <= set(given):
        return None
    return substituted(found, given)


def _in_child(expr: Expr, names: list[str]) -> str:
    """The value that sympy finds, in LaTeX; "" if there is none within the limit."""
    import sympy  # noqa: F401 - imported once here, not in each child

    reader, writer = os.pipe()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        end_with_parent(parent)
        os.close(reader)
        with contextlib.suppress(BaseException):
            resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_CPU_S, resource.getrlimit(resource.RLIMIT_CPU)[1]))
            os.write(writer, _written(expr, names).encode()[:_MAX_BYTES])
        os._exit(0)
    os.close(writer)
    try:
        ready, _, _ = select.select([reader], [], [], _LONGEST_S)
        return os.read(reader, _MAX_BYTES).decode("utf-8", "replace") if ready else ""
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _written(expr: Expr, names: list[str]) -> str:
    import sympy

    whole, positive = _names_in_bounds(expr, ("sum", "prod")), _names_in_bounds(expr, ("int",))
    symbols: dict[str, Any] = {}
    for index, name in enumerate(names):
        assumptions = {"real": True}
        if name in whole | positive:
            assumptions = {"positive": True, "integer": True} if name in whole else {"positive": True}
        symbols[name] = sympy.Symbol(f"a_{{{index}}}", **assumptions)
    value = sympy.simplify(_Converter(symbols).sympy_of(expr))
    if value.has(sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit, sympy.nan, sympy.zoo):
        raise _NoValueError
    return sympy.latex(value, ln_notation=True)


def _names_in_bounds(expr: Expr, kinds: tuple[str, ...]) -> frozenset[str]:
    return frozenset(
        name
        for node in walk(expr)
        if isinstance(node, Unevaluated) and node.kind in kinds
        for bound in (node.low, node.high)
        if bound is not None
        for name in variables(bound)
    )


class _Converter:
    """Converts a tree to a sympy expression and carries out its operations."""

    def __init__(self, symbols: "dict[str, Any]") -> None:
        self.symbols = symbols

    def sympy_of(self, expr: Expr) -> "sympy.Expr":
        import sympy

        if isinstance(expr, Num):
            return sympy.Rational(expr.value.numerator, expr.value.denominator)
        if isinstance(expr, Const):
            constants = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "oo": sympy.oo}
            if expr.name not in constants:
                raise _NoValueError
            return constants[expr.name]
        if isinstance(expr, Var):
            return self.symbols[expr.name]
        parts = [self.sympy_of(part) for part in expr.parts] if not isinstance(expr, Unevaluated) else []
        if isinstance(expr, Add):
            return sympy.Add(*parts)
        if isinstance(expr, Mul):
            return sympy.Mul(*parts)
        if isinstance(expr, Div):
            return parts[0] / parts[1]
        if isinstance(expr, Pow):
            return parts[0] ** parts[1]
        if isinstance(expr, Func):
            return self._function(expr.name, parts)
        if isinstance(expr, Unevaluated):
            return self._operation(expr)
        raise _NoValueError

    @staticmethod
    def _function(name: str, args: "list[Any]") -> Any:
        import sympy

        if name == "root":
            return args[0] ** (1 / args[1])
        if name == "log":
            return sympy.log(args[0]) if len(args) == 1 else sympy.log(args[0]) / sympy.log(args[1])
        if name not in _SAME_NAMES and name not in _OTHER_NAMES:
            raise _NoValueError
        return getattr(sympy, _OTHER_NAMES.get(name, name))(*args)

    def _operation(self, node: Unevaluated) -> Any:
        import sympy

        if node.kind == "int":
            name, body = _integrand(node.body)
            if not name or (node.low is None) != (node.high is None):
                raise _NoValueError
            variable = sympy.Symbol("u", real=True)
            inner = _Converter({**self.symbols, name: variable}).sympy_of(body)
            if node.low is None or node.high is None:
                raise _NoValueError  # an antiderivative is not unique
            bounds = (variable, self.sympy_of(node.low), self.sympy_of(node.high))
            return sympy.integrate(inner, bounds)
        if not node.variable or node.low is None:
            raise _NoValueError
        if node.kind == "lim":
            variable = sympy.Symbol("u", real=True)
            inner = _Converter({**self.symbols, node.variable: variable}).sympy_of(node.body)
            side = next((sign for sign in "+-" if node.over.endswith((f"^{sign}}}", f"^{{{sign}}}}}"))), "")
            return sympy.limit(inner, variable, self.sympy_of(node.low), side or "+-")
        if node.high is None:
            raise _NoValueError
        variable = sympy.Symbol("u", integer=True)
        inner = _Converter({**self.symbols, node.variable: variable}).sympy_of(node.body)
        bounds = (variable, self.sympy_of(node.low), self.sympy_of(node.high))
        total = sympy.Sum(inner, bounds) if node.kind == "sum" else sympy.Product(inner, bounds)
        return total.doit()


def _integrand(body: Expr) -> tuple[str, Expr]:
    """The variable of integration ("" if none is found) and the integrand without its differential."""
    if isinstance(body, Div):
        name, top = _integrand(body.top)
        return name, Div(top, body.bottom)
    factors = body.factors if isinstance(body, Mul) else ()
    for index in range(len(factors) - 1):
        second = factors[index + 1]
        if factors[index] == Var("d") and isinstance(second, Var):
            return second.name, Mul((ONE, *factors[:index], *factors[index + 2 :]))
    for index, factor in enumerate(factors):
        if isinstance(factor, Div):
            name, inner = _integrand(factor)
            if name:
                return name, Mul((ONE, *factors[:index], inner, *factors[index + 1 :]))
    return "", body
