r"""What an answer can be: a tree of typed readings.

A text may be read in several ways ("(1,2)" is a point and an interval, "12:30" a time and a ratio); an `Answer` holds
all readings that it allows, and the comparison takes those that fit the gold. Expressions are parsed only when needed.
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
    """How parts are held together."""

    TUPLE = "tuple"
    SET = "set"
    BRACKET = "bracket"  # square brackets that are no interval
    LIST = "list"  # bare commas, "and": unordered, but in order it may stand for a tuple
    RATIO = "ratio"


class Formula:
    """An expression, parsed on demand and once."""

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
    """A numeral with its base written below: 1011_2."""

    value: Fraction
    base: int


@dataclass(frozen=True, slots=True)
class Parts:
    """Several answers in one.

    Attributes:
        pair: the text of a pair in round brackets, which may be an open interval as well.
        names: of a tuple, what its parts are called; of a list, the one name that all of them have.
        is_apart: joined by "and" or "or", or values of one name, so that it is no tuple.
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
    """`quantity = value` for a quantity that is no plain name: a + b = 7, |AB| = 5."""

    quantity: str
    value: "Answer"


@dataclass(frozen=True, slots=True)
class Chained:
    """Values between equality signs: 1/2 = 0.5, which have to agree.

    is_named: after a name, as in `x = 5 + 6 = 11`; then the last value counts, and the rest is the way there.
    """

    values: "tuple[Answer, ...]"
    is_named: bool = False


@dataclass(frozen=True, slots=True)
class Alternatives:
    """Values between "or" in an answer, which have to be one: 1/2 or 0.5. A reference is never read so."""

    values: "tuple[Answer, ...]"


@dataclass(frozen=True, slots=True)
class Equation:
    """left = right, not solved."""

    left: Formula
    right: Formula


@dataclass(frozen=True, slots=True)
class Chain:
    """Operands between signs of order, turned to point upwards: a < b ≤ c."""

    operands: tuple[Formula, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of cells, with the formula that multiplies all of them."""

    rows: "tuple[tuple[Answer, ...], ...]"
    factor: Formula | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """Expressions with an integer parameter: pi/4 + k pi, k in Z."""

    body: Formula
    parameter: str


@dataclass(frozen=True, slots=True)
class Congruence:
    """quantity ≡ remainders (mod modulus). The quantity is "" where none was written."""

    quantity: str
    remainders: "tuple[Answer, ...]"
    modulus: "Answer"


@dataclass(frozen=True, slots=True)
class Piecewise:
    """A function of one variable: values, each with the region where it holds."""

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
    """A tidied text and all that it may mean, the likeliest first."""

    text: str
    readings: tuple[Reading, ...]


class Reader(Protocol):
    """Reads the parts of a text, one level deeper; past the deepest level nothing is read."""

    def answer(self, text: str) -> Answer:
        """All readings of a part."""
        ...

    def readings(self, text: str) -> list[Reading]:
        """The readings that a text has when it is another spelling of the whole."""
        ...


def kind_of(answer: Answer) -> str:
    """The type of an answer by its first reading, for reports and metrics."""
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
