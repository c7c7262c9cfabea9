"""Trackers that receive metrics in addition to metrics.jsonl: TensorBoard, wandb, trackio. None may stop a run."""

import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvr.config.extras import is_missing
from rlvr.config.recipe import TrackerKind
from rlvr.errors import ConfigError
from rlvr.protocols import MetricSink

logger = logging.getLogger(__name__)


class TensorBoardSink:
    """Event files in `RUN_DIR/tensorboard`, written by tensorboard itself, without torch."""

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise _missing("tensorboard", "tensorboard") from error
        events: Any = event_pb2  # generated; its names are invisible to a type checker
        summaries: Any = summary_pb2
        self._event: Any = events.Event
        self._summary: Any = summaries.Summary
        self._writer: Any = EventFileWriter(str(folder))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the finite numbers of one row."""
        values = [
            self._summary.Value(tag=name, simple_value=value) for name, value in metrics.items() if math.isfinite(value)
        ]
        summary = self._summary(value=values)
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()

    def close(self) -> None:
        """Flushes and closes."""
        self._writer.close()


class ServiceSink:
    """A tracker with the `init`, `log` and `finish` of wandb and trackio."""

    def __init__(self, module: Any, *, recipe: Mapping[str, Any], run_dir: Path, settings: Mapping[str, Any]) -> None:
        name = str(recipe.get("name", "rlvr"))
        module.init(project=f"rlvr-{name}", name=run_dir.name, config=dict(recipe), **settings)
        self._module = module

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Sends one row."""
        self._module.log(dict(metrics), step=step)

    def close(self) -> None:
        """Waits until all rows are sent."""
        self._module.finish()


class GuardedSink:
    """A sink whose errors are logged once and never stop the run."""

    def __init__(self, name: str, make: Callable[[], MetricSink]) -> None:
        """Builds the sink. Raises ConfigError when its package is missing; other errors only warn."""
        self._name = name
        self._has_warned = False
        self._inner: MetricSink | None = None
        try:
            self._inner = make()
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - boundary: a tracker's service can fail in any way
            self._warn(error)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes one row, or warns once."""
        if self._inner is None:
            return
        try:
            self._inner.log(step, metrics)
        except Exception as error:  # noqa: BLE001 - boundary: a tracker's service can fail in any way
            self._warn(error)

    def close(self) -> None:
        """Flushes, or warns once."""
        if self._inner is None:
            return
        try:
            self._inner.close()
        except Exception as error:  # noqa: BLE001 - boundary: a tracker's service can fail in any way
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "tracker %r failed (%s: %s); the run continues, and metrics.jsonl has every row",
                self._name,
                type(error).__name__,
                error,
            )


def require_trackers(trackers: Sequence[TrackerKind]) -> None:
    """Raises ConfigError for a tracker whose package is not installed, as `build_sinks` does; imports nothing."""
    for kind in trackers:
        if is_missing(kind.value):
            raise _missing(kind.value, kind.value)


def build_sinks(trackers: Sequence[TrackerKind], run_dir: Path, recipe: Mapping[str, Any]) -> list[MetricSink]:
    """One sink per tracker.

    Raises:
        ConfigError: a tracker's package is not installed; the message names the extra.
    """
    return [_build(TrackerKind(kind), run_dir, recipe) for kind in dict.fromkeys(trackers)]


def _build(kind: TrackerKind, run_dir: Path, recipe: Mapping[str, Any]) -> MetricSink:
    if kind is TrackerKind.TENSORBOARD:
        return GuardedSink(kind.value, lambda: TensorBoardSink(run_dir / "tensorboard"))
    module = _wandb() if kind is TrackerKind.WANDB else _trackio()

    def make() -> MetricSink:
        run_id, is_resumed = _identity(run_dir, kind)
        if kind is TrackerKind.WANDB:
            settings = {"dir": str(run_dir), "id": run_id, "resume": "allow"}
        else:  # it identifies runs by name
            settings = {"resume": "allow"} if is_resumed else {}
        return ServiceSink(module, recipe=recipe, run_dir=run_dir, settings=settings)

    return GuardedSink(kind.value, make)


def _identity(run_dir: Path, kind: TrackerKind) -> tuple[str, bool]:
    """(the run's id at a tracker, kept in `RUN_DIR/<tracker>_run_id`; whether it existed already)."""
    file = run_dir / f"{kind.value}_run_id"
    if file.is_file():
        return file.read_text(encoding="utf-8").strip(), True
    run_id = secrets.token_hex(8)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(run_id, encoding="utf-8")
    return run_id, False


def _wandb() -> Any:
    try:
        import wandb  # pyright: ignore[reportMissingImports] - an optional extra
    except ImportError as error:
        raise _missing("wandb", "wandb") from error
    return wandb


def _trackio() -> Any:
    try:
        import trackio  # pyright: ignore[reportMissingImports] - an optional extra
    except ImportError as error:
        raise _missing("trackio", "trackio") from error
    return trackio


def _missing(name: str, extra: str) -> ConfigError:
    how = "run `make setup`" if extra == "tensorboard" else f'`pip install "rlvr[{extra}]"`'
    return ConfigError(
        f"run.trackers names {name!r}, but the package is not installed; {how}, or remove it from run.trackers"
    )
