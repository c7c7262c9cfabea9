"""Answers with words around them: an introductory sentence, a remark, a condition."""

import re

from rlvr_verifiers.mathcheck.read.equalities import CONDITION
from rlvr_verifiers.mathcheck.text.spelling import tidy, unwrapped_text
from rlvr_verifiers.mathcheck.text.units import parse_unit
from rlvr_verifiers.mathcheck.values.answers import Group, Parts, Reader, Reading
from rlvr_verifiers.mathcheck.values.numbers import Number, parse_number

_LEAD = re.compile(
    r"(?:\\text\s*\{(?P<text>[^{}]*)\}|(?P<plain>(?:[A-Za-z'’,-]+ )*(?:is|are|equals|be|was|=):?"
    r"|[A-Za-z ]*[A-Za-z]{3,}:))\s*(?P<rest>.+)"
)
_FOREIGN_LEAD = re.compile(
    r"(?:\\text\s*\{)?\s*[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af ]{1,20}?(?<![不没])"
    r"(?:是|为|為|等于|等於|は|는|은|:|=)\s*\}?\s*(?P<rest>[-+\d\\(\[$a-zA-Z].*)"
)
_LEAD_END = re.compile(r"(?:\b(?:is|are|equals|be|was|to|of|exactly|about|value)|:|=)\s*$", re.IGNORECASE)
_COPULA = re.compile(r"(?:\b(?:is|are|equals|was)|:|=)\s*$", re.IGNORECASE)
_ALTERS = re.compile(  # words next to a number that change its value or retract it
    r"n't\b|\b(?:not?|never|cannot|but|except|without|neither|nor|or|maybe|possibly|wrong|incorrect|false|than|up to"
    r"|at (?:least|most)|near|between|above|below|under|over|multiples?|divisors?|factors?|roots?|half|third|twice"
    r"|double|triple|squared?|cubed?|reciprocal|inverse|opposite|negative|minus|plus|times|power|log(?:arithm)?"
    r"|sine|cosine|tangent|factorial|if|unless|alternatively|instead|any|all|every|anything|some)\b",
    re.IGNORECASE,
)
_QUALIFIED = re.compile(
    r"(?:\\text\s*\{\s*)?(?:about|approximately|approx\.?|roughly|exactly|precisely|only|just|(?P<minus>minus|negative))"
    r"(?:\s*\}|\s)\s*(?P<rest>[\d.\\][^}]*)\}?",
    re.IGNORECASE,
)
_LABEL = re.compile(r"(?:^|(?<=[\s;,]))\(?([a-h]|[1-9]|i{1,3}|iv|v)(?:\)|\.(?=\s))\s*")
_SERIES = ("abcdefgh", "123456789", ("i", "ii", "iii", "iv", "v"))
_NOT_ANOTHER = re.compile(r"\s*,?\s*(?:\\text\s*\{\s*)?,?\s*(?:and|but)?\s*\bnot\b\s*\}?\s*[-\d.\\$][^\s]*$")
_REMARK = re.compile(
    r"(?P<value>[^()]*\d[^()]*?)\s*\((?P<remark>[^()=<>\\^+*/_]*[A-Za-z]{2,}\s+[A-Za-z]{2,}[^()=<>\\^+*/_]*)\)"
)
_EARLIER = re.compile(r"\b(?:was|were|before|previously|earlier|should|actually)\b", re.IGNORECASE)
_ABOUT = r"(?:about|approximately|approx\.?|roughly|around|circa)"
_ROUNDED = re.compile(  # an exact value and, in brackets or after "or", its decimal
    rf"(?P<exact>.*[\d}})a-z])\s*(?:\(\s*(?:≈|\\text\s*\{{\s*(?:or )?{_ABOUT}\s*\}}|{_ABOUT})\s*(?P<inner>[^()]*)\)"
    rf"|,?\s*(?:\\text\s*\{{\s*,?\s*(?:or|which is|i\.e\.)?,?\s*{_ABOUT}\s*\}}"
    rf"|(?:or|which is)\s+{_ABOUT}\s)\s*(?P<decimal>-?\d[\d.,]*\s*\\?%?))"
)
_SAYS_WHAT = re.compile(r"\s*\\text\s*\{\s*(?:is|are) (?:the|our|a)(?: [a-z]+){1,6}\s*\}\s*$")
_OF_A_KIND = re.compile(
    r"(?:\\text\s*\{\s*)?(?:in )?the (?:year|number|integer|value|digit|fraction)\s*(?:\}\s*)?(?P<rest>-?[\d\\].*)"
)
_PART = re.compile(
    r"\s*(?:\\text\s*\{\s*)?(?:Part\s*)?(?:\((?:[a-e]|i{1,3}|iv|v)\)|(?:Ans|ANS)(?:wer)?\s*[.:]|Sol(?:ution)?\s*[.:])\s*(?:\}\s*|:\s*)?(?=[-\d\\$(])"
)
_NOTE = re.compile(r"\s*(?:\\text\s*\{\s*\([^{}()]*\)\s*\}| \([a-z]{5,}\)| ?\([a-z]{2,}(?: [a-z]{2,}){1,7}\))\s*$")
_BOUND = re.compile(
    r"\s*(?:at (?:least|most)|(?:more|less|fewer|greater|smaller) than|up to|between|not|no more than)\b", re.IGNORECASE
)


