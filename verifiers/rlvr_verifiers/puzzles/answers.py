r"""Reads an assignment from a completion: who is a knight and who a knave, or the values of variables.

>>> read_roles("(1) Ann is a knight\n(2) Bob is a knave", ["Ann", "Bob"], RoleWords(("knight",), ("knave",)))
{'Ann': True, 'Bob': False}
>>> read_values('{"a": 1, "b": "red"}', {"a": (1, 2), "b": ("red", "blue")})
{'a': 1, 'b': 'red'}
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from rlvr_verifiers.mathcheck.text.boxes import last_boxes
from rlvr_verifiers.puzzles.expressions import Domains, Value

MAX_ANSWER_CHARS = 20_000
_LABEL = re.compile(
    r"^[\s*_#>]{0,8}(?:(?:the|my)\s+)?(?:(?:final\s+)?(?:answer|solution)|conclusion)[\s*_]{0,4}:[\s*_]{0,4}",
    re.IGNORECASE | re.MULTILINE,
)
_UNSURE = re.compile(
    r"\b(?:if|or|either|not|maybe|perhaps|possibly|unless|suppose|assume|assuming|could|might|may|would|neither|nor|cannot"
    r"|isn['\u2019]t|aren['\u2019]t|says?|said|claims?)\b|\?",
    re.IGNORECASE,
)
_EMPHASIS = re.compile(r"[*`$]|\\text\b|\\(?:quad|qquad|,|;|\\)|[{}]")
_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)```", re.DOTALL)
_PAIR = re.compile(
    r"^[\s\-*(\d.)]{0,10}(?P<name>[^:=\n]{1,120}?)\s*(?::|=|->|\u2192)\s*(?P<value>[^\n]{1,300}?)[\s.,;]*$"
)
_DASHES = "\u2013\u2014\u2212"


class Unreadable(ValueError):  # noqa: N818 - not a fault of this program
    """There is no answer in the form that is needed."""


class Contradiction(ValueError):  # noqa: N818 - not a fault of this program
    """The answer says two things about one name, leaves one out, or gives one a value that it cannot have."""


@dataclass(frozen=True, slots=True)
class RoleWords:
    """The words for those who tell the truth and for those who lie."""

    knight: tuple[str, ...]
    knave: tuple[str, ...]


def answer_region(text: str, *, labels: bool, whole_text: bool) -> str:
    """The part of a completion that is the answer. Raises Unreadable if there is none or it is too long.

    The last `<answer>`, else the last box, else what follows the last "Final answer:" or "Conclusion:" (`labels`), else
    the last fenced block or paragraph (`whole_text`).
    """
    region = _region(text, labels=labels, whole_text=whole_text)
    if len(region) > MAX_ANSWER_CHARS:
        raise Unreadable(f"the answer has more than {MAX_ANSWER_CHARS:,} characters")
    if not region.strip():
        raise Unreadable("the completion has no answer")
    return region.strip()


def _region(text: str, *, labels: bool, whole_text: bool) -> str:
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end) if end >= 0 else -1
    if start >= 0:
        return text[start + len("<answer>") : end]
    boxes = last_boxes(text).boxes
    if boxes:
        return boxes[-1].content
    tail = text[-MAX_ANSWER_CHARS:]
    if labels:
        found = list(_LABEL.finditer(tail))
        if found:
            return tail[found[-1].end() :]
    if not whole_text:
        return ""
    fences = list(_FENCE.finditer(tail))
    if fences:
        return fences[-1].group(0)
    return re.split(r"\n\s{0,20}\n", tail.strip())[-1]


def read_roles(region: str, names: Sequence[str], words: RoleWords) -> dict[str, bool]:
    """Whether each person tells the truth.

    Raises: Unreadable if the region is not a list of people and roles; Contradiction if it gives someone two roles or
        none.
    """
    fields = _json_object(region)
    by_name = {name.casefold(): name for name in names}
    word_values = {word.casefold(): word in words.knight for word in (*words.knight, *words.knave)}
    pairs: list[tuple[str, bool]] = []
    if fields is not None:
        for name, value in fields:
            if name.strip().casefold() not in by_name:
                raise Contradiction(f"{name!r:.60} is none of the people")
            role = value if isinstance(value, bool) else word_values.get(_plain_role(value))
            if role is None:
                raise Unreadable(f"{value!r:.60} is not a role")
            pairs.append((by_name[name.strip().casefold()], role))
        return _assigned(pairs, names)
    rest = re.sub(r"\s+", " ", _EMPHASIS.sub("", region))
    patterns = _role_patterns(tuple(names), words)
    unnamed = patterns.name.sub(" ", rest)
    if (unsure := _UNSURE.search(unnamed)) is not None:
        raise Unreadable(f"the answer is not a list of people and roles: {unsure.group()!r}")
    for pattern in (patterns.after_names, patterns.before_names):
        for match in pattern.finditer(rest):
            role = word_values[match["role"].casefold()]
            pairs += [(name, role) for name in _split_names(match["names"], by_name)]
        rest = pattern.sub(" ", rest)
    if patterns.role.search(rest):
        raise Unreadable(f"the answer says more than people and roles: {rest.strip()[:60]!r}")
    if not pairs:
        raise Unreadable("the answer names no person with a role")
    return _assigned(pairs, names)


def _plain_role(value: Any) -> str:
    text = value.strip().casefold() if isinstance(value, str) else ""
    return re.sub(r"^(?:an?|the)\s+", "", text).rstrip(".")


@dataclass(frozen=True, slots=True)
class _RolePatterns:
    """Patterns for a name, a role, "Ann and Bob are knights" and "Knights: Ann, Bob"."""

    name: re.Pattern[str]
    role: re.Pattern[str]
    after_names: re.Pattern[str]
    before_names: re.Pattern[str]


@lru_cache(maxsize=512)
def _role_patterns(names: tuple[str, ...], words: RoleWords) -> _RolePatterns:
    name = "|".join(re.escape(name).replace(r"\ ", r"\s") for name in sorted(names, key=len, reverse=True))
    role = "|".join(re.escape(word) for word in sorted((*words.knight, *words.knave), key=len, reverse=True))
    listed = rf"(?P<names>(?:{name})(?:(?:\s?,\s?(?:and\s)?|\sand\s|\s?&\s?)(?:{name})){{0,99}})"
    joint = rf"\s?(?:is|are|:|=|->|\u2192|[-{_DASHES}])\s?(?:both\s|all\s)?(?:an?\s|the\s)?"
    return _RolePatterns(
        name=re.compile(rf"(?<!\w)(?:{name})(?!\w)"),
        role=re.compile(rf"(?<!\w)(?:{role})s?(?!\w)", re.IGNORECASE),
        after_names=re.compile(rf"(?<!\w){listed}{joint}(?P<role>{role})s?(?!\w)", re.IGNORECASE),
        before_names=re.compile(rf"(?<!\w)(?P<role>{role})s?\s?:\s?{listed}(?!\w)", re.IGNORECASE),
    )


def _split_names(text: str, by_name: Mapping[str, str]) -> Iterable[str]:
    if text.casefold() in by_name:
        return [by_name[text.casefold()]]
    parts = re.split(r"\s?,\s?(?:and\s)?|\sand\s|\s?&\s?", text, flags=re.IGNORECASE)
    return [by_name[part.strip().casefold()] for part in parts if part.strip().casefold() in by_name]


def _assigned(pairs: Iterable[tuple[str, bool]], names: Sequence[str]) -> dict[str, bool]:
    values: dict[str, bool] = {}
    for name, role in pairs:
        if values.setdefault(name, role) is not role:
            raise Contradiction(f"the answer gives {name} two roles")
    for name in names:
        if name not in values:
            raise Contradiction(f"the answer does not say what {name} is")
    return {name: values[name] for name in names}


def read_values(region: str, domains: Domains) -> dict[str, Value]:
    """The value of each variable.

    Raises: Unreadable if the region is neither a JSON object nor lines such as "a = 1"; Contradiction if a variable has
        two values, none, or one outside its domain.
    """
    fields = _json_object(region)
    if fields is None:
        fields = []
        for line in re.split(r"[\n;,]", _EMPHASIS.sub("", region)):
            match = _PAIR.match(line)
            if match:
                fields.append((match["name"].strip(), match["value"].strip()))
            elif line.strip():
                raise Unreadable(f"{line.strip()[:60]!r} is not of the form variable = value")
    if not fields:
        raise Unreadable("the answer gives no variable a value")
    by_name = {name.casefold(): name for name in domains}
    values: dict[str, Value] = {}
    for given, value in fields:
        name = by_name.get(given.strip().strip("\"'").casefold())
        if name is None:
            raise Contradiction(f"there is no variable {given!r:.60}")
        meant = _in_domain(value, domains[name])
        if meant is None:
            raise Contradiction(f"{value!r:.60} is not a value of {name}")
        if name in values and values[name] != meant:
            raise Contradiction(f"the answer gives {name} two values")
        values[name] = meant
    for name in domains:
        if name not in values:
            raise Contradiction(f"the answer gives {name} no value")
    return values


def _in_domain(value: Any, domain: Sequence[Value]) -> Value | None:
    """The value of the domain that is meant; None if there is none."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if not isinstance(value, (str, int)):
        return None
    text = str(value).strip().strip("\"'").casefold()
    for known in domain:
        if str(known).strip().casefold() == text:
            return known
    return None


def _json_object(region: str) -> list[tuple[str, Any]] | None:
    """The keys and values of a region that is a JSON object, also in a fenced block; None if it is none.

    Raises: Contradiction if a key is there twice with different values.
    """
    fence = _FENCE.search(region)
    text = (fence.group(1) if fence else region).strip()
    if not text.startswith("{"):
        return None
    try:
        parsed = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        return None
    return cast("list[tuple[str, Any]]", list(parsed))


class _Pairs(list[tuple[str, Any]]):
    """The keys and values of a JSON object, in order, with repeated keys."""
