"""A checked JSON Schema and the first way in which a value breaks it: a subset of draft 2020-12 without any fetching.

>>> schema = parse_schema({"type": "object", "required": ["age"], "properties": {"age": {"type": "integer"}}})
>>> schema.problem({"age": 3}), schema.problem({"age": "3"})
('', '$.age: not of type integer')
>>> parse_schema({"$ref": "https://example.com/schema.json"})
Traceback (most recent call last):
ValueError: $ref 'https://example.com/schema.json' leads out of the schema, and nothing is fetched
"""

import datetime
import ipaddress
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

from rlvr.records import Json
from rlvr_verifiers.json_answer.comparison import identity, is_number
from rlvr_verifiers.json_answer.patterns import Budget, OutOfBudget, Pattern, compile_pattern
from rlvr_verifiers.json_answer.reading import depth_of

MAX_SCHEMA_DEPTH = 64
MAX_STEPS = 500_000  # of one value: visited schemas and characters; about half a second
_MAX_CHECK_DEPTH = 150
_MAX_PATH_CHARS = 200
Object = dict[str, Any]

_ANNOTATIONS = {"title", "description", "default", "examples", "example", "$schema", "$id", "$comment", "deprecated",
                "readOnly", "writeOnly"}  # fmt: skip
_SUBSCHEMA = {"additionalProperties", "items", "contains", "propertyNames", "not", "if", "then", "else"}
_SUBSCHEMA_LISTS = {"allOf", "anyOf", "oneOf", "prefixItems"}
_SUBSCHEMA_MAPS = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
_COUNTS = {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains",
           "maxContains"}  # fmt: skip
_LIMITS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_OTHERS = {"type", "enum", "const", "required", "dependentRequired", "uniqueItems", "multipleOf", "pattern", "format",
           "$ref"}  # fmt: skip
KEYWORDS = _SUBSCHEMA | _SUBSCHEMA_LISTS | _SUBSCHEMA_MAPS | _COUNTS | _LIMITS | _OTHERS
_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": is_number,
    "integer": lambda value: is_number(value) and (isinstance(value, int) or value.is_integer()),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}
_MAX_FORMAT_CHARS = 300
_EMAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}")
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def _parses(read: Callable[[str], object], shape: re.Pattern[str] | None = None) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        if shape is not None and not shape.fullmatch(text):
            return False
        try:
            read(text)
        except ValueError:
            return False
        return True

    return check


def _moment(text: str) -> object:
    fraction = re.sub(r"\.\d+", "", text).upper().replace("Z", "+00:00")
    return datetime.datetime.fromisoformat(fraction if "T" in fraction else f"2000-01-01T{fraction}")


_FORMATS: dict[str, Callable[[str], bool]] = {
    "date": _parses(datetime.date.fromisoformat, _DATE),
    "date-time": _parses(_moment, _DATE_TIME),
    "time": _parses(_moment, _TIME),
    "email": lambda text: _EMAIL.fullmatch(text) is not None,
    "uuid": _parses(uuid.UUID, _UUID),
    "ipv4": _parses(ipaddress.IPv4Address),
    "ipv6": _parses(ipaddress.IPv6Address),
}


@dataclass(frozen=True, slots=True)
class Schema:
    """A schema whose keywords, references and patterns were checked."""

    root: Json
    patterns: dict[str, Pattern]

    def problem(self, value: Json) -> str:
        """The first place and way in which a value breaks the schema; "" if it is valid.

        A check that takes too many steps is a problem, too.
        """
        try:
            return _Check(self, Budget(MAX_STEPS)).problem(self.root, value, "$", 0)
        except OutOfBudget:
            return f"checking the value takes more than {MAX_STEPS:,} steps"


