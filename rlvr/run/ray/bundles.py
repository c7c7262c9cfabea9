"""Bundles of cores and devices for learner and engines, and the arithmetic of a cluster that is too small."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from rlvr.config.recipe import Placement, Recipe
from rlvr.config.sections.cluster import ClusterConfig, WeightTransport
from rlvr.errors import ConfigError
from rlvr.records import Transport
from rlvr.transfer.communicator import has_substitute

LEARNER_CPUS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Bundles of resources: where the learner goes, and where each engine.

    far_bundles: for the ranks of a learner that one node does not hold; far_ranks: how many each of them is for. The
        first ranks run with the learner's actor in `learner_bundle`.
    learner_gpus: the devices that Ray assigns to the learner's actor; colocated, those of the engines too.
    engine_gpus: the devices that Ray assigns to each engine; 0 when it has none or shares the learner's.
    shared_devices: for each engine that shares the learner's devices, which of them it uses (positions, from 0).
    """

    bundles: tuple[Mapping[str, float], ...]
    learner_bundle: int
    engine_bundles: tuple[int, ...]
    learner_gpus: int
    engine_gpus: int
    engine_cpus: float
    shared_devices: tuple[tuple[int, ...], ...] = ()
    far_bundles: tuple[int, ...] = ()
    far_ranks: tuple[int, ...] = ()


def plan_bundles(recipe: Recipe, *, num_gpus: int, gpus_per_node: int = 0) -> Plan:
    """The bundles that the recipe asks for.

    Args:
        num_gpus: GPUs of the whole cluster; with none everything runs on CPU cores.
        gpus_per_node: of the largest node; 0 if unknown, and then learners are kept together.
    """
    cluster = recipe.cluster
    is_gpu_engine = recipe.rollout.engine.traits.has_weights and num_gpus > 0
    engine_gpus = recipe.rollout.gpus_per_engine if is_gpu_engine else 0
    learner_gpus = cluster.learners if num_gpus and recipe.learner.device != "cpu" else 0
    engine = bundle_of(cluster.cpus_per_engine, engine_gpus)
    if cluster.placement is Placement.COLOCATED and learner_gpus:
        # Ray assigns all devices to the learner, which passes each engine its own: a share of a device that Ray
        # assigned to an engine could be another device than the learner's.
        shared = max(learner_gpus, cluster.engines * engine_gpus)
        bundle = bundle_of(LEARNER_CPUS + cluster.engines * cluster.cpus_per_engine, shared)
        positions = [tuple(range(i * engine_gpus, (i + 1) * engine_gpus)) for i in range(cluster.engines)]
        return Plan(
            bundles=(bundle,),
            learner_bundle=0,
            engine_bundles=(0,) * cluster.engines,
            learner_gpus=shared,
            engine_gpus=0,
            engine_cpus=cluster.cpus_per_engine,
            shared_devices=tuple(positions) if engine_gpus else (),
        )
    shares = learner_shares(cluster, gpus_per_node=gpus_per_node if learner_gpus else 0)
    learners = [bundle_of(LEARNER_CPUS, share if learner_gpus else 0) for share in shares]
    return Plan(
        bundles=(*learners, *([engine] * cluster.engines)),
        learner_bundle=0,
        engine_bundles=tuple(range(len(shares), len(shares) + cluster.engines)),
        learner_gpus=shares[0] if learner_gpus else 0,
        engine_gpus=engine_gpus,
        engine_cpus=cluster.cpus_per_engine,
        far_bundles=tuple(range(1, len(shares))),
        far_ranks=shares[1:],
    )


