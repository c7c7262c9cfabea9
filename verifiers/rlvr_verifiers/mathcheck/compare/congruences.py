r"""Congruences: `x ≡ 2 \pmod 5`, a remainder with its modulus, and the numbers 5k + 2.

Like a unit, a modulus may be omitted, or added to a remainder that is smaller; a different modulus is wrong.
"""

import itertools
import math
import re
from fractions import Fraction

from rlvr_verifiers.mathcheck.compare.session import OTHER_NUMBER, SAME_NUMBER, Session, no, yes
from rlvr_verifiers.mathcheck.decision import Decision
from rlvr_verifiers.mathcheck.method import Method
from rlvr_verifiers.mathcheck.read.equalities import AND, is_quantity
from rlvr_verifiers.mathcheck.text.spelling import is_balanced, split_outside, unwrapped_text
from rlvr_verifiers.mathcheck.values.answers import (
    Answer,
    Congruence,
    Family,
    Formula,
    Group,
    Named,
    Parts,
    Reader,
    Reading,
)
from rlvr_verifiers.mathcheck.values.numbers import Number

_MOD_WORD = r"(?:\\[bp]?mod|\\operatorname\*?\s*\{\s*mod\s*\}|(?<![A-Za-z\\])mod(?:ulo)?(?![A-Za-z]))"
_MOD = re.compile(_MOD_WORD)
_MODULUS = re.compile(
    rf"\s*(?:(?P<open>\()\s*{_MOD_WORD}\s*(?P<inner>[^=,]+?)\s*\)|(?P<word>{_MOD_WORD})\s*(?P<bare>[^=,]+?))\s*"
)
_MULTIPLE = re.compile(
    r"(?P<name>[A-Za-z])?\s*(?:\\text\s*\{)?\s*(?:is |must be |has to be )?(?:any |an? |all )?(?:integer )?"
    r"(?:divisible by|(?:integer )?multiples? of)\s*\}?\s*(?P<modulus>\d{1,18})"
)
_MAX_RESIDUES = 2000
_MAX_MODULUS = 100_000
_SAMPLES = (0, 1, 2, 3, 5, -7)


def congruence(text: str, reader: Reader) -> list[Reading] | None:
    r"""`x ≡ 1, 4 \pmod 6` and `5 \bmod 9`; "n is divisible by 4"; None for a text without a modulus or with several."""
    is_multiple = "divisible" in text or "multiple" in text
    if is_multiple and (match := _MULTIPLE.fullmatch(text)):
        modulus = reader.answer(match["modulus"])
        if not int(match["modulus"]):
            return []
        return [Congruence(match["name"] or "", (reader.answer("0"),), modulus)]
    if "mod" not in text:
        return None
    plain = unwrapped_text(text)
    first = _MOD.search(plain)
    if first is None or _MOD.search(plain, first.end()) is not None:
        return None
    start = first.start()
    start = plain.rfind("(", 0, start) if plain[:start].rstrip().endswith("(") else start
    head, tail = plain[:start].strip(), plain[start:]
    if "=" in tail and "=" not in head:  # 100 \bmod 7 = 2
        tail, _, value = tail.partition("=")
        head = f"{head} = {value.strip()}"
    match = _MODULUS.fullmatch(tail)
    if match is None or not head:
        return None
    modulus = (match["inner"] or match["bare"]).strip()
    if modulus.startswith("{") and modulus.endswith("}"):
        modulus = modulus[1:-1].strip()
    parts = split_outside(AND.sub(",", head), ",")
    if len(parts) > 1 and all("=" in part for part in parts):
        return reader.readings(", ".join(f"{part} \\pmod{{{modulus}}}" for part in parts))
    found = _read(head, modulus, reader)
    is_operation = not match["open"] and match["word"] != "\\pmod"
    if found and is_operation and "=" not in head:
        value, size = _whole(found[0].remainders[0]), _whole(found[0].modulus)
        if value is not None and size:
            return [*found, Number(Fraction(value % size))]
    return list(found)


def _read(head: str, modulus: str, reader: Reader) -> list[Congruence]:
    """The congruence; [] if it is false or cannot be read."""
    *lefts, right = split_outside(head, "=")
    remainders: list[Answer] = []
    for part in split_outside(AND.sub(",", right), ","):
        answer = reader.answer(part)
        signed = answer.readings[0] if answer.readings else None
        if isinstance(signed, Parts) and signed.group is Group.LIST:
            remainders.extend(signed.items)
        elif part:
            remainders.append(answer)
    said = reader.answer(modulus)
    size = _whole(said)
    if not remainders or not said.readings or not is_balanced(head) or (size is not None and size < 1):
        return []
    quantity = ""
    for left in lefts:
        value = _whole(reader.answer(left))
        if value is None and re.search("[A-Za-z]", left):
            quantity = quantity or left.replace(" ", "")
        wanted = _whole(remainders[0])
        if size and None not in (value, wanted) and (value - wanted) % size:  # type: ignore[operator] - whole
            return []
    return [Congruence(quantity, tuple(remainders), said)]


def congruences(session: Session, gold: Congruence, answer: Congruence, depth: int) -> Decision:
    """Whether both have the same modulus and the same residue classes."""
    if gold.quantity and answer.quantity and gold.quantity != answer.quantity:
        return no(Method.STRUCTURE, f"it is about {answer.quantity} and not {gold.quantity}")
    sets = residues(gold), residues(answer)
    if sets[0] is not None and sets[1] is not None:
        return _compared(sets[0], sets[1])
    modulus = session.answers(gold.modulus, answer.modulus, depth + 1)
    if not modulus.result:
        return no(modulus.method, "it has another modulus", modulus.problem)
    return session.matched(gold.remainders, answer.remainders, depth + 1)


