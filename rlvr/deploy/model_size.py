"""How many parameters a recipe's model has, without reading weights and without a network."""

import re
from dataclasses import dataclass
from pathlib import Path

from rlvr.config.recipe import Recipe
from rlvr.config.sections.model import ModelConfig
from rlvr.errors import ConfigError
from rlvr.models.locate import locate
from rlvr.models.policy import outline
from rlvr.planner.architecture import Architecture, architecture_of

_COUNT = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>[bBmM])")
_IN_NAME = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?[bBmM])(?![A-Za-z0-9])")
_UNITS = {"b": 1e9, "m": 1e6}
_UNKNOWN = 8_000_000_000  # what files are sized for when nothing says how large the model is


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """parameters: how many. source: where the number comes from, for display. architecture: None unless it was read.

    is_known: whether the number belongs to this model; otherwise it is a guess that the user must check.
    """

    parameters: int
    source: str
    is_known: bool = True
    architecture: Architecture | None = None


def model_size(recipe: Recipe, *, given: str = "") -> ModelSize:
    """The size that the user gives, else of the model's local config, else in the model's name, else a guess.

    Args: given: "7B", "135M" or "" if the user gives none.

    Raises: ConfigError when `given` is no such number, or `model.path` names a package or file that does not exist.
    """
    if given:
        return ModelSize(parameters=parse_parameters(given), source="--parameters")
    local = _local(recipe.model)
    if local is not None:
        found = architecture_of(outline(local))
        return ModelSize(parameters=found.num_parameters, source="the model's configuration", architecture=found)
    named = _IN_NAME.findall(recipe.model.path)
    if named:
        rounded = parse_parameters(named[-1])  # "7B" may have 7.6 billion
        return ModelSize(parameters=rounded + rounded // 10, source="the number in model.path and a tenth more")
    return ModelSize(parameters=_UNKNOWN, source="a guess", is_known=False)


def parse_parameters(text: str) -> int:
    """The number in "7B" or "135M". Raises ConfigError.

    >>> parse_parameters("0.5B"), parse_parameters("135m")
    (500000000, 135000000)
    """
    found = _COUNT.fullmatch(text.strip())
    count = round(float(found["number"]) * _UNITS[found["unit"].lower()]) if found else 0
    if not count:
        raise ConfigError(f"--parameters {text!r} is not a number of parameters; write 7B, 0.5B or 135M")
    return count


def _local(config: ModelConfig) -> ModelConfig | None:
    """The model's section with a path on this machine; None if its config would have to be downloaded."""
    if config.tiny is not None:
        return config
    folder, _ = locate(config.path)
    if Path(folder).is_dir():
        return config
    from huggingface_hub import try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(folder, "config.json")
    except ValueError:  # a path that is no hub name either: `rlvr train` reports it where it runs
        return None
    return config.model_copy(update={"path": str(Path(cached).parent)}) if isinstance(cached, str) else None
