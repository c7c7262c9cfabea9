"""Parts that several trainers share: whole numbers, names, sources of data, checks, intervals."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from rlvr.errors import ConfigError
from rlvr.imports.conversion import Conversion

TRAIN, EVAL = "data.train.0", "data.eval.0"
MODEL_MISSING, DATA_MISSING = "MODEL", "rows.jsonl"
NO_REWARD = "my_checks.py:check"
SCORE_RANGE = "if scores of {name} can leave [0, 1], state their range: settings: {{scores: {{from: [LOW, HIGH]}}}}"
ROWS = "the form of its rows; all columns are kept"


def number(c: Conversion, key: str) -> float:
    """The value of a key that must be a number.

    Raises: ConfigError with its place.
    """
    value = c.value(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        place = c.given[key].place if key in c.given else c.trainer
        raise ConfigError(f"{place}: {key}: must be a number (got {value!r})")
    return value


def whole(c: Conversion, key: str) -> int:
    """The value of a key that must be a whole number.

    Raises: ConfigError with its place.
    """
    value = number(c, key)
    if value != int(value):
        raise ConfigError(f"{c.given[key].place}: {key}: must be a whole number (got {value!r})")
    return int(value)


def count(c: Conversion, key: str) -> int:
    """The value of a key that must be a whole number from 1.

    Raises: ConfigError with its place.
    """
    value = whole(c, key)
    if value < 1:
        place = c.given[key].place if key in c.given else c.trainer
        raise ConfigError(f"{place}: {key}: must be at least 1 (got {value})")
    return value


def recipe_name(text: str) -> str:
    """A name for the recipe.

    >>> recipe_name("Qwen GRPO (v2).yaml"), recipe_name("?")
    ('Qwen-GRPO-v2', 'imported')
    """
    stem = re.sub(r"\.(yaml|yml|json|toml|py|sh|txt)$", "", text)
    return re.sub(r"[^A-Za-z0-9._]+", "-", stem).strip("-._")[:100] or "imported"


def per_step(c: Conversion) -> int:
    """The optimiser steps in one step of the recipe so far."""
    learner = c.values.get("learner")
    found = learner.get("minibatches_per_step", 1) if isinstance(learner, dict) else 1
    return int(str(found))


def put_interval(c: Conversion, path: str, interval: int, *keys: str, each: int) -> None:
    """Sets an interval in steps of the recipe from one in optimiser steps; none or a negative one is 0 (never)."""
    steps = math.ceil(interval / each) if interval > 0 else 0
    how = f"{interval} optimiser steps / {each} per step" if each > 1 and interval > 0 else ""
    c.put(path, steps, *keys, how=how)


@dataclass(frozen=True, slots=True)
class Check:
    """One check to write. arguments: bound to the function by its adapter. scores: their range, if not [0, 1]."""

    name: str
    verifier: str
    weight: float = 1.0
    arguments: dict[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    scores: tuple[float, float] | None = None

    @property
    def settings(self) -> dict[str, JsonValue]:
        """The settings of its adapter."""
        arguments: dict[str, JsonValue] = {"arguments": self.arguments} if self.arguments else {}
        return arguments if self.scores is None else {**arguments, "scores": {"from": list(self.scores)}}


def is_short(checks: Sequence[Check]) -> bool:
    """Whether the checks are written as `verifier:`, the short form for a single one with weight 1."""
    return len(checks) == 1 and checks[0].weight == 1.0


def put_checks(c: Conversion, source: str, checks: Sequence[Check], *keys: str) -> None:
    """Sets the checks of a source; a single one with weight 1 is written in the short form."""
    if is_short(checks):
        c.put(f"{source}.verifier", checks[0].verifier, *keys)
        if checks[0].settings:
            c.put(f"{source}.verifier_settings", checks[0].settings, *keys)
        return
    for check in checks:
        path = f"{source}.checks.{recipe_name(check.name).replace('.', '_')}"
        c.put(f"{path}.verifier", check.verifier, *keys)
        c.put(f"{path}.weight", check.weight, *keys, always=True)
        if check.settings:
            c.put(f"{path}.settings", check.settings, *keys)


def put_source(c: Conversion, source: str, fields: Mapping[str, tuple[JsonValue, tuple[str, ...]]]) -> None:
    """Sets keys of a source: value and the trainer's keys that it comes from; empty values are left out."""
    for name, (value, keys) in fields.items():
        if value not in (None, ""):
            c.put(f"{source}.{name}", value, *keys, how=ROWS if name == "layout" else "", always=True)
