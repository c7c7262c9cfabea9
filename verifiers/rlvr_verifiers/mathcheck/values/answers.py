r"""The types of an answer: a tree of typed readings.

A text may have several readings: "(1,2)" is a point or an interval, "12:30" a time or a ratio. An `Answer` holds all of
them, and the comparison uses those that fit the gold answer. Expressions are parsed only when needed.
"""

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

from rlvr_verifiers.mathcheck.text.units import Unit
from rlvr_verifiers.mathcheck.values.numbers import Number, kind_name
from rlvr_verifiers.mathcheck.values.regions import Region
from rlvr_verifiers.mathcheck.values.words import Choice, Clock, Date, Phrase

if TYPE_CHECKING:
    from rlvr_verifiers.mathcheck.tree.nodes import Expr

MAX_PARTS = 200


class Group(StrEnum):
    """How parts are grouped."""

    TUPLE = "tuple"
    SET = "set"
    BRACKET = "bracket"  # square brackets that are not an interval
    LIST = "list"  # bare commas, "and": unordered, but may match a tuple in order
    RATIO = "ratio"


class Formula:
    """An expression that is parsed once, when first needed."""

    __slots__ = ("_error", "_expr", "text", "unit")

    def __init__(self, text: str, unit: Unit | None = None, expr: "Expr | None" = None) -> None:
        self.text = text
        self.unit = unit
        self._expr = expr
        self._error: ValueError | None = None

    def expr(self) -> "Expr":
        """The tree. Raises Unreadable or TooBig (both ValueError)."""
        if self._expr is None:
            if self._error is not None:
                raise self._error
            from rlvr_verifiers.mathcheck.parse.expression import parse

            try:
                self._expr = parse(self.text)
            except ValueError as error:
                self._error = error
                raise
        return self._expr


@dataclass(frozen=True, slots=True)
class Based:
    """A numeral with its base as a subscript: 1011_2."""

    value: Fraction
    base: int


@dataclass(frozen=True, slots=True)
class Parts:
    """Several answers in one.

    Attributes:
        pair: the text of a pair in round brackets, which may also be an open interval.
        names: the names of a tuple's parts; for a list, the one name that all parts share.
        is_apart: joined by "and" or "or", or values of one name, and therefore not a tuple.
    """

    group: Group
    items: "tuple[Answer, ...]"
    pair: str = ""
    names: tuple[str, ...] = ()
    is_apart: bool = False


@dataclass(frozen=True, slots=True)
class Named:
    """`name = value`: x = 4, f(n) = 2n. `arguments` are the bound variables."""

    name: str
    arguments: tuple[str, ...]
    value: "Answer"


@dataclass(frozen=True, slots=True)
class Labelled:
    """`quantity = value` for a quantity that is not a plain name: a + b = 7, |AB| = 5."""

    quantity: str
    value: "Answer"


@dataclass(frozen=True, slots=True)
class Chained:
    """Values joined by equality signs, which have to agree: 1/2 = 0.5.

    is_named: a name comes first, as in `x = 5 + 6 = 11`; then only the last value counts, and the rest is working.
    """

    values: "tuple[Answer, ...]"
    is_named: bool = False


@dataclass(frozen=True, slots=True)
class Alternatives:
    """Values joined by "or" in an answer, which have to be equal: 1/2 or 0.5. A reference never has this reading."""

    values: "tuple[Answer, ...]"


@dataclass(frozen=True, slots=True)
class Equation:
    """An unsolved equation, left = right."""

    left: Formula
    right: Formula


@dataclass(frozen=True, slots=True)
class Chain:
    """Operands joined by order relations, turned into ascending order: a < b ≤ c."""

    operands: tuple[Formula, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of cells, with an optional common factor."""

    rows: "tuple[tuple[Answer, ...], ...]"
    factor: Formula | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """Expressions with an integer parameter: pi/4 + k pi, k in Z."""

    body: Formula
    parameter: str


@dataclass(frozen=True, slots=True)
class Congruence:
    """quantity ≡ remainders (mod modulus). The quantity is "" if none was given."""

    quantity: str
    remainders: "tuple[Answer, ...]"
    modulus: "Answer"


@dataclass(frozen=True, slots=True)
class Piecewise:
    """A function of one variable: values, each with the region in which it applies."""

    pieces: "tuple[tuple[Answer, Region], ...]"


Reading = (
    Number
    | Phrase
    | Choice
    | Clock
    | Date
    | Based
    | Parts
    | Named
    | Labelled
    | Chained
    | Alternatives
    | Equation
    | Chain
    | Matrix
    | Family
    | Region
    | Congruence
    | Piecewise
    | Formula
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A tidied text with all its readings, the most likely first."""

    text: str
    readings: tuple[Reading, ...]


class Reader(Protocol):
    """Reads the parts of a text, one level deeper; beyond the depth limit there are no readings."""

    def answer(self, text: str) -> Answer:
        """All readings of a part."""
        ...

    def readings(self, text: str) -> list[Reading]:
        """The readings of a text that is an equivalent spelling of the whole."""
        ...


def kind_of(answer: Answer) -> str:
    """The type of an answer, given by its first reading, for reports and metrics."""
    if not answer.readings:
        return "text"
    first = answer.readings[0]
    if isinstance(first, Number):
        return kind_name(first)
    if isinstance(first, Parts):
        return str(first.group)
    if isinstance(first, (Named, Labelled)):
        inner = kind_of(first.value)
        return inner if inner != "expression" else "equation"
    if isinstance(first, (Chained, Alternatives)):
        return kind_of(first.values[-1])
    names: dict[type, str] = {
        Phrase: "text", Choice: "letter", Clock: "time", Date: "date", Based: "base", Equation: "equation",
        Chain: "relation", Matrix: "matrix", Family: "family", Region: "interval", Formula: "expression",
        Congruence: "congruence", Piecewise: "piecewise",
    }  # fmt: skip
    return names[type(first)]
