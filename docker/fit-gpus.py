#!/usr/bin/env python3
"""Prints the overrides that fit a recipe to the GPUs of this host, on one line: fit-gpus.py RECIPE [ARGUMENT]...

The arguments are those of `rlvr train`.

    GPUs left beside the learners   cluster.engines = (GPUs - learners) / GPUs of an engine
    none left (a single GPU)        cluster.placement=colocated, cluster.engines = GPUs / GPUs of an engine

Engines that the command line names stay as they are there, and so does a placement that the recipe names. Nothing is
printed where no number of engines helps (an engine without GPUs, more learners than GPUs, a recipe that does not load):
`rlvr train` says what is wrong.

RLVR_GPUS  how many GPUs there are; unset: what CUDA_VISIBLE_DEVICES lists, or nvidia-smi
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from rlvr.config.load import LoadedRecipe, load_recipe
from rlvr.config.sections.cluster import Placement
from rlvr.config.sections.rollout import EngineKind
from rlvr.errors import ConfigError

_VALUED_OPTIONS = {"--run-dir"}  # of `rlvr train`: the word behind is no override
_ENGINES, _PLACEMENT = "cluster.engines", "cluster.placement"
_MEMORY = "gpu_memory_utilization"
_SHARED_UTILIZATION = 0.4  # what vLLM takes of a GPU that a learner shares, as in the colocated recipe


def num_gpus(environ: Mapping[str, str]) -> int:
    """How many GPUs Ray will find here."""
    if environ.get("RLVR_GPUS"):
        return int(environ["RLVR_GPUS"])
    if "CUDA_VISIBLE_DEVICES" in environ:
        return len([name for name in environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()])
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def overrides_in(arguments: Sequence[str]) -> list[str]:
    """The KEY=VALUE words among arguments of `rlvr train`.

    >>> overrides_in(["run.steps=3", "--run-dir", "runs/a=b", "--resume"])
    ['run.steps=3']
    """
    before = ["", *arguments]
    return [
        word
        for word, last in zip(arguments, before, strict=False)
        if "=" in word and not word.startswith("-") and last not in _VALUED_OPTIONS
    ]


def fitted(loaded: LoadedRecipe, *, gpus: int) -> list[str]:
    """The overrides for a recipe as the command line leaves it; none where it names the engines itself."""
    recipe, places = loaded.recipe, loaded.provenance
    learners = 0 if recipe.learner.device == "cpu" else recipe.cluster.learners
    is_toy = recipe.rollout.engine is EngineKind.TOY
    if places[_ENGINES] == "command line" or is_toy or gpus < max(1, learners):
        return []
    width = 1
    for name in ("tensor_parallel_size", "pipeline_parallel_size"):
        value = recipe.rollout.engine_args.get(name, 1)
        width *= value if isinstance(value, int) else 1
    is_colocated = recipe.cluster.placement is Placement.COLOCATED
    free = gpus - learners
    if not is_colocated and (free >= width or places[_PLACEMENT] != "default"):
        return [f"{_ENGINES}={max(1, free // width)}"]
    found = [f"{_ENGINES}={max(1, gpus // width)}"]
    if not is_colocated:
        found.append(f"{_PLACEMENT}={Placement.COLOCATED.value}")
        if recipe.rollout.engine is EngineKind.VLLM and _MEMORY not in recipe.rollout.engine_args:
            found.append(f"rollout.engine_args.{_MEMORY}={_SHARED_UTILIZATION}")
    return found


def main(arguments: Sequence[str]) -> None:
    """Prints the overrides to standard output, and to standard error what they follow from."""
    gpus = num_gpus(os.environ)
    try:
        loaded = load_recipe(arguments[0], [*overrides_in(arguments[1:]), "cluster.backend=ray"])
    except ConfigError:
        return
    found = fitted(loaded, gpus=gpus)
    if not gpus:
        sys.stderr.write("rlvr: no GPU was found here; the recipe runs as it is\n")
    elif found:
        sys.stderr.write(
            f"rlvr: fitted to {gpus} GPU{'s' * (gpus > 1)}: {' '.join(found)} (RLVR_ENGINES=N overrides)\n"
        )
    sys.stdout.write(" ".join(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
