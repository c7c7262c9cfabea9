"""Reads a run directory for the report. Torn lines, missing files and unreadable tables do not make it fail."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlvr.errors import ConfigError, StorageError

COLUMNS = (
    "prompt_id", "group_id", "prompt_text", "sample_index", "completion", "finish_reason", "reward",
    "status", "reason", "extracted", "overlong_penalty", "kl_penalty", "advantage", "reference", "verdicts",
)  # fmt: skip
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of one run, read.

    metrics: rows in step order.
    training: the Parquet files of training rollouts by step.
    evaluations: for each evaluation, its Parquet files by step.
    """

    name: str
    recipe: str
    metrics: Sequence[Row]
    events: Sequence[Row]
    training: dict[int, Path] = field(default_factory=dict)
    evaluations: dict[str, dict[int, Path]] = field(default_factory=dict)

    def series(self, name: str) -> list[tuple[float, float | None]]:
        """The (step, value) points of a metric; None where it was not finite. Rows without it are left out."""
        return [(row["step"], finite(row[name])) for row in self.metrics if name in row]

    def metric_names(self) -> list[str]:
        """The names of all metrics, in order of first appearance."""
        return list(dict.fromkeys(name for row in self.metrics for name in row))


def read_run(run_dir: Path) -> RunFiles:
    """The files of the run in `run_dir`.

    Raises:
        ConfigError: there is no run.
        StorageError: one of its files cannot be read.
    """
    try:
        return _read_run(run_dir)
    except OSError as error:
        raise StorageError(f"{error.filename or run_dir} cannot be read: {error.strerror or error}") from error


def _read_run(run_dir: Path) -> RunFiles:
    metrics = run_dir / "metrics.jsonl"
    if not metrics.is_file():
        state = (
            "it has no metrics.jsonl"
            if run_dir.is_dir()
            else "it is a file"
            if run_dir.is_file()
            else "there is no such folder"
        )
        run = next((f" (did you mean {p}?)" for p in run_dir.parents if (p / "metrics.jsonl").is_file()), "")
        raise ConfigError(f"{run_dir} is not a run directory: {state}; name the run directory of a `rlvr train`{run}")
    rows = [row for row in _read_lines(metrics) if finite(row.get("step")) is not None]
    recipe = run_dir / "recipe.yaml"
    training: dict[int, Path] = {}
    evaluations: dict[str, dict[int, Path]] = {}
    for path in sorted((run_dir / "rollouts").glob("step_*.parquet")):
        step, _, purpose = path.name.removeprefix("step_").removesuffix(".parquet").partition(".")
        if not step.isdecimal():
            continue
        if not purpose:
            training[int(step)] = path
        elif purpose.startswith("eval-"):
            evaluations.setdefault(purpose.removeprefix("eval-"), {})[int(step)] = path
    return RunFiles(
        name=run_dir.resolve().name,
        recipe=recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else "",
        metrics=sorted(rows, key=lambda row: row["step"]),
        events=_read_lines(run_dir / "events.jsonl"),
        training=training,
        evaluations=evaluations,
    )


def read_rollouts(path: Path) -> list[Row] | None:
    """The rows of a Parquet file, with the columns that the report needs; None when it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:  # read_table would read `key=value` in the path as columns
            present = [name for name in COLUMNS if name in file.schema_arrow.names]
            return file.read(columns=present).to_pylist()
    except (OSError, pa.ArrowException):
        return None


def finite(value: object) -> float | None:
    """The value as a number; None when it is not finite or not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def _read_lines(path: Path) -> list[Row]:
    """The JSON objects of a file, one per line. Splits at line feeds only: a text may hold other line separators."""
    return json_rows(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else []


def json_rows(text: str) -> list[Row]:
    """The JSON objects in a text, one per line; torn lines are left out."""
    rows: list[Row] = []
    for line in text.split("\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