def learner_shares(cluster: ClusterConfig, *, gpus_per_node: int) -> tuple[int, ...]:
    """How many learners run together, on as few nodes as possible and as evenly as possible.

    >>> learner_shares(ClusterConfig(learners=20), gpus_per_node=8)
    (7, 7, 6)
    >>> learner_shares(ClusterConfig(learners=8), gpus_per_node=8)
    (8,)
    """
    most = cluster.learners_per_node or gpus_per_node or cluster.learners
    count = -(-cluster.learners // most)
    share, rest = divmod(cluster.learners, count)
    return tuple(share + (index < rest) for index in range(count))


def begun_at(plan: Plan, bundles: Collection[int]) -> Plan:
    """The plan with its first learners in one of these bundles, if one of them is like the bundle they are in.

    Ray may place bundles of one size on the nodes in any order. The first learner writes the checkpoints, so it belongs
    where the driver is.
    """
    if plan.learner_bundle in bundles:
        return plan
    wanted = plan.bundles[plan.learner_bundle]
    for bundle in plan.far_bundles:
        if bundle in bundles and plan.bundles[bundle] == wanted:
            rest = tuple(plan.learner_bundle if other == bundle else other for other in plan.far_bundles)
            return replace(plan, learner_bundle=bundle, far_bundles=rest)
    return plan


def chosen_transport(recipe: Recipe, plan: Plan) -> Transport:
    """How weights travel from learner to engines.

    Raises: ConfigError when the recipe asks for a way that needs GPUs, and learner or engines have none.
    """
    traits = recipe.rollout.engine.traits
    if not traits.has_weights:
        return Transport.SHARED
    wanted = recipe.cluster.weight_transport
    is_colocated = bool(plan.shared_devices)
    has_own = bool(plan.learner_gpus and plan.engine_gpus)
    if wanted is WeightTransport.AUTO:
        has_beyond = sum(map(len, plan.shared_devices)) > recipe.cluster.learners
        if not traits.takes_broadcasts or recipe.sends_adapters or has_beyond or not (is_colocated or has_own):
            return Transport.FILE
        return Transport.IPC if is_colocated else Transport.NCCL
    if wanted in (WeightTransport.NCCL, WeightTransport.IPC) and not (is_colocated or has_own or has_substitute()):
        raise ConfigError(
            f"cluster.weight_transport={wanted} needs learner and engines on GPUs, and the learner has "
            f"{plan.learner_gpus} and an engine {plan.engine_gpus} of them; set it to auto, which takes files here"
        )
    return Transport(wanted.value)


def shortage(plan: Plan, *, nodes: Sequence[Mapping[str, float]], engines: int, cpus_per_engine: float) -> str:
    """Why the nodes cannot hold the plan, with the arithmetic; "" if they can, as far as known.

    Args: nodes: resources of each node ("CPU", "GPU").
    """
    problems: list[str] = []
    is_colocated = plan.learner_bundle in plan.engine_bundles
    for kind, remedy in (
        ("CPU", "lower cluster.engines or cluster.cpus_per_engine"),
        ("GPU", "lower cluster.engines, cluster.learners, tensor_parallel_size or pipeline_parallel_size"),
    ):
        wanted = sum(bundle.get(kind, 0.0) for bundle in plan.bundles)
        there = sum(node.get(kind, 0.0) for node in nodes)
        learner = plan.bundles[plan.learner_bundle].get(kind, 0.0)
        each = cpus_per_engine if kind == "CPU" else plan.engine_gpus
        if wanted > there:
            of_learners = [plan.bundles[bundle].get(kind, 0.0) for bundle in (plan.learner_bundle, *plan.far_bundles)]
            sum_of_learners = " + ".join(f"{amount:g}" for amount in of_learners)
            how = f"learner {sum_of_learners} + {engines} engines x {each:g}"
            if is_colocated:
                how = f"learner and {engines} engines together"
            problems.append(f"{wanted:g} {kind}s are needed ({how}), the cluster has {there:g}; {remedy}")
        largest = max((bundle.get(kind, 0.0) for bundle in plan.bundles), default=0.0)
        best = max((node.get(kind, 0.0) for node in nodes), default=0.0)
        if largest > best and wanted <= there:
            if is_colocated:
                who = f"learner and {engines} engines share the devices of one node and need"
            else:
                who = "an engine cannot span nodes and needs"
                if learner == largest:
                    who = "the learners that are to run on one node (cluster.learners_per_node) need"
            problems.append(f"{who} {largest:g} {kind}s, the largest node has {best:g}; {remedy}")
    return "; ".join(problems)


def unreserved(plan: Plan, *, nodes: Sequence[Mapping[str, float]], free: Mapping[str, float]) -> str:
    """Why a plan for which there is enough in total was not reserved: others hold it, or it is in too small pieces.

    Args: free: what nobody holds, in the whole cluster.
    """
    shown = ", ".join(f"{amount:g} {kind}s" for kind, amount in free.items())
    wanted = {kind: sum(bundle.get(kind, 0.0) for bundle in plan.bundles) for kind in free}
    if any(free[kind] < amount for kind, amount in wanted.items()):
        return f"other jobs hold the rest (free now: {shown})"
    pieces = ", ".join(f"{node.get('CPU', 0.0):g} CPUs and {node.get('GPU', 0.0):g} GPUs" for node in nodes)
    return f"each of these needs to be on one node, and the nodes have {pieces} (free now: {shown})"


def bundle_of(cpus: float, gpus: int) -> dict[str, float]:
    """The resources of one actor, as Ray names them."""
    return {"CPU": cpus, "GPU": float(gpus)} if gpus else {"CPU": cpus}
