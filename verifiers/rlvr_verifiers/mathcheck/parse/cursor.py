"""The state that the parts of the parser share: position, depth, errors, and the reader of each level."""

from rlvr_verifiers.mathcheck.tree.nodes import Expr, TooBig, Unreadable

MAX_DEPTH = 100
BRACKETS = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}
_PADDING = ("end",) * 8  # looking ahead never runs past the end


class Cursor:
    """The state of one parse: tokens, position, depth and open bars."""

    def __init__(self, kinds: list[str], values: list[str]) -> None:
        self.kinds = [*kinds, *_PADDING]
        self.values = [*values, *_PADDING]
        self.at = 0
        self.depth = 0
        self.bars = 0  # open | in the current bracket
        self.integrals = 0  # open integrals, whose dx is not a product

    def error(self) -> Unreadable:
        kind, value = self.kinds[self.at], self.values[self.at]
        if kind == "end":
            return Unreadable("it ends too early")
        return Unreadable(f"{value or kind!r} is out of place")

    def expect(self, kind: str) -> None:
        if self.kinds[self.at] != kind:
            raise self.error()
        self.at += 1

    def deeper(self) -> None:
        """Counts one level of recursion; `self.depth -= 1` leaves it."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooBig(f"it is nested deeper than {MAX_DEPTH}")

    def sum(self) -> Expr:
        """A sum: the level of a whole text or a bracket."""
        raise NotImplementedError

    def product(self) -> Expr:
        """A product, explicit or by juxtaposition."""
        raise NotImplementedError

    def signed(self) -> Expr:
        """A product with an optional sign."""
        raise NotImplementedError

    def power(self) -> Expr:
        """An atom with its powers, factorials, percent and degree signs."""
        raise NotImplementedError

    def exponent(self) -> Expr:
        """What follows a ^."""
        raise NotImplementedError

    def degree(self) -> bool:
        """Whether a degree sign follows a ^; consumes it."""
        raise NotImplementedError

    def unit(self, *, whole_number: bool = False) -> Expr:
        """An argument of a command: a group, or one digit (`whole_number`: all digits), letter or command."""
        raise NotImplementedError

    def group(self) -> Expr:
        """A bracket around one expression."""
        raise NotImplementedError

    def arguments(self) -> tuple[Expr, ...]:
        """A bracket with one or more arguments."""
        closing = BRACKETS.get(self.kinds[self.at])
        if closing is None:
            raise self.error()
        self.at += 1
        bars, self.bars = self.bars, 0
        found = [self.sum()]
        while self.kinds[self.at] == ",":
            self.at += 1
            found.append(self.sum())
        self.bars = bars
        self.expect(closing)
        return tuple(found)
