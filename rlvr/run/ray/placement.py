"""Places learner and engines on cores and devices: bundles are reserved together, or refused with the arithmetic."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import exceptions as ray_errors
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rlvr.config.recipe import Placement, Recipe
from rlvr.config.sections.cluster import WeightTransport
from rlvr.errors import ConfigError
from rlvr.records import Transport
from rlvr.run.ray.connect import head_is_gone
from rlvr.transfer.communicator import has_substitute

LEARNER_CPUS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Bundles of resources: where the learner goes, and where each engine.

    learner_gpus: the learner's own devices; 0 when it has none or shares the engines' (colocated).
    """

    bundles: tuple[Mapping[str, float], ...]
    learner_bundle: int
    engine_bundles: tuple[int, ...]
    learner_gpus: int
    engine_gpus: int
    engine_cpus: float


def plan_bundles(recipe: Recipe, *, num_gpus: int) -> Plan:
    """The bundles that the recipe asks for.

    Args: num_gpus: GPUs of the whole cluster; with none everything runs on CPU cores.
    """
    cluster = recipe.cluster
    is_gpu_engine = recipe.rollout.engine.traits.has_weights and num_gpus > 0
    parallel = recipe.rollout.engine_args.get("tensor_parallel_size", 1)
    width = parallel if isinstance(parallel, int) else 1
    engine_gpus = width if is_gpu_engine else 0
    learner_gpus = cluster.learners if num_gpus and recipe.learner.device != "cpu" else 0
    engine = _bundle(cluster.cpus_per_engine, engine_gpus)
    if cluster.placement is Placement.COLOCATED and learner_gpus:
        shared = max(learner_gpus, cluster.engines * engine_gpus)
        bundle = _bundle(LEARNER_CPUS + cluster.engines * cluster.cpus_per_engine, shared)
        return Plan(
            bundles=(bundle,),
            learner_bundle=0,
            engine_bundles=(0,) * cluster.engines,
            learner_gpus=0,
            engine_gpus=engine_gpus,
            engine_cpus=cluster.cpus_per_engine,
        )
    return Plan(
        bundles=(_bundle(LEARNER_CPUS, learner_gpus), *([engine] * cluster.engines)),
        learner_bundle=0,
        engine_bundles=tuple(range(1, cluster.engines + 1)),
        learner_gpus=learner_gpus,
        engine_gpus=engine_gpus,
        engine_cpus=cluster.cpus_per_engine,
    )


def chosen_transport(recipe: Recipe, plan: Plan) -> Transport:
    """How weights travel from learner to engines.

    Raises: ConfigError when the recipe asks for a way that needs GPUs, and learner or engines have none.
    """
    traits = recipe.rollout.engine.traits
    if not traits.has_weights:
        return Transport.SHARED
    wanted = recipe.cluster.weight_transport
    is_colocated = plan.learner_bundle in plan.engine_bundles and bool(plan.engine_gpus)
    has_own = bool(plan.learner_gpus and plan.engine_gpus)
    if wanted is WeightTransport.AUTO:
        has_beyond = is_colocated and recipe.cluster.engines * plan.engine_gpus > recipe.cluster.learners
        if not traits.takes_broadcasts or recipe.sends_adapters or has_beyond or not (is_colocated or has_own):
            return Transport.FILE
        return Transport.IPC if is_colocated else Transport.NCCL
    if wanted in (WeightTransport.NCCL, WeightTransport.IPC) and not (is_colocated or has_own or has_substitute()):
        raise ConfigError(
            f"cluster.weight_transport={wanted} needs learner and engines on GPUs, and the learner has "
            f"{plan.learner_gpus} and an engine {plan.engine_gpus} of them; set it to auto, which takes files here"
        )
    return Transport(wanted.value)


def engine_width(recipe: Recipe) -> int:
    """The workers of one engine."""
    given = recipe.rollout.engine_args
    widths = [given.get(name, 1) for name in ("tensor_parallel_size", "pipeline_parallel_size")]
    return math.prod(width for width in widths if isinstance(width, int))


def shortage(plan: Plan, *, nodes: Sequence[Mapping[str, float]], engines: int, cpus_per_engine: float) -> str:
    """Why the nodes cannot hold the plan, with the arithmetic; "" if they can, as far as known.

    Args: nodes: resources of each node ("CPU", "GPU").
    """
    problems: list[str] = []
    for kind, remedy in (
        ("CPU", "lower cluster.engines or cluster.cpus_per_engine"),
        ("GPU", "lower cluster.engines, cluster.learners or tensor_parallel_size"),
    ):
        wanted = sum(bundle.get(kind, 0.0) for bundle in plan.bundles)
        there = sum(node.get(kind, 0.0) for node in nodes)
        learner = plan.bundles[plan.learner_bundle].get(kind, 0.0)
        each = cpus_per_engine if kind == "CPU" else plan.engine_gpus
        if wanted > there:
            how = f"learner {learner:g} + {engines} engines x {each:g}"
            if plan.learner_bundle in plan.engine_bundles:
                how = f"learner and {engines} engines together"
            problems.append(f"{wanted:g} {kind}s are needed ({how}), the cluster has {there:g}; {remedy}")
        largest = max((bundle.get(kind, 0.0) for bundle in plan.bundles), default=0.0)
        best = max((node.get(kind, 0.0) for node in nodes), default=0.0)
        if largest > best and wanted <= there:
            problems.append(f"one actor needs {largest:g} {kind}s on one node, the largest node has {best:g}")
    return "; ".join(problems)


