"""A plan as rows of text."""

from collections.abc import Sequence

from rlvr.planner.cluster import ClusterPlan
from rlvr.planner.machine import Speed
from rlvr.planner.memory import Phase
from rlvr.planner.pace import Pace
from rlvr.planner.plan import Place, Remedy

Row = tuple[str, str, str]
_WHEN = {
    Phase.ALWAYS: "",
    Phase.GENERATION: "while generating: ",
    Phase.TRAINING: "in a micro-batch: ",
    Phase.FORWARD: "in a micro-batch, until gradients exist: ",
    Phase.GRADIENTS: "until the update: ",
    Phase.UPDATE: "in the update: ",
    Phase.SYNC: "in a weight sync: ",
}


def size(num_bytes: int) -> str:
    """Bytes for display.

    >>> size(5 << 20), size(3 << 29)
    ('5 MiB', '1.50 GiB')
    """
    gibibytes = num_bytes / 2**30
    return f"{gibibytes:.2f} GiB" if gibibytes >= 0.1 else f"{num_bytes / 2**20:.0f} MiB"


def memory_rows(place: Place) -> list[Row]:
    """The parts that the device holds, then the planned and the free memory."""
    rows = [(part.name, size(part.num_bytes), _WHEN[part.phase] + part.how) for part in place.parts]
    verdict = "" if place.fits else "not enough"
    return [
        *rows,
        ("planned", size(place.planned_bytes), "what is always held, and the peak of the rest"),
        ("available", size(place.available_bytes), verdict),
    ]


def pace_rows(pace: Pace, speed: Speed, *, num_steps: int) -> list[Row]:
    """Tokens and seconds of a step and of the run."""
    measured = f"{speed.flops / 1e9:,.0f} GFLOP/s and {speed.bytes / 1e9:,.1f} GB/s, just measured"
    return [
        ("this device", measured, "large products; weights read for one row"),
        ("generated tokens per step", f"{pace.generated_tokens:,}", "every completion at its limit"),
        ("learner tokens per step", f"{pace.learner_tokens:,}", "a shared prompt once"),
        (
            "seconds per step",
            f"{pace.step_s:,.3g}",
            f"generation {pace.generation_s:,.3g}, training {pace.training_s:,.3g}",
        ),
        ("whole run", duration(pace.total_s), f"{num_steps:,} steps, evaluations and cold start"),
    ]


def cluster_rows(plan: ClusterPlan) -> list[Row]:
    """What each kind of GPU holds, and what weight syncs cost."""
    here, others = plan.shared_memory
    rows = [("GPUs", f"{plan.needed_gpus} of {plan.hardware.num_gpus}", "learners and engines")]
    for place in plan.places:
        large = [f"{part.name} {size(part.num_bytes)}" for part in place.parts if part.num_bytes >= 2**28]
        each = f"{place.count} x, each of {size(plan.hardware.gpu_bytes)}"
        how = f"{each}: {', '.join(large)}" if large else each
        rows.append((place.name, size(place.planned_bytes), how))
    rows.append(("rows of an engine", f"{plan.engine_rows:,}", "keys and values at full length that fit at once"))
    rows += [
        (f"weight sync, {cost.transport}", f"{cost.seconds:.2g} s", f"frozen {cost.frozen_s:.2g} s; {cost.how}")
        for cost in plan.syncs
    ]
    if plan.exchange_s:
        how = f"weights and gradients between {plan.learner_nodes} nodes of learners, per step, if nothing overlaps"
        rows.append(("network", f"{plan.exchange_s:.2g} s", how))
    rows.append(("proof at the start", duration(plan.proof_s), f"{plan.proof_groups} groups of tensors"))
    rows.append(
        ("shared memory", size(here), f"of the learner's node with the file transport; other nodes {size(others)}")
    )
    return rows


def duration(seconds: float) -> str:
    """Seconds for display.

    >>> duration(42.0), duration(200.0), duration(9000.0)
    ('42 s', '3 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def warning(place: Place, found: Sequence[Remedy]) -> str:
    """One line about a device that is too small: what is missing, and what each remedy would save.

    Remedies that suffice alone come first, and each key is named once.
    """
    head = f"{place.name}: {size(place.planned_bytes)} planned, {size(place.available_bytes)} available"
    best: dict[str, Remedy] = {}
    for remedy in sorted(found, key=lambda r: not r.fits):
        best.setdefault(remedy.override.partition("=")[0], remedy)
    if not best:
        return f"{head}: out of memory is likely, and no single key of the recipe saves enough to name"
    remedies = [f"{r.override} (-{size(r.saved_bytes)}{', then it fits' if r.fits else ''})" for r in best.values()]
    return f"{head}: out of memory is likely; try {', or '.join(remedies)}"
