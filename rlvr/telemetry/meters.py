"""The numbers of this process. Setting one is a dictionary entry, whether or not anybody reads it."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from rlvr.telemetry.families import FAMILIES, Family, run_metric

logger = logging.getLogger(__name__)
_MOST_SERIES = 20_000  # of one process: names in metrics come from recipes and plugins


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a family, with the values of its labels."""

    family: Family
    labels: tuple[tuple[str, str], ...]
    value: float


Source = Callable[[], Iterable[tuple[str, Mapping[str, str], float]]]


class Meters:
    """Gauges and counters by name and labels; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: dict[tuple[str, tuple[tuple[str, str], ...]], Sample] = {}
        self._sources: dict[str, Source] = {}
        self._has_warned = False

    def set(self, name: str, value: float, **labels: str) -> None:
        """Sets a gauge, or a counter that something else counts. Raises KeyError for a name not in `FAMILIES`."""
        self._put(FAMILIES["rlvr_" + name], labels, value)

    def add(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Increases a counter."""
        self._put(FAMILIES["rlvr_" + name], labels, value, is_more=True)

    def run_metrics(self, metrics: Mapping[str, float]) -> None:
        """Sets the gauges of a row of metrics.jsonl; those that are missing in it keep their value."""
        for name, value in metrics.items():
            found = run_metric(name)
            self._put(found.family, found.labels, value * found.scale)

    def watch(self, name: str, source: Source | None) -> None:
        """Asks the source for (name, labels, value) whenever the numbers are read; None ends that."""
        with self._lock:
            if source is None:
                self._sources.pop(name, None)
            else:
                self._sources[name] = source

    def read(self) -> list[Sample]:
        """Every sample, in order of names."""
        with self._lock:
            sources = list(self._sources.values())
        for source in sources:
            try:
                for name, labels, value in source():
                    self.set(name, value, **labels)
            except Exception as error:  # noqa: BLE001 - a number that cannot be read must not stop the others
                if not self._has_warned:
                    self._has_warned = True
                    logger.warning("a metric could not be read (%s: %s)", type(error).__name__, error)
        with self._lock:
            return [self._samples[key] for key in sorted(self._samples)]

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._samples.clear()
            self._sources.clear()

    def _put(self, family: Family, labels: Mapping[str, str], value: float, *, is_more: bool = False) -> None:
        given = tuple(sorted((name, str(text)) for name, text in labels.items()))
        key = family.name, given
        with self._lock:
            old = self._samples.get(key)
            if old is None and len(self._samples) >= _MOST_SERIES:
                return
            before = old.value if old is not None and is_more else 0.0
            self._samples[key] = Sample(family, given, before + float(value))
