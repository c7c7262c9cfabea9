"""The metric families that an endpoint can show, and the names of the run's own metrics among them.

Names follow Prometheus: base units (seconds, bytes, ratios), `_total` for counters, and labels for what varies.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

PREFIX = "rlvr_"
_GIGABYTE = 1e9


class Kind(StrEnum):
    """The type of a family, as in the text format."""

    GAUGE = "gauge"
    COUNTER = "counter"


@dataclass(frozen=True, slots=True)
class Family:
    """A metric's name, type, meaning and labels (without `run` and `recipe`, which all but the node's have)."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


def _families(kind: Kind, rows: str, *labels: str) -> list[Family]:
    """Families of one kind and one set of labels. Args: rows: one `name: meaning` per line."""
    pairs = [line.strip().partition(": ") for line in rows.strip().splitlines()]
    return [Family(PREFIX + name, kind, meaning, labels) for name, _, meaning in pairs]


_ALL = [
    *_families(
        Kind.GAUGE,
        """
        run_info: 1 while the run is alive
        run_step: the last completed step
        run_target_steps: run.steps of the recipe
        run_elapsed_seconds: duration of the run, summed over resumptions
        run_last_step_timestamp_seconds: Unix time at which the last step was completed
        """,
    ),
    *_families(
        Kind.COUNTER,
        """
        run_tokens_total: sampled tokens of the steps so far, since this process began
        run_completions_total: completions of the steps so far, since this process began
        run_alarms_total: alarms since this process began
        """,
    ),
    *_families(Kind.COUNTER, "run_events_total: entries of events.jsonl since this process began", "kind"),
    *_families(
        Kind.GAUGE,
        """
        engine_open_requests: requests that the engine has not answered yet
        engine_policy_version: version of the weights that the engine holds
        engine_last_sync_seconds: duration of its latest load of weights
        engine_kv_cache_usage_ratio: used share of the key-value cache; vLLM only
        engine_scheduled_requests: requests that are being computed; vLLM only
        engine_queued_requests: requests that wait inside the engine; vLLM only
        """,
        "engine",
    ),
    *_families(
        Kind.COUNTER,
        """
        engine_generated_tokens_total: sampled tokens of finished completions
        engine_completions_total: finished completions
        engine_syncs_total: loads of weights
        engine_losses_total: how often the engine was lost
        engine_restarts_total: how often the engine was started again
        """,
        "engine",
    ),
    *_families(
        Kind.GAUGE,
        """
        verifier_pool_open_items: completions that wait for verdicts or are being verified
        verifier_pool_workers: worker processes per kind of jail
        """,
        "pool",
    ),
    *_families(
        Kind.COUNTER,
        """
        verifier_pool_items_total: verdicts
        verifier_pool_errors_total: verdicts that are ERROR
        verifier_pool_timeouts_total: completions that exceeded the verifier's deadline
        verifier_pool_crashes_total: completions that crashed their checker
        verifier_pool_busy_seconds_total: time of work, summed over workers
        verifier_pool_losses_total: how often the pool was lost
        verifier_pool_restarts_total: how often the pool was started again
        """,
        "pool",
    ),
    *_families(
        Kind.GAUGE,
        """
        learner_rank_step: updates that the rank has applied, since its process began
        learner_rank_device_memory_bytes: memory of tensors on its CUDA device
        learner_rank_device_memory_peak_bytes: the most so far
        """,
        "rank",
    ),
    *_families(Kind.GAUGE, "process_resident_memory_bytes: resident memory of a process of the run", "role"),
    *_families(Kind.COUNTER, "process_cpu_seconds_total: processor time of a process of the run", "role"),
    *_families(Kind.GAUGE, "ray_nodes: nodes that Ray knows, by state", "state"),
    *_families(
        Kind.GAUGE,
        """
        ray_resource_capacity: what all live nodes offer (cores, GPUs, bytes)
        ray_resource_available: what is not reserved (cores, GPUs, bytes)
        """,
        "resource",
    ),
    *_families(
        Kind.GAUGE,
        """
        node_cpus: logical processors
        node_cpu_usage_ratio: used share of all processors since the previous reading
        node_load1: load average of one minute
        node_memory_size_bytes: memory
        node_memory_available_bytes: memory that can be had without swapping
        node_shm_size_bytes: size of /dev/shm, through which weights travel
        node_shm_free_bytes: free space of /dev/shm
        node_disk_size_bytes: size of the run directory's file system
        node_disk_free_bytes: free space of the run directory's file system
        """,
    ),
    *_families(
        Kind.GAUGE,
        """
        node_gpu_memory_size_bytes: memory of the GPU
        node_gpu_memory_used_bytes: used memory of the GPU
        node_gpu_utilization_ratio: share of the last sampling period in which a kernel ran
        """,
        "gpu",
    ),
]
FAMILIES: Mapping[str, Family] = {family.name: family for family in _ALL}


@dataclass(frozen=True, slots=True)
class RunMetric:
    """A number of metrics.jsonl as a gauge. scale: from its unit to the base unit."""

    family: Family
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    scale: float = 1.0


def run_metric(name: str) -> RunMetric:
    """The gauge of a metric of metrics.jsonl; the names in it become labels.

    >>> run_metric("time/step_s").family.name
    'rlvr_time_step_seconds'
    >>> found = run_metric("eval/easy/pass@1")
    >>> found.family.name, dict(found.labels)
    ('rlvr_eval_pass_at_1', {'source': 'easy'})
    """
    labels: dict[str, str] = {}
    area, _, rest = name.partition("/")
    inner, _, last = rest.rpartition("/")
    words = [area]
    if area == "eval" and inner:
        source, is_check, check = inner.partition("/check/")
        labels["source"] = source
        if is_check:
            labels["check"] = check
            words.append("check")
    elif area == "check" and inner:
        labels["check"] = inner
    elif area == "verifier" and (found := re.fullmatch(r"method_(.+)_rate", rest)):
        labels["method"], last = found[1], "method_rate"
    elif inner:
        words.append(inner)
    stem, scale = _in_base_units(last or area)
    words = [*words, stem] if rest else [stem]
    plain = re.sub(r"[^a-zA-Z0-9_]", "_", "_".join(words).replace("@", "_at_"))
    meaning = (
        f"{'/'.join([area, *['NAME'] * len(labels), last])} of metrics.jsonl" if labels else f"{name} of metrics.jsonl"
    )
    return RunMetric(Family(PREFIX + plain, Kind.GAUGE, meaning, tuple(labels)), labels, scale)


def _in_base_units(name: str) -> tuple[str, float]:
    if name.endswith("_per_s"):
        return name.removesuffix("_s") + "_second", 1.0
    if name.endswith("_s"):
        return name.removesuffix("_s") + "_seconds", 1.0
    if name.endswith("_gb"):
        return name.removesuffix("_gb") + "_bytes", _GIGABYTE
    return name, 1.0
