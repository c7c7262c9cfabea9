"""Parts that several trainers share: whole numbers, names, sources of data, checks, intervals."""

import math
import re
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from rlvr.errors import ConfigError
from rlvr.imports.conversion import Conversion

TRAIN, EVAL = "data.train.0", "data.eval.0"
MODEL_MISSING, DATA_MISSING = "MODEL", "rows.jsonl"
NO_REWARD = "my_checks.py:check"


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


def put_checks(c: Conversion, source: str, checks: Sequence[tuple[str, str, float]], *keys: str) -> None:
    """Sets the checks of a source.

    Args:
        checks: (name, verifier, weight) of each; one with weight 1 is written in the short form.
    """
    if len(checks) == 1 and checks[0][2] == 1.0:
        c.put(f"{source}.verifier", checks[0][1], *keys)
        return
    for name, verifier, weight in checks:
        short = recipe_name(name).replace(".", "_")
        c.put(f"{source}.checks.{short}.verifier", verifier, *keys)
        c.put(f"{source}.checks.{short}.weight", weight, *keys, always=True)


def put_source(c: Conversion, source: str, fields: Mapping[str, tuple[JsonValue, tuple[str, ...]]]) -> None:
    """Sets keys of a source: value and the trainer's keys that it comes from; empty values are left out."""
    for name, (value, keys) in fields.items():
        if value not in (None, ""):
            c.put(f"{source}.{name}", value, *keys, always=True)
