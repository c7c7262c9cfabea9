"""Reserves the resources of a run, waits for nodes, and reserves again what is left after a node was lost.

Each engine has a placement group of its own, so that it can leave a node that is drained: Ray ends such a node when
nothing on it is reserved. The learners have one together, and colocated engines share it. If the groups do not fit one
by one, because each may go where another one would have been needed, everything is reserved as one group, which Ray
places as a whole; a drained node then stays until its time is over.
"""

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
from rlvr.run.ray.bundles import LEARNER_CPUS, Plan, begun_at, bundle_of, plan_bundles, shortage, unreserved
from rlvr.run.ray.connect import head_is_gone
from rlvr.run.ray.workers.rank_handle import FarBundle

logger = logging.getLogger(__name__)
_POLL_S = 2.0
_LINE_EVERY_S = 30.0
_APART_S = 20.0  # for groups that there is enough for, before one group is tried
_STATE_POLL_S = 0.1
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
        self._engines: dict[int, PlacementGroup] = {}  # of engines that are not in `_group`
        self._is_together = False  # whether the engines of the plan are in `_group`
        cluster = recipe.cluster
        self.plan, lack = _fitting(recipe, engines=cluster.engines)
        if lack and not self._may_wait:
            raise ConfigError(f"the cluster is too small: {lack}")
        self._reserve(cluster.start_deadline_s, engines=cluster.engines)

    @property
    def _may_wait(self) -> bool:
        """Whether nodes may still come: never to a private Ray."""
        return bool(self._recipe.cluster.address) and self._recipe.cluster.wait_for_nodes_s > 0

    @property
    def nodes(self) -> set[str]:
        """Ids of the nodes on which something is reserved."""
        groups = (self._group, *self._engines.values())
        return {node for group in groups for node in placement_group_table(group)["bundles_to_node_id"].values()}

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
                self._reserve(patience_s, engines=engines)
            except ConfigError as error:
                lack = str(error)
            else:
                return
        raise ConfigError(f"the rest of the cluster is too small: {lack}")

    async def place(self, index: int, *, avoid: Sequence[str] = ()) -> str:
        """Waits, as long as it takes, until the resources of an engine are reserved on a live node; returns its id.

        Ray reserves again what was on a node that is gone; what `release` gave up is reserved anew.

        Args: avoid: ids of nodes that a new reservation must not use.
        """
        if not self._is_in_group(index) and index not in self._engines:
            bundle = bundle_of(self.plan.engine_cpus, self.plan.engine_gpus)
            selector: dict[str, Any] = {"ray.io/node-id": f"!in({', '.join(avoid)})"}
            elsewhere: dict[str, Any] = {"bundle_label_selector": [selector]} if avoid else {}
            self._engines[index] = placement_group([bundle], **elsewhere)
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

    def release(self, index: int) -> None:
        """Gives up the reservation of an engine, unless it is part of the whole; the next `place` makes another."""
        group = self._engines.pop(index, None)
        if group is not None and not head_is_gone():
            remove_placement_group(group)

    def _is_in_group(self, index: int) -> bool:
        return self._is_together and index < len(self.plan.engine_bundles)

    def _answers(self, within_s: float) -> bool:
        """Whether each bundle still runs a task: the state that Ray reports is stale for a while."""

        def answer() -> bool:
            return True

        task: Any = ray.remote(num_cpus=0)(answer)
        places = [self._strategy(bundle) for bundle in range(self._group.bundle_count)]
        places += [self._engine_strategy(index) for index in self._engines if index < len(self.plan.engine_bundles)]
        asked = [task.options(scheduling_strategy=place).remote() for place in places]
        try:
            return all(ray.get(asked, timeout=within_s))
        except ray_errors.RayError:
            for one in asked:
                ray.cancel(one, force=True)
            return False

    def _reserve(self, deadline_s: float, *, engines: int) -> None:
        """Reserves the plan, for which an autoscaler may add nodes. Raises ConfigError."""
        self._reserve_bundles(deadline_s, engines=engines)
        node_of = placement_group_table(self._group)["bundles_to_node_id"]
        here = ray.get_runtime_context().get_node_id()
        self.plan = begun_at(self.plan, [index for index, node in node_of.items() if node == here])

    def _reserve_bundles(self, deadline_s: float, *, engines: int) -> None:
        cluster = self._recipe.cluster
        self._ask_for(is_together=self._engines_share)
        if self._may_wait:
            lack = wait_for_nodes(
                lambda: _lack(self.plan, engines=engines, cpus_per_engine=cluster.cpus_per_engine),
                nodes=_live_nodes,
                is_reserved=self._is_reserved,
                limit_s=cluster.wait_for_nodes_s,
                say=self._say,
            )
            if lack:
                self.close()
                raise ConfigError(
                    f"the cluster is still too small after cluster.wait_for_nodes_s={cluster.wait_for_nodes_s:g} s: "
                    f"{lack} (now {describe(_live_nodes())})"
                )
        if not self._is_together:
            if self._is_reserved(min(_APART_S, deadline_s / 2)):
                return
            self.close()
            self._ask_for(is_together=True)
        if not self._is_reserved(deadline_s):
            state = placement_group_table(self._group).get("state")
            self.close()
            free = {kind: ray.available_resources().get(kind, 0.0) for kind in ("CPU", "GPU")}
            raise ConfigError(
                f"the cluster has enough in total, but {list(map(dict, self.plan.bundles))} could not be reserved "
                f"within {deadline_s:g} s (cluster.start_deadline_s; {state}): "
                + unreserved(self.plan, nodes=_live_nodes(), free=free)
            )

    @property
    def _engines_share(self) -> bool:
        """Whether the engines are in the learner's bundle."""
        return self.plan.learner_bundle in self.plan.engine_bundles

    def _ask_for(self, *, is_together: bool) -> None:
        """Makes the placement groups of the plan: the largest first, as Ray orders the bundles of one group."""
        self._is_together = is_together
        bundles = [dict(bundle) for bundle in self.plan.bundles]
        if is_together:
            self._group = placement_group(bundles)
            return
        num_learners = 1 + len(self.plan.far_bundles)  # they come first
        sizes = [(bundle.get("GPU", 0.0), bundle["CPU"]) for bundle in bundles]
        if are_engines_larger := max(sizes[num_learners:]) > max(sizes[:num_learners]):
            self._ask_for_engines(bundles)
        self._group = placement_group(bundles[:num_learners])
        if not are_engines_larger:
            self._ask_for_engines(bundles)

    def _ask_for_engines(self, bundles: Sequence[dict[str, float]]) -> None:
        for index, bundle in enumerate(self.plan.engine_bundles):
            self._engines[index] = placement_group([bundles[bundle]])

    def _is_reserved(self, within_s: float) -> bool:
        """Whether all groups are reserved within that time."""
        end = time.monotonic() + within_s
        wanted = {group.id.hex() for group in (self._group, *self._engines.values())}
        while True:
            table: dict[str, dict[str, Any]] = placement_group_table()  # one request, however many groups there are
            if all(table.get(group, {}).get("state") == "CREATED" for group in wanted):
                return True
            if time.monotonic() >= end:
                return False
            time.sleep(min(_STATE_POLL_S, within_s))

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
        """Options of the engine with this index, for which `place` reserved if the plan does not hold it."""
        options: dict[str, Any] = {"num_cpus": self.plan.engine_cpus, "num_gpus": self.plan.engine_gpus}
        if self._is_in_group(index) or index in self._engines:
            options["scheduling_strategy"] = self._engine_strategy(index)
        return options

    def close(self) -> None:
        """Releases the reservation, unless the cluster's head is gone."""
        groups = [self._group, *self._engines.values()]
        self._engines = {}
        if not head_is_gone():
            for group in groups:
                remove_placement_group(group)

    def _strategy(self, bundle: int) -> PlacementGroupSchedulingStrategy:
        return PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=bundle)

    def _engine_strategy(self, index: int) -> PlacementGroupSchedulingStrategy:
        if self._is_in_group(index):
            return self._strategy(self.plan.engine_bundles[index])
        return PlacementGroupSchedulingStrategy(self._engines[index], placement_group_bundle_index=0)


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
