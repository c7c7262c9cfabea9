"""Validation errors as messages, each with the place where its value was written."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel, JsonValue, ValidationError

from rlvr.config.document.kinds import KIND, PLUGIN
from rlvr.config.document.paths import annotation_at, kinds
from rlvr.config.document.yaml_lines import Document, KeyPath, Origin, Problem, dotted
from rlvr.config.messages.suggestions import Suggestions, close, did_you_mean, listed
from rlvr.config.sections.bounds import MAX_PROBLEMS, is_finite
from rlvr.telemetry.redaction import got

_OF_ABSENT = ("missing", "extra_forbidden")  # errors whose last part of the location may be no key of the document
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_HAS_CONTROL = "must contain no control characters"
_LEADING_KEY = re.compile(r"[a-z_][\w.]*(?=[=:])")
_NAMED_KEY = re.compile(r"\b[a-z_][\w.]*(?==)")

_PLAIN_WORDS = {
    "missing": "this key is required",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping (`key: value` lines)",
    "model_type": "must be a mapping (`key: value` lines)",
    "model_attributes_type": "must be a kind or a mapping (`key: value` lines)",
    "enum": "must be one of {expected}",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "too_short": "needs at least {min_length} entry",
    "too_long": "takes at most {max_length} entries, not {actual_length}",
    "string_too_long": "must be at most {max_length} characters",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "finite_number": "must be a finite number",
}


def validation_problems(error: ValidationError, document: Document, *, model: type[BaseModel]) -> list[Problem]:
    """Every error that pydantic found, as problems; a misspelt required key is reported once."""
    return _Translator(document, model).problems(error)


def boolean_problems(document: Document, *, model: BaseModel) -> list[Problem]:
    """Problems for true or false in place of a number, which pydantic reads as 1 or 0."""
    found: list[Problem] = []

    def compare(raw: JsonValue, value: Any, path: KeyPath) -> None:
        if isinstance(value, BaseModel) and isinstance(raw, dict):
            for key, inner in raw.items():
                compare(inner, getattr(value, key), (*path, key))
        elif isinstance(value, dict) and isinstance(raw, dict):
            entries = cast(Mapping[str, Any], value)
            for key, inner in raw.items():
                compare(inner, entries[key], (*path, key))
        elif isinstance(value, list | tuple) and isinstance(raw, list):
            for index, inner in enumerate(raw):
                compare(inner, value[index], (*path, index))
        elif isinstance(raw, bool) and not isinstance(value, bool):
            origin = _origin(document, path)
            text = f"must be a number{_got(raw, path, origin)}"
            found.append(Problem(origin=origin, text=_with_path(text, path, origin)))

    compare(document.values, model, ())
    return found


def infinite_problems(document: Document) -> list[Problem]:
    """Problems for infinities and NaN in free mappings (a plugin's settings)."""
    found: list[Problem] = []

    def visit(value: JsonValue, path: KeyPath) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                visit(inner, (*path, key))
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                visit(inner, (*path, index))
        elif not is_finite(value):
            origin = _origin(document, path)
            text = f"{_PLAIN_WORDS['finite_number']}{_got(value, path, origin)}"
            found.append(Problem(origin=origin, text=_with_path(text, path, origin)))

    visit(document.values, ())
    return found


def control_problems(document: Document) -> list[Problem]:
    """Problems for control characters, such as NUL or a line feed, in keys and values."""
    found: list[Problem] = []

    def visit(value: JsonValue, path: KeyPath) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                if _CONTROL.search(key):
                    found.append(Problem(origin=_origin(document, path), text=f"the key {key!a} {_HAS_CONTROL}"))
                else:
                    visit(inner, (*path, key))
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                visit(inner, (*path, index))
        elif isinstance(value, str) and (character := _CONTROL.search(value)):
            found.append(problem_at(document, path, f"{_HAS_CONTROL} ({character[0]!a})"))

    visit(document.values, ())
    return found


def problem_at(document: Document, path: KeyPath, text: str) -> Problem:
    """A problem with the key at `path`, at the place where it was written."""
    origin = _origin(document, path)
    return Problem(origin=origin, text=_with_path(text, path, origin))


def unique(problems: Iterable[Problem]) -> list[Problem]:
    """The problems without repeats, by file and line, those of the command line last."""

    def place(problem: Problem) -> tuple[bool, str, int]:
        origin = problem.origin
        return bool(origin.override), origin.label, origin.line

    return sorted(dict.fromkeys(problems), key=place)


class _Translator:
    """Turns pydantic's error records into problems of one document."""

    def __init__(self, document: Document, model: type[BaseModel]) -> None:
        self.document = document
        self.model = model
        self.suggestions = Suggestions(model, document.values, document.type)

    def problems(self, error: ValidationError) -> list[Problem]:
        found = [(self._path(item["loc"], str(item["type"])), item) for item in error.errors(include_url=False)]
        found = [(path, item) for path, item in found if path not in self.document.broken]
        details = found[:MAX_PROBLEMS]
        misspelt: set[KeyPath] = set()
        result: list[Problem] = []
        for path, item in details:
            if item["type"] == "extra_forbidden":
                result += self._unknown(path, cast(JsonValue, item["input"]))
                near = close(str(path[-1]), self.suggestions.siblings(path[:-1]))
                misspelt.update((*path[:-1], key) for key in near)
        invalid: dict[KeyPath, list[Mapping[str, Any]]] = {}
        for path, item in details:
            if item["type"] == "value_error":
                result += self._crossed(path, str(item.get("ctx", {}).get("error", item["msg"])))
            elif item["type"] == "missing" and isinstance(path[-1], int):
                result.append(self._problem(path[:-1], f"needs {path[-1] + 1} entries"))
            elif item["type"] == "missing":
                if path not in misspelt:
                    result.append(self._problem(path, _PLAIN_WORDS["missing"]))
            elif item["type"] != "extra_forbidden":
                invalid.setdefault(path, []).append(cast(Mapping[str, Any], item))
        result += [self._invalid(path, items) for path, items in invalid.items()]
        if len(found) > len(details):
            more = f"and {len(found) - len(details):,} more problems"
            result.append(Problem(origin=_origin(self.document, ()), text=more))
        return result

    def _path(self, loc: tuple[int | str, ...], kind: str) -> KeyPath:
        """The location without the tags that pydantic adds for union members. kind: the type of the error."""
        current: JsonValue = self.document.values
        path: KeyPath = ()
        was_tag = False
        for position, part in enumerate(loc):
            was_tag = not was_tag and part in kinds(annotation_at(self.model, path))
            if was_tag:
                continue
            has, inner = _entry(current, part)
            if has or (position == len(loc) - 1 and kind in _OF_ABSENT):
                path, current = (*path, part), inner
        return path

    def _problem(self, path: KeyPath, text: str) -> Problem:
        return problem_at(self.document, path, text)

    def _invalid(self, path: KeyPath, items: Sequence[Mapping[str, Any]]) -> Problem:
        """The problem of a value. items: several for a union of plain types, one for each type."""
        if len(items) == 1:
            return self._invalid_as(path, items[0])
        first, *others = dict.fromkeys(_expected(item) for item in items)
        text = " or ".join([first, *(other.removeprefix("must be ") for other in others)])
        return self._problem(path, text + _got(items[0]["input"], path, _origin(self.document, path)))

    def _invalid_as(self, path: KeyPath, item: Mapping[str, Any]) -> Problem:
        kind, given = str(item["type"]), item["input"]
        text = _expected(item)
        if kind in {"enum", "literal_error"} and isinstance(given, str):
            options = re.findall(r"'([^']*)'", str(item.get("ctx", {}).get("expected", "")))
            text += did_you_mean([repr(option) for option in close(given, options)])
        if kind == "string_type" and isinstance(given, int | float):
            text += "; put it in quotes"
        if kind == "union_tag_invalid":
            return self._wrong_kind((*path, KIND), given)
        if kind in {"model_type", "model_attributes_type"} and given is None:
            text = "the section is empty; remove the line or put keys below it"
            return self._problem(path, text)
        return self._problem(path, text + _got(given, path, _origin(self.document, path)))

    def _wrong_kind(self, path: KeyPath, given: Any) -> Problem:
        value: object = cast(Mapping[str, object], given)[KIND]
        known = kinds(annotation_at(self.model, path[:-1]))
        options = [repr(kind) for kind in known if kind != PLUGIN]
        text = f"must be one of {listed(options, 'or')}"
        text += ", or package.module:function" if PLUGIN in known else ""
        text += did_you_mean(close(repr(value), options))
        return self._problem(path, text + _got(value, path, _origin(self.document, path)))

    def _unknown(self, path: KeyPath, value: JsonValue) -> list[Problem]:
        is_typed = bool(_origin(self.document, path).override)
        answers = self.suggestions.unknown(path, value, is_typed=is_typed)
        return [self._problem(leaf, text) for leaf, text in answers]

    def _crossed(self, path: KeyPath, message: str) -> list[Problem]:
        """Problems from a model's own check: one for each part of its message that begins with a key."""
        parts: list[str] = []
        for part in message.split("; "):
            leading = _LEADING_KEY.match(part)
            is_new = leading is not None and "." in leading[0] and self._is_key(leading[0])
            if is_new or not parts:
                parts.append(part)
            else:
                parts[-1] += f"; {part}"
        return [self._cross(path, part) for part in parts]

    def _cross(self, path: KeyPath, message: str) -> Problem:
        origins: list[Origin] = []
        for name in _NAMED_KEY.findall(message):
            for full in ((*path, *name.split(".")), tuple(name.split("."))):
                if full in self.document.origins:
                    origins.append(self.document.origins[full])
        leading = _LEADING_KEY.match(message)
        key = leading[0] if leading else ""
        if not origins and key and self._is_key(key):
            origins = [_origin(self.document, tuple(key.split(".")))]
        origins.sort(key=lambda origin: bool(origin.preset))  # a preset is not what the user wrote
        typed = [origin for origin in origins if origin.is_typed]
        below = [
            origin for known, origin in self.document.origins.items() if origin.is_typed and known[: len(path)] == path
        ]
        own = self.document.origins.get(path)
        fallback = below[-1] if path and below else own or _origin(self.document, path)
        origin = (typed or origins or [fallback])[0]
        prefix = dotted(path)
        if not prefix or message.startswith(f"{prefix}.") or (key and self._is_key(key) and "." in key):
            return Problem(origin=origin, text=message)
        is_own_key = key and annotation_at(self.model, (*path, key)) is not None
        text = f"{prefix}.{message}" if is_own_key else _with_path(message, path, origin)
        return Problem(origin=origin, text=text)

    def _is_key(self, name: str) -> bool:
        return annotation_at(self.model, tuple(name.split("."))) is not None


def _origin(document: Document, path: KeyPath) -> Origin:
    """Where `path` was written, or the nearest section around it."""
    for end in range(len(path), -1, -1):
        if path[:end] in document.origins:
            return document.origins[path[:end]]
    return Origin(label=document.label, line=1)


def _entry(current: JsonValue, part: str | int) -> tuple[bool, JsonValue]:
    """Whether the value has this entry, and the entry."""
    if isinstance(current, dict):
        return str(part) in current, current.get(str(part))
    if isinstance(current, list) and isinstance(part, int) and part < len(current):
        return True, current[part]
    return False, None


def _with_path(text: str, path: KeyPath, origin: Origin) -> str:
    """The text after the key, unless the place of the problem already names it."""
    if not path or origin.override.partition("=")[0].strip() == dotted(path):
        return text
    return f"{dotted(path)}: {text}"


def _got(value: Any, path: KeyPath, origin: Origin) -> str:
    """What was written; empty for a single value on the command line, which the message begins with."""
    return "" if origin.override and not isinstance(value, dict | list) else got(cast(object, value), path)


def _expected(item: Mapping[str, Any]) -> str:
    """What the value must be, according to one error of pydantic."""
    words = _PLAIN_WORDS.get(str(item["type"]))
    return words.format_map(item.get("ctx", {})) if words else _lower_first(str(item["msg"]))


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
