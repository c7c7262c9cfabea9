r"""The letter that a completion chooses: the last statement that names a choice decides.

A statement is a box, `<answer>C</answer>`, "the answer is C", "I choose C", "C is correct", "so C." or a last line
that is a letter. Without one, a letter in brackets or with a full stop counts, then the letters of the last line.
Letters in formulas, in questions or in denials, articles and pronouns are not choices.

>>> reader = ChoiceReader("ABCD", ignore_case=False)
>>> reader.read(r"We need \boxed{B = \mu_0 H}. The best answer is C, not A.")
{'C'}
>>> sorted(reader.read(r"$\boxed{A}$ or $\boxed{C}$"))
['A', 'C']
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from rlvr_verifiers.mathcheck.text.boxes import last_boxes
from rlvr_verifiers.retraction import retraction

_READ_CHARS = 20_000
_STATEMENT_CHARS = 300
_BEFORE_CHARS = 60
_QUOTED = re.compile(r"(?<![A-Za-z0-9])['\u2018]([A-Za-z])['\u2019](?![A-Za-z0-9])")
_COMMAND = re.compile(r"\\(?:[A-Za-z]+|[ ,;:!()\[\]])")
_MARKS = re.compile(r"[{}$*`\"\u201c\u201d~]|</?answer>")
_FILLING = re.compile(
    r"(?:(?:either|option|choice|letter|answer|clearly|likely|probably|possibly|perhaps|maybe|most\s+likely|therefore|thus|then"
    r"|just|simply|actually|indeed|definitely|certainly|of\s+course|in\s+fact|given\s+by|the|be|is|i\s+(?:think|believe|guess"
    r"|would\s+say))\b[\s,:]*|[\s:\u2013\u2014-]+){0,8}",
    re.IGNORECASE,
)
_IN_FORMULA = re.compile(r"\s*[=<>^+|\u2264\u2265\u2248\u2208]|\s*[*/\u00b7]\s*\d|\s*-\s*\d|[_(\[]")
_FOLLOWS = (
    r"(?:because|since|as|and|or|with|which|is|if|from|by|for|per|due|based|but|not|in|given|rather|instead|when"
    r"|assuming|then|so|unless|according|among)\b"
)
_WORD = re.compile(rf"\s+(?!{_FOLLOWS})[a-z]")
_VERB = re.compile(
    r"(?:['\u2019]s|\s+(?:is|are|was|were|has|have|had|would|will|can|cannot|could|does|do|did|am|seems?|says?|states?"
    r"|looks?|fails?|gives?|means?|refers?|describes?)(?:n['\u2019]t)?)\b"
)
_SEPARATOR = re.compile(
    r"[\s)]*(?:(?P<comma>,)|/|&|\+|;|,?[\s(]*\b(?:and/or|and|or)\b)[\s(]*(?:(?:also|either|even|maybe|possibly|perhaps"
    r"|probably|else|option|choice|the|answer|is)\b\s*){0,3}[(\s]*",
    re.IGNORECASE,
)
_ENDS = re.compile(r"[\s)\]]*(?:$|[.,;:!?\n)]|and\b|or\b)")
_LINK = re.compile(r"(?:[\s$*,;&/|()]|\\[()\[\]]|\b(?:and/or|and|or|either|option)\b){1,40}", re.IGNORECASE)
_CONNECTIVE = re.compile(r"[,;&/]|\b(?:and|or)\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=[\s*$\"')]|$)|\n")

_ANNOUNCED = re.compile(
    r"\b(?:answer|choice|option|response|selection|solution)s?\b(?:\s+(?:to|for|of)\s[^.:\n]{1,60}?)?[\s*_)\]\"']{0,4}"
    r"(?::|=|->|\u2192|\b(?:is|are|was|would\s+be|must\s+be|should\s+be|has\s+to\s+be|will\s+be|seems\s+to\s+be)\b)"
    r"|\banswer(?=[\s*_$(\[]{1,6}\S)"
    r"|\b(?:choos(?:e|ing)|pick(?:ing)?|select(?:ing)?|chose|go(?:ing)?\s+(?:with|for)|opt(?:ing)?\s+for|settle\s+on)\b",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(
    r"\b(?:so|thus|hence|therefore|leaves(?:\s+us\s+with)?|leaving|only|it\s+is|it['\u2019]s|must\s+be|should\s+be|actually|rather|no(?=,)|that\s+is"
    r"|that['\u2019]s|which\s+is)\b[ \t,:]*|[\u2234\u2192]\s*|=>\s*|->\s*",
    re.IGNORECASE,
)
_IS_RIGHT = re.compile(
    r"[\s$*)}\]\"']{0,6}(?:\s(?:is|must\s+be|seems|remains|would\s+be|has\s+to\s+be)|['\u2019]s)\s+"
    r"(?:(?:therefore|thus|indeed|clearly|then|definitely|actually)\s+)?(?:the\s+)?"
    r"(?:(?:(?:only|most|best|correct|right|appropriate|valid|true|final)\s+){0,3}(?:answer|choice|option|one)\b"
    r"|(?:correct|right|the\s+best)\b(?=[\s*)\"']*(?:[.,;!\n]|$|because\b|since\b)))"
)
_OF_OTHERS = re.compile(
    r"\b(?:incorrect|wrong|false|tempting|common|initial|previous|student['\u2019]?s?|students|people|who|his|her|their|you)"
    r"[\s*_]{0,4}$|\b(?:if|suppose|assum\w+|whether|unless)\b[^.!?\n]{0,40}$|\bnot\b[\s*_]{0,4}(?:to\s+|the\s+)?$"
    r"|\b(?:first|initially|originally)\s+(?:thought|said|guessed|assumed|believed)[^.!?\n]{0,30}$",
    re.IGNORECASE,
)
_OF_STATEMENTS = re.compile(r"\b(?:not|statement|assertion|reason|claim|if|whether)[\s(*]{0,4}$", re.IGNORECASE)
_DENIED = re.compile(
    r"\b(?:not|never|neither|nor|than|eliminate|exclude|against)[\s(*$]{0,4}(?:option\s+)?$", re.IGNORECASE
)
_IS_WRONG = re.compile(r"[\s)*]{0,4}(?:is|are|was)\s+(?:not|wrong|incorrect|false|out)\b|[\s)*]{0,4}isn['\u2019]t\b")


class Form(StrEnum):
    """How a completion states its choice."""

    BOX = "box"  # \boxed{C}
    TAG = "tag"  # <answer>C</answer>
    HASH_MARKS = "hash marks"  # #### C; read by `choice` only
    LABEL = "label"  # Answer: C
    SENTENCE = "sentence"  # the answer is C; I choose C; so C; C is correct
    LAST_LINE = "last line"  # C


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of a choice: the position of its letter or text in the completion, and all letters that it names."""

    start: int
    end: int
    letters: frozenset[str]
    form: Form


