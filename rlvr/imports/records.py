"""Records of an import: what was given, and what became of each key."""

from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import JsonValue


class Taken(StrEnum):
    """What became of a key."""

    EXACTLY = "exactly"  # the recipe does the same
    DIFFERENTLY = "differently"  # the recipe has a key for it with another meaning
    NOT = "not"  # the recipe has nothing for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """One key of the input.

    place: `grpo.yaml:7`, or `command line`. label: the key as messages show it; empty shows the key itself.
    unread: why its value could not be read; the trainer's default is used in its place.
    """

    value: JsonValue
    place: str
    label: str = ""
    unread: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A configuration as it was read.

    keys: dotted, with positions for entries of lists. notes: what was seen and not read, with its place.
    """

    file: str
    keys: dict[str, Given] = field(default_factory=dict[str, Given])
    notes: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What became of one key.

    ours: the keys of the recipe that hold it. text: the difference, or the reason. is_default: the input does not set
    the key, and the trainer's default is meant.
    """

    key: str
    value: JsonValue
    taken: Taken
    place: str = ""
    ours: tuple[str, ...] = ()
    text: str = ""
    is_default: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A recipe and the account of its making.

    trainer: with the version whose defaults were used, as in `TRL 1.16.0`. recipe: the text of the file to write.
    by_hand: what is left to do before the recipe can train.
    """

    trainer: str
    file: str
    recipe: str
    entries: tuple[Entry, ...]
    by_hand: tuple[str, ...]
