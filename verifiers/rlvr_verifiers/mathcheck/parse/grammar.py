r"""The parser: precedence climbing in one pass over the tokens, with a limit on depth.

How ambiguous notation is read:
- `1/2x` is (1/2)x, but `x/2y` is x/(2y): letters directly after a denominator belong to it unless both sides of the
  slash are integers;
- `\sin 2x\cos y` is sin(2x) cos(y): without brackets a function takes the numbers, letters and fractions
  that follow, up to the next function, bracket, root or operator;
- `3\frac{1}{2}` is the mixed number 7/2, `3\frac{x}{2}` a product; `\frac12` is 1/2; `x^10` is x^{10};
- f, g, h, F, G, H and primed letters before a bracket are applied, other letters multiply;
- e, i and pi are the constants; a bare log is natural.
"""

from collections.abc import Callable
from fractions import Fraction

from rlvr_verifiers.mathcheck.parse.cursor import BRACKETS
from rlvr_verifiers.mathcheck.parse.function_reader import FunctionReader
from rlvr_verifiers.mathcheck.parse.literals import number, quotient
from rlvr_verifiers.mathcheck.parse.tokens import tokenize
from rlvr_verifiers.mathcheck.text.vocabulary import STARTS
from rlvr_verifiers.mathcheck.tree.nodes import Add, Const, Expr, Func, Mul, Num, PlusMinus, Pow, Unreadable, Var
from rlvr_verifiers.mathcheck.tree.rewriting import negated

_DEGREE = Const("degree")


def parse(text: str) -> Expr:
    r"""The tree of one expression in LaTeX or plain text.

    >>> parse(r"\frac{x}{2}")
    Div(top=Var(name='x'), bottom=Num(value=Fraction(2, 1)))

    Raises:
        Unreadable: the text is not one expression (a relation, list, words, malformed text).
        TooBig: a limit on length, nesting or literals is exceeded.
    """
    kinds, values = tokenize(text)
    if kinds[0] == "end":
        raise Unreadable("it is empty")
    if kinds[0] == "[" and kinds[-2] == "]" and kinds.count("[") == 1:
        raise Unreadable("a value in square brackets is a list")
    return _Parser(kinds, values).whole()


