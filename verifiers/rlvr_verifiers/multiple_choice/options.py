"""The options of a multiple-choice question and the right one, from a reference, a column or a prompt.

>>> options_in("Which is a fruit?\\nA. Oak\\nB. Apple\\nC. Fern\\nAnswer:")
Options(labels='ABC', texts=('Oak', 'Apple', 'Fern'))
>>> gold_label(1, Options.lettered(("Oak", "Apple")))
'B'
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import cast

from rlvr.records import Json, Prompt

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ANSWER_KEYS = ("answer", "answerKey", "answer_key", "answer_index", "answer_idx", "label")
OPTION_KEYS = ("options", "choices", "endings")
_READ_CHARS = 50_000
_MIN_OPTIONS = 2
_LINE_MARK = re.compile(r"^[ \t>*-]{0,4}(?:\(([A-Z])\)|([A-Z])[.):])[ \t]+", re.MULTILINE)
_INLINE_MARK = re.compile(r"(?:^|(?<=[\s,;:]))(?:\(([A-Z])\)|([A-Z])[.)])[ \t]+", re.MULTILINE)
_AFTER_LAST = re.compile(r"\n\s*\n|\n\s*(?:\*\*)?(?:answer|solution|explanation|please|think|respond)\b", re.IGNORECASE)
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|emph)\s*\{([^{}]*)\}")
_MARKS = re.compile(r"[*`$\u201c\u201d\"]|\\[()\[\],;! ]")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a question.

    labels: one character per option, or "" if there are more options than letters; they are then answered by text.
    texts: the options' texts; () if they are unknown and only the labels are.
    """

    labels: str
    texts: tuple[str, ...]

    @classmethod
    def lettered(cls, texts: tuple[str, ...]) -> "Options":
        """Options labelled A, B, C, ..."""
        return cls(LETTERS[: len(texts)] if len(texts) <= len(LETTERS) else "", texts)

    def key(self, index: int) -> str:
        """The label of an option, or its number from 1 if the options have no labels."""
        return self.labels[index] if self.labels else f"#{index + 1}"


def normal(text: str, *, ignore_case: bool) -> str:
    """The text without emphasis, quotation marks, LaTeX text commands, extra spaces and a full stop at the end."""
    text = _LATEX_TEXT.sub(r"\1", unicodedata.normalize("NFC", text))
    text = _SPACE.sub(" ", _MARKS.sub("", text)).strip(" _")
    text = text.removesuffix(".").rstrip(" _")
    return text.casefold() if ignore_case else text


def parse_options(value: Json) -> Options:
    """Options given as a list of texts, as {"A": text, ...} or as {"text": [...], "label": [...]} (ARC).

    Raises: ValueError if they have another form, are fewer than two, or two of them are equal.
    """
    labels = ""
    if isinstance(value, dict) and "text" in value:
        fields = cast("dict[str, Json]", value)
        given = fields.get("label", fields.get("labels"))
        value = fields["text"]
        if given is not None:
            labels = _labels(given)
    elif isinstance(value, dict):
        fields = cast("dict[str, Json]", value)
        labels, value = _labels(list(fields)), list(fields.values())
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"the options {value!r:.200} are not a list of texts")
    items = cast("list[Json]", value)
    if any(isinstance(item, bool) or not isinstance(item, (str, int, float)) for item in items):
        raise ValueError(f"the options {items!r:.200} are not all texts or numbers")
    texts = tuple(str(item) for item in items)
    if len(texts) < _MIN_OPTIONS:
        raise ValueError(f"the options {items!r:.200} are fewer than two")
    if labels and len(labels) != len(texts):
        raise ValueError(f"there are {len(texts)} options and {len(labels)} labels")
    plain = [_SPACE.sub(" ", text).strip() for text in texts]
    if len(set(plain)) < len(plain):
        raise ValueError(f"two of the options {items!r:.200} are equal")
    return Options(labels, texts) if labels else Options.lettered(texts)


def _labels(given: Json) -> str:
    """Labels such as ["A", "B"] or ["1", "2"]. Raises ValueError."""
    items = cast("list[Json]", given) if isinstance(given, list) else []
    labels = "".join(str(item).strip().upper() for item in items)
    if not items or len(labels) != len(items) or not (labels.isascii() and labels.isalnum()):
        raise ValueError(f"the labels {given!r:.200} are not one letter or digit each")
    if len(set(labels)) < len(labels):
        raise ValueError(f"two of the labels {given!r:.200} are equal")
    return labels


