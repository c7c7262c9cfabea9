r"""Evaluates arithmetic expressions over integers exactly; written in plain text, LaTeX or Unicode signs.

expression = term (("+" | "-") term)*      term = factor (("*" | "/") factor | group)*
factor = number | group                    and "-" factor where it is allowed
group = "(" expression ")", also in square brackets and braces; next to one, "*" may be omitted

>>> evaluate(r"\frac{3 + 5}{4}(6)", allow_unary_minus=False)
Value(number=Fraction(12, 1), used=(3, 5, 4, 6))
>>> evaluate("22 = 3 x 5 + 7", allow_unary_minus=False).used
(3, 5, 7)
"""

import re
from dataclasses import dataclass
from fractions import Fraction

_MAX_DEPTH = 40
_MAX_FRACTIONS = 100
_MAX_DIGITS = 400
_MAX_SHOWN_BITS = 2_000
_TOKEN = re.compile(r"\s*(?:([0-9]+)|([-+*/()\[\]{}]))")
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_SPELLINGS = {
    "\\times": "*", "\\cdot": "*", "\\ast": "*", "\\bullet": "*", "\\div": "/",
    "×": "*", "·": "*", "⋅": "*", "∗": "*", "✕": "*", "✖": "*", "⨯": "*", "•": "*", "÷": "/", "∕": "/", "⁄": "/",
    "−": "-", "–": "-", "－": "-", "＋": "+", "＊": "*", "／": "/", "（": "(", "）": ")", "＝": "=",
    "\\{": "{", "\\}": "}", "\\,": "", "\\;": "", "\\:": "", "\\!": "", "\\ ": " ", "~": " ",
    "\\(": "", "\\)": "", "\\[": "", "\\]": "", "$": "", "\\quad": " ",
}  # fmt: skip
_SIZED = re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])")
_FRACTION = re.compile(r"\\[cdt]?frac(?![A-Za-z])\s*")
_DIGITS = re.compile(r"([0-9])\s*([0-9])")
_LETTER_X = re.compile(r"(?<=[0-9)\]}])(\s*)[xX](?=\s*[0-9(\[{\\])")
_COLON = re.compile(r"(?<=[0-9)\]}])(\s*):(?=\s*[0-9(\[{])")
_WRAPPINGS = (("```", "```"), ("`", "`"), ("**", "**"), ("__", "__"), ('"', '"'))


class NotAnExpression(Exception):  # noqa: N818 - a result, not an error
    """The text is not an expression of the grammar."""


