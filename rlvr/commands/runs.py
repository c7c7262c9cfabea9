"""`rlvr runs`: the runs below a folder, newest first, with their state and progress. Reads; changes nothing."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.config.document.yaml_lines import read_document
from rlvr.errors import ConfigError
from rlvr.report.files import Row, json_rows
from rlvr.run.record.lock import LOCK_FILE

_TAIL_BYTES = 1 << 18
_DEPTH = 3  # runs/NAME/TIME
_LOCKS = Path("/proc/locks")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One run. state: running, done or stopped. results: its latest evaluations and mean reward."""

    path: Path
    state: str
    step: int
    num_steps: int | None
    results: str

    @property
    def row(self) -> tuple[str, str, str]:
        """A table row: path, state and progress, results."""
        steps = "" if self.num_steps is None else f" of {self.num_steps}"
        return str(self.path), f"{self.state}, step {self.step}{steps}", self.results


def list_runs(folder: Path) -> list[RunSummary]:
    """The runs below a folder, or the run that it is, those that wrote last first. Raises ConfigError if it is none."""
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {str(folder)!r}; name the folder that holds your runs")
    found = sorted(_run_folders(folder, _DEPTH), key=_last_write, reverse=True)
    return [_summary(path) for path in found]


def _run_folders(folder: Path, depth: int) -> list[Path]:
    if (folder / "recipe.yaml").is_file() and (folder / "rollouts").is_dir():
        return [folder]
    if not depth:
        return []
    try:
        inside = [entry for entry in folder.iterdir() if entry.is_dir() and not entry.is_symlink()]
    except OSError:  # a folder of another user
        return []
    return [run for entry in inside for run in _run_folders(entry, depth - 1)]


def _last_write(run: Path) -> float:
    files = [file for name in ("metrics.jsonl", "recipe.yaml") if (file := run / name).exists()]
    return max((file.stat().st_mtime for file in files), default=0.0)


def _summary(run: Path) -> RunSummary:
    rows = _last_rows(run / "metrics.jsonl")
    events = _last_rows(run / "events.jsonl")
    state = "done" if events and events[-1].get("kind") == "done" else "stopped"
    values = [
        f"{name.removeprefix('eval/')} {row[name]:.3f}"
        for row in [next((r for r in reversed(rows) if any(map(_is_score, r))), {})]
        for name in row
        if _is_score(name) and isinstance(row[name], int | float)
    ]
    reward = rows[-1].get("reward/mean") if rows else None
    return RunSummary(
        path=run,
        state="running" if _is_locked(run / LOCK_FILE) else state,
        step=int(rows[-1].get("step", 0)) if rows else 0,
        num_steps=_num_steps(run / "recipe.yaml"),
        results=", ".join([*values, *([f"reward {reward:.3f}"] if isinstance(reward, int | float) else [])]),
    )


def _is_score(name: str) -> bool:
    return name.startswith("eval/") and "@" in name and not name.endswith(("_ci_low", "_ci_high"))


def _last_rows(path: Path) -> list[Row]:
    """The last rows of a JSON Lines file; torn ones are left out, and so is a file that cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return json_rows(file.read().decode(errors="replace"))
    except OSError:
        return []


def _num_steps(recipe: Path) -> int | None:
    try:
        values: Any = read_document(recipe.read_text(encoding="utf-8"), label=recipe.name).values
        return int(values["run"]["steps"])
    except (OSError, ValueError, KeyError, TypeError, ConfigError):
        return None


def _is_locked(path: Path) -> bool:
    """Whether a process of this machine holds the lock. Only looks: taking it could refuse a run that starts."""
    try:
        status = path.stat()
        locks = _LOCKS.read_text(encoding="ascii")
    except OSError:
        return False
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    return any(place in line.split() and "FLOCK" in line for line in locks.splitlines())
