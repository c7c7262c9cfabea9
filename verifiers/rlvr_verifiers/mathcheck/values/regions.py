"""Sets of real numbers as sorted disjoint intervals: unions, intersections, complements, excluded points."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

MAX_PIECES = 50
_TOUCHING = 1e-12


@dataclass(frozen=True, slots=True)
class End:
    """A finite or infinite end: its text, and its value as a double (nan if it contains a variable)."""

    text: str
    value: float
    exact: Fraction | None = None


@dataclass(frozen=True, slots=True)
class Interval:
    """The reals from low to high; a single point if both are the same closed end."""

    low: End
    high: End
    has_low: bool
    has_high: bool


@dataclass(frozen=True, slots=True)
class Region:
    """A union of intervals in ascending order; pieces with symbolic ends stay as written.

    variable: its name; "" if there is none.
    """

    variable: str
    pieces: tuple[Interval, ...]
    is_symbolic: bool = False


MINUS_INFINITY = End("-\\infty", -math.inf)
INFINITY = End("\\infty", math.inf)
EVERYTHING = (Interval(MINUS_INFINITY, INFINITY, False, False),)


def joined(regions: list[Region | None]) -> Region | None:
    """All pieces unchanged; None if a region is missing or the variables differ."""
    pieces: list[Interval] = []
    variable = ""
    for found in regions:
        if found is None or (variable and found.variable and variable != found.variable):
            return None
        variable = variable or found.variable
        pieces.extend(found.pieces)
    return Region(variable, tuple(pieces))


def both(first: Region, second: Region) -> Region | None:
    """The intersection; None if the variables differ or an end is symbolic."""
    if first.variable and second.variable and first.variable != second.variable:
        return None
    pieces: list[Interval] = []
    for a in first.pieces:
        for b in second.pieces:
            values = (a.low.value, a.high.value, b.low.value, b.high.value)
            if any(map(math.isnan, values)):
                return None
            low, has_low = max((a.low, a.has_low), (b.low, b.has_low), key=lambda e: (e[0].value, not e[1]))
            high, has_high = min((a.high, a.has_high), (b.high, b.has_high), key=lambda e: (e[0].value, e[1]))
            if low.value < high.value or (low.value == high.value and has_low and has_high):
                pieces.append(Interval(low, high, has_low, has_high))
    return Region(first.variable or second.variable, tuple(pieces))


def complement(found: Region | None) -> Region | None:
    """All reals outside the region."""
    if found is None or any(math.isnan(end.value) for p in found.pieces for end in (p.low, p.high)):
        return None
    pieces: list[Interval] = []
    low, has_low = MINUS_INFINITY, False
    for piece in merged(found.pieces):
        if piece.low.value > low.value or (has_low and not piece.has_low):
            pieces.append(Interval(low, piece.low, has_low, not piece.has_low))
        low, has_low = piece.high, not piece.has_high
    if low.value < math.inf:
        pieces.append(Interval(low, INFINITY, has_low, False))
    return Region("", tuple(pieces))


def union(regions: list[Region]) -> Region | None:
    """The union, in normal form."""
    found = joined(list(regions))
    if found is None or any(math.isnan(end.value) for piece in found.pieces for end in (piece.low, piece.high)):
        return None
    return replace(found, pieces=merged(found.pieces))


def without(found: Region | None, points: list[Interval] | None) -> Region | None:
    """The region without some points."""
    if found is None or points is None:
        return None
    pieces = list(found.pieces)
    for point in points:
        hole = point.low
        if math.isnan(hole.value):
            return None
        remaining: list[Interval] = []
        for piece in pieces:
            if not piece.low.value - _TOUCHING <= hole.value <= piece.high.value + _TOUCHING:
                remaining.append(piece)
                continue
            if piece.low.value < hole.value - _TOUCHING:
                remaining.append(Interval(piece.low, hole, piece.has_low, False))
            if piece.high.value > hole.value + _TOUCHING:
                remaining.append(Interval(hole, piece.high, False, piece.has_high))
        pieces = remaining
    return Region(found.variable, tuple(pieces))


def merged(pieces: tuple[Interval, ...]) -> tuple[Interval, ...]:
    """The pieces sorted and disjoint; those that overlap, or touch at a point that one of them contains, are merged."""
    kept: list[Interval] = []
    for piece in sorted(pieces, key=lambda p: (p.low.value, not p.has_low)):
        if piece.low.value > piece.high.value:
            continue
        if piece.low.value == piece.high.value and not (piece.has_low and piece.has_high):
            continue
        if kept and _joins(kept[-1], piece):
            last = kept[-1]
            high, has_high = max(
                (last.high, last.has_high), (piece.high, piece.has_high), key=lambda e: (e[0].value, e[1])
            )
            kept[-1] = Interval(last.low, high, last.has_low, has_high)
        else:
            kept.append(piece)
    return tuple(kept)


def _joins(first: Interval, second: Interval) -> bool:
    gap = second.low.value - first.high.value
    scale = max(1.0, abs(second.low.value)) * _TOUCHING
    if abs(gap) <= scale:
        return first.has_high or second.has_low
    return gap < 0
