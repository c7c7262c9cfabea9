"""The table of plans for clusters of 80 GB GPUs in rlvr/README.md: `python -m tests.cluster_plans`.

Half of the GPUs are learners, the others engines; one GPU is shared.
"""

import sys

from rlvr.planner.cluster import ClusterPlan
from tests.unit.planner.test_planner_cluster import plan

GPUS = {"1.5B": (1, 2, 8, 64), "7B": (2, 4, 8, 16, 64), "14B": (8, 16, 64), "32B": (16, 32, 64), "70B": (32, 64)}
TENSOR_PARALLEL = {"1.5B": 1, "7B": 1, "14B": 1, "32B": 2, "70B": 4}


def row(name: str, gpus: int) -> str:
    """One line of the table."""
    width = TENSOR_PARALLEL[name]
    learners = max(1, gpus // 2)
    engines = max(1, (gpus - learners) // width)
    found = plan(
        name,
        f"{max(1, gpus // 8)}x{min(gpus, 8)}x80GB",
        f"cluster.learners={learners}",
        f"cluster.engines={engines}",
        f"rollout.engine_args={{tensor_parallel_size: {width}}}",
        *(["cluster.placement=colocated", "rollout.max_staleness=0"] if gpus == 1 else []),
    )
    fast, file = found.syncs
    cells = [
        name,
        f"{gpus}",
        f"{learners}",
        f"{engines} x {width}",
        f"{found.places[0].planned_bytes / 2**30:.1f}{_verdict(found)}",
        seconds(found.exchange_s) if found.exchange_s else "-",
        f"{found.engine_rows}",
        f"{seconds(fast.seconds)}{' (ipc)' if fast.transport == 'ipc' else ''}",
        seconds(file.seconds),
        f"{found.proof_groups} in {found.proof_s:.0f} s",
        f"{found.shared_memory[0] / 2**30:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _verdict(found: ClusterPlan) -> str:
    """Why it would not start; "" if it would."""
    return ", too much" if found.places[0].planned_bytes > found.hardware.gpu_bytes else ""


def seconds(value: float) -> str:
    """Two digits, or whole seconds."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


if __name__ == "__main__":
    sys.stdout.writelines(f"{row(name, gpus)}\n" for name, sizes in GPUS.items() for gpus in sizes)
