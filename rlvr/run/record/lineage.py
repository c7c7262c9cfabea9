"""Checks that metrics, events, ledger and rollouts match the checkpoint from which a run resumes.

Each checkpoint's run state describes these files as they were when it was written:

    {"metrics": {"bytes", "sha256", "steps": [[0, 12]]}, "events": {"bytes", "sha256"},
     "ledger": {"trained", "dropped", "digest"}, "rollouts": {"step_000001.parquet": bytes, ...}}

Whatever a killed run left beyond that (rows of later steps, a torn last line) is removed silently. Missing parts are
lost and reported per file; the weights, the data position and the optimiser do not depend on them.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvr.errors import StorageError
from rlvr.run.record.directory import RunDirectory
from rlvr.run.record.journal import read_line, rollout_step
from rlvr.run.record.ledger import Ledger, Settled, move_aside

logger = logging.getLogger(__name__)

_MAX_NAMED = 5
_PARQUET = b"PAR1"


def lineage_of(directory: RunDirectory, step: int, *, settled: Settled) -> dict[str, Any]:
    """The state of the flushed files after `step`. JSON-able. Warns if one is gone; raises StorageError."""
    for path in (directory.metrics, directory.events):
        if not path.exists():
            logger.warning(
                "%s was removed during the run: what is written there is lost until the run is resumed", path
            )
    metrics, events = _read(directory.metrics), _read(directory.events)
    try:
        rollouts = {
            path.name: path.stat().st_size
            for path in sorted(directory.rollouts.glob("step_*.parquet"))
            if (rollout_step(path) or 0) <= step
        }
    except OSError as error:
        raise StorageError(
            f"{error.filename or directory.rollouts} cannot be read: {error.strerror or error}"
        ) from error
    return {
        "metrics": {**_fingerprint(metrics), "steps": _spans(_steps(metrics))},
        "events": _fingerprint(events),
        "ledger": {"trained": settled.trained, "dropped": settled.dropped, "digest": settled.digest},
        "rollouts": rollouts,
    }


def lost_lineage(directory: RunDirectory, step: int, *, stored: Mapping[str, Any] | None) -> list[str]:
    """What is missing or changed in the files up to `step`, one sentence per file; empty when nothing is.

    A damaged ledger is moved aside, so that the run can continue with a new one.

    Args: stored: the checkpoint's lineage; None for a checkpoint of an older version, which cannot be compared.

    Raises: StorageError when a file cannot be read for a reason other than damage (permissions, a folder in its place).
    """
    lost = _lost_ledger(directory.ledger, step, None if stored is None else stored["ledger"])
    if stored is not None:
        lost += _lost_metrics(directory.metrics, stored["metrics"])
        lost += _lost_events(directory.events, stored["events"])
        lost += _lost_rollouts(directory.rollouts, stored["rollouts"])
    return lost


def _lost_metrics(path: Path, stored: Mapping[str, Any]) -> list[str]:
    there = _read(path)
    if _has_start(there, stored):
        return []
    wanted = {step for first, last in stored["steps"] for step in range(first, last + 1)}
    missing = sorted(wanted - set(_steps(there)))
    if missing:
        return [
            f"{path} has lost {len(missing)} of {len(wanted)} rows up to step {max(wanted)}: "
            f"step {_named(_ranges(missing))}"
        ]
    return [f"{path} has every row up to step {max(wanted, default=0)}, but their content has changed"]


def _lost_events(path: Path, stored: Mapping[str, Any]) -> list[str]:
    there = _read(path)
    if _has_start(there, stored):
        return []
    if len(there) < stored["bytes"]:
        return [f"{path} has lost events: {len(there):,} of {stored['bytes']:,} bytes are left"]
    return [f"{path}: events before the checkpoint have changed"]


def _lost_ledger(path: Path, step: int, stored: Mapping[str, Any] | None) -> list[str]:
    if path.is_dir():
        raise StorageError(f"{path} is a folder; remove it to continue with a new ledger")
    _read(path)  # an unreadable file is not a damaged one
    try:
        found = _settled(path, step)
    except StorageError as error:
        aside = move_aside(path)
        count = "the prompts" if stored is None else f"{stored['trained']} prompts"
        return [
            f"{error}; it was moved to {aside.name}; the new ledger lacks {count} that were trained up to step {step}"
        ]
    if stored is None or found.digest == stored["digest"]:
        return []
    text = (
        f"of {stored['trained']} trained and {stored['dropped']} dropped prompts up to step {step} it holds "
        f"{found.trained} and {found.dropped}"
    )
    if (found.trained, found.dropped) == (stored["trained"], stored["dropped"]):
        text = f"its rows up to step {step} have changed"
    return [f"{path}: {text}"]


def _settled(path: Path, step: int) -> Settled:
    if not path.exists():  # only reads; must not create it
        return Settled(trained=0, dropped=0, digest="")
    ledger = Ledger(path)
    try:
        ledger.require_sound()
        return ledger.settled(step)
    finally:
        ledger.close()


def _lost_rollouts(folder: Path, stored: Mapping[str, int]) -> list[str]:
    missing = [name for name in stored if not (folder / name).is_file()]
    torn = [
        name for name, num_bytes in stored.items() if name not in missing and not _is_whole(folder / name, num_bytes)
    ]
    lost = [f"{folder} lacks {_counted(missing, 'file')} of rollouts"] if missing else []
    return [*lost, f"{folder}: {_counted(torn, 'file')} cannot be read"] if torn else lost


def _is_whole(path: Path, num_bytes: int) -> bool:
    """Whether the file is complete, by its size and both ends; the pages in between are not read."""
    try:
        if path.stat().st_size != num_bytes:
            return False
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(-4, 2)
            return (start, file.read(4)) == (_PARQUET, _PARQUET)
    except OSError:
        return False


def _counted(names: Sequence[str], noun: str) -> str:
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''} ({_named(names)})"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error


def _fingerprint(text: bytes) -> dict[str, Any]:
    return {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}


def _has_start(text: bytes, stored: Mapping[str, Any]) -> bool:
    return _fingerprint(text[: stored["bytes"]]) == {"bytes": stored["bytes"], "sha256": stored["sha256"]}


def _steps(metrics: bytes) -> list[int]:
    rows = [read_line(line) for line in metrics.split(b"\n") if line]
    return [row["step"] for row in rows if row is not None and isinstance(row.get("step"), int)]


def _spans(steps: Iterable[int]) -> list[list[int]]:
    """Steps as [first, last] of each consecutive range.

    >>> _spans([0, 1, 2, 5])
    [[0, 2], [5, 5]]
    """
    spans: list[list[int]] = []
    for step in sorted(set(steps)):
        if spans and step == spans[-1][1] + 1:
            spans[-1][1] = step
        else:
            spans.append([step, step])
    return spans


def _ranges(steps: Iterable[int]) -> list[str]:
    return [f"{a}" if a == b else f"{a} to {b}" for a, b in _spans(steps)]
