r"""Final answers without a box: the last one that `#### x`, `Final answer: x` or `The answer is x` announces; without
a marker, a text that is a single answer.

The answer extends from the marker to the end of the sentence and never ends inside a formula; a dot inside a number, in
an abbreviation or in "p.m." does not end a sentence. A text is a single answer if it is a bare value or a short
sentence around its only formula. A number in running text is never an answer.

>>> last_marked("So the answer is $x = 5$. I hope it is correct.").answer
'x = 5'
"""

import re
from dataclasses import dataclass, replace
from enum import StrEnum


class Origin(StrEnum):
    """Where a final answer was found."""

    BOX = "box"
    HASH_MARKS = "hash_marks"
    FINAL_ANSWER = "final_answer"
    THE_ANSWER_IS = "the_answer_is"
    WHOLE_TEXT = "whole_text"


@dataclass(frozen=True, slots=True)
class Marked:
    """The answer that a marker announces.

    Attributes:
        answer: the announced text; "" if nothing follows the marker.
        core: the formula or bold part with which the answer begins.
        tail: where the statement ends in the text; -1 if the answer is the whole text.
    """

    answer: str
    origin: Origin
    core: str = ""
    tail: int = -1


ALL_MARKERS = frozenset(set(Origin) - {Origin.BOX})
_MAX_TRIES = 400
_MAX_ANSWER_CHARS = 600
_BEFORE_CHARS = 40
_MAX_BARE_CHARS = 80
_MAX_BARE_WORDS = 2
_MAX_SENTENCE_CHARS = 600
_MAX_SENTENCE_WORDS = 15

