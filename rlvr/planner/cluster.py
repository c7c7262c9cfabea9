"""A recipe on a cluster of GPUs that need not exist: what each GPU holds, and what a weight sync costs.

learner GPU    one rank of `cluster.learners`: its shard, gradients, states, its micro-batch
engine GPU     one of the tensor- and pipeline-parallel GPUs of an engine: its part of the weights, and a key-value
               cache in what `gpu_memory_utilization` leaves
colocated      both on one GPU, one after the other: the larger of the two, and what the learner keeps while it waits

Memory follows `memory`, whose formulas tests compare with autograd; seconds are arithmetic with the rates of
`hardware`, none of which was measured.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rlvr.config.recipe import Placement, Recipe
from rlvr.config.sections.rollout import EngineDtype
from rlvr.planner.buffers import SyncBuffers, sync_buffers
from rlvr.planner.hardware import Hardware
from rlvr.planner.memory import CUDA_CONTEXT_BYTES, Part, Phase, learner_parts, passing_bytes
from rlvr.planner.plan import ALLOCATOR_SHARE
from rlvr.planner.setup import Setup

UTILIZATION = 0.9  # vLLM's default of gpu_memory_utilization
BATCHED_TOKENS = 8192  # of an engine's step
_COPIES_ON_A_NODE = 2
_SCORING_S = 1.0  # of a group's canary, learner and engines, and its noise: an allowance


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncCost:
    """An estimate of one weight sync. frozen_s: the part during which no tokens are generated."""

    transport: str
    seconds: float
    frozen_s: float
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPlace:
    """What a kind of GPU holds at its peak."""

    name: str
    count: int
    planned_bytes: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPlan:
    """A recipe on a cluster.

    engine_rows: completions at full length whose keys and values one engine holds at once; below 1 it cannot start.
    shared_memory: bytes on the learner's node, and on every other node with engines. proof_s: of the start's proof, in
    `proof_groups` groups of tensors. exchange_s: of a training step, for what learners on several nodes send each
    other; 0 on one node.
    """

    hardware: Hardware
    needed_gpus: int
    engine_width: int
    places: tuple[GpuPlace, ...]
    engine_rows: int
    syncs: tuple[SyncCost, ...]
    proof_groups: int
    proof_s: float
    shared_memory: tuple[int, int]
    learner_nodes: int
    exchange_s: float
    problems: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether nothing is missing."""
        return not self.problems


