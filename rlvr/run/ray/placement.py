"""Reserves the bundles of a run together, waits for nodes, and reserves again what is left after a node was lost."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray import exceptions as ray_errors
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rlvr.config.recipe import Recipe
from rlvr.errors import ConfigError
from rlvr.run.ray.bundles import LEARNER_CPUS, Plan, bundle_of, plan_bundles, shortage, unreserved
from rlvr.run.ray.connect import head_is_gone
from rlvr.run.ray.workers.rank_handle import FarBundle

logger = logging.getLogger(__name__)
_POLL_S = 2.0
_LINE_EVERY_S = 30.0
Say = Callable[[str], None]


def wait_for_nodes(
    lack_of: Callable[[], str],
    *,
    nodes: Callable[[], Sequence[Mapping[str, float]]],
    is_reserved: Callable[[float], bool],
    limit_s: float,
    say: Say,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Waits until the nodes can hold the plan or it is reserved; returns what is missing after `limit_s`, else "".

    Args:
        lack_of: what is missing now; "" if nothing is.
        is_reserved: waits at most that many seconds for the reservation, and returns whether it exists.
        say: called with one line at the start, when something changes, and every half minute.
    """
    begin, said, said_at = clock(), "", -_LINE_EVERY_S
    while lack := lack_of():
        waited = clock() - begin
        if waited >= limit_s:
            return lack
        line = f"{lack} (now {describe(nodes())})"
        if line != said or waited - said_at >= _LINE_EVERY_S:
            said, said_at = line, waited
            say(f"waiting for nodes, {waited:.0f} of cluster.wait_for_nodes_s={limit_s:g} s: {line}")
        if is_reserved(min(_POLL_S, limit_s - waited)):
            return ""
    return ""


def describe(nodes: Sequence[Mapping[str, float]]) -> str:
    """The nodes in a few words.

    >>> describe([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0}])
    '2 nodes: 12 CPUs, 2 GPUs'
    """
    cpus, gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    return f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}: {cpus:g} CPUs, {gpus:g} GPUs"