def options_of(prompt: Prompt, column: str) -> Options | None:
    """The options in a column of the row, else those listed in the prompt; None if there are none.

    Raises: ValueError if `column` names a column that the row lacks or that holds no options.
    """
    if column:
        if column not in prompt.tags:
            raise ValueError(f"the row has no column {column!r}; add it to the recipe's `columns`")
        return parse_options(prompt.tags[column])
    for key in OPTION_KEYS:
        if isinstance(prompt.tags.get(key), (list, dict)):
            return parse_options(prompt.tags[key])
    asked = [message.content for message in prompt.messages if message.role == "user"]
    return options_in(asked[-1] if asked else prompt.text)


def options_in(text: str) -> Options | None:
    """The last list of options in a prompt ("A. text", "(A) text", "A) text"), on lines or in one line.

    None if there is none. With few-shot examples in the prompt, the last list belongs to the question.
    """
    text = text[-_READ_CHARS:]
    return _listed(text, _LINE_MARK) or _listed(text, _INLINE_MARK)


def _listed(text: str, mark: re.Pattern[str]) -> Options | None:
    """The last run of marks A, B, C, ... with the texts between them."""
    marks = [(match.group(1) or match.group(2), match.start(), match.end()) for match in mark.finditer(text)]
    firsts = [number for number, (letter, _, _) in enumerate(marks) if letter == "A"]
    for first in reversed(firsts):
        run = [marks[first]]
        for found in marks[first + 1 :]:
            if len(run) < len(LETTERS) and found[0] == LETTERS[len(run)]:
                run.append(found)
            else:
                break
        if len(run) >= _MIN_OPTIONS:
            ends = [start for _, start, _ in run[1:]]
            after = _AFTER_LAST.search(text, run[-1][2])
            ends.append(after.start() if after else len(text))
            texts = tuple(
                text[start:end].strip().rstrip(",;").strip() for (_, _, start), end in zip(run, ends, strict=True)
            )
            return Options.lettered(texts)
    return None


def reference_options(reference: Json, column: str) -> Options | None:
    """The options in a reference that is a whole row; None if the reference is only the answer. Raises ValueError."""
    if not isinstance(reference, dict):
        return None
    fields = cast("dict[str, Json]", reference)
    for key in (column,) if column else OPTION_KEYS:
        if fields.get(key) is not None:
            return parse_options(fields[key])
    raise ValueError(f"the reference has no options; it has {', '.join(fields) or 'nothing'}; name them with `column`")


def reference_answer(reference: Json, answer_key: str) -> Json:
    """The answer in a reference that is a whole row, or the reference itself. Raises ValueError."""
    if not isinstance(reference, dict):
        return reference
    fields = cast("dict[str, Json]", reference)
    for key in (answer_key,) if answer_key else ANSWER_KEYS:
        if fields.get(key) is not None:
            return fields[key]
    raise ValueError(f"the reference has no answer; it has {', '.join(fields)}; name it with `answer_key`")


def gold_label(answer: Json, options: Options, *, first_index: int = 0) -> str:
    """The key of the right option.

    Args:
        answer: a label ("B"), a whole number (an index) or the text of an option.
        first_index: the index of the first option.

    Raises: ValueError if the answer is no option, or is the label of one option and the text of another.
    """
    if isinstance(answer, bool) or not isinstance(answer, (str, int)):
        raise ValueError(f"{answer!r:.200} is not a letter, an index or the text of an option")
    count = len(options.texts) or len(options.labels)
    if isinstance(answer, int):
        return _at(answer - first_index, count, options, answer, first_index)
    found = {options.key(index) for index in _matching(answer, options)}
    text = answer.strip().strip("().:").strip().upper()
    is_label = len(text) == 1 and text in options.labels
    if is_label:
        found.add(text)
    if len(found) > 1:
        raise ValueError(
            f"{answer!r:.200} is both a label and the text of another option; give the index of the right option"
        )
    if not found and answer.strip().isdecimal() and answer.isascii():
        return _at(int(answer[:20]) - first_index, count, options, answer, first_index)
    if not found:
        shown = ", ".join(repr(option)[:40] for option in options.texts[:10]) or options.labels
        raise ValueError(f"{answer!r:.200} is none of the options {shown}")
    return found.pop()


def _at(index: int, count: int, options: Options, answer: Json, first_index: int) -> str:
    if not 0 <= index < count:
        raise ValueError(f"index {answer!r} is not from {first_index} to {first_index + count - 1}")
    return options.key(index)


def _matching(answer: str, options: Options) -> list[int]:
    """The options with this text: exactly, else with other case and punctuation."""
    for ignore_case in (False, True):
        wanted = normal(answer, ignore_case=ignore_case)
        found = [i for i, text in enumerate(options.texts) if normal(text, ignore_case=ignore_case) == wanted]
        if found:
            return found
    return []
