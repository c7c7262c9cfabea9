"""How a comparison was decided."""

from enum import StrEnum


class Method(StrEnum):
    """From the cheapest evidence to the dearest."""

    STRING = "string"  # the same text after tidying
    NUMBER = "number"  # exact arithmetic on constants
    STRUCTURE = "structure"  # the same shape: type, length, tree
    NUMERIC = "numeric"  # values at seeded points, with error bounds
    SYMBOLIC = "symbolic"  # an identity of expressions, or a computer algebra system