class Reserved:
    """A plan whose resources are reserved. plan: has fewer engines than the recipe after nodes were lost."""

    def __init__(self, recipe: Recipe, *, say: Say = logger.warning) -> None:
        """Waits until everything is reserved. Raises ConfigError with the arithmetic if it does not fit.

        Args: say: shows a line while the run waits for nodes.
        """
        self._recipe = recipe
        self._say = say
        self._single: dict[int, PlacementGroup] = {}  # of engines that the plan does not hold
        cluster = recipe.cluster
        self.plan, lack = _fitting(recipe, engines=cluster.engines)
        if lack and not self._may_wait:
            raise ConfigError(f"the cluster is too small: {lack}")
        self._group = self._reserve(cluster.start_deadline_s, engines=cluster.engines)

    @property
    def _may_wait(self) -> bool:
        """Whether nodes may still come: never to a private Ray."""
        return bool(self._recipe.cluster.address) and self._recipe.cluster.wait_for_nodes_s > 0

    def renew(self) -> None:
        """Reserves again after a node was lost, with as many engines as the nodes can hold.

        The lost node has cluster.heartbeat_deadline_s to come back. Raises ConfigError if not even one engine fits,
        or, with cluster.wait_for_nodes_s, does not fit by then.
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
            if lack and not (engines == 1 and self._may_wait):
                continue
            try:
                self._group = self._reserve(patience_s, engines=engines)
            except ConfigError as error:
                lack = str(error)
            else:
                return
        raise ConfigError(f"the rest of the cluster is too small: {lack}")

    async def place(self, index: int) -> str:
        """Waits, as long as it takes, until the resources of an engine are reserved on a live node; returns its id.

        Those of an engine of the plan, which Ray reserves again when a node can hold them; otherwise new ones.
        """
        if index >= len(self.plan.engine_bundles) and index not in self._single:
            bundle = bundle_of(self.plan.engine_cpus, self.plan.engine_gpus)
            self._single[index] = placement_group([bundle])
        task: Any = ray.remote(num_cpus=0, max_retries=0)(_node_id)
        while True:
            asked = task.options(scheduling_strategy=self._engine_strategy(index)).remote()
            try:
                return await asked
            except ray_errors.RayError as error:  # the node was lost a moment ago
                logger.debug("engine %d has no place yet: %s", index, error)
                await asyncio.sleep(_POLL_S)
            except asyncio.CancelledError:
                ray.cancel(asked, force=True)
                raise

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

    def _reserve(self, deadline_s: float, *, engines: int) -> PlacementGroup:
        """The reservation of the plan, for which an autoscaler may add nodes. Raises ConfigError."""
        cluster = self._recipe.cluster
        group = placement_group([dict(bundle) for bundle in self.plan.bundles])
        ready = group.ready()
        if self._may_wait:
            lack = wait_for_nodes(
                lambda: _lack(self.plan, engines=engines, cpus_per_engine=cluster.cpus_per_engine),
                nodes=_live_nodes,
                is_reserved=lambda seconds: bool(ray.wait([ready], timeout=seconds)[0]),
                limit_s=cluster.wait_for_nodes_s,
                say=self._say,
            )
            if lack:
                remove_placement_group(group)
                raise ConfigError(
                    f"the cluster is still too small after cluster.wait_for_nodes_s={cluster.wait_for_nodes_s:g} s: "
                    f"{lack} (now {describe(_live_nodes())})"
                )
        try:
            ray.get(ready, timeout=deadline_s)
        except ray_errors.GetTimeoutError as error:
            state = placement_group_table(group).get("state")
            remove_placement_group(group)
            free = {kind: ray.available_resources().get(kind, 0.0) for kind in ("CPU", "GPU")}
            raise ConfigError(
                f"the cluster has enough in total, but {list(map(dict, self.plan.bundles))} could not be reserved "
                f"within {deadline_s:g} s (cluster.start_deadline_s; {state}): "
                + unreserved(self.plan, nodes=_live_nodes(), free=free)
            ) from error
        return group

    def learner_options(self) -> dict[str, Any]:
        """Options of the learner's actor."""
        return {
            "num_cpus": LEARNER_CPUS,
            "num_gpus": self.plan.learner_gpus,
            "scheduling_strategy": self._strategy(self.plan.learner_bundle),
        }

    def far_bundles(self) -> list[FarBundle]:
        """The reservations for ranks away from the learner's actor."""
        is_on_gpu = bool(self.plan.learner_gpus)
        return [
            FarBundle(
                num_ranks=num_ranks,
                options={
                    "num_cpus": LEARNER_CPUS,
                    "num_gpus": num_ranks if is_on_gpu else 0,
                    "scheduling_strategy": self._strategy(bundle),
                },
            )
            for bundle, num_ranks in zip(self.plan.far_bundles, self.plan.far_ranks, strict=True)
        ]

    def engine_options(self, index: int) -> dict[str, Any]:
        """Options of the engine with this index; one that the plan does not hold takes what `place` reserved."""
        options: dict[str, Any] = {"num_cpus": self.plan.engine_cpus, "num_gpus": self.plan.engine_gpus}
        if index < len(self.plan.engine_bundles) or index in self._single:
            options["scheduling_strategy"] = self._engine_strategy(index)
        return options

    def close(self) -> None:
        """Releases the reservation, unless the cluster's head is gone."""
        groups = [self._group, *self._single.values()]
        self._single = {}
        if not head_is_gone():
            for group in groups:
                remove_placement_group(group)

    def _strategy(self, bundle: int) -> PlacementGroupSchedulingStrategy:
        return PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=bundle)

    def _engine_strategy(self, index: int) -> PlacementGroupSchedulingStrategy:
        if index < len(self.plan.engine_bundles):
            return self._strategy(self.plan.engine_bundles[index])
        return PlacementGroupSchedulingStrategy(self._single[index], placement_group_bundle_index=0)


def _fitting(recipe: Recipe, *, engines: int, least_gpus: int = 0) -> tuple[Plan, str]:
    """The plan with this number of engines, and why the live nodes cannot hold it; "" if they can."""
    cluster = recipe.cluster.model_copy(update={"engines": engines})
    nodes = _live_nodes()
    if recipe.learner.device.startswith("cuda"):
        least_gpus = max(1, least_gpus)  # an autoscaler may not have started a node with GPUs yet
    plan = plan_bundles(
        recipe.model_copy(update={"cluster": cluster}),
        num_gpus=max(least_gpus, int(sum(node.get("GPU", 0.0) for node in nodes))),
        gpus_per_node=int(max((node.get("GPU", 0.0) for node in nodes), default=0.0)),
    )
    return plan, _lack(plan, engines=engines, cpus_per_engine=cluster.cpus_per_engine)


def _lack(plan: Plan, *, engines: int, cpus_per_engine: float) -> str:
    return shortage(plan, nodes=_live_nodes(), engines=engines, cpus_per_engine=cpus_per_engine)


def _live_nodes() -> list[dict[str, float]]:
    """The resources of each live node."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _node_id() -> str:
    return ray.get_runtime_context().get_node_id()
