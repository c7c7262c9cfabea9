r"""The option that a completion states as its answer, by its label, its text or both.

>>> options = Options.lettered(("Oslo", "Paris", "Rome"))
>>> reader = AnswerReader(options, ignore_case=True, forms=ALL_FORMS)
>>> reader.read("The capital of France is not Oslo. The answer is Paris.")
Reading(keys=frozenset({'B'}), form=<Form.SENTENCE: 'sentence'>, shown='Paris.')
>>> reader.read(r"\boxed{C. Paris}").keys == {"B", "C"}
True
"""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from rlvr_verifiers.choices import ChoiceReader, Form, Statement, announcements
from rlvr_verifiers.mathcheck.text.boxes import last_boxes
from rlvr_verifiers.multiple_choice.options import Options, normal
from rlvr_verifiers.retraction import retraction

ALL_FORMS = frozenset(Form)
_READ_CHARS = 20_000
_MAX_SLOTS = 20
_SLOT_CHARS = 2_000  # of one place of an answer
_SHOWN_CHARS = 60
_HASH = re.compile(r"####[ \t]*([^\n]{0,2000})")
_FINAL = re.compile(r"^[\s*_#>]{0,8}(?:(?:the|my)\s+)?(?:final\s+)?answer[\s*_]{0,4}[:=]", re.IGNORECASE | re.MULTILINE)
_FILLER = re.compile(
    r"(?:(?:clearly|therefore|thus|indeed|definitely|probably|option|choice|letter|answer|is|be|the\s+option)\b\s*[:,]?\s*"
    r"|[\s:*_`$\"'\u201c-]+){0,6}",
    re.IGNORECASE,
)
_CHANGE_OF_MIND = re.compile(
    r"\b(?:wait|actually|correction|corrected|mistake|wrong|incorrect|instead|sorry|reconsider|re-?check|second\s+thought"
    r"|no,|not\s+(?:right|correct)|error)\b|\bno,",
    re.IGNORECASE,
)
_ENDS = re.compile(r"\s*(?:$|[.!;)\]]|\n|,?\s*(?:because|since|as|which|so)\b|,\s*(?:not|rather)\b)")
_OFFERS_ANOTHER = re.compile(
    r"[\s.,;!)\]*]{0,6}(?:and/or|or|and|but|alternatively|maybe|possibly|perhaps)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a completion states. keys: of the options it names as its answer; more than one is no single answer.

    form: None if nothing is stated. shown: the text that states it.
    """

    keys: frozenset[str]
    form: Form | None = None
    shown: str = ""


class AnswerReader:
    """Reads answers to a question.

    Args:
        options: of the question; if their texts are unknown, only labels are read.
        ignore_case: lower-case labels count; the case of texts counts only where it tells two options apart.
        forms: the forms that count.
    """

    def __init__(self, options: Options, *, ignore_case: bool, forms: frozenset[Form]) -> None:
        self._options = options
        self._forms = forms
        self._letters = ChoiceReader(options.labels, ignore_case=ignore_case) if options.labels else None
        label = f"[{options.labels}{options.labels.lower() if ignore_case else ''}]" if options.labels else r"(?!)"
        self._label = re.compile(
            rf"(?:(?:option|choice|answer|letter)\s+)?(?:\(({label})\)|({label})(?=[\s.):,-]|$))[\s.):,-]*", re.I
        )
        self._marked = re.compile(
            rf"[\s*_$]*(?:(?:\({label}\)|{label}[*_]*[.):])(?=[\s*]|$)"
            rf"|(?:[Oo]ption|[Cc]hoice)\s+(?:\({label}\)|{label})[\s*_$.]*$)"
        )
        words = r"(?:and/or|or|and|alternatively|maybe|possibly|perhaps|even|else|also|option|choice)"
        self._offered = re.compile(
            rf"(?:[ \t,;/&+*$]{{1,6}}|[\s.,;)\]}}*$]{{0,6}}{words}\s+(?:{words}\s+){{0,3}})"
            rf"[(*$]{{0,3}}({label})(?=[\s.,;)\]}}*$!]|$)(?!(?<=[AIai])\s+[a-z])"
        )
        self._isolated = re.compile(rf"(?<![A-Za-z0-9'\u2019\\])\(?{label}\)?(?![A-Za-z0-9'\u2019])")
        self._any_mark = re.compile(rf"(?<![\w])(?:\({label}\)|{label}[.):])(?=\s)")
        self._exact = self._table(ignore_case=False)
        self._folded = self._table(ignore_case=True)
        self._by_length = sorted(self._folded, key=len, reverse=True)

    def _table(self, *, ignore_case: bool) -> dict[str, str]:
        """Keys of the options by normal text; texts that two options share are left out."""
        table: dict[str, str] = {}
        shared: set[str] = set()
        for index, text in enumerate(self._options.texts):
            name = normal(text, ignore_case=ignore_case)
            if name in table or not name:
                shared.add(name)
            table[name] = self._options.key(index)
        return {name: key for name, key in table.items() if name not in shared}

    def read(self, text: str, *, is_cut: bool = False) -> Reading:
        """The last answer that a text states; only the end of a long text is read.

        Args: is_cut: the text was truncated, so that a last line without any mark is not an answer.
        """
        text = text.strip()[-_READ_CHARS:]
        found = [s for s in self._all(text) if s.form in self._forms and not (is_cut and s.form is Form.LAST_LINE)]
        last = max(found, key=lambda statement: (statement.start, statement.end), default=None)
        if last is None:
            return Reading(frozenset())
        shown = text[last.start : last.end + 1].strip()[:_SHOWN_CHARS]
        if (taken_back := retraction(text[last.end :])) is not None:
            return Reading(self._keys_of(taken_back.value), last.form, shown)
        rivals = [s for s in self._finals(text) if s.form in self._forms and s.letters and s.letters != last.letters]
        if rivals and last.letters:
            rival = max(rivals, key=lambda statement: statement.start)
            first, second = sorted((rival, last), key=lambda statement: statement.start)
            if last.form not in (Form.SENTENCE, Form.LAST_LINE) and not _CHANGE_OF_MIND.search(
                text, first.end, second.start
            ):
                return Reading(last.letters | rival.letters, last.form, shown)
        return Reading(last.letters, last.form, shown)

    def _all(self, text: str) -> Iterator[Statement]:
        """The statements by text and by label; a label in a statement that has an option's text is part of it."""
        texts = list(self._by_text(text))
        yield from texts
        if self._letters is None:
            return
        for found in self._letters.statements(text):
            if not any(other.start <= found.start <= other.end for other in texts):
                place = self._isolated.search(text, found.start, found.end)
                offered = self._offered.match(text, place.end() if place else found.end)
                yield replace(found, letters=found.letters | {offered.group(1).upper()}) if offered else found
        for match in _HASH.finditer(text):
            if letters := self._letters.leading(match.group(1)):
                yield Statement(match.start(1), match.end(1), letters, Form.HASH_MARKS)
        yield from self._marked_line(text)

    def _by_text(self, text: str) -> Iterator[Statement]:
        """The statements that hold the text of an option."""
        if not self._folded:
            return
        for start, end, content, form, is_whole in self._slots(text):
            keys = self._keys_by_text(content, is_whole=is_whole)
            if keys is not None:
                yield Statement(start, end, keys, form)

    def _slots(self, text: str) -> Iterator[tuple[int, int, str, Form, bool]]:
        """(start, end, content, form, whether the content must be the option as a whole) of each place of an answer."""
        for box in last_boxes(text).boxes:
            yield box.start, box.end, box.content, Form.BOX, True
        for start, end in _tags(text):
            yield start, end, text[start:end], Form.TAG, True
        for match in deque(_HASH.finditer(text), maxlen=_MAX_SLOTS):
            yield match.start(1), match.end(1), match.group(1), Form.HASH_MARKS, True
        for start, form in deque(announcements(text), maxlen=_MAX_SLOTS):
            end = text.find("\n", start)
            end = min(len(text) if end < 0 else end, start + _SLOT_CHARS)
            yield start, end, text[start:end], form, False
        last_line = text.rfind("\n") + 1
        for start in {0, last_line}:
            if len(text) - start <= _SLOT_CHARS and not (start and self._continues_list(text, start)):
                yield start, len(text), text[start:], Form.LAST_LINE, True

    def _continues_list(self, text: str, start: int) -> bool:
        """Whether the line before `start` names an option like the one that begins there, so that both list options."""
        before = text[:start].rstrip()[-_SLOT_CHARS:]
        line = before[before.rfind("\n") + 1 :]
        if self._marked.match(text, start) and self._marked.match(line):
            return True
        keys = self._keys_by_text(line, is_whole=True)
        return keys is not None and keys != self._keys_by_text(text[start:], is_whole=True)

    def _keys_by_text(self, content: str, *, is_whole: bool) -> frozenset[str] | None:
        """The keys that a content names by text; with a label before it, also the label's; None if there is no text."""
        filled = _FILLER.match(content)
        rest = content[filled.end() :] if filled and not is_whole else content.strip()
        found = self._option(rest, is_whole=is_whole)
        if found is not None:
            is_label = self._letters is not None and self._letters.is_choice(normal(rest, ignore_case=False))
            return None if is_label else found
        labelled = self._label.match(normal(rest, ignore_case=False).lstrip("{ "))
        if labelled is None:
            return None
        found = self._option(normal(rest, ignore_case=False).lstrip("{ ")[labelled.end() :], is_whole=is_whole)
        if found is None:
            return None
        return found | {(labelled.group(1) or labelled.group(2)).upper()}

    def _option(self, text: str, *, is_whole: bool) -> frozenset[str] | None:
        exact, folded = normal(text, ignore_case=False), normal(text, ignore_case=True)
        for table, name in ((self._exact, exact), (self._folded, folded)):
            if name in table:
                return frozenset({table[name]})
        if is_whole:
            return None
        for name in self._by_length:
            if not folded.startswith(name):
                continue
            if _OFFERS_ANOTHER.match(folded, len(name)):
                return frozenset()
            if _ENDS.match(folded, len(name)):
                return frozenset({self._folded[name]})
        return None

    def _marked_line(self, text: str) -> Iterator[Statement]:
        """A last line such as "B. Paris", unless it lists options or belongs to a list of them."""
        start = text.rfind("\n") + 1
        match = self._marked.match(text, start)
        if match is None or self._letters is None or self._any_mark.search(text, match.end()):
            return
        if self._continues_list(text, start):
            return
        if letters := self._letters.leading(text[start:]):
            yield Statement(match.start(), match.end(), letters, Form.LAST_LINE)

    def _finals(self, text: str) -> Iterator[Statement]:
        """Each box, answer tag, `####` line and line "Final answer:", with the options that it names."""
        slots = [slot for slot in self._slots(text) if slot[3] in (Form.BOX, Form.TAG, Form.HASH_MARKS)]
        for match in deque(_FINAL.finditer(text), maxlen=_MAX_SLOTS):
            end = text.find("\n", match.end())
            end = min(len(text) if end < 0 else end, match.end() + _SLOT_CHARS)
            slots.append((match.end(), end, text[match.end() : end], Form.LABEL, False))
        for start, end, content, form, is_whole in slots:
            keys = self._keys_by_text(content, is_whole=is_whole)
            if keys is None:
                keys = self._letters.leading(content) if self._letters is not None else frozenset[str]()
            yield Statement(start, end, keys, form)

    def _keys_of(self, value: str) -> frozenset[str]:
        """The keys that a replacing value names; none if it names no option."""
        keys = self._keys_by_text(value, is_whole=True)
        if keys is not None:
            return keys
        return self._letters.leading(value) if self._letters is not None else frozenset()


def _tags(text: str) -> Iterator[tuple[int, int]]:
    """The positions of the contents of the last `<answer>` tags."""
    end = len(text)
    for _ in range(_MAX_SLOTS):
        end = text.rfind("</answer>", 0, end)
        start = text.rfind("<answer>", 0, end) if end >= 0 else -1
        if start < 0:
            return
        yield start + len("<answer>"), end
        end = start