class Reserved:
    """A plan whose resources are reserved. plan: has fewer engines than the recipe after nodes were lost."""

    def __init__(self, recipe: Recipe) -> None:
        """Waits until everything is reserved. Raises ConfigError with the arithmetic if it does not fit."""
        self._recipe = recipe
        self.plan, lack = _fitting(recipe, engines=recipe.cluster.engines)
        if lack:
            raise ConfigError(f"the cluster is too small: {lack}")
        self._group = self._reserve(recipe.cluster.start_deadline_s)

    def renew(self) -> None:
        """Reserves again after a node was lost, with as many engines as the nodes can hold.

        The lost node has cluster.heartbeat_deadline_s to come back. Raises ConfigError if not even one engine fits.
        """
        patience_s = self._recipe.cluster.heartbeat_deadline_s
        if self._answers(patience_s):
            return
        self.close()
        uses_gpus = any(bundle.get("GPU") for bundle in self.plan.bundles)
        least_gpus = 1 if uses_gpus else 0  # else it would continue on CPU cores
        lack = ""
        for engines in range(self._recipe.cluster.engines, 0, -1):
            self.plan, lack = _fitting(self._recipe, engines=engines, least_gpus=least_gpus)
            if lack:
                continue
            try:
                self._group = self._reserve(patience_s)
            except ConfigError as error:
                lack = str(error)
            else:
                return
        raise ConfigError(f"the rest of the cluster is too small: {lack}")

    def _answers(self, within_s: float) -> bool:
        """Whether each bundle still runs a task: the state that Ray reports is stale for a while."""

        def answer() -> bool:
            return True

        task: Any = ray.remote(num_cpus=0)(answer)
        places = [self._strategy(bundle) for bundle in range(len(self.plan.bundles))]
        asked = [task.options(scheduling_strategy=place).remote() for place in places]
        try:
            return all(ray.get(asked, timeout=within_s))
        except ray_errors.RayError:
            for one in asked:
                ray.cancel(one, force=True)
            return False

    def _reserve(self, deadline_s: float) -> PlacementGroup:
        group = placement_group([dict(bundle) for bundle in self.plan.bundles])
        try:
            ray.get(group.ready(), timeout=deadline_s)
        except ray_errors.GetTimeoutError as error:
            free = {k: v for k, v in ray.available_resources().items() if k in ("CPU", "GPU")}
            state = placement_group_table(group).get("state")
            remove_placement_group(group)
            raise ConfigError(
                f"the cluster has enough in total, but {list(map(dict, self.plan.bundles))} could not be reserved "
                f"within {deadline_s:g} s (cluster.start_deadline_s; {state}; free now: {free}): other "
                "jobs hold the rest"
            ) from error
        return group

    def learner_options(self) -> dict[str, Any]:
        """Options of the learner's actor."""
        return {
            "num_cpus": LEARNER_CPUS,
            "num_gpus": self.plan.learner_gpus,
            "scheduling_strategy": self._strategy(self.plan.learner_bundle),
        }

    def engine_options(self, index: int) -> dict[str, Any]:
        """Options of the engine with this index; one that joined later takes any free resources."""
        options: dict[str, Any] = {"num_cpus": self.plan.engine_cpus, "num_gpus": self.plan.engine_gpus}
        if index < len(self.plan.engine_bundles):
            options["scheduling_strategy"] = self._strategy(self.plan.engine_bundles[index])
        return options

    def close(self) -> None:
        """Releases the reservation, unless the cluster's head is gone."""
        if not head_is_gone():
            remove_placement_group(self._group)

    def _strategy(self, bundle: int) -> PlacementGroupSchedulingStrategy:
        return PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=bundle)


def _fitting(recipe: Recipe, *, engines: int, least_gpus: int = 0) -> tuple[Plan, str]:
    """The plan with this number of engines, and why the live nodes cannot hold it; "" if they can."""
    cluster = recipe.cluster.model_copy(update={"engines": engines})
    nodes = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    plan = plan_bundles(
        recipe.model_copy(update={"cluster": cluster}),
        num_gpus=max(least_gpus, int(sum(node.get("GPU", 0.0) for node in nodes))),
    )
    lack = shortage(plan, nodes=nodes, engines=engines, cpus_per_engine=cluster.cpus_per_engine)
    return plan, lack


def _bundle(cpus: float, gpus: int) -> dict[str, float]:
    return {"CPU": cpus, "GPU": float(gpus)} if gpus else {"CPU": cpus}
