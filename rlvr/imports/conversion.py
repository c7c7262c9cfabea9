"""The state of an import: keys that were given, the recipe so far, and one verdict for each key."""

from collections.abc import Callable, Mapping
from typing import Any, cast

from pydantic import JsonValue

from rlvr.config.document.resolved_yaml import leaf_values
from rlvr.config.document.yaml_lines import dotted, plain_scalar
from rlvr.config.messages.suggestions import close, did_you_mean
from rlvr.config.recipe import Recipe
from rlvr.imports.records import Entry, Reading, Taken
from rlvr.imports.table import Rule, Table

Part = Callable[["Conversion"], None]
UNSEEN = "the import does not look at it together with these other keys; check it by hand"
_TRUE, _FALSE = {"true", "yes", "y", "t", "on", "1"}, {"false", "no", "n", "f", "off", "0"}
_SMALLEST = {"name": "x", "model": {"path": "x"}, "data": {"train": [{"source": "x", "verifier": "x"}]}}


class Conversion:
    """Reads keys with the trainer's defaults, writes keys of the recipe, and records one verdict for each key.

    The first verdict on a key stays. `values` is the recipe; `comments` and `sources` are the origin and the trainer's
    keys of each leaf, by dotted path.
    """

    def __init__(self, reading: Reading, table: Table) -> None:
        self.table = table
        self.given = reading.keys
        self.values: dict[str, JsonValue] = {}
        self.comments: dict[str, str] = {}
        self.sources: dict[str, tuple[str, ...]] = {}
        self.entries: dict[str, Entry] = {}
        self.by_hand: list[str] = []
        self._ours = {dotted(path): value for path, value in leaf_values(Recipe.model_validate(_SMALLEST)).items()}

    @property
    def trainer(self) -> str:
        """The trainer with the version whose defaults are used."""
        return f"{self.table.name} {self.table.version}"

    def is_given(self, key: str) -> bool:
        """Whether the input sets the key to a value that could be read."""
        return key in self.given and not self.given[key].unread

    def value(self, key: str) -> Any:
        """The value of a key, or the trainer's default."""
        default = self.table.default(key)
        return _typed(self.given[key].value, default) if self.is_given(key) else default

    def below(self, start: str) -> dict[str, JsonValue]:
        """The given keys that begin with `start.`, without it."""
        return {key[len(start) + 1 :]: self.value(key) for key in self.given if key.startswith(f"{start}.")}

    def put(self, path: str, value: JsonValue, *keys: str, how: str = "", always: bool = False) -> None:
        """Sets a key of the recipe. The trainer's default that is ours too is not written.

        Args:
            keys: the trainer's keys that it comes from. how: the arithmetic, for the comment.
            always: write it even if it is rlvr's default.
        """
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                self.put(f"{path}.{name}", inner, *keys, how=how, always=True)
            return
        given = [key for key in keys if self.is_given(key)]
        if not (given or always) and path in self._ours and self._ours[path] == value:
            return
        _place(self.values, path.split("."), value)
        self.comments[path] = self._origin(keys, how)
        self.sources[path] = keys

    def exactly(self, *keys: str, ours: str = "") -> None:
        """These keys mean the same in the recipe."""
        for key in keys:
            if key in self.given:
                self._enter(key, Taken.EXACTLY, ours=ours)

    def differently(self, *keys: str, ours: str = "", text: str, is_default: bool = True) -> None:
        """These keys have another meaning in the recipe. is_default: also if the input does not set them."""
        for key in keys:
            if key in self.given or is_default:
                self._enter(key, Taken.DIFFERENTLY, ours=ours, text=text)

    def leave(self, *keys: str, text: str, is_default: bool = False) -> None:
        """These keys have no counterpart. is_default: report a default of the trainer too."""
        for key in keys:
            if key in self.given or is_default:
                self._enter(key, Taken.NOT, text=text)

    def ask(self, text: str) -> None:
        """Adds a step that is left to the user."""
        if text not in self.by_hand:
            self.by_hand.append(text)

    def apply(self, parts: Mapping[str, Part]) -> None:
        """Applies the functions that the table names, in the order of `parts`, and then every other row."""
        for key, given in self.given.items():
            if given.unread:
                text = f"{given.unread}; {self._default_used(key)}"
                self._enter(key, Taken.NOT, text=text)
                rule = self.table.rule(key)
                if rule is not None and not rule.drop:
                    self.ask(f"{given.place}: {given.label or key}: {text}")
            elif key.endswith("._target_"):
                self.leave(key, text="a class of the trainer")
        for part in parts.values():
            part(self)
        for key in dict.fromkeys((*self.given, *self.table.rows)):
            rule = self.table.rule(key)
            if key in self.entries or key.endswith(".*") or ".N." in key:
                continue
            if rule is None:
                self._unknown(key)
            elif not rule.by:
                self._by_row(key, rule)
            else:
                self.leave(key, text=UNSEEN)

    def _by_row(self, key: str, rule: Rule) -> None:
        if key not in self.given and (rule.speed or rule.default is None):
            return
        if rule.only_if and not self.value(rule.only_if):
            self.leave(key, text=f"has no effect without {rule.only_if}")
        elif rule.drop:
            self.leave(key, text=rule.drop)
        elif rule.always is not None:
            value = self.value(key)
            if value in rule.always or value is None:
                self.exactly(key, ours="always")
            else:
                self.leave(key, text=rule.why, is_default=True)
        else:
            self._copied(key, rule)

    def _copied(self, key: str, rule: Rule) -> None:
        value = self.value(key)
        if value is None:
            self.exactly(key, ours="rlvr's default")
            return
        if rule.choices is not None:
            word = str(value).lower() if isinstance(value, bool) else str(value)
            if word not in rule.choices:
                self.leave(key, text=rule.otherwise or f"{value!r} has no counterpart", is_default=True)
                return
            value = rule.choices[word]
        self.put(rule.ours, value, key)
        if rule.differs:
            self.differently(key, ours=rule.ours, text=rule.differs)
        else:
            self.exactly(key, ours=rule.ours)

    def _unknown(self, key: str) -> None:
        near = close(key, [row for row in self.table.rows if not row.endswith(".*")], cutoff=0.8)
        self.leave(key, text=f"not a key of {self.trainer}{did_you_mean(near)}")

    def _enter(self, key: str, taken: Taken, *, ours: str = "", text: str = "") -> None:
        if key in self.entries:
            return
        given = self.given.get(key)
        self.entries[key] = Entry(
            key=(given.label or key) if given else key,
            value=given.value if given else self.table.default(key),
            taken=taken,
            place=given.place if given else "",
            ours=tuple(ours.split()) if ours != "rlvr's default" else (ours,),
            text=text,
            is_default=given is None,
        )

    def _default_used(self, key: str) -> str:
        default = self.table.default(key)
        return "set it in the recipe" if default is None else f"the recipe has the default, {default!r}"

    def _origin(self, keys: tuple[str, ...], how: str) -> str:
        """The comment of a line: its place, the keys and the arithmetic."""
        given = [key for key in keys if self.is_given(key)]
        names = ", ".join(self._label(key) for key in (given or keys))
        if given:
            origin = f"{self.given[given[0]].place} {names}"
        else:
            origin = f"{self.trainer} default of {names}" if names else self.trainer
        return f"{origin}: {how}" if how else origin

    def _label(self, key: str) -> str:
        return (self.given[key].label or key) if key in self.given else key


