"""The tables of keys: `tables/*.yaml`, one row for each key of a trainer.

A row is one of

    {ours: learner.lr, default: 1.0e-6}                    the same value under our name
    {ours: ..., choices: {theirs: ours}, otherwise: why}   one of several words
    {always: [1.0], why: ...}                              what rlvr always does at these values, and refuses at others
    {by: batch, default: 1}                                a function in `trainers/`, which looks at several keys
    {drop: why}                                            nothing in a recipe

with, in addition, `differs` (what differs in meaning), `speed: true` (neither mathematics nor data; a default of the
trainer is then not written), and `only_if` (another key without which it has no effect). `why`, `drop`, `differs` and
`otherwise` are texts or names of the table's `reasons`. A name that ends in `.*` is a row for all keys below; `N` in a
name is a position in a list.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from rlvr.config.document.packaged import read_table

TRAINERS = {"trl": "trl.yaml", "verl": "verl.yaml", "prime-rl": "prime_rl.yaml"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row. default: `None` also where the trainer has none."""

    default: JsonValue = None
    ours: str = ""
    choices: Mapping[str, JsonValue] | None = None
    otherwise: str = ""
    always: tuple[JsonValue, ...] | None = None
    why: str = ""
    by: str = ""
    drop: str = ""
    differs: str = ""
    speed: bool = False
    only_if: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The rows of a trainer. name, version: of the trainer. telling: beginnings of keys that only this trainer has."""

    name: str
    version: str
    rows: Mapping[str, Rule]
    telling: tuple[str, ...] = ()
    _below: tuple[tuple[str, Rule], ...] = field(default=(), repr=False)

    def rule(self, key: str) -> Rule | None:
        """The row of a key, else that of the longest beginning with `.*`; None for an unknown key.

        >>> read_rules("trl").rule("learning_rate").ours
        'learner.lr'
        """
        name = re.sub(r"\.\d+(?=\.|$)", ".N", key)
        if name.endswith("._target_"):
            name = "_target_"
        if name in self.rows:
            return self.rows[name]
        return next((rule for start, rule in self._below if name.startswith(start) or name == start[:-1]), None)

    def default(self, key: str) -> JsonValue:
        """The trainer's default of a key; None where there is none."""
        rule = self.rule(key)
        return None if rule is None else rule.default


@cache
def read_rules(trainer: str) -> Table:
    """The table of `trl`, `verl` or `prime-rl`."""
    raw = read_table(Path(__file__).with_name("tables") / TRAINERS[trainer])
    reasons: dict[str, str] = raw["reasons"]
    rows = {key: _rule(row, reasons) for key, row in raw["rows"].items()}
    below = sorted(((key[:-1], rule) for key, rule in rows.items() if key.endswith(".*")), key=lambda e: -len(e[0]))
    return Table(
        name=raw["name"], version=raw["version"], rows=rows, telling=tuple(raw["telling"]), _below=tuple(below)
    )


def _rule(row: Mapping[str, Any], reasons: Mapping[str, str]) -> Rule:
    fields = dict(row)
    for name in ("why", "drop", "differs", "otherwise"):
        if name in fields:
            fields[name] = reasons.get(fields[name], fields[name])
    if "always" in fields:
        fields["always"] = tuple(fields["always"])
    return Rule(**fields)