class ChoiceReader:
    """Reads the letter of a choice.

    Args:
        choices: one letter each.
        ignore_case: lower-case letters count too.
    """

    def __init__(self, choices: str, *, ignore_case: bool) -> None:
        self.choices = choices.upper()
        letter = f"[{choices}{choices.swapcase() if ignore_case else ''}]"
        self._first = re.compile(rf"[\s(\[]*({letter})(?![A-Za-z0-9'\u2019])[)\]]?")
        self._alone = re.compile(rf"(?<![A-Za-z0-9'\u2019\\])\(?({letter})\)?(?![A-Za-z0-9'\u2019])")
        self._labelled = re.compile(
            rf"(?<![A-Za-z0-9])(?:\({letter}\)|{letter}[.):](?=\s|$))|(?m:^[\s*$]*{letter}[\s*$.]*$)"
        )
        self._line = re.compile(rf"[\s*$({{\[]*(?:\\(?:text|textbf|mathrm)\{{)?\(?{letter}[\s*$.)}}\]]*")

    def is_choice(self, text: str) -> bool:
        """Whether the text is one of the letters."""
        return len(text.strip()) == 1 and text.strip().upper() in self.choices

    def read(self, text: str) -> set[str]:
        """The letters of the last statement that names any, in upper case; of a long text only the end is read."""
        text = _QUOTED.sub(r"\1", text.strip()[-_READ_CHARS:])
        last = max(self.statements(text), key=lambda found: found.start, default=None)
        if last is None:
            return self._named(text)
        taken_back = retraction(text[last.end :])
        if taken_back is None:
            return set(last.letters)
        return set(self.leading(taken_back.value))

    def statements(self, text: str) -> Iterator[Statement]:
        """All statements that name a letter, in no particular order."""
        yield from self._boxed(text)
        end = text.rfind("</answer>")
        start = text.rfind("<answer>", 0, end) if end >= 0 else -1
        if start >= 0:
            yield from self._at(text, start + len("<answer>"), Form.TAG, until=end)
        for position, form in announcements(text):
            yield from self._at(text, position, form)
        last = len(text.rstrip("*$). "))
        for match in _CONCLUDES.finditer(text):
            for found in self._at(text, match.end(), Form.SENTENCE):
                end = _past_marks(text, found.end)
                if end >= last or _SENTENCE_END.match(text, end):
                    yield found
        for match in self._alone.finditer(text):
            before = text[max(0, match.start() - _BEFORE_CHARS) : match.start()]
            if _IS_RIGHT.match(text, match.end()) and not _OF_STATEMENTS.search(before):
                yield from self._at(text, match.start(), Form.SENTENCE)
        line_start = text.rfind("\n") + 1
        if self._line.fullmatch(text, line_start):
            yield from self._at(text, line_start, Form.LAST_LINE)

    def leading(self, text: str) -> frozenset[str]:
        """The letters that a text begins with, after fillers such as "option" or "the answer is"."""
        return self._leading(_clean(text))

    def _boxed(self, text: str) -> Iterator[Statement]:
        """The last box with a choice, with those that commas or "or" join to it."""
        boxes = last_boxes(text).boxes
        letters: set[str] = set()
        first, start = None, 0
        for box in reversed(boxes):
            found = self._leading(_clean(box.content))
            if first is None:
                if not found or _is_question(text, box.end):
                    continue
                first = box
                letters |= found | self._leading(_clean(text[box.start : box.end + _STATEMENT_CHARS]))
            elif found and _LINK.fullmatch(text, box.end, start):
                letters |= found
            else:
                break
            start = box.start
        if first is not None:
            yield Statement(first.start, first.end, frozenset(letters), Form.BOX)

    def _at(self, text: str, start: int, form: Form, *, until: int | None = None) -> Iterator[Statement]:
        """The statement that begins at `start`; none if it names no choice or is a question."""
        end = min(len(text), start + _STATEMENT_CHARS) if until is None else until
        letters = self._leading(_clean(text[start:end]))
        place = self._alone.search(text, start, end)
        if letters and place and not _is_question(text, place.end()):
            yield Statement(place.start(), place.end(), letters, form)

    def _leading(self, statement: str) -> frozenset[str]:
        """The letters that a cleaned statement begins with."""
        filled = _FILLING.match(statement)
        position = filled.end() if filled else 0
        match = self._first.match(statement, position)
        if match is None or not self._is_letter(statement, match):
            return frozenset()
        letters = {match.group(1).upper()}
        while (joint := _SEPARATOR.match(statement, match.end())) is not None:
            match = self._first.match(statement, joint.end())
            if match is None or not self._is_letter(statement, match):
                break
            if _VERB.match(statement, match.end()):
                break
            if joint["comma"] and not _ENDS.match(statement, match.end()):
                break
            letters.add(match.group(1).upper())
        return frozenset(letters)

    def _is_letter(self, statement: str, match: re.Match[str]) -> bool:
        """Whether the letter is a choice, not part of a formula, an article or a pronoun."""
        end = match.end()
        if match.group().endswith((")", "]")):
            return True
        if _IN_FORMULA.match(statement, end):
            return False
        return match.group(1) not in "AaIi" or _WORD.match(statement, end) is None

    def _named(self, text: str) -> set[str]:
        """Without a statement: the last letter with a bracket or a full stop, else the letters of the last line."""
        labelled = [match for match in self._labelled.finditer(text) if not self._is_denied(text, match)]
        if labelled:
            start = labelled[-1].start()
            line = text.rfind("\n", 0, start) + 1
            for earlier in reversed(labelled[:-1]):
                if earlier.start() == line:
                    start = line
                    break
                between = text[earlier.end() : start]
                if not (_LINK.fullmatch(between) and _CONNECTIVE.search(between)):
                    break
                start = earlier.start()
            return set(self._leading(_clean(text[start : start + _STATEMENT_CHARS])))
        start = text.rfind("\n") + 1
        line = _COMMAND.sub(" ", text[start:])
        return {
            match.group(1).upper()
            for match in self._alone.finditer(line)
            if self._is_letter(line, match) and not self._is_denied(line, match)
        }

    def _is_denied(self, text: str, match: re.Match[str]) -> bool:
        before = text[max(0, match.start() - _BEFORE_CHARS) : match.start()]
        return bool(_DENIED.search(before) or _IS_WRONG.match(text, match.end()))


def announcements(text: str) -> Iterator[tuple[int, Form]]:
    """(position after it, form) of each "Answer:", "the answer is" or "I choose" that is not about another's answer."""
    for match in _ANNOUNCED.finditer(text):
        if not _OF_OTHERS.search(text, max(0, match.start() - _BEFORE_CHARS), match.start()):
            is_sentence = match.group()[-1:].isalpha() and not match.group().lower().endswith("answer")
            yield match.end(), Form.SENTENCE if is_sentence else Form.LABEL


def _clean(statement: str) -> str:
    """The text without LaTeX commands, emphasis and punctuation, which would hide a letter."""
    return _MARKS.sub("", _COMMAND.sub(" ", statement))


def _past_marks(text: str, start: int) -> int:
    while start < len(text) and text[start] in "*$)\"'} ":
        start += 1
    return start


def _is_question(text: str, start: int) -> bool:
    """Whether the sentence that continues at `start` is a question."""
    end = _SENTENCE_END.search(text, start)
    return end is not None and end.group() == "?"