class _Parser(FunctionReader):
    """The levels of an expression, from the sum down to the atom."""

    def whole(self) -> Expr:
        expr = self.sum()
        if self.kinds[self.at] != "end":
            raise self.error()
        return expr

    def sum(self) -> Expr:
        self.deeper()
        kinds = self.kinds
        terms: list[Expr] = []
        kind = kinds[self.at]
        if kind not in ("+", "-", "pm", "mp"):
            terms.append(self.product())
            kind = kinds[self.at]
        while kind in ("+", "-", "pm", "mp"):
            self.at += 1
            following = kinds[self.at]
            if following in ("+", "pm", "mp") or (following == "-" and (kind != "+" or not terms)):
                raise self.error()
            term = self.signed() if following == "-" else self.product()
            if kind == "-":
                term = negated(term)
            elif kind == "pm":
                term = PlusMinus(term)
            elif kind == "mp":
                term = PlusMinus(term, True)
            terms.append(term)
            kind = kinds[self.at]
        self.depth -= 1
        return terms[0] if len(terms) == 1 else Add(tuple(terms))

    def signed(self) -> Expr:
        """A product with its own sign: 2 + -3."""
        self.expect("-")
        return negated(self.product())

    def product(self) -> Expr:
        kinds = self.kinds
        tops = [self.power()]
        bottoms: list[Expr] = []
        while True:
            kind = kinds[self.at]
            if kind in STARTS or (kind == "|" and not self.bars):
                if kind == "num" and kinds[self.at - 1] == "num":
                    raise self.error()
                tops.append(self.power())
            elif kind == "*":
                self.at += 1
                tops.append(self.factor())
            elif kind == "/":
                self.at += 1
                bottoms.append(self.denominator(tops, bottoms))
            elif kind == "mod":
                self.at += 1
                left = self.built(tops, bottoms)
                tops, bottoms = list[Expr]([Func("mod", (left, self.factor()))]), []
            elif kind == "pmod":
                self.at += 1
                left = self.built(tops, bottoms)
                tops, bottoms = list[Expr]([Func("pmod", (left, self.unit()))]), []
            else:
                return self.built(tops, bottoms)

    @staticmethod
    def built(tops: list[Expr], bottoms: list[Expr]) -> Expr:
        top = tops[0] if len(tops) == 1 else Mul(tuple(tops))
        if not bottoms:
            return top
        return quotient(top, bottoms[0] if len(bottoms) == 1 else Mul(tuple(bottoms)))

    def factor(self) -> Expr:
        """The operand of an explicit operator: a power with an optional sign."""
        if self.kinds[self.at] == "-":
            self.at += 1
            return negated(self.power())
        return self.power()

    def denominator(self, tops: list[Expr], bottoms: list[Expr]) -> Expr:
        start = self.at
        first = self.factor()
        if bottoms or self.kinds[self.at] != "name" or self.kinds[start] not in ("num", "name"):
            return first
        if type(first) is Num and len(tops) == 1 and type(tops[0]) is Num:
            return first  # 1/2x
        factors = [first]
        while self.kinds[self.at] in ("name", "const"):
            factors.append(self.power())
        return Mul(tuple(factors))

    def power(self) -> Expr:
        """An atom with the powers, factorials, percent and degree signs that follow it."""
        kinds = self.kinds
        kind = kinds[self.at]
        handler = _ATOMS.get(kind)
        if handler is None:
            raise self.error()
        expr = handler(self)
        while True:
            kind = kinds[self.at]
            if kind == "^":
                self.at += 1
                if self.degree():
                    expr = Mul((expr, _DEGREE))
                    continue
                expr = Pow(expr, self.exponent())
                if kinds[self.at] == "^":
                    raise self.error()
            elif kind == "!":
                self.at += 1
                name = "factorial"
                if kinds[self.at] == "!":
                    self.at += 1
                    name = "double_factorial"
                if kinds[self.at] == "!":
                    raise self.error()
                expr = Func(name, (expr,))
            elif kind == "%":
                self.at += 1
                percent = Num(Fraction(1, 100))
                expr = Num(expr.value / 100) if type(expr) is Num else Mul((percent, expr))
            elif kind == "degree":
                self.at += 1
                expr = Mul((expr, _DEGREE))
            else:
                return expr

    def degree(self) -> bool:
        r"""Whether a degree sign follows the ^: ^\circ or ^{\circ}; consumes it."""
        kinds, at = self.kinds, self.at
        if kinds[at] == "degree":
            self.at = at + 1
            return True
        if kinds[at] == "{" and kinds[at + 1] == "degree" and kinds[at + 2] == "}":
            self.at = at + 3
            return True
        return False

    def exponent(self) -> Expr:
        """A group or one token, with an optional sign and a further power: 2^3^2 is 2^(3^2)."""
        self.deeper()
        if self.kinds[self.at] in ("-", "+"):
            self.at += 1
            sign = self.kinds[self.at - 1]
            inner = self.exponent()
            expr = negated(inner) if sign == "-" else inner
        else:
            is_group = self.kinds[self.at] == "{"
            expr = self.unit(whole_number=True)
            if self.kinds[self.at] == "^" and not is_group:
                self.at += 1
                expr = Pow(expr, self.exponent())
        self.depth -= 1
        return expr

    def unit(self, *, whole_number: bool = False) -> Expr:
        """An argument of a command: a group, or one digit (`whole_number`: all digits), letter or command."""
        kind = self.kinds[self.at]
        if kind == "num":
            raw = self.values[self.at]
            if not whole_number and len(raw) > 1 and raw.isdigit():
                self.values[self.at] = raw[1:]
                return Num(Fraction(int(raw[0])))
            self.at += 1
            return number(raw)
        if kind == "name":
            self.at += 1
            return Var(self.values[self.at - 1])
        handler = _ATOMS.get(kind)
        if handler is None or kind in ("|", "int", "sum", "prod", "lim"):
            raise self.error()
        self.deeper()
        expr = handler(self)
        self.depth -= 1
        return expr

    def number_atom(self) -> Expr:
        kinds, values = self.kinds, self.values
        raw = values[self.at]
        self.at += 1
        expr = number(raw)
        following = kinds[self.at]
        if following == "frac" and raw.isdigit():
            start = self.at
            fraction = self.fraction()
            is_literal = all(kind in ("frac", "{", "num", "}") for kind in kinds[start : self.at])
            if type(expr) is Num and type(fraction) is Num and is_literal:
                return Num(expr.value + fraction.value)
            return Mul((expr, fraction))
        if following == "num" and kinds[self.at + 1] == "/" and kinds[self.at + 2] == "num":
            parts = (raw, values[self.at], values[self.at + 2])
            if all(part.isdigit() for part in parts) and 0 < int(parts[1]) < int(parts[2]):
                self.at += 3
                return Num(int(parts[0]) + Fraction(int(parts[1]), int(parts[2])))
        return expr

    def group(self) -> Expr:
        closing = BRACKETS[self.kinds[self.at]]
        self.at += 1
        bars, self.bars = self.bars, 0
        expr = self.sum()
        if self.kinds[self.at] in ("choose", "over"):
            kind = self.kinds[self.at]
            self.at += 1
            below = self.sum()
            expr = Func("binom", (expr, below)) if kind == "choose" else quotient(expr, below)
        self.bars = bars
        self.expect(closing)
        return expr

    def bars_atom(self) -> Expr:
        self.at += 1
        self.bars += 1
        expr = self.sum()
        self.bars -= 1
        self.expect("|")
        return Func("abs", (expr,))

    def fenced(self) -> Expr:
        name = self.kinds[self.at].removesuffix("(")
        self.at += 1
        bars, self.bars = self.bars, 0
        expr = self.sum()
        self.bars = bars
        self.expect(f"){name}")
        return Func(name, (expr,))


_ATOMS: dict[str, Callable[[_Parser], Expr]] = {
    "num": _Parser.number_atom,
    "name": _Parser.name_atom,
    "const": _Parser.const_atom,
    "func": _Parser.function,
    "frac": _Parser.fraction,
    "sqrt": _Parser.root,
    "binom": _Parser.binomial,
    "(": _Parser.group,
    "[": _Parser.group,
    "{": _Parser.group,
    "|": _Parser.bars_atom,
    "abs(": _Parser.fenced,
    "floor(": _Parser.fenced,
    "ceil(": _Parser.fenced,
    "overline": _Parser.overline,
    "vec": _Parser.vector,
    "tilde": _Parser.tilde,
    "int": _Parser.unevaluated,
    "sum": _Parser.unevaluated,
    "prod": _Parser.unevaluated,
    "lim": _Parser.unevaluated,
}
