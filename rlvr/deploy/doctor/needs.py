"""What a recipe needs from the hosts of a cluster."""

import re
from collections.abc import Sequence
from dataclasses import replace

from rlvr.config.load import load_recipe
from rlvr.config.recipe import PluginEngine, Recipe
from rlvr.deploy.doctor.machine import Needs
from rlvr.deploy.layout import layout_of
from rlvr.deploy.model_size import ModelSize, model_size
from rlvr.errors import ConfigError
from rlvr.registry import ENGINES, find
from rlvr.run.ray.backend import jailed_verifiers, verifier_sources
from rlvr.run.ray.bundles import plan_bundles

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_STATE_BYTES = 12  # of a checkpoint, per parameter: weights and two averages in float32


def needs_of(name: str, overrides: Sequence[str]) -> Needs:
    """What the recipe needs on a cluster.

    Raises: ConfigError when the recipe is wrong, or a plugin is not installed here.
    """
    recipe = load_recipe(name, (*overrides, "cluster.backend=ray", "cluster.address=auto")).recipe
    size = model_size(recipe)
    path = recipe.model.path
    on_cores = Needs(
        shm=layout_of(recipe, size, hardware=None, is_cpu=True).shm_gib << 30 if size.is_known else 0,
        disk=(recipe.run.keep_checkpoints + 1) * _STATE_BYTES * size.parameters if size.is_known else 0,
        model=path if path.startswith("/") or _HUB_NAME.fullmatch(path) else "",
        env={variable: value for variable, value in recipe.cluster.env.items() if value is not None},
        modules=_modules(recipe),
        has_vllm=recipe.rollout.engine.traits.takes_vllm_arguments,
    )
    if recipe.learner.device == "cpu":
        return on_cores
    return replace(on_cores, on_gpus=_on_gpus(on_cores, recipe, size))


def _on_gpus(on_cores: Needs, recipe: Recipe, size: ModelSize) -> Needs | None:
    try:
        layout = layout_of(recipe, size, hardware=None, is_cpu=False)
    except ConfigError:  # it does not fit on nodes of 8 GPUs; `rlvr train` says what does
        return None
    bundles = plan_bundles(recipe, num_gpus=1).bundles
    return replace(
        on_cores,
        shm=layout.shm_gib << 30 if size.is_known else 0,
        gpus=int(sum(bundle.get("GPU", 0.0) for bundle in bundles)),
    )


def _modules(recipe: Recipe) -> tuple[str, ...]:
    """The modules of the recipe's plugins, whose sources must be equal on all hosts."""
    jailed = jailed_verifiers(recipe)
    plugins = [source for name, source in verifier_sources(recipe).items() if source.module and name not in jailed]
    if isinstance(recipe.rollout.engine, PluginEngine):
        plugins.append(find(ENGINES, recipe.rollout.engine.name))
    return tuple(sorted({source.module for source in plugins}))
