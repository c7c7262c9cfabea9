"""The files that a run appends to: metrics and events as JSON Lines, rollouts as Parquet."""

import json
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rlvr.errors import StorageError
from rlvr.records import Group, Json, Role, Rollout, Verdict
from rlvr.run.step.shaping import Shaped
from rlvr.storage import atomic_files

MAX_REFERENCE_CHARACTERS = 2_000  # references of code problems can hold megabytes of tests


def repair_lines(path: Path, *, last_step: int | None = None) -> int:
    """Removes a torn last line, lines that are not an object, and rows beyond `last_step`; returns their number.

    The new file is written next to the old one and renamed, so a crash leaves one of them intact. Raises StorageError.
    """
    try:
        if not path.exists():
            return 0
        # Not splitlines(): it also splits at separators that JSON allows unescaped in a string.
        lines = [line for line in path.read_bytes().split(b"\n") if line]
        kept = [line for line in lines if _is_kept(line, last_step)]
        text = "".join(line.decode("utf-8", errors="replace") + "\n" for line in kept)
        atomic_files.write_text(path, text)
    except OSError as error:
        raise _unusable(path, error) from error
    return len(lines) - len(kept)


def read_line(line: bytes) -> dict[str, Json] | None:
    """The object in a line; None when it holds none or its step is not a number."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("step", 0), int):
        return None
    return row


def _is_kept(line: bytes, last_step: int | None) -> bool:
    row = read_line(line)
    return row is not None and (last_step is None or row.get("step", 0) <= last_step)


def _unusable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{error.filename or path} cannot be read or written: {error.strerror or error}")


class _LinesFile:
    """Appends JSON objects, one per line, each flushed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = self._opened()

    def append(self, row: Mapping[str, Json]) -> None:
        """Writes one line. Raises StorageError."""
        line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise _unusable(self._path, error) from error

    def flush(self) -> None:
        """Syncs every line to disk. Raises StorageError."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unusable(self._path, error) from error

    def truncate_after(self, step: int) -> int:
        """How many lines were cut; see `repair_lines`."""
        self._file.close()
        try:
            return repair_lines(self._path, last_step=step)
        finally:
            self._file = self._opened()

    def close(self) -> None:
        """Closes the file; a second call does nothing. Raises StorageError when buffered lines cannot be written."""
        try:
            self._file.close()
        except OSError as error:
            raise _unusable(self._path, error) from error

    def _opened(self) -> TextIO:
        try:
            return self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise _unusable(self._path, error) from error


class MetricsFile:
    """metrics.jsonl: one object per step, `{"step", "time_s", "<area>/<name>": number, ...}`.

    A non-finite number becomes null and is counted in `num_nonfinite`, because JSON has no NaN.
    """

    def __init__(self, path: Path) -> None:
        self._lines = _LinesFile(path)
        self.num_nonfinite = 0

    def write(self, step: int, *, time_s: float, metrics: Mapping[str, float]) -> None:
        """Appends the row of a step. time_s: seconds since the run began, summed over resumptions."""
        row: dict[str, Json] = {"step": step, "time_s": round(time_s, 3)}
        for name, value in metrics.items():
            is_finite = math.isfinite(value)
            self.num_nonfinite += not is_finite
            row[name] = value if is_finite else None
        self._lines.append(row)

    def truncate_after(self, step: int) -> int:
        """Removes the rows beyond `step` and a torn last line; returns their number."""
        return self._lines.truncate_after(step)

    def flush(self) -> None:
        """Syncs every line to disk."""
        self._lines.flush()

    def close(self) -> None:
        """Closes the file."""
        self._lines.close()


class EventsFile:
    """events.jsonl: `{"time", "kind", ...}`; time is UTC. Only a torn last line is ever removed."""

    def __init__(self, path: Path) -> None:
        repair_lines(path)
        self._lines = _LinesFile(path)

    def write(self, kind: str, **fields: Json) -> None:
        """Appends one event. Fields may not be named time or kind."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._lines.append({"time": now, "kind": kind, **_finite(fields)})

    def flush(self) -> None:
        """Syncs every line to disk."""
        self._lines.flush()

    def close(self) -> None:
        """Closes the file."""
        self._lines.close()


