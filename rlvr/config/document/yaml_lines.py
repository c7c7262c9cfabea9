"""YAML with the line of every key: a document of plain values, and where each was written.

Plain scalars follow YAML 1.2: `1e-5` is a number, only `true` and `false` are booleans, and `on`,
`off`, `yes`, `no` and dates stay text. Tags (`!!python/...`) and merge keys (`<<`) are rejected on purpose;
a recipe uses `extends`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import cast

import yaml
from pydantic import JsonValue

from rlvr.config.document.document_type import RECIPE, DocumentType
from rlvr.config.sections.bounds import MAX_DEPTH, MAX_DIGITS, MAX_PROBLEMS, MAX_VALUES, require_text
from rlvr.errors import ConfigError
from rlvr.telemetry.redaction import Redactor, without_secrets

KeyPath = tuple[str | int, ...]

_INT = re.compile(r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a value was written: a line of a file, or one `key=value` of the command line.

    label: the file as messages show it. line: from 1. override: the `key=value`, empty for a file.
    preset: the preset named there that brought the value, empty for a value that was written out.
    """

    label: str = ""
    line: int = 0
    override: str = ""
    preset: str = ""

    @property
    def place(self) -> str:
        """The start of an error message. Values of secrets on the command line are left out."""
        return f"command line: {without_secrets(self.override)}" if self.override else f"{self.label}:{self.line}"

    @property
    def is_typed(self) -> bool:
        """Whether the command line sets the value itself, not only the preset that brought it."""
        return bool(self.override) and not self.preset

    @property
    def short(self) -> str:
        """The entry of a provenance table.

        >>> Origin(label="recipes/x.yaml", line=14).short
        'x.yaml:14'
        """
        if self.preset:
            return f"preset {self.preset}"
        return "command line" if self.override else f"{PurePath(self.label).name}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One error and its place."""

    origin: Origin
    text: str

    def __str__(self) -> str:
        override = self.origin.override
        if override and re.match(re.escape(override) + r"(?![\w.])", self.text):
            return f"command line: {without_secrets(self.text)}"  # the text begins with the same `key=value`
        return f"{self.origin.place}: {Redactor()(self.text)}"


