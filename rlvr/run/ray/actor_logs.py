"""The last lines that a dead actor wrote, read on the node where it ran.

Ray writes each worker's output to `worker-<worker>-<job>-<process>.err` and `.out` in the logs of its session, on the
actor's own node. The reason that Ray gives for a death seldom has the cause; these lines often do.
"""

import logging
from pathlib import Path
from typing import Any

import ray
from ray import exceptions as ray_errors
from ray._private import state, worker
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlvr.run.ray.connect import head_is_gone

logger = logging.getLogger(__name__)
NUM_LINES = 20
_MOST_BYTES = 64 << 10
_ANSWER_S = 10.0


def last_lines(actor_id: str) -> str:
    """The end of the actor's log with its node and path; "" when it is empty or cannot be read.

    Blocks for at most `_ANSWER_S`. Args: actor_id: in hexadecimal digits.
    """
    try:
        if head_is_gone():
            return ""
        facts: dict[str, Any] = state.actors(actor_id=actor_id)
        process, node_id = facts.get("Pid", 0), facts.get("Address", {}).get("NodeID", "")
        alive = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
        if not process or node_id not in alive:
            return ""
        path, lines = _read_on(node_id, job_id=facts["JobID"], process=process)
    except (ray_errors.RayError, OSError, RuntimeError, KeyError) as error:
        logger.debug("the log of actor %s could not be read: %s", actor_id, error)
        return ""
    if not lines:
        return ""
    return f"the end of its log (node {alive[node_id]}, {path}):\n" + "\n".join(f"  {line}" for line in lines)


def _read_on(node_id: str, *, job_id: str, process: int) -> tuple[str, list[str]]:
    if node_id == ray.get_runtime_context().get_node_id():
        return _read_here(job_id, process)
    where = NodeAffinitySchedulingStrategy(node_id, soft=False)
    task: Any = ray.remote(num_cpus=0, max_retries=0)(_read_here)
    asked = task.options(scheduling_strategy=where).remote(job_id, process)
    try:
        return ray.get(asked, timeout=_ANSWER_S)
    except ray_errors.GetTimeoutError:
        ray.cancel(asked, force=True)
        raise


def _read_here(job_id: str, process: int) -> tuple[str, list[str]]:
    """Path and last lines of a worker's log on this node: its errors, or its output if it wrote no errors."""
    node: Any = worker._global_node
    return read_log(Path(node.get_logs_dir_path()), job_id=job_id, process=process)


def read_log(folder: Path, *, job_id: str, process: int) -> tuple[str, list[str]]:
    """Path and last lines of a worker's log in the folder of a session's logs; ("", []) when it wrote nothing."""
    for ending in ("err", "out"):
        for file in sorted(folder.glob(f"worker-*-{job_id}-{process}.{ending}")):
            lines = _tail(file)
            if lines:
                return str(file), lines
    return "", []


def _tail(file: Path) -> list[str]:
    """The last lines, without blank ones and Ray's own marks (`:actor_name:EngineActor`)."""
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - _MOST_BYTES))
        text = stream.read().decode("utf-8", errors="replace")
    lines = [line.rstrip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith((":actor_name:", ":job_id:", ":task_name:"))][
        -NUM_LINES:
    ]
