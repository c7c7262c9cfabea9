"""What each device holds, compared with its free memory; and what to change if it is not enough.

CPU                    one place: the process, the learners' processes, verifier workers
one learner on a GPU   one place: learner and engine on GPU 0
R learners on GPUs     GPU 0: a learner, and the engine with the whole weights that it reads if it shares the learners'
                       parent process; GPUs 1..R-1: a learner each
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlvr.planner.machine import Device
from rlvr.planner.memory import (
    BASE_BYTES,
    CUDA_CONTEXT_BYTES,
    WORKER_BYTES,
    Part,
    Phase,
    engine_parts,
    learner_parts,
    passing_bytes,
)
from rlvr.planner.setup import Setup

# Share that an allocator holds on top of the temporary parts. Measured on a CPU; on a GPU it is an estimate.
ALLOCATOR_SHARE = {"cpu": 0.25, "cuda": 0.15}
WORTH_NAMING = 0.02  # the least share of what is planned that a remedy must save


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A device and the parts that it holds."""

    name: str
    parts: tuple[Part, ...]
    planned_bytes: int
    available_bytes: int

    @property
    def fits(self) -> bool:
        """Whether the planned memory is free."""
        return self.excess_bytes <= 0

    @property
    def excess_bytes(self) -> int:
        """Planned bytes in excess of the free ones."""
        return self.planned_bytes - self.available_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """Another value for a key of the recipe. saved_bytes: on the fullest device. fits: whether all devices then fit."""

    override: str
    saved_bytes: int
    fits: bool


def places(setup: Setup, found: Sequence[Device]) -> list[Place]:
    """Every device that the run uses, in order."""
    ranks = setup.num_learners
    learner = learner_parts(setup, is_on_cpu=found[0].kind == "cpu")
    if found[0].kind == "cpu":
        parts = [
            _always("python and libraries", BASE_BYTES * _processes(setup), f"{_processes(setup)} processes"),
            _always("verifier workers", WORKER_BYTES * setup.num_workers, f"{setup.num_workers} processes"),
            *(_times(part, ranks) for part in learner),
            *_whole_weights(setup),
            *engine_parts(setup, shares_learner=True),
        ]
        return [_place(found[0], parts, setup)]
    first = [
        _always("CUDA and its libraries", CUDA_CONTEXT_BYTES * _processes(setup), "each process"),
        *learner,
        *_whole_weights(setup),
        *engine_parts(setup, shares_learner=True),
    ]
    own = [_always("CUDA and its libraries", CUDA_CONTEXT_BYTES, "the process"), *learner]
    return [_place(found[0], first, setup), *(_place(device, own, setup) for device in found[1:ranks])]


def remedies(fullest: Place, found: Sequence[Device], alternatives: Iterable[tuple[str, Setup]]) -> list[Remedy]:
    """What each alternative saves on the fullest device, without those that save next to nothing.

    Args: alternatives: an override of the recipe, and the resulting setup.
    """
    remedies: list[Remedy] = []
    for override, setup in alternatives:
        after = places(setup, found)
        same = next(place for place in after if place.name == fullest.name)
        saved = fullest.planned_bytes - same.planned_bytes
        if saved > fullest.planned_bytes * WORTH_NAMING:
            fits = all(place.fits for place in after)
            remedies.append(Remedy(override=override, saved_bytes=saved, fits=fits))
    return remedies


def _place(device: Device, parts: Sequence[Part], setup: Setup) -> Place:
    always = sum(part.num_bytes for part in parts if part.phase is Phase.ALWAYS)
    passing = passing_bytes(parts, overlaps=setup.overlaps, has_one_micro_batch=setup.num_micro_batches == 1)
    share = ALLOCATOR_SHARE[device.kind]
    slack = round(share * passing)
    return Place(
        name=device.name,
        parts=(*parts, _always("allocator", slack, f"{share:.0%} of what comes and goes")),
        planned_bytes=always + passing + slack,
        available_bytes=device.available_bytes,
    )


def _whole_weights(setup: Setup) -> list[Part]:
    """The weights that several learners publish for an engine in their parent's process."""
    if not setup.keeps_whole_weights:
        return []
    count = setup.architecture.num_parameters
    return [_always("published weights", 4 * count, f"{count:,} x 4")]


def _processes(setup: Setup) -> int:
    return 1 if setup.num_learners == 1 else 1 + setup.num_learners


def _always(name: str, num_bytes: int, how: str) -> Part:
    return Part(name=name, num_bytes=num_bytes, phase=Phase.ALWAYS, how=how)


def _times(part: Part, count: int) -> Part:
    if count == 1:
        return part
    return Part(name=part.name, num_bytes=part.num_bytes * count, phase=part.phase, how=f"{count} x ({part.how})")
