"""Reads functions and operators: sin, log, fractions, roots, binomials, derivatives, integrals, sums, limits."""

from fractions import Fraction

from rlvr_verifiers.mathcheck.parse.literals import quotient
from rlvr_verifiers.mathcheck.parse.name_reader import NameReader
from rlvr_verifiers.mathcheck.text.vocabulary import INVERSE, STARTS, TRIGONOMETRIC
from rlvr_verifiers.mathcheck.tree.nodes import (
    MINUS_ONE,
    TWO,
    Const,
    Expr,
    Func,
    Mul,
    Num,
    Pow,
    Unevaluated,
    Unreadable,
    Var,
    transformed,
)
from rlvr_verifiers.mathcheck.tree.rewriting import negated

_MANY_ARGUMENTS = frozenset(("gcd", "lcm", "max", "min"))
_LETTERS = ("num", "name", "const", "frac", "overline")


class FunctionReader(NameReader):
    """The part of the parser that reads functions."""

    def function(self) -> Expr:
        self.deeper()
        kinds = self.kinds
        name = self.values[self.at]
        self.at += 1
        exponent: Expr | None = None
        base: Expr | None = None
        for _ in range(2):
            if kinds[self.at] == "^" and exponent is None:
                self.at += 1
                if self.degree():
                    raise self.error()
                exponent = self.exponent()
            elif kinds[self.at] == "_" and name == "log" and base is None:
                self.at += 1
                base = self.log_base()
        if exponent == MINUS_ONE and name in TRIGONOMETRIC:
            if name not in INVERSE:
                raise self.error()
            name, exponent = INVERSE[name], None
        arguments = self.function_arguments(name)
        self.depth -= 1
        expr = _function(name, arguments, base)
        return expr if exponent is None else Pow(expr, exponent)

    def log_base(self) -> Expr:
        """The base of a logarithm; `log_28` without a further argument is log_2 8."""
        at = self.at
        if self.kinds[at] == "num" and self.kinds[at + 1] not in STARTS | {"|"}:
            return self.unit()
        return self.unit(whole_number=True)

    def function_arguments(self, name: str) -> tuple[Expr, ...]:
        kind = self.kinds[self.at]
        if kind in ("(", "[", "{") or (kind == "\\{" and name in ("max", "min")):
            return self.arguments()
        if name in _MANY_ARGUMENTS:
            raise self.error()
        return (self.bare_argument(name),)

    def bare_argument(self, name: str) -> Expr:
        """An argument without brackets: the numbers, letters and fractions that follow."""
        kinds = self.kinds
        if kinds[self.at] == "-":
            self.at += 1
            return negated(self.bare_argument(name))
        first = kinds[self.at]
        factors = [self.power()]
        has_pi = factors[0] == Const("pi")
        if first in _LETTERS:
            while kinds[self.at] in ("name", "const", "frac"):
                if kinds[self.at] == "const" and kinds[self.at + 1] == "^":
                    break  # \sin x e^{x}
                if kinds[self.at] == "frac" and first == "name":
                    break
                if self.integrals and self.values[self.at] == "d" and kinds[self.at + 1] == "name":
                    break  # \int \sin x dx
                factors.append(self.power())
                has_pi = has_pi or factors[-1] == Const("pi")
        argument = factors[0] if len(factors) == 1 else Mul(tuple(factors))
        if has_pi and kinds[self.at] == "/" and kinds[self.at + 1] == "num":
            self.at += 1
            argument = quotient(argument, self.power())  # \cos \pi/4
        return argument

    def fraction(self) -> Expr:
        derivative = self.derivative()
        if derivative is not None:
            return derivative
        self.at += 1
        top = self.unit()
        return quotient(top, self.unit())

    def derivative(self) -> Expr | None:
        r"""\frac{dy}{dx} as one name, \frac{d}{dx} f as an unevaluated derivative; None for any other fraction."""
        kinds, values = self.kinds, self.values
        at = self.at
        if kinds[at + 1] != "{" or kinds[at + 2] != "name" or values[at + 2] not in ("d", "partial"):
            return None
        end = at + 3 + (kinds[at + 3] == "name")
        if kinds[end : end + 3] != ["}", "{", "name"] or values[end + 2] != values[at + 2]:
            return None
        if kinds[end + 3 : end + 5] != ["name", "}"]:
            return None
        over = f"d{values[at + 3] if end == at + 4 else ''}/d{values[end + 3]}"
        self.at = end + 5
        if end == at + 4:
            return Var(over)
        return Unevaluated("derivative", over, self.product())

    def root(self) -> Expr:
        self.at += 1
        index: Expr = TWO
        if self.kinds[self.at] == "[":
            index = self.group()
        return Func("root", (self.unit(whole_number=True), index))

    def binomial(self) -> Expr:
        self.at += 1
        if self.kinds[self.at] == "(":
            arguments = self.arguments()
            if len(arguments) != 2:
                raise self.error()
            return Func("binom", arguments)
        top = self.unit()
        return Func("binom", (top, self.unit()))

    def unevaluated(self) -> Expr:
        kinds, values = self.kinds, self.values
        kind = kinds[self.at]
        self.at += 1
        variable, low, high = "", None, None
        over = ""
        for _ in range(2):
            mark = kinds[self.at]
            if mark not in ("^", "_"):
                break
            self.at += 1
            start = self.at
            if mark == "^":
                high = self.unit(whole_number=True)
            elif kind in ("sum", "prod", "lim"):
                variable, low = self.lower_bound()
            else:
                low = self.unit(whole_number=True)
            over += mark + "".join(
                value or token for token, value in zip(kinds[start : self.at], values[start : self.at], strict=True)
            )
        self.deeper()
        self.integrals += kind == "int"
        sign = self.kinds[self.at]
        body = self.signed() if sign == "-" else self.product()
        self.depth -= 1
        self.integrals -= kind == "int"
        if kind == "int" and low is not None and high is not None:
            return Unevaluated(kind, over, body, "", low, high)
        if kind == "lim" and variable and low is not None:
            return Unevaluated(kind, over, body, variable, low)
        if not (variable and low is not None and high is not None):
            variable, low, high = "", None, None
        elif variable in ("i", "e"):  # an index, not the constant
            index = Const(variable)
            body = transformed(body, lambda node: Var(variable) if node == index else node)
        return Unevaluated(kind, over, body, variable, low, high)

    def lower_bound(self) -> tuple[str, Expr | None]:
        """`{k=1}` as a name and a value; any other group is skipped."""
        kinds, values = self.kinds, self.values
        start = self.at
        if kinds[start] == "{" and kinds[start + 1] in ("name", "const"):
            name = values[start + 1]
            if kinds[start + 2] == "=":
                self.at = start + 3
                low = self.sum()
                self.expect("}")
                return name, low
            if kinds[start + 2] == "to" and (low := self.approached(start + 3)) is not None:
                return name, low
        self.subscript()
        return "", None

    def approached(self, start: int) -> Expr | None:
        """The value that a variable approaches, up to the closing brace and without the side; None if that is not an
        expression, and then nothing is consumed.
        """
        kinds, depth, bars = self.kinds, self.depth, self.bars
        opened, end = 0, start
        while kinds[end] != "end" and (opened or kinds[end] != "}"):
            opened += (kinds[end] == "{") - (kinds[end] == "}")
            end += 1
        last = end
        for size in (2, 4):
            tail = "".join(kinds[max(start, end - size) : end])
            if tail in ("^+", "^-", "^{+}", "^{-}"):
                last = end - size
        before = self.at
        self.at, kept, kinds[last] = start, kinds[last], "}"
        try:
            low = self.sum()
            is_whole = self.at == last
        except Unreadable:
            low, is_whole = None, False
        kinds[last] = kept
        self.depth, self.bars = depth, bars
        self.at = end + 1 if is_whole else before
        return low if is_whole else None


def _function(name: str, arguments: tuple[Expr, ...], base: Expr | None) -> Expr:
    """The node of a function under its one name in the tree."""
    if len(arguments) != 1 and name not in _MANY_ARGUMENTS:
        if name == "log" and len(arguments) == 2 and base is None:  # log(8, 2)
            return Func("log", arguments)
        raise Unreadable(f"{name} takes one argument, not {len(arguments)}")
    if name == "exp":
        return Pow(Const("e"), arguments[0])
    if name == "ln":
        return Func("log", (arguments[0], Const("e")))
    if name == "lg":
        return Func("log", (arguments[0], Num(Fraction(10))))
    if name == "log":
        return Func("log", arguments if base is None else (arguments[0], base))
    if name == "cbrt":
        return Func("root", (arguments[0], Num(Fraction(3))))
    if name == "cis":
        return Pow(Const("e"), Mul((Const("i"), arguments[0])))
    return Func(name, arguments)