def parse_schema(schema: Json) -> Schema:
    """The checked schema.

    Raises: ValueError for keywords that are not supported, values of keywords that are malformed, references out of the
        schema or to nothing, and patterns that cannot be compiled.
    """
    if not isinstance(schema, (dict, bool)):
        raise ValueError(f"{schema!r:.100} is not a schema, which is an object, true or false")
    if depth_of(schema, MAX_SCHEMA_DEPTH) > MAX_SCHEMA_DEPTH:
        raise ValueError(f"the schema is nested deeper than {MAX_SCHEMA_DEPTH}")
    patterns: dict[str, Pattern] = {}
    for part in _parts(schema):
        _check_keywords(part, schema, patterns)
    checked = Schema(schema, patterns)
    for value in (None, True, 0, "", [], {}):
        if "without end" in (problem := checked.problem(value)):
            raise ValueError(problem)
    return checked


def _parts(schema: Json) -> Iterator[Object]:
    """The schema and every schema in it that is an object. Raises ValueError for a keyword of the wrong form."""
    stack = [schema]
    while stack:
        part = stack.pop()
        if isinstance(part, bool):
            continue
        if not isinstance(part, dict):
            raise ValueError(f"{part!r:.100} is where a schema belongs")
        fields = cast("Object", part)
        yield fields
        for key, value in fields.items():
            if key in _SUBSCHEMA:
                stack.append(value)
            elif key in _SUBSCHEMA_LISTS:
                if not isinstance(value, list) or not value:
                    raise ValueError(f"{key}: {value!r:.100} is not a list of schemas")
                stack += cast("list[Json]", value)
            elif key in _SUBSCHEMA_MAPS:
                if not isinstance(value, dict):
                    raise ValueError(f"{key}: {value!r:.100} is not an object of schemas")
                stack += cast("Object", value).values()


def _check_keywords(part: Object, root: Json, patterns: dict[str, Pattern]) -> None:
    """Raises ValueError for a keyword that is unknown or whose value is malformed; compiles patterns."""
    for key, value in part.items():
        if key not in KEYWORDS:
            if key in _ANNOTATIONS:
                continue
            raise ValueError(f"the keyword {key!r:.60} is not supported; supported are {', '.join(sorted(KEYWORDS))}")
        if key == "type":
            types = cast("list[Json]", value) if isinstance(value, list) else [value]
            if not types or not all(isinstance(name, str) and name in _TYPES for name in types):
                raise ValueError(f"type: {value!r:.100} is none of {', '.join(_TYPES)}, or a list of them")
        elif key == "enum" and (not isinstance(value, list) or not value):
            raise ValueError(f"enum: {value!r:.100} is not a list of values")
        elif key == "required" and not _is_names(value):
            raise ValueError(f"required: {value!r:.100} is not a list of names")
        elif key == "dependentRequired":
            if not isinstance(value, dict) or not all(map(_is_names, cast("Object", value).values())):
                raise ValueError(f"dependentRequired: {value!r:.100} is not an object of lists of names")
        elif key in _COUNTS and not (_TYPES["integer"](value) and cast("float", value) >= 0):
            raise ValueError(f"{key}: {value!r:.100} is not a whole number from 0 up")
        elif key in _LIMITS and not is_number(value):
            raise ValueError(f"{key}: {value!r:.100} is not a number")
        elif key == "multipleOf" and not (is_number(value) and cast("float", value) > 0):
            raise ValueError(f"multipleOf: {value!r:.100} is not a number above 0")
        elif key == "uniqueItems" and not isinstance(value, bool):
            raise ValueError(f"uniqueItems: {value!r:.100} is not true or false")
        elif key == "format" and (not isinstance(value, str) or value not in _FORMATS):
            raise ValueError(f"format: {value!r:.100} is not supported; supported are {', '.join(_FORMATS)}")
        elif key == "$ref":
            _resolve(root, value)
        elif key in ("pattern", "patternProperties"):
            for text in cast("Object", value) if key == "patternProperties" else [value]:
                if not isinstance(text, str):
                    raise ValueError(f"pattern: {text!r:.100} is not a text")
                patterns[text] = compile_pattern(text)


