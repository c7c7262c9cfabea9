"""Finds retractions: an answer that a model takes back after stating it, and the value that replaces it.

>>> retraction(" Wait, that is wrong. It should be 13.")
Retraction(value='13')
>>> retraction(" Oops, I made a mistake.")
Retraction(value='')
>>> retraction(" Let me check: 3 * 4 = 12. That is right.") is None
True
>>> hedge(" (or 13 if we count zero)"), hedge(", or possibly 13.")
('13', '13')
"""

import re
from dataclasses import dataclass

_NEAR_CHARS = 2_000
_MIN_CHARS = 8
_VALUE_CHARS = 300
_HEDGE_CHARS = 30
_HEDGES = ("or", "alternatively", "but", "though", "unless", "except", "if")
_HINT = re.compile(
    r"wrong|incorrect|mistake|error|invalid|n(?:o|'|\u2019)t\s+(?:be\s+)?(?:right|correct)|should|forg[eo]t|miss|\bmis|double"
    r"|actually|oops|correction|think|second|back|disregard|ignore|edit|update|hmm|sorry|scratch|meant|overlook|\bno\b|\bwait\b",
    re.IGNORECASE,
)
_GAP = r"[\s$*_)\]\\}\"'.,;:!\u2026\u2014\u2013-]{0,20}"
_INTERJECTION = (
    r"(?:wait|hmm+|hm|ah|oh|oops|no|nope|actually|sorry|hold\s+on|scratch\s+that|correction|my\s+bad|apologies"
    r"|i\s+apologi[sz]e|on\s+second\s+thought|on\s+reflection|looking\s+again|let\s+me\s+correct\s+(?:that|this|myself))"
)
_QUANTITY = r"(?:answer|value|result|number|total|count|sum|one|choice|option|solution|probability|figure|letter)"
_TRUE = r"(?:correct|right|actual|true|final|real|new|proper|corrected|revised|updated)"
_STATED = (
    rf"(?:(?:this|that)\s+answer|that|this|it|which|the\s+above|(?:my|the)\s+(?:(?:previous|above|boxed|first|last|earlier)\s+)?"
    rf"(?:{_QUANTITY}|calculation))"
)
_WRONG = (
    r"(?:(?:\s*['\u2019]s|\s+(?:is|was|must\s+be|looks|seems))(?:\s+(?:all|clearly|actually|definitely|just|completely|obviously))?"
    r"\s+(?:wrong|incorrect|mistaken|false|invalid|a\s+mistake|an\s+error|in\s+error|not\s+(?:right|correct|valid))"
    r"|\s+(?:isn|wasn|can|couldn)['\u2019]t(?:\s+be)?\s+(?:right|correct|valid)|\s+can(?:not|\s+not)\s+be\s+(?:right|correct))"
)
_DENIAL = rf"(?P<denial>{_STATED}{_WRONG}\b(?!\s+(?:to|that|if|unless|when|only)\b))"
_FAULT = (
    r"(?P<fault>(?:i|we)(?:\s+(?:just|have|think|see|realize|realise|notice|now|did|do|had|that|i|we|there))*"
    r"\s+(?:(?:made|make|found|find|is|was|see|spot|spotted)\s+(?:a|an|my|the|one|another)?\s*(?:\w+\s+)?(?:mistake|error|slip)"
    r"|forgot|missed|overlooked|miscounted|miscalculated|misread|miscomputed|misapplied|double[\s-]counted"
    r"|(?:was|were|am|got\s+(?:that|this|it))\s+wrong))"
)
_TAKEN = (
    r"(?P<taken>i\s+take\s+(?:that|it)\s+back|(?:disregard|ignore|scratch|forget)\s+"
    rf"(?:that|the\s+above|(?:my|the)\s+(?:(?:previous|above|first|last)\s+)?{_QUANTITY})\b)"
)
_TAKES_BACK = re.compile(
    rf"(?:(?P<start>\A)|(?P<next>(?<=[.!?;:\n,(\u2014\u2013])|\bbut\b)){_GAP}(?:(?:but|however|and|note(?:\s+that)?)\b{_GAP})?"
    rf"(?P<interjection>(?:{_INTERJECTION}\b{_GAP}){{0,4}})"
    rf"(?:(?:i\s+(?:think|believe|see|realize|realise|fear|am\s+afraid)|so)\s+){{0,2}}(?:{_DENIAL}|{_FAULT}|{_TAKEN})"
    r"|(?P<at_once>\A[\s$*)\]]*(?:is|was)\s+(?:wrong|incorrect|not\s+(?:right|correct))\b)",
    re.IGNORECASE,
)
_LOOKS_AGAIN = (  # "let me recheck. It should be 13": a stated result, not an intermediate value
    r"let(?:['\u2019]s|\s+me)\s+(?:just\s+)?(?:re-?check|re-?compute|re-?calculate|reconsider|re-?do|re-?verify|double[\s-]?check|check|verify|count"
    r"|compute|calculate|think)(?:\s+\w+){0,3}[\s.!:;,\u2026\u2014-]{1,8}(?:(?:so|then|actually)\b,?\s+)?"
    rf"(?=(?:it|that|this|(?:the|my)\s+(?:{_TRUE}\s+)?{_QUANTITY})\s+(?:should|must)\b)"
)
_AMENDS = re.compile(
    rf"(?:\A|(?<=[.!?;:\n,(\u2014\u2013])){_GAP}(?:(?:{_INTERJECTION}\b{_GAP}){{1,4}}(?:{_LOOKS_AGAIN})?|(?=i\s+(?:now\s+)?(?:think|believe|guess)\b))"
    rf"(?:(?:so|then|i\s+(?:now\s+)?(?:think|believe|guess)|that(?=\s+(?:it|this|the)\b)|now)\s+){{0,3}}(?P<said>(?:it|that|this|(?:the|my)\s+{_TRUE}\s+{_QUANTITY})\s*(?:['\u2019]s|is|was|should|must)\b"
    rf"|(?:the|my)\s+{_QUANTITY}\s+(?:should|must)\b"
    r"|(?:make\s+(?:it|that)|i\s+meant)\b)|\bcorrection\s*(?P<label>:)(?=\s)",
    re.IGNORECASE,
)
_WAITS = re.compile(r"\b(?:wait|hmm+|oops|hold\s+on|recheck|recompute)\b", re.IGNORECASE)
_TRULY = re.compile(rf"\bthe\s+{_TRUE}\s+(?!answer){_QUANTITY}\s+(?:is|was|should)\b", re.IGNORECASE)
_BARE = re.compile(
    rf"(?:\A|(?<=[.!?;:\n,(\u2014\u2013])){_GAP}(?!no[.\s]*[\d$\\])(?:{_INTERJECTION}|edit|update)"
    rf"(?:[\s,.:;\u2026\u2014-]+{_INTERJECTION}){{0,3}}\b[\s,.:;\u2026\u2014-]{{1,6}}"
    r"(?P<value>\$[^$\n]{1,100}\$|[-+]?[\d\\][\w\\{}^/.,]{0,60}?)(?=[\s*)]{0,4}(?:[.!;](?=\s|$)|\n|$))",
    re.IGNORECASE,
)
_BE = (
    r"(?:\s*['\u2019]s|\s+(?:is|was|equals)|\s+(?:should|must|has\s+to|ought\s+to|would|will|needs\s+to)"
    r"(?:\s+(?:actually|really|instead|then|therefore|rather))?\s+(?:be|have\s+been|equal))"
)
_VALUE = (
    r"[\s:=]{1,4}(?:(?:actually|really|instead|in\s+fact|therefore|thus|then|just|simply|equal\s+to|option|choice|that|the)\s+){0,2}"
    r"(\$[^$\n]{1,200}\$|\*\*[^*\n]{1,200}\*\*|\\\(.{1,200}?\\\)|(?=[^\sA-Za-z]|\\|[A-Za-z]\b(?!\s+[A-Za-z])|\w*\d)"
    r"(?:[.,](?=\d)|[^\s.,;!?]|\s(?!(?:not|and|because|since|as|so|instead|rather|after|if|when|by)\b)(?=[^\s.;,!?]))"
    r"{1,120}?(?=[.,;!?]?(?:\s|\Z)))"
)
_PUTS = re.compile(
    rf"\b(?:it|this|that|(?:the|my)\s+(?:{_TRUE}\s+)?"
    rf"{_QUANTITY}){_BE}{_VALUE}"
    rf"|\b{_TRUE}\s+{_QUANTITY}\s*:{_VALUE}"
    rf"|\b(?:i\s+meant|make\s+(?:it|that)|correct(?:ed\s+to|ion)){_VALUE}"
    rf"|(?:^|[\s$*(])((?=[-+]?\d|[-+]?\\|[A-Za-z]\s)[-+]?[\w\\{{}}^/.]{{1,60}})[$*)]{{0,3}}\s+is\s+(?:the\s+)?(?:correct|right)\b",
    re.IGNORECASE,
)
_OTHER = re.compile(r"\s+be\s+(?:negative|positive|doubled|halved|twice|half)\b", re.IGNORECASE)
_AFFIRMS = re.compile(
    rf"\b(?:it|that|this|everything|(?:the|my)\s+(?:(?:first|original|previous|above|boxed|initial)\s+)?{_QUANTITY})"
    r"(?:\s*['\u2019]s|\s+(?:is|was))\s+(?:(?:indeed|actually|still|in\s+fact|all|quite)\s+)?(?:right|correct|fine|okay|ok|valid)\b"
    r"|\band\s+(?:it|that|this|so)\s+(?:is|does|it\s+is)\b(?=\s*[.!,;])|\b(?:right|correct)\s+after\s+all\b|\bno\s+(?:mistake|error)\b",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"[\s$*)\]\\}]{0,6}[,;(\u2014\u2013-]?\s{0,2}(?:\(\s*)?(?:or|alternatively|but|though|although)\b,?\s+"
    r"(?P<could>(?:it|that|this)\s+(?:could|may|might|can)\s+(?:also\s+|(?:as\s+)?well\s+)?be\s+)?"
    r"(?P<maybe>(?:maybe|possibly|perhaps|probably|even|else|also)\s+)?"
    r"[$\s*]*(?:\\boxed\s*)?(?P<value>\{?[-+]?[\w\\{}^/.]*\d[\w\\{}^/]*(?:\.\d+)?)[$*\s]{0,3}"
    r"(?P<case>,?\s*(?:if|when|assuming|depending|unless|in\s+case|counting|provided|should|including)\b)?"
    r"|[^.\n]{0,80}\bin\s+which\s+case\s+(?:(?:it|the\s+answer)\s+(?:is|would\s+be)\s+)?[$\s*]*(?P<other>[-+]?[\w\\{}^/]*\d[\w\\{}^/]*)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Retraction:
    """A retraction of an answer. value: the answer that replaces it; "" if there is none."""

    value: str


def retraction(tail: str) -> Retraction | None:
    """The retraction in the text after an answer; None if the answer is kept.

    Args:
        tail: the text after the answer; only its beginning and its end are searched.
    """
    if len(tail) < _MIN_CHARS or _HINT.search(near := _ends(tail)) is None:
        return None
    start = _taken_back(near)
    bare = _BARE.search(near, start or 0)
    if start is None:
        return None if bare is None else Retraction(bare["value"])
    rest = near[start:]
    value, place = _put_instead(rest)
    if bare is not None and not value:
        value, place = bare["value"], bare.end() - start
    affirmed = max((match.end() for match in _AFFIRMS.finditer(rest)), default=-1)
    if affirmed > place:
        return None
    return Retraction(value)


def hedge(tail: str) -> str:
    """A second value that is offered conditionally: "(or 13 if ...", ", or possibly 13"; "" if there is none."""
    if len(tail) < _MIN_CHARS or not any(word in tail[:_HEDGE_CHARS].lower() for word in _HEDGES):
        return ""
    found = _HEDGE.match(tail[:200])
    if found is None:
        return ""
    if found["other"]:
        return found["other"]
    if not (found["could"] or found["maybe"] or found["case"] or "lternatively" in found.group()):
        return ""
    return found["value"].strip("{}") if "\\" not in found["value"] else found["value"]


def _ends(tail: str) -> str:
    if len(tail) <= 2 * _NEAR_CHARS:
        return tail
    return f"{tail[:_NEAR_CHARS]}\n\n{tail[-_NEAR_CHARS:]}"


def _taken_back(text: str) -> int | None:
    """The position of the first retraction that is not withdrawn; None if there is none."""
    for match in _TAKES_BACK.finditer(text):
        end = match.end()
        rest = _to_sentence_end(text, end)
        if rest.endswith("?"):
            continue
        is_aside = not match["interjection"] and (match["fault"] or match["start"] is None)
        is_short = len(rest.split()) <= 1
        if (
            match["interjection"]
            or match["taken"]
            or match["at_once"]
            or (match["denial"] and not is_aside and is_short)
        ):
            return end
        if _put_instead(text[end:])[0] and (not is_aside or match["fault"]):
            return end
    for match in _AMENDS.finditer(text):
        start = match.start() if match["label"] else match.start("said")
        rest = text[start : match.end() + _VALUE_CHARS].lstrip()
        is_stated = match["label"] or _PUTS.match(rest) is not None or _OTHER.match(text, match.end())
        if is_stated and not _to_sentence_end(text, match.end()).endswith("?"):
            return start
    waits = _WAITS.search(text)
    truly = None if waits is None else _TRULY.search(text, waits.end())
    return None if truly is None else truly.start()


def _to_sentence_end(text: str, start: int) -> str:
    match = re.compile(r"[.!?\n](?=\s|$)|\n").search(text, start)
    return text[start : match.end() if match else len(text)].strip()


def _put_instead(text: str) -> tuple[str, int]:
    """(the last value that replaces the answer, its end); ("", -1) if there is none."""
    value, end = "", -1
    for match in _PUTS.finditer(text):
        found = next((group for group in match.groups() if group), "")
        if _to_sentence_end(text, match.end()).endswith("?") or not found.strip():
            continue
        value, end = found.strip(), match.end()
    return value, end