def plan_cluster(recipe: Recipe, setup: Setup, hardware: Hardware, *, files_at_once: int) -> ClusterPlan:
    """The plan of a recipe whose engines have processes of their own.

    Args: files_at_once: for how many files of weights the learner's node must have room.
    """
    width, cluster = recipe.rollout.gpus_per_engine, recipe.cluster
    is_colocated = cluster.placement is Placement.COLOCATED
    buffers = sync_buffers(recipe, largest=_wire_bytes(recipe) * setup.architecture.num_head)
    learner, kept = _learner(setup, buffers)
    engine, room_per_row, left = _engine(
        recipe, setup, hardware, buffers, width=width, kept=kept if is_colocated else 0
    )
    rows = int(left // room_per_row) if left > 0 else 0
    if is_colocated:
        needed = max(cluster.learners, cluster.engines * width)
        places = (replace(learner, name="a GPU while the learner works", count=needed), engine)
    else:
        needed = cluster.learners + cluster.engines * width
        places = (learner, engine)
    syncs = tuple(_syncs(recipe, setup, hardware, is_colocated=is_colocated, width=width))
    groups, proof_s = _proof(recipe, syncs[0].seconds)
    size = _wire_bytes(recipe) * setup.architecture.num_parameters
    plan = ClusterPlan(
        hardware=hardware,
        needed_gpus=needed,
        engine_width=width,
        places=places,
        engine_rows=rows,
        syncs=syncs,
        proof_groups=groups,
        proof_s=proof_s,
        shared_memory=(files_at_once * size, _COPIES_ON_A_NODE * size),
        learner_nodes=-(-cluster.learners // hardware.gpus_per_node),
        exchange_s=_exchange_s(setup, hardware),
        problems=(),
    )
    held = round(_share(recipe) * hardware.gpu_bytes)
    if is_colocated:
        held = kept + buffers.learner + engine.parts[0].num_bytes
    problems = (*_problems(plan, recipe, setup, buffers), *_sync_problems(recipe, hardware, buffers, held=held))
    return replace(plan, problems=problems)


def _learner(setup: Setup, buffers: SyncBuffers) -> tuple[GpuPlace, int]:
    """A learner's GPU, and the bytes that it holds all the time."""
    parts = [*learner_parts(setup, is_on_cpu=False), *buffers.parts(buffers.learner)]
    always = CUDA_CONTEXT_BYTES + sum(part.num_bytes for part in parts if part.phase is Phase.ALWAYS)
    passing = passing_bytes(parts, overlaps=False, has_one_micro_batch=setup.num_micro_batches == 1)
    planned = always + round(passing * (1 + ALLOCATOR_SHARE["cuda"]))
    return GpuPlace(name="learner GPU", count=setup.num_learners, planned_bytes=planned, parts=tuple(parts)), always


def _exchange_s(setup: Setup, hardware: Hardware) -> float:
    """Seconds of a step for weights and gradients between nodes, if nothing overlaps with arithmetic.

    For each micro-batch the weights are gathered forward and backward, and float32 gradients are summed.
    """
    if setup.num_learners <= hardware.gpus_per_node:
        return 0.0
    each = 2 * (2 if setup.gathers_bfloat16 else 4) + 4
    size = each * setup.architecture.num_parameters * (setup.num_learners - 1) / setup.num_learners
    return setup.minibatches * setup.num_micro_batches * size / hardware.rates.network


def _engine(
    recipe: Recipe, setup: Setup, hardware: Hardware, buffers: SyncBuffers, *, width: int, kept: int
) -> tuple[GpuPlace, float, float]:
    """An engine's GPU without its cache, the bytes of a row's keys and values on it, and those left for rows."""
    model, number = setup.architecture, _wire_bytes(recipe)
    parts = (
        _part("weights", number * model.num_parameters / width, f"{model.num_parameters:,} x {number} / {width}"),
        _part(
            "a step's activations",
            BATCHED_TOKENS * number * (6 * model.hidden + (3 * model.intermediate + model.query_width) / width),
            f"{BATCHED_TOKENS:,} tokens",
        ),
        _part("logits", 8 * setup.rows_at_once * model.vocab / width, f"{setup.rows_at_once:,} rows x {model.vocab:,}"),
    )
    used = CUDA_CONTEXT_BYTES + sum(part.num_bytes for part in parts)
    per_row = setup.lengths.row_max * 2 * model.layers * model.kv_width * number / width
    left = min(_share(recipe) * hardware.gpu_bytes, hardware.gpu_bytes - kept) - used
    place = GpuPlace(
        name="engine GPU, without key-value cache",
        count=recipe.cluster.engines * width,
        planned_bytes=used + buffers.engine,
        parts=(*parts, *buffers.parts(buffers.engine)),
    )
    return place, per_row, left


def _syncs(recipe: Recipe, setup: Setup, hardware: Hardware, *, is_colocated: bool, width: int) -> Iterator[SyncCost]:
    """The transports that this placement can use, the fastest first."""
    rates, size = hardware.rates, _wire_bytes(recipe) * setup.architecture.num_parameters
    ranks = recipe.cluster.learners
    between = rates.nvlink if ranks <= hardware.gpus_per_node else rates.network
    gather = size * (ranks - 1) / ranks / between
    engine_nodes = max(1, -(-(recipe.cluster.engines * width) // hardware.gpus_per_node))
    is_one_node = ranks + recipe.cluster.engines * width <= hardware.gpus_per_node or is_colocated
    if is_colocated:
        seconds = gather + 2 * size / rates.device
        yield SyncCost(transport="ipc", seconds=seconds, frozen_s=seconds, how="a copy within each GPU")
    else:
        wire = rates.nvlink if is_one_node else rates.network
        seconds = gather + size / wire
        yield SyncCost(transport="nccl", seconds=seconds, frozen_s=seconds, how="one broadcast to all engines")
    others = 0 if is_one_node else engine_nodes
    write = gather + size / rates.pcie + size / rates.file
    copies = others * size / rates.stream
    load = size / rates.pcie
    yield SyncCost(
        transport="file",
        seconds=write + copies + load,
        frozen_s=load,
        how=f"written {write:.1f} s, copied to {others} other nodes {copies:.1f} s, loaded {load:.1f} s",
    )


def _proof(recipe: Recipe, sync_s: float) -> tuple[int, float]:
    """Groups and seconds of the start's proof."""
    if not recipe.proof.at_start:
        return 0, 0.0
    each = sync_s + _SCORING_S
    count = max(1, min(recipe.proof.max_groups, int(recipe.proof.max_seconds / each) - 1))
    return count, each * (count + 1)


def _share(recipe: Recipe) -> float:
    """The share of a GPU that an engine takes."""
    given = recipe.rollout.engine_args.get("gpu_memory_utilization", UTILIZATION)
    return float(given) if isinstance(given, int | float) else UTILIZATION


def _sync_problems(recipe: Recipe, hardware: Hardware, buffers: SyncBuffers, *, held: int) -> Iterator[str]:
    """Why an engine's GPU has no room for the buffers of a weight sync.

    Args: held: bytes that it holds during the sync without the engine's buffers.
    """
    left = max(0, hardware.gpu_bytes - held)
    if buffers.engine <= left:
        return
    remedy = (
        "more learners hold less each"
        if recipe.cluster.placement is Placement.COLOCATED
        else "lower rollout.engine_args.gpu_memory_utilization"
    )
    yield (
        f"engine GPU: a weight sync needs {buffers.engine / 2**30:.1f} GiB ({buffers.how}), and "
        f"{left / 2**30:.1f} GiB is left; {remedy}, or set cluster.weight_transport=file"
    )


def _problems(plan: ClusterPlan, recipe: Recipe, setup: Setup, buffers: SyncBuffers) -> Iterator[str]:
    hardware = plan.hardware
    if plan.needed_gpus > hardware.num_gpus:
        yield (
            f"{plan.needed_gpus} GPUs are needed (cluster.learners={recipe.cluster.learners}, cluster.engines="
            f"{recipe.cluster.engines} of {plan.engine_width}), and {hardware} has {hardware.num_gpus}"
        )
    if plan.engine_width > hardware.gpus_per_node:
        yield f"an engine of {plan.engine_width} GPUs does not fit on a node of {hardware.gpus_per_node}"
    if recipe.cluster.placement is Placement.COLOCATED and plan.needed_gpus > hardware.gpus_per_node:
        yield (
            f"colocated learners and engines share the GPUs of one node and need {plan.needed_gpus}, a node has "
            f"{hardware.gpus_per_node}; set cluster.placement=disaggregated"
        )
    learner = plan.places[0]
    if learner.planned_bytes > hardware.gpu_bytes:
        enough = _enough_learners(setup, hardware, buffers)
        remedy = f"cluster.learners={enough} would fit" if enough else "not even all GPUs as learners would suffice"
        yield (
            f"{learner.name}: {learner.planned_bytes / 2**30:.1f} GiB planned, {hardware.gpu_bytes / 2**30:.1f} GiB "
            f"available; {remedy}; learner.gradient_checkpointing, a smaller learner.micro_batch_tokens and "
            "model.lora.rank need less"
        )
    if plan.engine_rows < 1:
        yield (
            f"an engine's GPU has no room for one row of {setup.lengths.row_max:,} tokens; raise "
            "rollout.engine_args.tensor_parallel_size"
        )


def _enough_learners(setup: Setup, hardware: Hardware, buffers: SyncBuffers) -> int:
    """The smallest power of two of learners that fits, of at most all GPUs; 0 if there is none."""
    for count in (2**power for power in range(1, hardware.num_gpus.bit_length())):
        if _learner(replace(setup, num_learners=count), buffers)[0].planned_bytes <= hardware.gpu_bytes:
            return count
    return 0


def _wire_bytes(recipe: Recipe) -> int:
    """Bytes of a weight as engines hold it."""
    return 4 if recipe.rollout.engine_dtype is EngineDtype.FLOAT32 else 2


def _part(name: str, num_bytes: float, how: str) -> Part:
    return Part(name=name, num_bytes=round(num_bytes), phase=Phase.ALWAYS, how=how)
