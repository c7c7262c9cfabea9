"""Chooses the backend that runs a recipe; a backend's libraries are imported only when it is chosen."""

import importlib.util

from rlvr.config.recipe import Backend, Recipe
from rlvr.errors import ConfigError
from rlvr.rollout.vllm.environment import argument_names, installed_vllm, require_known
from rlvr.run.launch.request import RunRequest
from rlvr.telemetry.process import observed_run


def require_backend(recipe: Recipe) -> None:
    """Raises ConfigError if the recipe's backend is not installed or lacks an argument, before anything is created."""
    if recipe.cluster.backend is Backend.RAY and importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "cluster.backend=ray: Ray is not installed; run `make setup`, or `pip install 'rlvr[ray]'`; on one machine "
            "without vLLM, cluster.backend=local needs none"
        )
    if recipe.rollout.engine.traits.takes_vllm_arguments and (known := argument_names()):
        # engines may run on other nodes, so each engine checks for vLLM
        given = recipe.rollout.engine_args
        require_known(given, known=known, version=installed_vllm().version)


def train_with(request: RunRequest) -> None:
    """Runs a recipe to its end on its backend.

    Raises: RlvrError; Interrupted after a checkpoint when the user asked to stop.
    """
    recipe = request.loaded.recipe
    if recipe.cluster.backend is Backend.RAY:
        from rlvr.run.ray.backend import train
    else:
        from rlvr.run.launch.local import train
    secret_names = tuple(name for name, value in recipe.cluster.env.items() if value is None)
    with observed_run(
        run_dir=request.directory.path,
        recipe=recipe.name,
        metrics_port=recipe.run.metrics_port,
        secret_names=secret_names,
    ):
        train(request)
