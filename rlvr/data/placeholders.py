r"""Placeholders of prompt formats: which `{name}` is a column, which is LaTeX or JSON, and which is a mistake.

    {name}      the column of that name, whatever its letters; `{prompt}` is the question
    {{name}}    the text {name}, as in Python's formats; {{{name}}} is the column in braces
    \cmd{name}  of LaTeX, also after `^`, `_` and `\`: the column if there is one, else unchanged
    {a: 1} {}   and everything else that is not a name stays unchanged

Any other `{name}` would reach the policy verbatim in every prompt; `unknown_names` finds it.
"""

import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping

from rlvr.records import Json

_PLACEHOLDER = re.compile(r"\{\{\{([^{}\n]+)\}\}\}|\{\{([^{}\n]+)\}\}|\{([^{}\n]+)\}")
_WORD = re.compile(r"[^\W\d][\w.-]*")  # of any script
_WORDS = re.compile(r"\s*[^\W\d][\w.-]*(?:\s+[\w.-]+)*\s*")
_COMMAND = re.compile(r"(?:\\[A-Za-z]+\*?|\\)(?:\[[^\]\n]*\])?$")
_CLOSE = 0.75  # ratio of difflib from which a name counts as misspelt


def substitute(text: str, values: Mapping[str, Json]) -> str:
    r"""`text` with each `{name}` in `values` replaced, and `{{name}}` as {name}; the rest is unchanged.

    One pass, so braces inside a value are never read again. A list or an object is written as JSON.

    >>> substitute(r"{prompt} in \boxed{} as {{x}}", {"prompt": "Say {x}", "y": 1})
    'Say {x} in \\boxed{} as {x}'
    """

    def replaced(match: re.Match[str]) -> str:
        braced, escaped, name = match.groups()
        if braced is not None:
            return f"{{{_text(values[braced])}}}" if braced in values else match[0]
        if escaped is not None:
            is_name = escaped in values or _WORD.fullmatch(escaped)
            return f"{{{escaped}}}" if is_name else match[0]
        return _text(values[name]) if name in values else match[0]

    return _PLACEHOLDER.sub(replaced, text)


def named(text: str, columns: Collection[str]) -> list[str]:
    """The columns named in `text`, in order of appearance.

    >>> named("{prompt} ({难度}) {{prompt}} {}", ["prompt", "难度"])
    ['prompt', '难度']
    """
    return [name for _, name in _names(text) if name in columns]


def unknown_names(text: str, columns: Collection[str]) -> list[tuple[str, str]]:
    r"""(name, the column that it resembles or "") of each placeholder that looks like a column but is not one.

    >>> unknown_names(r"{promt} \boxed{answer} x_{n} {a: 1} {}", ["prompt", "level"])
    [('promt', 'prompt')]
    """
    found: dict[str, str] = {}
    for start, name in _names(text):
        if name in columns or not _WORDS.fullmatch(name):
            continue
        bare = name.strip()
        close = difflib.get_close_matches(bare, columns, n=1, cutoff=_CLOSE)
        before = text[:start]
        if _is_latex(before):
            continue
        if close or (_WORD.fullmatch(name) and not before.endswith(("_", "^"))):
            found[name] = close[0] if close else ""
    return list(found.items())


def _names(text: str) -> Iterator[tuple[int, str]]:
    """The start and name of each placeholder that is not escaped."""
    for match in _PLACEHOLDER.finditer(text):
        braced, _, name = match.groups()
        if braced is not None or name is not None:
            yield match.start(), braced or name


def _is_latex(before: str) -> bool:
    """Whether a brace that follows `before` opens an argument of a LaTeX command."""
    while before.endswith("}"):
        depth, place = 1, len(before) - 1
        while depth and place > 0:
            place -= 1
            depth += {"}": 1, "{": -1}.get(before[place], 0)
        if depth:
            return False
        before = before[:place]
    return _COMMAND.search(before) is not None


def _text(value: Json) -> str:
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