class BreaksARule(Exception):  # noqa: N818 - a result, not an error
    """The expression breaks a rule of the task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """The value of an expression, and the numbers in it in order."""

    number: Fraction
    used: tuple[int, ...]


def evaluate(text: str, *, allow_unary_minus: bool) -> Value:
    """The value and the numbers of the first side of "=" that is more than a single number, else of the first side.

    Raises:
        NotAnExpression: the text is not an expression.
        BreaksARule: it uses a forbidden operation, or the sides of "=" differ.
    """
    sides = _plain(text).split("=")
    chosen = next((n for n, side in enumerate(sides) if not _is_number(side)), 0)
    parser = _Parser(sides[chosen], allow_unary_minus=allow_unary_minus)
    value = parser.value()
    for number, side in enumerate(sides):
        if number == chosen:
            continue
        stated = _Parser(side, allow_unary_minus=True).value()
        if stated != value:
            raise BreaksARule(f"{sides[chosen].strip()} is {shown(value)} and not {side.strip()}")
    return Value(number=value, used=tuple(parser.used))


def shown(value: Fraction) -> str:
    """The value for messages; Python refuses to print integers with thousands of digits."""
    bits = max(value.numerator.bit_length(), value.denominator.bit_length())
    return str(value) if bits <= _MAX_SHOWN_BITS else "a number of hundreds of digits"


def _is_number(side: str) -> bool:
    return side.strip().lstrip("-").isdigit()


def _plain(text: str) -> str:
    """The text rewritten with digits, brackets and the four operators only, as far as possible."""
    text = _unwrapped(text)
    text = _SIZED.sub("", text)
    text = _with_fractions(text)
    for spelling, plain in _SPELLINGS.items():
        text = text.replace(spelling, plain)
    text = _COLON.sub(r"\1/", _LETTER_X.sub(r"\1*", text))
    text = text.strip()
    return text[:-1] if text.endswith(".") else text


def _unwrapped(text: str) -> str:
    """The text without enclosing code marks, emphasis and quotation marks."""
    text = text.strip()
    for opening, closing in _WRAPPINGS:
        inner = text[len(opening) : len(text) - len(closing)]
        is_around = text.startswith(opening) and text.endswith(closing)
        if is_around and len(text) > 2 * len(opening) and opening not in inner:
            text = inner.strip()
    return text


def _with_fractions(text: str) -> str:
    r"""With `((a)/(b))` for `\frac{a}{b}`, from the innermost on. Raises NotAnExpression on one that is not whole."""
    starts = list(_FRACTION.finditer(text))
    if len(starts) > _MAX_FRACTIONS:
        raise NotAnExpression(f"there are more than {_MAX_FRACTIONS} fractions")
    for match in reversed(starts):
        digits = _DIGITS.match(text, match.end())
        if digits is not None:
            above, below, end = digits.group(1), digits.group(2), digits.end()
        else:
            above, middle = _argument(text, match.end())
            below, end = _argument(text, middle)
        text = f"{text[: match.start()]}(({above})/({below})){text[end:]}"
    return text


def _argument(text: str, start: int) -> tuple[str, int]:
    """The content of the braces at `start`, and the position after them."""
    while text[start : start + 1].isspace():
        start += 1
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if not depth:
            if place > start:
                return text[start + 1 : place], place + 1
            break
    raise NotAnExpression("a \\frac has no two parts in braces")


class _Parser:
    """Recursive descent with exact values. Collects the numbers that it reads in `used`."""

    def __init__(self, text: str, *, allow_unary_minus: bool) -> None:
        self.used: list[int] = []
        self.allow_unary_minus = allow_unary_minus
        self.tokens: list[str] = []
        self.position = 0
        end = 0
        text = text.strip()
        while end < len(text):
            match = _TOKEN.match(text, end)
            if match is None:
                raise NotAnExpression(f"{text[end:].strip()[:20]!r} does not belong in an expression")
            self.tokens.append(match[1] or match[2])
            end = match.end()

    def value(self) -> Fraction:
        """The value of the whole text."""
        value = self._sum(0)
        if self.position < len(self.tokens):
            raise NotAnExpression(f"an operator is missing before {self._peek()!r}")
        return value

    def _peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self.position += 1
        return token

    def _sum(self, depth: int) -> Fraction:
        if depth > _MAX_DEPTH:
            raise NotAnExpression(f"parentheses are nested deeper than {_MAX_DEPTH}")
        value = self._product(depth)
        while self._peek() in ("+", "-"):
            sign = 1 if self._next() == "+" else -1
            value += sign * self._product(depth)
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._factor(depth)
        has_divided = False
        while True:
            token = self._peek()
            if token == "/":
                self._next()
                divisor = self._factor(depth)
                if divisor == 0:
                    raise BreaksARule("the expression divides by zero")
                value /= divisor
                has_divided = True
            elif token == "*" or self._is_next_to_group():
                if token == "*":
                    self._next()
                elif has_divided:
                    raise NotAnExpression(
                        f"it is unclear whether what precedes {token!r} is multiplied or divided by it"
                    )
                value *= self._factor(depth)
            else:
                return value

    def _is_next_to_group(self) -> bool:
        """Whether a group follows a factor, or a number a group, without an operator in between."""
        token, before = self._peek(), self.tokens[self.position - 1]
        return token in _CLOSING or (token.isdigit() and before in _CLOSING.values())

    def _factor(self, depth: int) -> Fraction:
        token = self._next()
        if token.isdigit():
            if len(token) > _MAX_DIGITS:
                raise NotAnExpression(f"a number has more than {_MAX_DIGITS} digits")
            number = int(token)
            self.used.append(number)
            return Fraction(number)
        if token in _CLOSING:
            value = self._sum(depth + 1)
            if self._next() != _CLOSING[token]:
                raise NotAnExpression("a parenthesis is never closed")
            return value
        if token == "-":
            if not self.allow_unary_minus:
                raise BreaksARule("a number has a minus sign; only subtraction is allowed")
            if depth > _MAX_DEPTH:
                raise NotAnExpression(f"signs are nested deeper than {_MAX_DEPTH}")
            return -self._factor(depth + 1)
        raise NotAnExpression(f"a number is missing before {token!r}" if token else "a number is missing at the end")