def congruence_of(session: Session, other: Reading, said: Congruence, depth: int, is_gold: bool) -> Decision | None:
    """Compares a congruence with a remainder, a family such as 5k + 2, or a list of either."""
    if isinstance(other, Named):
        if said.quantity and said.quantity != other.name:
            return no(Method.STRUCTURE, f"one is about {said.quantity}, the other about {other.name}")
        readings = [r for r in other.value.readings if not isinstance(r, Congruence)]
        found = [congruence_of(session, reading, said, depth, is_gold) for reading in readings]
        return next((d for d in found if d is not None and d.result), next(iter(found), None))
    if not is_quantity(said.quantity):
        return None  # 2x ≡ 4 is unsolved
    own, others = residues(said), residues(other)
    if own is not None and others is not None:
        return _compared(own, others)
    if isinstance(other, Number) and own is not None:
        return _remainder(other, said, own, is_gold=is_gold)
    if isinstance(other, (Number, Formula)) and len(said.remainders) == 1:
        pair = (said.remainders[0], Answer("", (other,)))
        gold, answer = pair if is_gold else pair[::-1]
        return session.answers(gold, answer, depth + 1)
    if (
        isinstance(other, Parts)
        and len(other.items) == len(said.remainders) > 1
        and not any(isinstance(r, Congruence) for item in other.items for r in item.readings)
    ):
        pair_items = (said.remainders, other.items)
        golds, answers = pair_items if is_gold else pair_items[::-1]
        return session.matched(golds, answers, depth + 1)
    return None


def _remainder(number: Number, said: Congruence, own: tuple[int, frozenset[int]], *, is_gold: bool) -> Decision:
    """Compares a number with a single remainder: as written and below the modulus; that of a gold answer also mod m."""
    modulus, remainders = own
    if len(said.remainders) != 1 or number.unit is not None or number.value.denominator != 1:
        return OTHER_NUMBER
    value = number.value.numerator
    is_written = value == _whole(said.remainders[0]) and abs(value) < modulus
    is_least = is_gold and remainders == {value}
    return SAME_NUMBER if is_written or is_least else OTHER_NUMBER


def residues(reading: Reading) -> tuple[int, frozenset[int]] | None:
    """The modulus and remainders of a congruence, a family or a list of them; None for anything else."""
    if isinstance(reading, Congruence):
        modulus = _whole(reading.modulus)
        values = [_whole(remainder) for remainder in reading.remainders]
        if not modulus or None in values:
            return None
        return modulus, frozenset(value % modulus for value in values if value is not None)
    if isinstance(reading, Family):
        return _progression(reading.body)
    if isinstance(reading, Formula):
        return _progression(reading)
    if isinstance(reading, Named):
        return next(filter(None, map(residues, reading.value.readings)), None)
    if isinstance(reading, Parts) and reading.group in (Group.LIST, Group.SET) and reading.items:
        found = [next(filter(None, map(residues, item.readings)), None) for item in reading.items]
        if None in found:
            return None
        kept = [one for one in found if one is not None]
        if len({modulus for modulus, _ in kept}) == 1:
            return kept[0][0], frozenset(itertools.chain.from_iterable(values for _, values in kept))
    return None


def _compared(gold: tuple[int, frozenset[int]], answer: tuple[int, frozenset[int]]) -> Decision:
    common = math.lcm(gold[0], answer[0])
    if gold[0] != answer[0]:
        size = max(len(values) * (common // modulus) for modulus, values in (gold, answer))
        if common > _MAX_MODULUS or size > _MAX_RESIDUES:
            return no(Method.NUMBER, "it has another modulus")
        lifted = [
            {value + modulus * step for value in values for step in range(common // modulus)}
            for modulus, values in (gold, answer)
        ]
        is_same = lifted[0] == lifted[1]
    else:
        is_same = gold[1] == answer[1]
    if is_same:
        return yes(Method.NUMBER, "the same remainders of the same modulus")
    return no(Method.NUMBER, "it has another remainder or another modulus")


def _progression(formula: Formula) -> tuple[int, frozenset[int]] | None:
    """a k + b with integers a and b and no other letter, as (modulus, remainder)."""
    from rlvr_verifiers.mathcheck.parse.expression import Num, substituted, variables
    from rlvr_verifiers.mathcheck.tree.exact import Undefined, exact_value

    try:
        expr = formula.expr()
        names = variables(expr)
        if len(names) != 1 or formula.unit is not None or next(iter(names)) not in _PARAMETERS:
            return None
        (name,) = names
        values = [exact_value(substituted(expr, {name: Num(Fraction(sample))})) for sample in _SAMPLES]
    except (ValueError, Undefined):
        return None
    if any(value is None or value.denominator != 1 for value in values):
        return None
    whole = [value.numerator for value in values if value is not None]
    step = whole[1] - whole[0]
    is_linear = all(value == whole[0] + step * sample for value, sample in zip(whole, _SAMPLES, strict=True))
    return (abs(step), frozenset({whole[0] % abs(step)})) if step and is_linear else None


_PARAMETERS = frozenset("klmnpqrstj")


def _whole(answer: Answer) -> int | None:
    for reading in answer.readings:
        if isinstance(reading, Number):
            is_whole = reading.unit is None and reading.value.denominator == 1
            return reading.value.numerator if is_whole else None
        if isinstance(reading, Formula):
            from rlvr_verifiers.mathcheck.tree.exact import Undefined, exact_value

            try:
                value = exact_value(reading.expr())
            except (ValueError, Undefined):
                return None
            return value.numerator if value is not None and value.denominator == 1 else None
    return None
