"""The nodes that a recipe needs: how many, and the GPUs, cores and memory of each.

GPUs and cores follow the bundles that a run reserves from Ray. Memory is arithmetic with allowances that are larger
than what was measured in small runs; no large run was measured.
"""

import math
from dataclasses import dataclass

from rlvr.config.dtypes import with_dtypes
from rlvr.config.recipe import Backend, EngineDtype, Recipe
from rlvr.config.sections.learner import LearnerDtype
from rlvr.deploy.model_size import ModelSize
from rlvr.errors import ConfigError
from rlvr.learner.weights.weights_file import FILES_AT_ONCE
from rlvr.planner.architecture import num_adapter_parameters
from rlvr.planner.cluster import plan_cluster
from rlvr.planner.hardware import Hardware
from rlvr.planner.setup import Lengths, setup_of
from rlvr.run.ray.bundles import Plan, plan_bundles

OBJECT_STORE_BYTES = 512 << 20
_GPUS_PER_NODE = 8  # of a node, unless the user says otherwise
# GiB of main memory: a process of the learner, of an engine per GPU, of an engine on a CPU without its weights, of a
# verifier worker, and of Ray with the driver.
_RANK_GIB, _GPU_ENGINE_GIB, _CPU_ENGINE_GIB, VERIFIER_GIB, _RAY_GIB = 6.0, 8.0, 3.0, 0.5, 4.0
_CPU_LEARNER_BYTES = 16  # per parameter: float32 weights, gradients and two averages


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Equal nodes. With no GPUs there is one node.

    ray_cpus: the cores that Ray assigns on a node. cpus: those that its processes keep busy, verifiers included.
    shm_gib: size of /dev/shm, part of memory_gib. notes: what the user should check, one line each.
    """

    nodes: int
    gpus_per_node: int
    ray_cpus: int
    cpus: int
    memory_gib: int
    shm_gib: int
    notes: tuple[str, ...]


def layout_of(recipe: Recipe, size: ModelSize, *, hardware: Hardware | None, is_cpu: bool) -> Layout:
    """The nodes for a recipe.

    Args:
        hardware: the cluster that the user has; None: nodes of up to 8 GPUs, as many as needed.
        is_cpu: plan for cores only.

    Raises: ConfigError when the recipe uses no cluster, or does not fit the hardware.
    """
    require_cluster(recipe)
    if is_cpu and hardware is not None:
        raise ConfigError("--cpu and --gpus exclude each other")
    has_gpus = not is_cpu and (hardware is not None or recipe.learner.device != "cpu")
    if not has_gpus:
        return _on_cores(recipe, size)
    wanted = _num_gpus(plan_bundles(recipe, num_gpus=1))
    per_node = hardware.gpus_per_node if hardware is not None else min(_GPUS_PER_NODE, wanted)
    plan = plan_bundles(recipe, num_gpus=wanted, gpus_per_node=per_node)
    filled = _packed(plan, per_node)
    nodes = len(filled)
    if hardware is not None and nodes > hardware.nodes:
        raise ConfigError(
            f"the recipe needs {nodes} nodes of {per_node} GPUs ({_arithmetic(recipe)}), and --gpus {hardware} has "
            f"{hardware.nodes}; lower cluster.engines or cluster.learners, or add nodes"
        )
    per_node = per_node if nodes > 1 else wanted
    cores = max(sum(plan.bundles[index].get("CPU", 0.0) for index in node) for node in filled)
    return _layout(
        recipe,
        size,
        nodes=nodes,
        gpus=per_node,
        ray_cpus=math.ceil(cores),
        process_gib=per_node * max(_RANK_GIB, _GPU_ENGINE_GIB) + 4 * size.parameters / 2**30,
        busy=max(cores, per_node * 2.0),
        number_bytes=4 if recipe.rollout.engine_dtype is EngineDtype.FLOAT32 else 2,
        notes=_memory_problems(recipe, size, hardware),
    )


def counted(number: int, noun: str) -> str:
    """The number followed by its noun.

    >>> counted(1, "GPU"), counted(0, "GPU")
    ('1 GPU', '0 GPUs')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def require_cluster(recipe: Recipe) -> None:
    """Raises ConfigError unless the recipe runs on a Ray cluster."""
    if recipe.cluster.backend is not Backend.RAY:
        raise ConfigError(
            f"recipe {recipe.name!r} has cluster.backend={recipe.cluster.backend.value}: it runs in one process and "
            "its ranks, and needs no cluster. Set cluster.backend=ray, and rollout.engine=vllm, cluster.learners and "
            "cluster.engines to spread it over GPUs or nodes"
        )


