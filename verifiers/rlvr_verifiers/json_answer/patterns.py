r"""Regular expressions that take time linear in the text, for the keyword `pattern` on hostile strings.

A pattern is compiled to a non-deterministic automaton, whose sets of states are followed character by character, so
`(a+)+$` cannot backtrack. Supported: alternatives, groups, classes, `.`, `* + ? {m,n}` (also lazy), `^`, `$`, `\b`,
`\B`, `\d \w \s` and their complements, and escapes. Look-around, back-references and `\p{...}` are refused.

>>> compile_pattern(r"^(a+)+$").search("a" * 1000 + "b", Budget(100_000))
False
>>> compile_pattern(r"^[A-Z]{2}-\d{1,3}$").search("AB-12", Budget(1_000))
True
"""

from dataclasses import dataclass, field
from typing import Any

MAX_PATTERN_CHARS = 2_000
MAX_STATES = 5_000
MAX_GROUPS = 50
_MAX_CACHED = 5_000
_MAX_EMITTED = 20_000
_MAX_CODE = 0x10FFFF
_CLASSES: dict[str, tuple[tuple[int, int], ...]] = {
    "d": ((48, 57),),
    "w": ((48, 57), (65, 90), (95, 95), (97, 122)),
    "s": ((9, 13), (32, 32), (160, 160), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F),
          (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
}  # fmt: skip
_CONTROLS = {"n": 10, "r": 13, "t": 9, "f": 12, "v": 11, "0": 0}
_NOT_LINE_END = ((0, 9), (11, 12), (14, 0x2027), (0x202A, _MAX_CODE))
_AT_START, _AT_END, _AT_BORDER = 1, 2, 4

Ranges = tuple[tuple[int, int], ...]
Node = tuple[Any, ...]


class OutOfBudget(Exception):  # noqa: N818 - it says what happened
    """A check took more steps than it may."""


@dataclass(slots=True)
class Budget:
    """The steps that are left for one verdict."""

    steps: int

    def spend(self, steps: int) -> None:
        """Takes steps away. Raises OutOfBudget when none are left."""
        self.steps -= steps
        if self.steps < 0:
            raise OutOfBudget


@dataclass(slots=True)
class Pattern:
    """A compiled pattern: a program of character sets, splits and assertions."""

    program: list[Node]
    _closures: dict[tuple[frozenset[int], int], tuple[frozenset[int], bool]] = field(default_factory=dict, repr=False)
    _steps: dict[tuple[frozenset[int], str], frozenset[int]] = field(default_factory=dict, repr=False)

    def search(self, text: str, budget: Budget) -> bool:
        """Whether the pattern matches anywhere in the text. Raises OutOfBudget."""
        states: frozenset[int] = frozenset((0,))
        for index in range(len(text) + 1):
            budget.spend(1)
            context = _context(text, index)
            closed, is_match = self._closure(states, context, budget)
            if is_match:
                return True
            if index < len(text):
                states = self._step(closed, text[index], budget)
        return False

    def _closure(self, states: frozenset[int], context: int, budget: Budget) -> tuple[frozenset[int], bool]:
        """The states that consume a character, reached without one; and whether the end is among them."""
        key = (states, context)
        if key in self._closures:
            return self._closures[key]
        seen: set[int] = set()
        stack = list(states)
        consuming: set[int] = set()
        is_match = False
        while stack:
            at = stack.pop()
            if at in seen:
                continue
            seen.add(at)
            match self.program[at]:
                case ("match",):
                    is_match = True
                case ("set", _):
                    consuming.add(at)
                case ("split", int(first), int(second)):
                    stack += (first, second)
                case ("assert", int(needed), bool(wanted)):
                    if bool(context & needed) is wanted:
                        stack.append(at + 1)
                case _:
                    raise AssertionError(self.program[at])
        budget.spend(len(seen))
        if len(self._closures) >= _MAX_CACHED:
            self._closures.clear()
        self._closures[key] = frozenset(consuming), is_match
        return self._closures[key]

    def _step(self, states: frozenset[int], character: str, budget: Budget) -> frozenset[int]:
        key = (states, character)
        if key not in self._steps:
            if len(self._steps) >= _MAX_CACHED:
                self._steps.clear()
            budget.spend(len(states))
            code = ord(character)
            reached = {at + 1 for at in states if _holds(self.program[at][1], code)}
            self._steps[key] = frozenset(reached | {0})
        return self._steps[key]


def compile_pattern(text: str) -> Pattern:
    """The pattern. Raises ValueError if it is malformed, uses what is not supported, or is too large."""
    if len(text) > MAX_PATTERN_CHARS:
        raise ValueError(f"a pattern has more than {MAX_PATTERN_CHARS} characters")
    parser = _Parser(text)
    node = parser.alternatives(depth=0)
    if parser.at < len(text):
        raise ValueError(f"pattern {text!r:.100}: a bracket was never opened")
    program: list[Node] = []
    try:
        _emit(node, program, Budget(_MAX_EMITTED))
    except OutOfBudget:
        raise ValueError(f"pattern {text!r:.100} is too large; use smaller repetition counts") from None
    program.append(("match",))
    return Pattern(program)


def _context(text: str, index: int) -> int:
    before = index > 0 and _holds(_CLASSES["w"], ord(text[index - 1]))
    after = index < len(text) and _holds(_CLASSES["w"], ord(text[index]))
    return _AT_START * (index == 0) | _AT_END * (index == len(text)) | _AT_BORDER * (before is not after)


def _holds(ranges: Ranges, code: int) -> bool:
    return any(first <= code <= last for first, last in ranges)


def _complement(ranges: Ranges) -> Ranges:
    result: list[tuple[int, int]] = []
    start = 0
    for first, last in sorted(ranges):
        if first > start:
            result.append((start, first - 1))
        start = max(start, last + 1)
    if start <= _MAX_CODE:
        result.append((start, _MAX_CODE))
    return tuple(result)


def _emit(node: Node, program: list[Node], budget: Budget) -> None:
    """Appends the states of a node. Raises OutOfBudget for too many."""
    budget.spend(1 if len(program) <= MAX_STATES else _MAX_EMITTED)
    match node:
        case ("join", *parts):
            for part in parts:
                _emit(part, program, budget)
        case ("either", first, second):
            split = len(program)
            program.append(())
            _emit(first, program, budget)
            jump = len(program)
            program.append(())
            program[split] = ("split", split + 1, len(program))
            _emit(second, program, budget)
            program[jump] = ("split", len(program), len(program))
        case ("repeat", part, int(least), most):
            for _ in range(least):
                _emit(part, program, budget)
            if most is None:
                split = len(program)
                program.append(())
                _emit(part, program, budget)
                program.append(("split", split, split))
                program[split] = ("split", split + 1, len(program))
                return
            splits: list[int] = []
            for _ in range(most - least):
                splits.append(len(program))
                program.append(())
                _emit(part, program, budget)
            for split in splits:
                program[split] = ("split", split + 1, len(program))
        case _:
            program.append(node)


class _Parser:
    """Reads a pattern by recursive descent."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def alternatives(self, *, depth: int) -> Node:
        if depth > MAX_GROUPS:
            raise ValueError(f"pattern {self.text!r:.100}: groups are nested deeper than {MAX_GROUPS}")
        branches = [self._sequence(depth)]
        while self._next() == "|":
            self.at += 1
            branches.append(self._sequence(depth))
        node = branches[-1]
        for branch in reversed(branches[:-1]):
            node = ("either", branch, node)
        return node

    def _sequence(self, depth: int) -> Node:
        parts: list[Node] = []
        while (character := self._next()) and character not in "|)":
            atom = self._atom(depth)
            parts.append(self._repeated(atom))
        return ("join", *parts)

    def _atom(self, depth: int) -> Node:
        character = self._take()
        if character == "(":
            if self.text.startswith("?", self.at):
                if self.text.startswith("?:", self.at):
                    self.at += 2
                elif self.text.startswith("?<", self.at) and self.text[self.at + 2 : self.at + 3].isalpha():
                    self.at = self.text.find(">", self.at) + 1 or len(self.text)
                else:
                    raise self._error("look-around is not supported")
            inner = self.alternatives(depth=depth + 1)
            if self._next() != ")":
                raise self._error("a bracket was never closed")
            self.at += 1
            return inner
        if character == "[":
            return ("set", self._class())
        if character == ".":
            return ("set", _NOT_LINE_END)
        if character == "^":
            return ("assert", _AT_START, True)
        if character == "$":
            return ("assert", _AT_END, True)
        if character == "\\":
            if self._next() and self._next() in "bB":
                return ("assert", _AT_BORDER, self._take() == "b")
            return ("set", self._escape())
        if character in "*+?":
            raise self._error(f"nothing to repeat before {character!r}")
        return ("set", ((ord(character), ord(character)),))

    def _repeated(self, atom: Node) -> Node:
        character = self._next()
        bounds: tuple[int, int | None] | None = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(character)
        if bounds is not None:
            self.at += 1
        elif character == "{":
            bounds = self._counts()
        if bounds is None:
            return atom
        if self._next() == "?":
            self.at += 1
        if self._next() and self._next() in "*+":
            raise self._error("a repetition of a repetition")
        return ("repeat", atom, *bounds)

    def _counts(self) -> tuple[int, int | None] | None:
        """The bounds in {m}, {m,} and {m,n}; None if the brace stands for itself."""
        end = self.text.find("}", self.at)
        first, comma, last = self.text[self.at + 1 : end].partition(",") if end > 0 else ("", "", "")
        if not _is_count(first) or (last and not _is_count(last)):
            return None
        self.at = end + 1
        most = int(last) if last else None if comma else int(first)
        if most is not None and most < int(first):
            raise self._error("a repetition ends below its start")
        if max(int(first), most or 0) > MAX_STATES:
            raise self._error(f"a repetition count is above {MAX_STATES:,}")
        return int(first), most

    def _class(self) -> Ranges:
        is_negated = self._next() == "^"
        self.at += is_negated
        ranges: list[tuple[int, int]] = []
        while self._next() != "]":
            if not self._next():
                raise self._error("a class was never closed")
            first = self._member()
            if self._next() == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                (low, low_end), *more = first
                (high_start, high), *others = self._member()
                if more or others or low != low_end or high_start != high or low > high:
                    raise self._error("a range in a class is out of order")
                ranges.append((low, high))
            else:
                ranges += first
        self.at += 1
        return _complement(tuple(ranges)) if is_negated else tuple(ranges)

    def _member(self) -> Ranges:
        character = self._take()
        if character == "\\":
            if self._next() == "b":
                self.at += 1
                return ((8, 8),)
            return self._escape()
        return ((ord(character), ord(character)),)

    def _escape(self) -> Ranges:
        character = self._take()
        if character.lower() in _CLASSES:
            ranges = _CLASSES[character.lower()]
            return _complement(ranges) if character.isupper() else ranges
        if character in _CONTROLS:
            return ((_CONTROLS[character], _CONTROLS[character]),)
        if character in "xu":
            size = 2 if character == "x" else 4
            digits = self.text[self.at : self.at + size]
            if len(digits) < size or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
                raise self._error(f"\\{character} without {size} hexadecimal digits")
            self.at += size
            return ((int(digits, 16), int(digits, 16)),)
        if character.isalnum():
            raise self._error(f"\\{character} is not supported")
        return ((ord(character), ord(character)),)

    def _next(self) -> str:
        return self.text[self.at : self.at + 1]

    def _take(self) -> str:
        if self.at >= len(self.text):
            raise self._error("it ends too early")
        self.at += 1
        return self.text[self.at - 1]

    def _error(self, problem: str) -> ValueError:
        return ValueError(f"pattern {self.text!r:.100}: {problem}")


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5
