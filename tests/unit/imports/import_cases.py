"""What several tests need of imports: the folder of inputs, keys of an input, a shorthand for an import."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rlvr.config.recipe import Recipe
from rlvr.imports.importing import import_config
from rlvr.imports.read.files import read_config
from rlvr.imports.records import Entry, Imported, Taken

GOLDEN = Path(__file__).parents[2] / "golden" / "imports"
# What makes a configuration complete enough for a recipe, by trainer.
ENOUGH = {
    "trl": {"per_device_train_batch_size": 8},
    "verl": {"actor_rollout_ref.rollout.n": 8, "algorithm.adv_estimator": "grpo"},
    "prime-rl": {"orchestrator.group_size": 8},
}


def given_keys(config: Path) -> list[str]:
    """The keys of an input, as a report shows them."""
    reading = read_config(config, is_flat=config.parent.name == "trl")
    return [given.label or key for key, given in reading.keys.items()]


def import_keys(trainer: str, keys: Mapping[str, Any], folder: Path) -> Imported:
    """An import of a file of these dotted keys, with what a recipe needs besides."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(dict(keys)), encoding="utf-8")
    return import_config(trainer, path, [f"{key}={value}" for key, value in ENOUGH[trainer].items() if key not in keys])


def recipe_of(imported: Imported) -> Recipe:
    """The validated recipe of an import."""
    return Recipe.model_validate(yaml.safe_load(imported.recipe))


def entry(imported: Imported, key: str) -> Entry:
    """What became of a key."""
    (found,) = [one for one in imported.entries if one.key == key]
    return found


def text_of(imported: Imported, key: str, taken: Taken) -> str:
    """The explanation of a key, which must be in this group."""
    found = entry(imported, key)
    assert found.taken is taken, found
    return found.text
