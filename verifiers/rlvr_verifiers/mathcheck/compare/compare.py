r"""Compares an answer with a gold answer; the type of the gold answer decides how.

>>> compare(read_gold(r"\frac{3}{4}"), "0.75", bounded=True).result
True
>>> compare(read_gold("(1,2)"), r"\{1,2\}", bounded=True).result
False
"""

import re
from dataclasses import dataclass, field, replace
from fractions import Fraction

from rlvr_verifiers.mathcheck.compare.pairing import compare_answers
from rlvr_verifiers.mathcheck.decision import Decision, Problem
from rlvr_verifiers.mathcheck.method import Method
from rlvr_verifiers.mathcheck.read.groups import is_ragged
from rlvr_verifiers.mathcheck.read.reading import read, read_tidied
from rlvr_verifiers.mathcheck.text.spelling import MAX_CHARS, compact, is_balanced, split_outside, tidy, unwrapped_text
from rlvr_verifiers.mathcheck.values.answers import Answer, Formula, Named, Parts, kind_of
from rlvr_verifiers.mathcheck.values.numbers import Form, Number, plain_number
from rlvr_verifiers.mathcheck.values.words import Phrase

__all__ = ["EXACT", "CompareOptions", "Decision", "Gold", "Method", "Problem", "compare", "read_gold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions:
    """What a recipe may relax.

    Attributes:
        decimal_digits: with k > 0, a decimal of at least k significant digits equals an exact gold answer that rounds
            to it; 0 compares exactly.
    """

    decimal_digits: int = 0


EXACT = CompareOptions()
_SHOWN_CHARS = 80


@dataclass(frozen=True, slots=True)
class Gold:
    """A parsed reference.

    Attributes:
        text: the reference as given.
        kind: its type, for reports and metrics.
        plain: its value, if it is a plain number; plain numeric answers are compared with this value alone.
        compact: its tidied text without spaces.
        is_value: whether it is a single value, so that an unevaluated integral or sum is not an answer.
        operations: its expressions with an integral, a sum or a limit, some of which sympy can evaluate.
    """

    text: str
    kind: str
    answer: Answer = field(repr=False)
    compact: str = field(repr=False)
    plain: Fraction | None = None
    is_value: bool = False
    operations: tuple[str, ...] = ()


_SAME_TEXT = Decision(result=True, method=Method.STRING, reason="the texts are the same")
_SAME_NUMBER = Decision(result=True, method=Method.NUMBER, reason="the numbers are equal")
_OTHER_NUMBER = Decision(result=False, method=Method.NUMBER, reason="it is another number")
_OUTSIDE = re.compile(
    r"\b(?:see|shown|attached|prove[dn]?|proof)\b|\banswers? (?:may|will|can) vary\b|^\s*n\s*/?\s*a\s*$"
    r"|^.{0,15}\b(?:figure|diagram|graph|picture|above|below|sketch|drawing|image|table)\b.{0,15}$",
    re.IGNORECASE,
)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{3,}|[^\W\d_a-zA-Z]{2,}")
_SIGN = re.compile(
    r"\\(?:ldots|begin|text|parallel|nparallel|perp|times|mapsto|subset|subseteq|supset|sim|propto|angle|triangle|otimes"
    r"|oplus|forall|exists|neg|to|leftrightarrow|widehat|overset|underset)(?![a-z])|∪"
)
_UNEVALUATED = re.compile(r"\\(?:i{1,3}nt|oint|sum|prod|coprod|lim|limsup|liminf)(?![a-z])")


def read_gold(text: str) -> Gold:
    r"""The parsed reference.

    A reference that contains words and has no other reading is compared as text; one that is too big, by structure.

    Raises:
        ValueError: no answer could be compared with it (an error in the data).

    >>> read_gold(r"[2,9)").kind, read_gold(r"60^\circ").kind, read_gold("1,234").plain
    ('interval', 'degrees', Fraction(1234, 1))
    """
    if len(text) > MAX_CHARS:
        raise _refused(text, f"has {len(text)} characters; at most {MAX_CHARS} are compared")
    answer = read(text, is_reference=True)
    if not answer.text:
        raise _refused(text, "is empty")
    said = unwrapped_text(answer.text)
    is_words = not answer.readings or isinstance(answer.readings[0], (Phrase, Formula))
    if is_words and _OUTSIDE.search(said):
        raise _refused(text, "refers to something outside the text, so that no answer could equal it")
    answer, is_read = _with_readable(answer)
    if not is_read and not _is_text(answer.text):
        raise _refused(text, "cannot be read as mathematics")
    if not is_read and is_ragged(answer.text):
        raise _refused(text, "is a matrix with rows of different length")
    first = answer.readings[0] if answer.readings else None
    if isinstance(first, Formula) and is_read and _is_undefined(first):
        raise _refused(text, "divides by zero")
    plain: Fraction | None = None
    is_one = not any(isinstance(reading, Number) for reading in answer.readings[1:])
    if is_one and isinstance(first, Number) and not first.unit and first.form is not Form.PERCENT:
        plain = first.value
    kind = kind_of(answer) if is_read else "text"
    is_value = is_read and _is_value(answer)
    return Gold(text, kind, answer, compact(answer.text), plain, is_value, _operations(answer))


def compare(gold: Gold, answer: str, *, bounded: bool, options: CompareOptions = EXACT) -> Decision:
    """Whether the answer equals the gold answer.

    Args:
        bounded: decide within about a millisecond or return `result` None.
    """
    plain = gold.plain
    if plain is not None and not options.decimal_digits:
        if answer.isdigit() and answer.isascii() and len(answer) < 1000:
            return _SAME_NUMBER if plain == int(answer) else _OTHER_NUMBER
        value = plain_number(answer)
        if value is not None:
            return _SAME_NUMBER if plain == value else _OTHER_NUMBER
    if len(answer) > MAX_CHARS:
        if answer.strip() == gold.text.strip():
            return _SAME_TEXT
        reason = f"it has {len(answer)} characters; at most {MAX_CHARS} are compared"
        return Decision(result=False, method=Method.STRING, reason=reason, problem=Problem.TOO_BIG)
    tidied = tidy(answer)
    if not tidied:
        reason = "it is empty"
        return Decision(result=False, method=Method.STRING, reason=reason, problem=Problem.UNREADABLE)
    if tidied == gold.answer.text or compact(tidied) == gold.compact:
        return _SAME_TEXT
    found = read_tidied(tidied)
    is_left_to_do = (
        "\\" in found.text
        and _UNEVALUATED.search(found.text) is not None
        and _UNEVALUATED.search(split_outside(found.text, "=")[-1]) is not None
    )
    if gold.is_value and is_left_to_do:
        reason = "it leaves an integral, a sum, a product or a limit to do"
        return Decision(result=False, method=Method.STRUCTURE, reason=reason, problem=Problem.UNEVALUATED)
    digits = options.decimal_digits
    decision = compare_answers(gold.answer, found, bounded=bounded, decimal_digits=digits)
    if decision.result is not False or not gold.operations or is_left_to_do:
        return decision
    if bounded:
        reason = "the reference has to be evaluated"
        return Decision(result=None, method=Method.SYMBOLIC, reason=reason)
    evaluated = evaluate(gold)
    if evaluated is None:
        return decision
    return compare_answers(evaluated, found, bounded=bounded, decimal_digits=digits)


def evaluate(gold: Gold) -> Answer | None:
    """The value of an integral, a sum or a limit in a gold answer, computed once per process; None if there is none."""
    from rlvr_verifiers.mathcheck.algebra.evaluation import value_of

    values = [value_of(text) for text in gold.operations]
    readings = tuple(Formula("", None, value) for value in values if value is not None)
    return Answer("", readings) if readings else None


def _refused(text: str, problem: str) -> ValueError:
    shown = text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
    return ValueError(f"the gold answer {shown!r} {problem}: correct it or drop the row")


def _with_readable(answer: Answer) -> tuple[Answer, bool]:
    """The gold answer without unusable readings, and whether any reading is left.

    A gold answer without readings is compared as text.
    """
    readings = answer.readings
    if len(readings) == 1 and isinstance(readings[0], Number):
        return answer, True
    if isinstance(readings[0] if readings else None, Parts):
        # "-3,0" is a list of two; "1,22" may be a decimal
        readings = tuple(r for r in readings if not isinstance(r, Number) or r.decimals > 1)
    kept = tuple(r for r in readings if not isinstance(r, Formula) or _parses(r))
    if not kept:
        return answer, False
    return (answer if len(kept) == len(answer.readings) else replace(answer, readings=kept)), True


def _is_text(text: str) -> bool:
    """Whether a text without readings may be compared as text: words, dots or cases, but nothing unfinished."""
    if not is_balanced(text) or text.count("\\begin") != text.count("\\end") or text[-1] in "+-*/^_=<>\\":
        return False
    has_signs = _SIGN.search(text) is not None
    return has_signs or _WORD.search(_COMMAND.sub(" ", text)) is not None


def _parses(formula: Formula) -> bool:
    try:
        formula.expr()
    except ValueError:
        return False
    return True


def _is_undefined(formula: Formula) -> bool:
    from rlvr_verifiers.mathcheck.parse.expression import TooBig
    from rlvr_verifiers.mathcheck.tree.exact import Undefined, exact_value

    try:
        exact_value(formula.expr())
    except Undefined:
        return True
    except TooBig:
        return False
    return False


def _operations(answer: Answer) -> tuple[str, ...]:
    if "\\" not in answer.text or not _UNEVALUATED.search(answer.text):
        return ()
    readings = [
        inner
        for reading in answer.readings
        for inner in (reading.value.readings if isinstance(reading, Named) else (reading,))
    ]
    return tuple(one.text for one in readings if isinstance(one, Formula) and one.unit is None)


def _is_value(answer: Answer) -> bool:
    first = answer.readings[0] if answer.readings else None
    if isinstance(first, Number):
        return True
    if isinstance(first, Formula):
        from rlvr_verifiers.mathcheck.parse.expression import is_unevaluated, variables

        try:
            return not variables(first.expr()) and not is_unevaluated(first.expr())
        except ValueError:
            return False
    return False