_FINAL = re.compile(r"\b(?:final|correct|right)[\s*_]{0,4}$")
_OF_OTHERS = re.compile(
    r"\b(?:incorrect|wrong|false|tempting|initial|previous|na[iï]ve|student's|his|her|their)[\s*_]{0,4}$"
    r"|\b(?:might|may|could|would|tempting\s+to)\s+(?:think|say|guess|believe|assume|suspect|conclude)\s+(?:that\s+)?(?:the\s+)?$"
)
_CHECKS = re.compile(
    r"\b(?:check|verif|confirm|test|compar|doubl)[a-z-]*\s+(?:(?:that|whether|if|the|our|my|this|final)\s+){0,3}$"
)
_LABEL = re.compile(r"(?:^|[\n.!?:>])[\s*_#>-]{0,8}(?:(?:my|the|so|thus|hence|therefore),?\s{1,3})?$")
_ANNOUNCES = re.compile(
    r"(?:[\s*_]{1,4}(?:to|for|of)\s[^.:\n$\\]{1,60}?)?[\s*_]{1,4}"
    r"(?:is|are|was|would\s{1,3}be|will\s{1,3}be|should\s{1,3}be|must\s{1,3}be|equals|comes\s{1,3}out\s{1,3}to(?:\s{1,3}be)?)\b"
    r"(?:\s{1,4}(?:simply|just|therefore|thus|then|exactly|indeed|clearly|definitely|certainly|for\s{1,3}sure|given\s{1,3}by|equal\s{1,3}to))?",
    re.IGNORECASE,
)
_THEN_FORMULA = re.compile(r"[\s*_]{1,4}(?=\$|\\[(\[])")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_SAYS_NOT = re.compile(r"\b(?:not|cannot|can't|no|unless|if|suppose|let|assume)\b", re.IGNORECASE)
_COLON = re.compile(r"[\s*_]{0,4}(?:[:=]|(?:is|are)\b)", re.IGNORECASE)
_HEADING = re.compile(r"[\s*_]{0,4}\n")
_REMARK = re.compile(
    r"(?:not|correct|right|wrong|incorrect|reasonable|verified|consistent|plausible|unique|in|as\s+follows|"
    r"the\s+same|clear|above|below|found|obtained|given|shown)\b(?!\s*:)",
    re.IGNORECASE,
)
_LEAD = re.compile(r"[ \t:*_=]{0,40}(?:\n[\s>*_-]{0,40})?")
_MORE = re.compile(  # after a formula: the formula is not the whole answer
    r"\d|[=+*/^<>$\\%,]|\b(?:or|and|nor|times|plus|minus|over|per|less|more|factorial|squared|cubed)\b", re.IGNORECASE
)
_NUMBERISH = re.compile(r"[\s$*+\-(\[{\\.]{0,40}(?:\d|\\[a-z({\[]|[a-z]\s*=|infinity|pi\b)", re.IGNORECASE)
_STEP = re.compile(r"\W{0,40}(?:[A-Za-z]+\s+\d+|\d+\.\s+[A-Za-z])")
_SENTENCE = re.compile(
    r"""(?: \$\$[^$]{1,400}\$\$ | \$[^$\n]{1,300}\$
    | \\\((?:(?!\\\)).){1,300}\\\) | \\\[(?:(?!\\\]).){1,400}\\\]
    | \b[ap]\.\s?m\.(?![a-z]) | \b(?:sq|cu|ft|in|approx|vs|no|min|hr)\.(?=\s+[a-z0-9])
    | [.?](?!\s|$|[*_"')]*(?:\s|$)) | !(?=\s*[-+*/^=.)]|\w) | [^.?!\n] )+""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_CLAUSE = re.compile(
    r"\s+[(]?(?:because|since|which)\s|,\s+(?:so|since|because|which|where|as|for|it|this|that|we|not)\s|\s+where\s",
    re.IGNORECASE,
)
_FORMULA = re.compile(r"\\\(\s*(.+?)\s*\\\)|\\\[\s*(.+?)\s*\\\]", re.DOTALL)
_PROSE = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{3,}")
_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?![\w.]*\w)")
_IS = re.compile(r".*\b(?:is|are|equals)\s+(?=[^\s]*[\d\\$])", re.DOTALL | re.IGNORECASE)
_FENCED = re.compile(r"```(?:text|txt|plaintext|latex|tex|math)?[ \t]*\n(?P<inner>[^`\n]+)\n\s*```")
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*|__([^_\n]+)__")


def last_marked(text: str, *, markers: frozenset[Origin] = ALL_MARKERS) -> Marked | None:
    """The last announced final answer; None if there is none.

    Args:
        markers: the markers to look for.
    """
    words = hashes = None
    if Origin.FINAL_ANSWER in markers or Origin.THE_ANSWER_IS in markers:
        words = _last_words(text, markers)
    if Origin.HASH_MARKS in markers:
        hashes = _last_hashes(text)
    found = max(filter(None, (words, hashes)), default=None)
    if found is None:
        return None
    start, origin = found
    if origin is Origin.HASH_MARKS:
        end = text.find("\n", start)
        line = text[start : end if end >= 0 else len(text)]
        return as_marked(line[:_MAX_ANSWER_CHARS], origin, tail=start + len(line))
    rest = text[start : start + _MAX_ANSWER_CHARS]
    sentence = _sentence(rest)
    return as_marked(sentence, origin, tail=start + max(0, rest.find(sentence)) + len(sentence))


def tagged(text: str) -> Marked | None:
    """The content of the last `<answer>..</answer>`; None if there is none.

    >>> tagged("<answer> $x = 5$ </answer>").answer
    'x = 5'
    """
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end) if end >= 0 else -1
    if start < 0:
        return None
    inner = text[start + len("<answer>") : end].strip()
    if len(inner) > _MAX_ANSWER_CHARS:
        return None
    found = last_marked(inner) or as_marked(inner, Origin.FINAL_ANSWER)
    return replace(found, tail=end + len("</answer>"))


def whole_text(text: str) -> Marked | None:
    """The answer, if the whole text is a single one; None for running text.

    >>> whole_text("28 percent").answer, whole_text("Hence $x > 5$ is the solution.").answer
    ('28 percent', 'x > 5')
    >>> whole_text("There were 8 birds.") is None
    True
    """
    text = text.strip()
    if fenced := _FENCED.fullmatch(text):
        text = fenced["inner"].strip()
    if not text or len(text) > _MAX_SENTENCE_CHARS:
        return None
    if len(text) <= _MAX_BARE_CHARS and "\n" not in text and _is_bare(text):
        return as_marked(text, Origin.WHOLE_TEXT)
    pieces = _pieces(text)
    if len(pieces) != 3:
        return None
    around = pieces[0] + " " + pieces[2]
    is_apart = not re.search(r"[\d\\$]", around) and not _SAYS_NOT.search(around)
    if not is_apart or len(_WORD.findall(around)) > _MAX_SENTENCE_WORDS:
        return None
    return Marked(_trim(pieces[1]), Origin.WHOLE_TEXT)


def _is_bare(text: str) -> bool:
    plain = "".join(_pieces(text))
    has_value = re.search(r"\d|\\[a-zA-Z{]|^\W*[A-Za-z]\W*$", plain) is not None
    is_broken = "##" in plain or "boxed" in plain
    return has_value and not is_broken and len(_WORD.findall(plain)) <= _MAX_BARE_WORDS


def _last_words(text: str, markers: frozenset[Origin]) -> tuple[int, Origin] | None:
    """(position after the last "answer" that announces one, its marker)."""
    lowered = text.replace("\u0130", "I").lower()  # U+0130 alone would change its length
    position = len(text)
    for _ in range(_MAX_TRIES):
        position = lowered.rfind("answer", 0, position)
        if position < 0:
            return None
        end = position + len("answer")
        if lowered.startswith("s", end):
            end += 1
        before = lowered[max(0, position - _BEFORE_CHARS) : position]
        found = _announced(text, before, end)
        if (
            found is not None
            and found[1] in markers
            and not _REMARK.match(text, _past_lead(text, found[0]))
            and not _is_question(text[found[0] : found[0] + _MAX_ANSWER_CHARS])
        ):
            return found
    return None


def _is_question(rest: str) -> bool:
    """Whether the sentence is a question: "The answer is 7? No."."""
    start = _past_lead(rest, 0)
    match = _SENTENCE.match(rest, start)
    end = match.end() if match else start
    return end > start and rest.startswith("?", end)


def _announced(text: str, before: str, end: int) -> tuple[int, Origin] | None:
    if before and (before[-1].isalnum() or before[-1] in "<\\/{"):
        return None
    if _CHECKS.search(before) or _OF_OTHERS.search(before):
        return None
    is_final = _FINAL.search(before) is not None
    colon = _COLON.match(text, end)
    if is_final and colon:
        return colon.end(), Origin.FINAL_ANSWER
    if colon and text[colon.end() - 1] in ":=":
        return colon.end(), Origin.FINAL_ANSWER
    if match := _THEN_FORMULA.match(text, end):
        return match.end(), Origin.FINAL_ANSWER
    if match := _ANNOUNCES.match(text, end):
        return match.end(), Origin.FINAL_ANSWER if is_final else Origin.THE_ANSWER_IS
    if (is_final or _LABEL.search(before)) and (heading := _HEADING.match(text, end)):
        return heading.end() - 1, Origin.FINAL_ANSWER
    return None


def _last_hashes(text: str) -> tuple[int, Origin] | None:
    """The text after the last `####` that is not a heading: one on the last line, or one that a value follows."""
    position = len(text)
    for _ in range(_MAX_TRIES):
        position = text.rfind("####", 0, position)
        if position < 0:
            return None
        if text[position - 1 : position] == "#":
            continue  # a rule across the page
        start = position + 4
        end = text.find("\n", start)
        is_last = end < 0 or not text[end : end + _MAX_ANSWER_CHARS].strip()
        if is_last or (_NUMBERISH.match(text, start) and not _STEP.match(text, start)):
            return start, Origin.HASH_MARKS
    return None


def _past_lead(text: str, start: int) -> int:
    match = _LEAD.match(text, start)
    return match.end() if match else start


def _sentence(rest: str) -> str:
    """The text up to the end of its sentence, which starts on the next line if the current one is empty."""
    rest = rest[_past_lead(rest, 0) :].lstrip()
    match = _SENTENCE.match(rest)
    sentence = match.group() if match else ""
    for clause in _CLAUSE.finditer(sentence):
        if clause.start() and sentence.count("$", 0, clause.start()) % 2 == 0:
            return sentence[: clause.start()]
    return sentence


def as_marked(text: str, origin: Origin, *, tail: int = -1) -> Marked:
    """The stated answer without emphasis and dollar signs around it."""
    text = text.strip().strip("`").strip()
    bold = _BOLD.match(text)
    core, rest = ("", "") if bold is None else (_inner(bold), text[bold.end() :])
    text = _BOLD.sub(_inner, text).strip().strip("*_").strip()
    pieces = _pieces(text)
    if len(pieces) > 1 and not pieces[0].strip():
        core, rest = pieces[1], "".join(pieces[2:])
    answer = _trim("".join(pieces))
    if origin is Origin.FINAL_ANSWER and not core and _PROSE.search(answer):
        core = _said_in_prose(answer)
    is_part = _trim(core) != answer and _MORE.search(rest) is None
    return Marked(answer, origin, _trim(core) if is_part else "", tail)


def _said_in_prose(sentence: str) -> str:
    """The value in "the number of points is 19" or "it began 3 hours ago"; "" if there may be more than one."""
    if said := _IS.match(sentence):
        return sentence[said.end() :]
    numbers = _NUMBER.findall(sentence)
    is_plain = len(numbers) == 1 and not _SAYS_NOT.search(sentence) and not _MORE.search(_NUMBER.sub("", sentence))
    return numbers[0] if is_plain else ""


def _pieces(text: str) -> list[str]:
    """The text split into prose (even indices) and formulas without delimiters (odd indices); not split if dollar signs
    mean money.

    >>> _pieces("so $x$ or $ y $."), _pieces("from $5 to $6")
    (['so ', 'x', ' or ', 'y', '.'], ['from $5 to $6'])
    """
    text = _FORMULA.sub(lambda match: f"${_inner(match)}$", text.replace("$$", "$"))
    pieces = text.split("$")
    is_money = any(piece.endswith("\\") for piece in pieces[:-1]) or any(piece[:1].isdigit() for piece in pieces[2::2])
    if len(pieces) % 2 == 0 or is_money or any(_PROSE.search(piece) for piece in pieces[1::2]):
        return [text]
    return [piece.strip() if place % 2 else piece for place, piece in enumerate(pieces)]


def _inner(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None)


def _trim(text: str) -> str:
    text = text.strip().strip("\"'").removesuffix("\\").removeprefix('\\"').rstrip(",;:").strip()
    if text.endswith(".") and not text.endswith((".m.", "..")):
        text = text[:-1].rstrip()
    return text
