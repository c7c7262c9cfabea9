"""What vLLM's scheduler says about itself, as metrics of the engine's process."""

from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase

from rlvr.telemetry.process import METERS, role_here


class UsageLogger(StatLoggerBase):
    """Takes the scheduler's state after each of its steps: three dictionary entries."""

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        self._engine = role_here()

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        """Sets the gauges."""
        if scheduler_stats is not None:
            METERS.set("engine_kv_cache_usage_ratio", scheduler_stats.kv_cache_usage, engine=self._engine)
            METERS.set("engine_scheduled_requests", scheduler_stats.num_running_reqs, engine=self._engine)
            METERS.set("engine_queued_requests", scheduler_stats.num_waiting_reqs, engine=self._engine)

    def log_engine_initialized(self) -> None:
        """Does nothing."""