@dataclass(slots=True, kw_only=True)
class Document:
    """The values of a file before validation, the origin of each, and the problems so far.

    broken: the paths of unreadable values, which are null here; a problem already reports each.
    """

    label: str
    type: DocumentType = RECIPE
    values: dict[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    origins: dict[KeyPath, Origin] = field(default_factory=dict[KeyPath, Origin])
    problems: list[Problem] = field(default_factory=list[Problem])
    broken: set[KeyPath] = field(default_factory=set[KeyPath])

    @classmethod
    def of(cls, values: dict[str, JsonValue], origin: Origin) -> "Document":
        """A document with a copy of these values, all with the same origin."""
        document = cls(label=origin.label)

        def visit(value: JsonValue, path: KeyPath) -> JsonValue:
            document.origins[path] = origin
            if isinstance(value, dict):
                return {key: visit(inner, (*path, key)) for key, inner in value.items()}
            if isinstance(value, list):
                return [visit(inner, (*path, index)) for index, inner in enumerate(value)]
            return value

        document.values = {key: visit(inner, (key,)) for key, inner in values.items()}
        document.origins[()] = origin
        return document

    def forget(self, path: KeyPath) -> None:
        """Drops the origins of `path` and of everything below it."""
        for known in [known for known in self.origins if known[: len(path)] == path]:
            del self.origins[known]

    def merged_over(self, base: "Document") -> "Document":
        """This document's values over those of `base`: mappings merge, everything else is replaced."""
        replaced: set[KeyPath] = set()
        values = _merge(base.values, self.values, (), replaced)
        kept = {
            path: origin
            for path, origin in base.origins.items()
            if not any(path[:end] in replaced for end in range(1, len(path) + 1))
        }
        return Document(
            label=self.label,
            type=self.type,
            values=values,
            origins=kept | self.origins,
            problems=[*base.problems, *self.problems],
            broken=base.broken | self.broken,
        )


def dotted(path: KeyPath) -> str:
    """The path with dots, as written in overrides.

    >>> dotted(("data", "train", 0, "source"))
    'data.train.0.source'
    """
    return ".".join(str(part) for part in path)


def value_at(values: JsonValue, path: KeyPath) -> JsonValue:
    """The value at a path below `values`, None where there is none.

    >>> value_at({"train": [{"limit": 3}]}, ("train", 0, "limit"))
    3
    """
    current = values
    for part in path:
        if isinstance(current, dict):
            current = current.get(str(part))
        elif isinstance(current, list) and isinstance(part, int) and part < len(current):
            current = current[part]
        else:
            return None
    return current


def plain_scalar(text: str) -> JsonValue:
    """The value of an unquoted scalar.

    Raises: ValueError for a number of more than MAX_DIGITS digits.

    >>> [plain_scalar(text) for text in ("1e-5", "010", "off", "True", "~", "1.2.3")]
    [1e-05, 10, 'off', True, None, '1.2.3']
    """
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise ValueError(
                f"a number of {len(text):,} digits is too long (at most {MAX_DIGITS}); quote it if it is text"
            )
        return int(text, 0) if text[:2] in {"0x", "0o"} else int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL_FLOAT.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def reads_as_text(text: str) -> bool:
    """Whether an unquoted scalar of these characters is text."""
    try:
        return isinstance(plain_scalar(text), str)
    except ValueError:
        return False


def read_document(text: str, *, label: str, type: DocumentType = RECIPE) -> Document:
    """The document of a file; errors such as duplicate keys are collected in its `problems`.

    Args:
        type: what the file describes, for the messages.

    Raises: ConfigError for a syntax error (`label:line N: ...`) and a file that is not a mapping.
    """
    node = _compose(text, label=label)
    if node is None:
        raise ConfigError(f"{label}: the file is empty; {type.noun} needs {type.needs}")
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{label}:line 1: {type.noun} is a mapping (`key: value` lines)")
    document = Document(label=label, type=type)
    value = _Reader(document=document).read(node, (), ())
    document.values = value if isinstance(value, dict) else {}
    return document


def read_inline(text: str, *, path: KeyPath, override: str) -> Document:
    """A document with a value from the command line, a YAML flow or a quoted scalar, in `values["value"]`.

    Args:
        path: the value's path in the recipe; its origins begin there.

    Raises: ConfigError when it is not YAML.
    """
    node = _compose(text, label=f"command line: {override}", is_inline=True)
    document = Document(label="command line")
    if node is not None:
        reader = _Reader(document=document, override=override)
        document.values["value"] = reader.read(node, path, ())
    return document


class _PlainLoader(yaml.SafeLoader):
    """Keeps plain scalars as text; `plain_scalar` gives them a type."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - read by PyYAML, never written

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._num_nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """One node. Raises MarkedYAMLError below MAX_DEPTH, before Python's recursion limit, and above MAX_VALUES."""
        self._depth += 1
        self._num_nodes += 1
        if self._depth > MAX_DEPTH:
            raise self._refused(f"values nest deeper than {MAX_DEPTH} levels")
        if self._num_nodes > 2 * MAX_VALUES:  # keys are nodes too
            raise self._refused(f"there are more than {MAX_VALUES:,} values")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _refused(self, why: str) -> yaml.MarkedYAMLError:
        event = cast(yaml.Event, self.peek_event())  # type: ignore[no-untyped-call] # PyYAML is untyped
        return yaml.MarkedYAMLError(None, None, why, event.start_mark)


def _compose(text: str, *, label: str, is_inline: bool = False) -> yaml.Node | None:
    try:
        loader = _PlainLoader(text)
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        what = " ".join(part for part in (error.context, error.problem) if part)
        hint = _tab_hint(text, line)
        place = label if is_inline else f"{label}:line {line}"
        raise ConfigError(f"{place}: not valid YAML: {what}{hint}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = ascii(text[error.position : error.position + 1])
        place = label if is_inline else f"{label}:line {line}"
        raise ConfigError(f"{place}: not valid YAML: the character {character}") from error
    except (ValueError, OverflowError) as error:  # an invalid escape, a huge version number
        raise ConfigError(f"{label}: not valid YAML: {error}") from error


def _tab_hint(text: str, line: int) -> str:
    lines = text.splitlines()
    if line <= len(lines) and lines[line - 1].lstrip(" ").startswith("\t"):
        return "; the line is indented with a tab, YAML needs spaces"
    return ""


@dataclass(slots=True, kw_only=True)
class _Reader:
    """Turns YAML nodes into values, and records origins and problems in the document."""

    document: Document
    override: str = ""
    num_values: int = 0

    def read(self, node: yaml.Node, path: KeyPath, inside: tuple[int, ...]) -> JsonValue:
        self.num_values += 1
        if self.num_values > MAX_VALUES:
            place = self.document.origins.get(path[:1], self._origin(node)).place
            raise ConfigError(
                f"{place}: {dotted(path)}: {self.document.type.definite} has more than {MAX_VALUES:,} values; each use "
                "of an alias (`*name`) counts everything it expands to"
            )
        if path not in self.document.origins:
            self.document.origins[path] = self._origin(node)
        if id(node) in inside:
            self.document.broken.add(path)
            return self._bad(node, f"{dotted(path)}: an alias refers to a value that contains it")
        inside = (*inside, id(node))
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, path, inside)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.read(item, (*path, index), inside) for index, item in enumerate(_items(node))]
        if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str":
            return self._scalar(node, path)
        self.document.broken.add(path)
        return self._bad(node, f"{dotted(path)}: the tag {node.tag!r} is not supported in {self.document.type.noun}")

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> JsonValue:
        try:
            require_text(str(node.value))
            return str(node.value) if node.style is not None else plain_scalar(node.value)
        except ValueError as error:
            self.document.broken.add(path)
            return self._bad(node, f"{dotted(path)}: {error}")

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, inside: tuple[int, ...]) -> dict[str, JsonValue]:
        result: dict[str, JsonValue] = {}
        for key_node, value_node in _pairs(node):
            if not isinstance(key_node, yaml.ScalarNode):
                self._bad(key_node, f"{dotted(path) or self.document.type.definite}: a key must be plain text")
                continue
            key = str(key_node.value)
            here = (*path, key)
            if key == "<<":
                self._bad(key_node, f"{dotted(here)}: merge keys are not supported; {self.document.type.merge_keys}")
                continue
            if key in result:
                first = self.document.origins[here].line
                self._bad(key_node, f"{dotted(here)} is given twice (first at line {first})")
                self.document.forget(here)
            self.document.origins[here] = self._origin(key_node)
            result[key] = self.read(value_node, here, inside)
        return result

    def _origin(self, node: yaml.Node) -> Origin:
        if self.override:
            return Origin(override=self.override)
        return Origin(label=self.document.label, line=node.start_mark.line + 1)

    def _bad(self, node: yaml.Node, text: str) -> None:
        problems = self.document.problems
        problems.append(Problem(origin=self._origin(node), text=text))
        if len(problems) >= MAX_PROBLEMS:
            raise ConfigError("\n".join([*map(str, problems), "and perhaps others"]))


def _items(node: yaml.SequenceNode) -> Iterator[yaml.Node]:
    yield from node.value


def _pairs(node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    yield from node.value


def _merge(
    below: dict[str, JsonValue], above: dict[str, JsonValue], path: KeyPath, replaced: set[KeyPath]
) -> dict[str, JsonValue]:
    """`above` over `below`. Adds to `replaced` the paths where nothing of `below` is left."""
    merged = dict(below)
    for key, value in above.items():
        here = (*path, key)
        lower = below.get(key)
        if isinstance(value, dict) and isinstance(lower, dict):
            merged[key] = _merge(lower, value, here, replaced)
        else:
            replaced.add(here)
            merged[key] = value
    return merged