def _is_names(value: Json) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in cast("list[Json]", value))


def _resolve(root: Json, reference: Json) -> Json:
    """The schema that a reference such as "#/$defs/x" names. Raises ValueError."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise ValueError(f"$ref {reference!r:.100} leads out of the schema, and nothing is fetched")
    found: Any = root
    steps = reference[1:].split("/")
    for number, step in enumerate(steps):
        if number == 0:
            if step:
                raise ValueError(f"$ref {reference!r:.100}: anchors are not supported; write a path such as #/$defs/x")
            continue
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and name in found:
            found = cast("Object", found)[name]
        elif (
            isinstance(found, list) and name.isascii() and name.isdecimal() and int(name[:6]) < len(cast("Any", found))
        ):
            found = cast("list[Any]", found)[int(name)]
        else:
            raise ValueError(f"$ref {reference!r:.100} names nothing in the schema")
    if len(steps) > 1 and not any(step in _SUBSCHEMA | _SUBSCHEMA_LISTS | _SUBSCHEMA_MAPS for step in steps):
        raise ValueError(f"$ref {reference!r:.100} does not name a schema")
    if not isinstance(found, (dict, bool)):
        raise ValueError(f"$ref {reference!r:.100} does not name a schema")
    return found


class _Check:
    """The check of one value."""

    def __init__(self, schema: Schema, budget: Budget) -> None:
        self._root = schema.root
        self._patterns = schema.patterns
        self._budget = budget

    def problem(self, schema: Json, value: Json, path: str, depth: int) -> str:
        self._budget.spend(1)
        if isinstance(schema, bool):
            return "" if schema else f"{path}: nothing is allowed here"
        if depth > _MAX_CHECK_DEPTH:
            return f"{path[:_MAX_PATH_CHARS]}: the schema refers to itself without end"
        fields = cast("Object", schema)
        checks = (self._general, self._number, self._text, self._array, self._object, self._combined)
        for check in checks:
            found = check(fields, value, path[:_MAX_PATH_CHARS], depth + 1)
            if found:
                return found
        return ""

    def _general(self, schema: Object, value: Json, path: str, depth: int) -> str:
        if "$ref" in schema:
            found = self.problem(_resolve(self._root, schema["$ref"]), value, path, depth)
            if found:
                return found
        if "type" in schema:
            types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
            if not any(_TYPES[name](value) for name in types):
                return f"{path}: not of type {' or '.join(types)}"
        if "const" in schema and identity(value) != identity(schema["const"]):
            return f"{path}: not {schema['const']!r:.60}"
        if "enum" in schema and identity(value) not in {identity(item) for item in schema["enum"]}:
            return f"{path}: none of {schema['enum']!r:.100}"
        return ""

    def _number(self, schema: Object, value: Json, path: str, depth: int) -> str:
        if not is_number(value):
            return ""
        if "minimum" in schema and value < schema["minimum"]:
            return f"{path}: below {schema['minimum']}"
        if "maximum" in schema and value > schema["maximum"]:
            return f"{path}: above {schema['maximum']}"
        if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
            return f"{path}: not above {schema['exclusiveMinimum']}"
        if "exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"]:
            return f"{path}: not below {schema['exclusiveMaximum']}"
        if "multipleOf" in schema and Fraction(str(value)) % Fraction(str(schema["multipleOf"])):
            return f"{path}: not a multiple of {schema['multipleOf']}"
        return ""

    def _text(self, schema: Object, value: Json, path: str, depth: int) -> str:
        if not isinstance(value, str):
            return ""
        if len(value) < schema.get("minLength", 0):
            return f"{path}: shorter than {schema['minLength']} characters"
        if len(value) > schema.get("maxLength", len(value)):
            return f"{path}: longer than {schema['maxLength']} characters"
        if "pattern" in schema and not self._patterns[schema["pattern"]].search(value, self._budget):
            return f"{path}: does not match {schema['pattern']!r:.60}"
        if "format" in schema and (len(value) > _MAX_FORMAT_CHARS or not _FORMATS[schema["format"]](value)):
            return f"{path}: not a {schema['format']}"
        return ""

    def _array(self, schema: Object, value: Json, path: str, depth: int) -> str:
        if not isinstance(value, list):
            return ""
        items = cast("list[Json]", value)
        self._budget.spend(len(items))
        if len(items) < schema.get("minItems", 0):
            return f"{path}: fewer than {schema['minItems']} items"
        if len(items) > schema.get("maxItems", len(items)):
            return f"{path}: more than {schema['maxItems']} items"
        if schema.get("uniqueItems") and len({identity(item) for item in items}) < len(items):
            return f"{path}: two items are equal"
        prefix = cast("list[Json]", schema.get("prefixItems", []))
        for index, item in enumerate(items):
            part = prefix[index] if index < len(prefix) else schema.get("items", True)
            if part is not True and (found := self.problem(part, item, f"{path}[{index}]", depth)):
                return found
        if "contains" in schema:
            count = sum(not self.problem(schema["contains"], item, path, depth) for item in items)
            least, most = schema.get("minContains", 1), schema.get("maxContains", len(items))
            if not least <= count <= most:
                return f"{path}: {count} items are as `contains` says, not {least} to {most}"
        return ""

    def _object(self, schema: Object, value: Json, path: str, depth: int) -> str:
        if not isinstance(value, dict):
            return ""
        fields = cast("Object", value)
        self._budget.spend(len(fields))
        if len(fields) < schema.get("minProperties", 0):
            return f"{path}: fewer than {schema['minProperties']} keys"
        if len(fields) > schema.get("maxProperties", len(fields)):
            return f"{path}: more than {schema['maxProperties']} keys"
        missing = [name for name in schema.get("required", []) if name not in fields]
        for name, needed in schema.get("dependentRequired", {}).items():
            missing += [other for other in needed if name in fields and other not in fields]
        if missing:
            return f"{path}: the key {missing[0]!r:.60} is missing"
        for name, part in schema.get("dependentSchemas", {}).items():
            if name in fields and (found := self.problem(part, value, path, depth)):
                return found
        properties = cast("Object", schema.get("properties", {}))
        patterns = cast("Object", schema.get("patternProperties", {}))
        for name, item in fields.items():
            parts = [properties[name]] if name in properties else []
            parts += [part for text, part in patterns.items() if self._patterns[text].search(name, self._budget)]
            if not parts and "additionalProperties" in schema:
                parts = [schema["additionalProperties"]]
                if parts == [False]:
                    return f"{path}: the key {name!r:.60} is not allowed"
            if "propertyNames" in schema and self.problem(schema["propertyNames"], name, path, depth):
                return f"{path}: the key {name!r:.60} is not allowed"
            for part in parts:
                if found := self.problem(part, item, f"{path}.{name[:40]}", depth):
                    return found
        return ""

    def _combined(self, schema: Object, value: Json, path: str, depth: int) -> str:
        for part in schema.get("allOf", []):
            if found := self.problem(part, value, path, depth):
                return found
        if "anyOf" in schema:
            problems = [self.problem(part, value, path, depth) for part in schema["anyOf"]]
            if all(problems):
                return f"{path}: fits none of anyOf; {problems[0]}"[:500]
        if "oneOf" in schema:
            num_fitting = sum(not self.problem(part, value, path, depth) for part in schema["oneOf"])
            if num_fitting != 1:
                return f"{path}: fits {num_fitting} of oneOf"
        if "not" in schema and not self.problem(schema["not"], value, path, depth):
            return f"{path}: fits what `not` forbids"
        if "if" in schema:
            branch = "else" if self.problem(schema["if"], value, path, depth) else "then"
            if branch in schema:
                return self.problem(schema[branch], value, path, depth)
        return ""