def _on_cores(recipe: Recipe, size: ModelSize) -> Layout:
    cluster = recipe.cluster
    plan = plan_bundles(recipe, num_gpus=0)
    cores = sum(bundle.get("CPU", 0.0) for bundle in plan.bundles)
    number = 2 if recipe.rollout.engine_dtype is EngineDtype.BFLOAT16 else 4
    learner = _CPU_LEARNER_BYTES * size.parameters / 2**30 + _RANK_GIB * cluster.learners
    engine = number * size.parameters / 2**30 + _CPU_ENGINE_GIB
    return _layout(
        recipe,
        size,
        nodes=1,
        gpus=0,
        ray_cpus=math.ceil(cores),
        process_gib=learner + cluster.engines * engine,
        busy=cores,
        number_bytes=number,
        notes=(),
    )


def _layout(
    recipe: Recipe,
    size: ModelSize,
    *,
    nodes: int,
    gpus: int,
    ray_cpus: int,
    process_gib: float,
    busy: float,
    number_bytes: int,
    notes: tuple[str, ...],
) -> Layout:
    workers = recipe.reward.verifier_workers
    shm = math.ceil((FILES_AT_ONCE * number_bytes * size.parameters + OBJECT_STORE_BYTES) / 2**30)
    checks = notes
    if not size.is_known:
        checks = (
            f"the size of model.path={recipe.model.path!r} is not known here: memory and /dev/shm are for "
            f"{size.parameters / 1e9:g}B parameters. Check them, or render again with --parameters",
            *notes,
        )
    return Layout(
        nodes=nodes,
        gpus_per_node=gpus,
        ray_cpus=max(1, ray_cpus),
        cpus=max(1, math.ceil(busy)) + workers,
        memory_gib=math.ceil(process_gib + shm + workers * VERIFIER_GIB + _RAY_GIB),
        shm_gib=max(2, shm),
        notes=checks,
    )


def _num_gpus(plan: Plan) -> int:
    return int(sum(bundle.get("GPU", 0.0) for bundle in plan.bundles))


def _packed(plan: Plan, per_node: int) -> list[list[int]]:
    """The bundles of each node: the largest first, each on the first node with room. Raises ConfigError."""
    largest = int(max(bundle.get("GPU", 0.0) for bundle in plan.bundles))
    if largest > per_node:
        raise ConfigError(
            f"{largest} GPUs must be on one node (an engine's tensor_parallel_size x pipeline_parallel_size, the "
            f"learners of cluster.learners_per_node, or all of a colocated run), and a node has {per_node}; give nodes "
            f"with more, such as --gpus 1x{largest}x80GB"
        )
    nodes: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(plan.bundles)), key=lambda i: -plan.bundles[i].get("GPU", 0.0)):
        wanted = int(plan.bundles[index].get("GPU", 0.0))
        place = next((node for node, left in enumerate(free) if left >= wanted), len(nodes))
        if place == len(nodes):
            nodes.append([])
            free.append(per_node)
        nodes[place].append(index)
        free[place] -= wanted
    return nodes


def _arithmetic(recipe: Recipe) -> str:
    cluster = recipe.cluster
    width = counted(recipe.rollout.gpus_per_engine, "GPU")
    return f"{counted(cluster.learners, 'learner')}, {counted(cluster.engines, 'engine')} of {width}"


def _memory_problems(recipe: Recipe, size: ModelSize, hardware: Hardware | None) -> tuple[str, ...]:
    """What `rlvr check --gpus` reports, for prompts as long as the recipe allows; () if the config is not here."""
    if hardware is None or size.architecture is None or not recipe.rollout.engine.traits.needs_own_process:
        return ()
    resolved = with_dtypes(recipe, learner=LearnerDtype.BFLOAT16_AUTOCAST)
    longest = resolved.data.max_prompt_tokens
    lengths = Lengths(prompt_mean=longest, prompt_max=longest, completion=resolved.rollout.max_completion_tokens)
    adapters = 0
    if resolved.model.lora.rank:
        from rlvr.models.policy import outline

        adapters = num_adapter_parameters(outline(resolved.model), resolved.model.lora)
    setup = setup_of(resolved, size.architecture, device="cuda", num_adapters=adapters, lengths=lengths)
    return plan_cluster(resolved, setup, hardware, files_at_once=FILES_AT_ONCE).problems
