"""Whether an answer equals a gold answer, by the kind of the gold; None where only computer algebra
can tell.

number   exact              letter, word   as text          base-n   digits and base
tuple    in order           set, list      in any order     interval, union, matrix   part by part
"""

import re
from collections.abc import Callable, Iterable
from fractions import Fraction

from rlvr_verifiers.math_number import Number, parse_number, same_number, tidy

Algebra = Callable[[str, str], bool | None]
_LETTER = re.compile(r"\(?\s*([A-Z])\s*\)?[.:]?")
_WORDS = re.compile(r"[A-Za-z][A-Za-z' .-]*[A-Za-z.]")
_TEXT_GROUP = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_BASE = re.compile(r"([0-9A-Za-z]+)_\{?(\d+)\}?")
_NAMED = re.compile(r"([A-Za-z](?:_\{?\w+\}?)?(?:\([A-Za-z](?:,\s*[A-Za-z])*\))?)\s*=\s*([^=]+)")
_MATRIX = re.compile(r"\\begin\{([pbvBV]?matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}")
_CHAIN = re.compile(r"(.+?)\s*(<=|<)\s*[A-Za-z]\s*(<=|<)\s*(.+)")
_RELATION = re.compile(r"[A-Za-z]\s*(<=|>=|<|>|!=)\s*(.+)")
_NOTHING = re.compile(
    r"\b(?:see|figure|diagram|graph|picture|proof|proved|shown|above|below)\b", re.I
)
_UNCOMPUTED = re.compile(r"\\(?:int|sum|prod|lim)(?![a-z])")
_MAX_PARTS = 200


def gold_problem(gold: str) -> str:
    """Why a gold answer cannot be used whatever the completion; "" when it may be."""
    text = tidy(gold)
    if not text:
        return "it is empty"
    if _words(text) and _NOTHING.search(text):
        return "it refers to something outside the text"
    return ""


def needs_algebra(gold: str) -> bool:
    """Whether the gold is an expression that has to be parsed by computer algebra."""
    text = tidy(gold)
    if _split(text) or _LETTER.fullmatch(text) or _words(text) or _BASE.fullmatch(text):
        return False
    return parse_number(text) is None and _interval_parts(text) is None and ":" not in text


def equal(
    gold: str, answer: str, algebra: Algebra | None, depth: int = 0
) -> tuple[bool | None, str]:
    """Whether the two say the same, and the method: string, number, structure or symbolic.

    Args:
        algebra: decides on two expressions; None leaves them undecided, and the first result is
            None.
    """
    gold, answer = tidy(gold), tidy(answer)
    if gold.replace(" ", "") == answer.replace(" ", "") and gold:
        return True, "string"
    gold_number, answer_number = parse_number(gold), parse_number(answer)
    if gold_number is not None and answer_number is not None:
        return same_number(gold_number, answer_number), "number"
    if base := _BASE.fullmatch(gold):
        return _same_base(base, answer), "string"
    if letter := _LETTER.fullmatch(gold):
        found = _LETTER.fullmatch(_TEXT_GROUP.sub(r"\1", answer).strip())
        if found or _split(answer) or answer_number is not None:
            return found is not None and found[1] == letter[1], "string"
    if _words(gold) or re.fullmatch(r"\d+:\d+.*", gold):
        return _plain(gold) == _plain(answer), "string"
    if depth < 3:
        decided, result = _by_structure(gold, answer, algebra, depth)
        if decided:
            return result, "structure"
    if gold_number is not None and ("=" in answer or _UNCOMPUTED.search(answer)):
        return False, "structure"
    if _words(answer) and len(answer) > 1:
        return False, "string"
    gold, answer = _degrees(gold, gold_number, answer, answer_number)
    return (None if algebra is None else algebra(gold, answer)), "symbolic"


