"""Runs an import: reads the file, takes over its keys, validates the recipe, and writes it as text."""

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from rlvr.config.document.resolved_yaml import commented_yaml
from rlvr.config.document.yaml_lines import value_at
from rlvr.config.messages.suggestions import close, did_you_mean, listed
from rlvr.config.recipe import Recipe
from rlvr.errors import ConfigError
from rlvr.imports.conversion import Conversion, Part, remove
from rlvr.imports.read.files import read_config
from rlvr.imports.read.interpolation import resolved
from rlvr.imports.records import Entry, Imported, Reading, Taken
from rlvr.imports.table import TRAINERS, read_rules
from rlvr.imports.trainers.parts import recipe_name

_ORDER = ("name", "description", "seed", "model", "data", "rollout", "reward", "algorithm", "learner", "run", "cluster")
_MOST_ATTEMPTS = 20


def import_config(trainer: str, path: Path, extra: Sequence[str] = ()) -> Imported:
    """A recipe from another trainer's configuration, and what became of each key.

    Args:
        trainer: `trl`, `verl` or `prime-rl`.
        extra: `key=value` pairs in the trainer's keys, which take precedence over the file's.

    Raises: ConfigError for an unknown trainer, a file that cannot be read or belongs to another trainer, and values
        that the trainer would refuse as well.
    """
    if trainer not in TRAINERS:
        known = [repr(name) for name in TRAINERS]
        raise ConfigError(
            f"{trainer!r} is not a trainer: {listed(known, 'or')}{did_you_mean(close(repr(trainer), known))}"
        )
    table = read_rules(trainer)
    reading = resolved(read_config(path, extra, is_flat=trainer == "trl"), table)
    _require(trainer, reading, path)
    conversion = Conversion(reading, table)
    conversion.put("name", recipe_name(path.name), how=f"from the file's name, {path.name}")
    conversion.apply(_parts(trainer))
    for note in reading.notes:
        conversion.ask(note)
    _drop_invalid(conversion)
    return Imported(
        trainer=conversion.trainer,
        file=str(path),
        recipe=_text(conversion, path),
        entries=tuple(conversion.entries.values()),
        by_hand=tuple(conversion.by_hand),
    )


def _parts(trainer: str) -> dict[str, Part]:
    return import_module(f"rlvr.imports.trainers.{trainer.replace('-', '_')}").PARTS


def _require(trainer: str, reading: Reading, path: Path) -> None:
    """Raises ConfigError when no key is the trainer's, or the telling ones are another's."""
    telling = {name: _telling(name, reading) for name in TRAINERS}
    known = sum(read_rules(trainer).rule(key) is not None for key in reading.keys)
    other = max(telling, key=lambda name: len(telling[name]))
    asked = read_rules(trainer).name
    if telling[other] and len(telling[other]) > len(telling[trainer]) and other != trainer:
        raise ConfigError(
            f"{path} is not a configuration of {asked}: it looks like one of {read_rules(other).name}, whose "
            f"{listed(telling[other][:3], 'and')} it has; try `rlvr import {other} {path}`"
        )
    if not known:
        shown = listed(list(reading.keys)[:5], "and")
        looks = "a recipe of rlvr" if {"rollout", "data"} & {key.split(".")[0] for key in reading.keys} else ""
        hint = f"; it looks like {looks}, which needs no import" if looks else ""
        raise ConfigError(f"{path} is not a configuration of {asked}: none of its keys is known ({shown}){hint}")


def _telling(trainer: str, reading: Reading) -> list[str]:
    starts = read_rules(trainer).telling
    return [key for key in reading.keys if any(key == s or key.startswith(f"{s}.") for s in starts)]


def _drop_invalid(c: Conversion) -> None:
    """Takes out values that no recipe can have, and moves their keys to those that were not taken over.

    Raises: ConfigError when keys contradict each other.
    """
    problems: list[Any] = []
    for _ in range(_MOST_ATTEMPTS):
        try:
            Recipe.model_validate(c.values)
            return
        except ValidationError as error:
            problems = list(error.errors())
        taken_out = [_take_out(c, problem) for problem in problems]
        if not any(taken_out):
            break
    listing = "\n".join(f"  {problem['msg'].removeprefix('Value error, ')}" for problem in problems)
    raise ConfigError(
        f"these keys of {c.trainer} contradict each other in a recipe; replace one by KEY=VALUE in the call:\n{listing}"
    )


def _take_out(c: Conversion, problem: Any) -> bool:
    """Whether the problem belongs to a value that came from a key of the trainer, which is now removed."""
    path = [str(part) for part in cast(tuple[str | int, ...], problem["loc"])]
    owner = max((key for key in c.comments if _holds(key.split("."), path)), key=len, default="")
    if not owner:
        return False
    value = value_at(c.values, tuple(int(part) if part.isdigit() else part for part in owner.split(".")))
    remove(c.values, owner.split("."))
    del c.comments[owner]
    why = f"rlvr's {owner} cannot be {value!r}: {problem['msg'].removeprefix('Value error, ')}"
    for key in c.sources[owner]:
        if key in c.entries:
            c.entries[key] = replace(c.entries[key], taken=Taken.NOT, ours=(), text=why)
    c.ask(why)
    return True


def _holds(owner: list[str], path: list[str]) -> bool:
    """Whether the problem at `path` is in the leaf `owner`; pydantic adds kinds of unions and positions to a path.

    >>> _holds(["algorithm", "loss", "clip_low"], ["algorithm", "loss", "gspo", "clip_low"])
    True
    >>> _holds(["learner", "adam_betas"], ["learner", "adam_betas", "0"]), _holds(["learner", "lr"], ["learner"])
    (True, False)
    """
    rest = iter(path)
    return owner[0] == path[:1].pop() and all(part in rest for part in owner) if path else False


def _text(c: Conversion, path: Path) -> str:
    ordered = {key: c.values[key] for key in _ORDER if key in c.values}
    differing = {ours for entry in c.entries.values() if entry.taken is Taken.DIFFERENTLY for ours in entry.ours}
    comments = {key: f"{text} (differs)" if key in differing else text for key, text in c.comments.items()}
    head = [
        f"# Imported from {path.name}, a configuration of {c.trainer}. Each line names the key that it comes from;",
        "# `(differs)` marks another meaning, which `rlvr import` explains.",
        *[f"# To do: {text}" for text in c.by_hand],
    ]
    return "\n".join([*head, commented_yaml(ordered, comments)])


def entries_of(imported: Imported, taken: Taken) -> list[Entry]:
    """The entries of one group, in the order of the input, the trainer's defaults last."""
    return sorted((entry for entry in imported.entries if entry.taken is taken), key=lambda entry: entry.is_default)