def _typed(value: JsonValue, default: JsonValue) -> JsonValue:
    """Text as the number or truth value that the trainer's parser would make of it."""
    if not isinstance(value, str):
        return value
    word = value.strip().lower()
    if isinstance(default, bool) and word in _TRUE | _FALSE:
        return word in _TRUE
    if isinstance(default, int | float):
        try:
            return plain_scalar(value.strip())
        except ValueError:
            return value
    return value


def _place(values: dict[str, JsonValue], path: list[str], value: JsonValue) -> None:
    """Sets the value at the path; a number in it is a position in a list."""
    current: Any = values
    for part, following in zip(path, [*path[1:], None], strict=True):
        made: Any = value if following is None else ([] if following.isdigit() else {})
        if isinstance(current, list):
            entries = cast(list[Any], current)
            if int(part) == len(entries):
                entries.append(made)
            elif following is None:
                entries[int(part)] = made
            current = entries[int(part)]
        else:
            mapping = cast(dict[str, Any], current)
            mapping[part] = made if following is None else mapping.get(part, made)
            current = mapping[part]


def remove(values: dict[str, JsonValue], path: list[str]) -> None:
    """Removes what is at the path, and sections that this leaves empty."""
    if len(path) == 1:
        values.pop(path[0], None)
        return
    inner = values.get(path[0])
    if isinstance(inner, dict):
        remove(inner, path[1:])
        if not inner:
            del values[path[0]]