def _by_structure(
    gold: str, answer: str, algebra: Algebra | None, depth: int
) -> tuple[bool, bool | None]:
    """(whether the kinds decide, the result)."""
    gold_ends, answer_ends = _interval_parts(gold), _interval_parts(answer)
    if gold_ends is not None or answer_ends is not None:
        gold_ends = gold_ends or _interval_parts(gold, is_pair_allowed=True)
        answer_ends = answer_ends or _interval_parts(answer, is_pair_allowed=True)
        if gold_ends is None or answer_ends is None:
            return True, False
        if [(p[0], p[-1]) for p in gold_ends] != [(p[0], p[-1]) for p in answer_ends]:
            return True, False
        pairs = zip(gold_ends, answer_ends, strict=True)
        ends = [pair for g, a in pairs for pair in ((g[1], a[1]), (g[2], a[2]))]
        return True, _all(equal(g, a, algebra, depth + 1)[0] for g, a in ends)
    gold_parts, answer_parts = _split(gold), _split(answer)
    if gold_parts or answer_parts:
        return True, _same_parts(gold_parts, answer_parts, algebra, depth)
    gold_rows, answer_rows = _matrix(gold), _matrix(answer)
    if gold_rows and answer_rows:
        if [len(row) for row in gold_rows] != [len(row) for row in answer_rows]:
            return True, False
        cells = [
            pair
            for rows in zip(gold_rows, answer_rows, strict=True)
            for pair in zip(*rows, strict=True)
        ]
        return True, _all(equal(g, a, algebra, depth + 1)[0] for g, a in cells)
    gold_named, answer_named = _NAMED.fullmatch(gold), _NAMED.fullmatch(answer)
    if gold_named and answer_named and gold_named[1] == answer_named[1]:
        return True, equal(gold_named[2], answer_named[2], algebra, depth + 1)[0]
    if gold_named and "=" not in answer:
        return True, equal(gold_named[2], answer, algebra, depth + 1)[0]
    if answer_named and "=" not in gold:
        return True, equal(gold, answer_named[2], algebra, depth + 1)[0]
    if ("=" in gold) != ("=" in answer):
        return True, False
    return False, None


def _same_parts(
    gold: tuple[str, list[str]] | None,
    answer: tuple[str, list[str]] | None,
    algebra: Algebra | None,
    depth: int,
) -> bool | None:
    if gold is None or answer is None:
        return False
    (gold_kind, gold_items), (answer_kind, answer_items) = gold, answer
    is_ordered = gold_kind == "tuple"
    if is_ordered != (answer_kind == "tuple") or len(gold_items) != len(answer_items):
        return False
    if is_ordered:
        pairs = zip(gold_items, answer_items, strict=True)
        return _all(equal(g, a, algebra, depth + 1)[0] for g, a in pairs)
    is_certain = True
    left = list(answer_items)
    for item in gold_items:
        for candidate in left:
            result = equal(item, candidate, algebra, depth + 1)[0]
            if result:
                left.remove(candidate)
                break
            is_certain &= result is not None
        else:
            return False if is_certain else None
    return True


def _all(results: Iterable[bool | None]) -> bool | None:
    """True when all are, False when any is, None when that is open."""
    seen = list(results)
    if any(result is False for result in seen):
        return False
    return None if any(result is None for result in seen) else True


def is_list(gold: str) -> bool:
    """Whether the gold is a set or a list of several solutions."""
    parts = _split(tidy(gold))
    return parts is not None and parts[0] != "tuple"


def _split(text: str) -> tuple[str, list[str]] | None:
    """("tuple" | "set" | "list", its parts); None for a single value."""
    if parse_number(text) is not None:
        return None
    kind = "list"
    if (text.startswith("(") and text.endswith(")")) or (
        text.startswith("[") and text.endswith("]")
    ):
        kind = "tuple"
    elif text.startswith("\\{") and text.endswith("\\}"):
        kind = "set"
    if kind != "list":
        width = 2 if kind == "set" else 1
        inner = text[width:-width]
        if _is_balanced(inner):
            parts = _at_top_level(inner, ",")
            if len(parts) > 1 or kind == "set":
                return kind, parts
        elif kind == "set":
            return None
    joined = re.sub(
        r"\\(?:text|mathrm)\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])",
        ",",
        text,
    )
    parts = [part for part in _at_top_level(joined, ",;") if part]
    return ("list", parts) if 1 < len(parts) <= _MAX_PARTS else None


