"""How a comparison was decided."""

from enum import StrEnum


class Method(StrEnum):
    """The kinds of evidence, cheapest first."""

    STRING = "string"  # the same text after normalisation
    NUMBER = "number"  # exact arithmetic on constants
    STRUCTURE = "structure"  # type, length or expression tree
    NUMERIC = "numeric"  # values at seeded points, with error bounds
    SYMBOLIC = "symbolic"  # an identity of expressions, or a computer algebra system