def enumerated(text: str, reader: Reader) -> list[Reading] | None:
    """The answers to parts of a question, in their order: `a) 12 b) 13`; None for anything else."""
    if text[0] not in "(1ai\\" or (") " not in text and ". " not in text and ")\\" not in text):
        return None
    plain = unwrapped_text(text)
    labels = list(_LABEL.finditer(plain))
    if len(labels) < 2 or labels[0].start() != 0:
        return None
    names = [label[1] for label in labels]
    if not any(names == list(series[: len(names)]) for series in _SERIES):
        return None
    ends = [label.start() for label in labels[1:]] + [len(plain)]
    parts = [plain[label.end() : end].strip(" ,;") for label, end in zip(labels, ends, strict=True)]
    if not all(parts):
        return None
    return [Parts(Group.TUPLE, tuple(reader.answer(part) for part in parts))]


def remarked(text: str, reader: Reader) -> list[Reading] | None:
    """A number with a remark in brackets or a denied value: `18 (9 eggs at 2)`, `12 and not 13`."""
    if "not" in text and (match := _NOT_ANOTHER.search(text)):
        return reader.readings(text[: match.start()].strip()) or None
    match = _REMARK.fullmatch(text) if text.endswith(")") and text[0] not in "([" else None
    if match is None or _ALTERS.search(match["remark"]) or _EARLIER.search(match["remark"]):
        return None
    found = reader.readings(match["value"].strip())
    return found if found and isinstance(found[0], Number) else None


def _is_rounding(exact: str, decimal: str) -> bool:
    """Whether a decimal may be a rounded form of a number; True if either is not a number."""
    first, second = parse_number(exact.strip().rstrip(",")), parse_number(decimal.strip())
    if first is None or second is None:
        return True
    return abs(first.value - second.value) * 10**second.decimals <= 1 and second.decimals > 0


def explained(text: str, reader: Reader) -> list[Reading] | None:
    """The readings of an answer with words around it: "The area is 5", "5 (approximately)"."""
    if _BOUND.match(unwrapped_text(text)):
        return []  # "at least 3" is not a value
    if match := _OF_A_KIND.fullmatch(text):
        return reader.readings(match["rest"]) or None
    if match := _ROUNDED.fullmatch(text):
        decimal = match["inner"] or match["decimal"]
        if not _is_rounding(match["exact"], decimal):
            return []  # "5 or about 6" states two values
        return reader.readings(f"{match['exact'].strip().rstrip(',')} ≈ {decimal.strip()}")
    if match := _SAYS_WHAT.search(text):
        return reader.readings(text[: match.start()].strip()) or None
    if (match := _PART.match(text)) and match.end() < len(text):
        return reader.readings(text[match.end() :].strip()) or None
    if match := _QUALIFIED.fullmatch(text):
        sign = "-" if match["minus"] else ""
        return reader.readings(sign + match["rest"].strip())
    if not text.isascii() and (match := _FOREIGN_LEAD.fullmatch(text)):
        return reader.readings(tidy(match["rest"])) or None
    match = _LEAD.fullmatch(text)
    if match is not None:
        words = match["text"]
        is_lead = words is None or (
            _COPULA.search(words) is not None
            or (
                _ALTERS.search(words) is None
                and (_LEAD_END.search(words) is not None or (len(words.split()) > 1 and parse_unit(words) is None))
            )
        )
        if is_lead and any(c.isdigit() or c in "\\xyn(" for c in match["rest"]):
            return reader.readings(tidy(match["rest"])) or None
    shorter = _NOTE.sub("", text)
    if shorter and shorter != text and not _ALTERS.search(text[len(shorter) :]):
        return reader.readings(shorter) or None
    shorter = CONDITION.sub("", text)
    if shorter and shorter != text:
        return reader.readings(shorter) or None
    return None