def _is_balanced(text: str) -> bool:
    depth = 0
    for character in text.replace("\\{", "(").replace("\\}", ")"):
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return False
    return depth == 0


def _at_top_level(text: str, separators: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and character in separators:
            parts.append(text[start:index].strip())
            start = index + 1
    return [*parts, text[start:].strip()]


def _interval_parts(
    text: str, *, is_pair_allowed: bool = False
) -> list[tuple[str, str, str, str]] | None:
    """The intervals of a union as (bracket, low, high, bracket); None when the text is no such
    thing.

    Two numbers in round brackets stay a pair, unless infinity or a union makes them an interval.
    """
    plain = re.sub(r"\\(?:leq?slant|leq|le)(?![a-z])", "<=", text)
    plain = re.sub(r"\\(?:geq?slant|geq|ge)(?![a-z])", ">=", plain)
    plain = re.sub(r"\\(?:neq|ne)(?![a-z])|\\not\s*=", "!=", plain)
    plain = re.sub(r"\\lt(?![a-z])", "<", re.sub(r"\\gt(?![a-z])", ">", plain))
    plain = re.sub(r"^[A-Za-z]\s*\\in(?![a-z])\s*", "", plain).strip()
    if chain := _CHAIN.fullmatch(plain):
        low, first, second, high = chain.groups()
        return [("[" if "=" in first else "(", low, high, "]" if "=" in second else ")")]
    if relation := _RELATION.fullmatch(plain):
        sign, end = relation.groups()
        low, high = ("(", "-\\infty", end), ("(", end, "\\infty")
        if sign == "!=":
            return [(*low, ")"), (*high, ")")]
        if sign[0] == "<":
            return [(*low, "]" if "=" in sign else ")")]
        return [("[" if "=" in sign else "(", end, "\\infty", ")")]
    pieces = re.split(r"\s*\\cup(?![a-z])\s*", plain)
    intervals: list[tuple[str, str, str, str]] = []
    for piece in pieces:
        ends = _at_top_level(piece[1:-1], ",")
        if piece[:1] not in ("(", "[") or piece[-1:] not in (")", "]") or len(ends) != 2:
            return None
        intervals.append((piece[0], ends[0], ends[1], piece[-1]))
    is_pair = len(intervals) == 1 and "\\infty" not in plain and plain[0] + plain[-1] == "()"
    return None if is_pair and not is_pair_allowed else intervals


def _matrix(text: str) -> list[list[str]] | None:
    match = _MATRIX.fullmatch(text)
    if match is None:
        return None
    rows = [row for row in re.split(r"\\\\", match[2]) if row.strip()]
    return [[cell.strip() for cell in row.split("&")] for row in rows]


def _words(text: str) -> bool:
    """Whether the text is words and no mathematics: at least three letters, no symbols."""
    return len(text) > 2 and _WORDS.fullmatch(text) is not None


def _plain(text: str) -> str:
    return re.sub(r"[^0-9a-z:]", "", _TEXT_GROUP.sub(r"\1", text).casefold())


def _same_base(gold: re.Match[str], answer: str) -> bool:
    found = _BASE.fullmatch(answer)
    if found is None or found[2] != gold[2] or not 2 <= int(gold[2]) <= 36 or len(found[1]) > 200:
        return False
    try:
        return int(found[1], int(found[2])) == int(gold[1], int(gold[2]))
    except ValueError:  # a digit that the base does not have
        return False


def _degrees(
    gold: str, gold_number: Number | None, answer: str, answer_number: Number | None
) -> tuple[str, str]:
    """Degrees as radians where the other side speaks of pi; else a unit behind a number is
    dropped.
    """
    if "\\pi" in gold and answer_number is not None and answer_number.unit == "degree":
        return gold, _radians(answer_number.value)
    if "\\pi" in answer and gold_number is not None and gold_number.unit == "degree":
        return _radians(gold_number.value), answer
    return gold, answer


def _radians(degrees: Fraction) -> str:
    turn = degrees / 180
    return f"\\frac{{{turn.numerator}\\pi}}{{{turn.denominator}}}"
