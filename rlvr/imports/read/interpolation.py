"""Hydra's `${...}` and `???` in values: replaced by what they refer to, where the input or the defaults have it."""

import re
from dataclasses import replace

from rlvr.imports.read.overrides import value_of
from rlvr.imports.records import Given, Reading
from rlvr.imports.table import Table

_SELECT = re.compile(r"\$\{oc\.select:\s*([\w.]+)\s*(?:,\s*(.*))?\}", re.DOTALL)
_REFERENCE = re.compile(r"\$\{(\.*[\w.]+)\}")
_ENVIRONMENT = re.compile(r"\$\{oc\.env:\s*\w+\s*,\s*(.*)\}", re.DOTALL)
_REQUIRED = "???"
_MOST_STEPS = 10


def resolved(reading: Reading, table: Table) -> Reading:
    """The reading with interpolations replaced; one that cannot be becomes a key that was not read.

    >>> from rlvr.imports.table import read_rules
    >>> keys = {"a.b": Given(value=3, place="x"), "a.c": Given(value="${.b}", place="x")}
    >>> resolved(Reading(file="x", keys=keys), read_rules("verl")).keys["a.c"].value
    3
    """
    keys = dict(reading.keys)
    for _ in range(_MOST_STEPS):
        open_ = {key: given for key, given in keys.items() if _is_open(given)}
        if not open_:
            break
        keys |= {key: _one(key, given, keys, table) for key, given in open_.items()}
    return replace(reading, keys={key: _closed(given) for key, given in keys.items()})


def _is_open(given: Given) -> bool:
    return (
        isinstance(given.value, str) and not given.unread and given.value.startswith("${") and given.value.endswith("}")
    )


def _one(key: str, given: Given, keys: dict[str, Given], table: Table) -> Given:
    text = str(given.value)
    if match := _ENVIRONMENT.fullmatch(text):
        return replace(given, value=value_of(match[1]))
    if match := _SELECT.fullmatch(text):
        target, otherwise = match[1], match[2]
    elif match := _REFERENCE.fullmatch(text):
        target, otherwise = match[1], None
    else:
        return replace(given, unread=f"{text} is an interpolation that was not resolved")
    path = _absolute(target, key)
    if path in keys and path != key:
        return replace(given, value=keys[path].value, unread=keys[path].unread)
    default = table.default(path)
    if default is None and otherwise is None:
        return replace(given, unread=f"{text} refers to a key that the file does not have")
    return replace(given, value=default if default is not None else value_of(otherwise or "null"))


def _absolute(target: str, key: str) -> str:
    """The target of a reference; each dot in front goes up one section, the first to the key's own."""
    dots = len(target) - len(target.lstrip("."))
    if not dots:
        return target
    return ".".join([*key.split(".")[:-dots], target[dots:]])


def _closed(given: Given) -> Given:
    if given.value == _REQUIRED and not given.unread:
        return replace(given, unread="??? must be set for verl to start")
    if _is_open(given):
        return replace(given, unread=f"{given.value} refers in a circle")
    return given
