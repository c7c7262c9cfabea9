"""Whole checkpoints: written under another name, completed by a marker, renamed at the end.

    checkpoints/step_12/   config.json, model.safetensors, tokenizer files      transformers loads it as it is
                           adapter/                                            of a LoRA run, in peft's format
                           optimizer.pt, learner.json, run_state.json, complete.json

A crash while writing leaves `step_12.tmp`, which nothing reads.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rlvr.batch import Learner
from rlvr.errors import CheckpointError
from rlvr.run.directory import COMPLETE_MARKER

RUN_STATE = "run_state.json"


def write_checkpoint(folder: Path, *, learner: Learner, run_state: Mapping[str, Any]) -> None:
    """Writes `folder` atomically; an older one of the same step is replaced.

    Args: run_state: step, data position and what else the run needs to go on; JSON-able.

    Raises: CheckpointError when the disk refuses, with the space that is left.
    """
    temporary = folder.with_name(folder.name + ".tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        learner.save(temporary)
        (temporary / RUN_STATE).write_text(json.dumps(dict(run_state), indent=2) + "\n")
        (temporary / COMPLETE_MARKER).write_text("{}\n")
        for file in temporary.rglob("*"):
            _flush(file)
        older = folder.with_name(folder.name + ".old.tmp")
        if folder.exists():
            folder.rename(older)
        temporary.rename(folder)
        shutil.rmtree(older, ignore_errors=True)
        _flush(folder.parent)
    except (
        OSError,
        RuntimeError,
        SafetensorError,
    ) as error:  # torch and safetensors have their own
        free = (
            shutil.disk_usage(folder.parent if folder.parent.exists() else Path.cwd()).free / 2**30
        )
        raise CheckpointError(
            f"checkpoint {folder} could not be written: {error} ({free:.1f} GiB free)"
        ) from error


def read_run_state(folder: Path) -> dict[str, Any]:
    """The `run_state` of a whole checkpoint. Raises CheckpointError."""
    try:
        return json.loads((folder / RUN_STATE).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {folder} has no readable {RUN_STATE}: {error}"
        ) from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