class RolloutWriter:
    """rollouts/step_000012.parquet (training) and rollouts/step_000012.eval-NAME.parquet (evaluation).

    A file is written under a temporary name and renamed, so every `*.parquet` is complete. Errors are StorageErrors.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unflushed: list[Path] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(folder, error) from error

    def write(
        self,
        step: int,
        *,
        groups: Sequence[Group],
        prompt_texts: Mapping[str, str],
        shaped: Mapping[str, Shaped] | None = None,
        purpose: str = "train",
    ) -> Path:
        """Writes a file with one row per rollout; returns its path.

        Args:
            prompt_texts: the prompt text as the policy saw it, by prompt id.
            shaped: the shaped rewards by completion id; in training, for every judged rollout.
            purpose: "train" or "eval:<name>".
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        given = shaped or {}
        rows = [
            _rollout_row(step, group, rollout, prompt_texts, given.get(rollout.completion.completion_id), purpose)
            for group in groups
            for rollout in group.rollouts
        ]
        path = self._folder / f"{self._stem(step, purpose)}.parquet"
        fresh = path.with_name(path.name + ".tmp")
        table = pa.Table.from_pylist(rows, schema=_schema(pa))
        try:
            pq.write_table(table, fresh, compression="zstd")
            os.replace(fresh, path)
        except OSError as error:
            raise _unusable(path, error) from error
        self._unflushed.append(path)
        return path

    def flush(self) -> None:
        """Syncs every file written so far to disk."""
        try:
            for path in self._unflushed:
                atomic_files.flush(path)
            atomic_files.flush(self._folder)
        except OSError as error:
            raise _unusable(self._folder, error) from error
        self._unflushed = []

    def truncate_after(self, step: int) -> int:
        """Removes the files of later steps and unfinished ones; returns their number."""
        num_removed = 0
        try:
            for path in self._folder.iterdir():
                number = rollout_step(path)
                if (number is not None and number > step) or path.name.endswith(".tmp"):
                    path.unlink()
                    num_removed += 1
            self._unflushed = [path for path in self._unflushed if path.exists()]
        except OSError as error:
            raise _unusable(self._folder, error) from error
        return num_removed

    @staticmethod
    def _stem(step: int, purpose: str) -> str:
        suffix = "" if purpose == "train" else "." + purpose.replace(":", "-")
        return f"step_{step:06d}{suffix}"


def rollout_step(path: Path) -> int | None:
    """The step of a rollout file; None for other files."""
    found = re.match(r"step_(\d+)\.", path.name)
    return int(found[1]) if found else None


def _rollout_row(
    step: int, group: Group, rollout: Rollout, prompt_texts: Mapping[str, str], shaped: Shaped | None, purpose: str
) -> dict[str, Any]:
    completion = rollout.completion
    prompt = group.prompt
    main = next((c for c in prompt.checks if c.role is Role.REWARD), prompt.checks[0])
    roles = {check.name: check.role for check in prompt.checks}
    verdict = rollout.verdicts.get(main.name)
    return {
        "step": step,
        "purpose": purpose,
        "group_id": group.group_id,
        "prompt_id": prompt.prompt_id,
        "source": prompt.source,
        "prompt_text": prompt_texts.get(prompt.prompt_id, prompt.text),
        "sample_index": completion.sample_index,
        "completion_id": completion.completion_id,
        "completion": completion.text,
        "token_ids": completion.token_ids,
        "prompt_token_ids": completion.prompt_token_ids,
        "logprobs": completion.logprobs,
        "sampled_mask": completion.sampled_mask,
        "policy_versions": completion.policy_versions,
        "finish_reason": completion.finish_reason.value,
        "reward": rollout.reward,
        "reward_parts": json.dumps(dict(rollout.reward_parts)),
        "status": None if verdict is None else verdict.status.value,
        "reason": None if verdict is None else verdict.reason,
        "extracted": None if verdict is None else verdict.extracted,
        "verdicts": json.dumps([_verdict_json(n, v, roles.get(n)) for n, v in rollout.verdicts.items()], default=str),
        "reference": _reference_text(main.reference),
        "shaped_reward": None if shaped is None else shaped.reward,
        "overlong_penalty": None if shaped is None else shaped.overlong_penalty,
        "kl_penalty": None if shaped is None else shaped.kl_penalty,
        "advantage": None if shaped is None else shaped.advantage,
    }


def _reference_text(reference: Json) -> str:
    """Text unchanged, other values as JSON; long ones are cut, because every row of a group repeats them."""
    text = reference if isinstance(reference, str) else json.dumps(reference, ensure_ascii=False, default=str)
    text = text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate would break the file
    if len(text) <= MAX_REFERENCE_CHARACTERS:
        return text
    return f"{text[:MAX_REFERENCE_CHARACTERS]}... ({len(text):,} characters)"


def _verdict_json(check: str, verdict: Verdict, role: Role | None) -> dict[str, Json]:
    return {
        "check": check,
        "role": None if role is None else role.value,
        "status": verdict.status.value,
        "score": verdict.score,
        "extracted": verdict.extracted,
        "reason": verdict.reason,
        "verifier": verdict.verifier,
        "seconds": verdict.seconds,
        "details": _finite(dict(verdict.details)),
    }


def _schema(pa: Any) -> Any:
    """A fixed schema, so that a file without verdicts or with empty lists has the same columns."""
    ints, floats = pa.list_(pa.int32()), pa.list_(pa.float32())
    text = pa.string()
    return pa.schema(
        [
            ("step", pa.int32()), ("purpose", text), ("group_id", text), ("prompt_id", text),
            ("source", text), ("prompt_text", text), ("sample_index", pa.int32()),
            ("completion_id", text), ("completion", text), ("token_ids", ints),
            ("prompt_token_ids", ints), ("logprobs", floats), ("sampled_mask", pa.list_(pa.bool_())),
            ("policy_versions", ints), ("finish_reason", text), ("reward", pa.float64()),
            ("reward_parts", text), ("status", text), ("reason", text), ("extracted", text),
            ("verdicts", text), ("shaped_reward", pa.float64()), ("overlong_penalty", pa.float64()),
            ("kl_penalty", pa.float64()), ("advantage", pa.float64()), ("reference", text),
        ]
    )  # fmt: skip


def _finite(value: Json) -> Json:
    """The value with non-finite numbers replaced by None, because JSON cannot hold them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
