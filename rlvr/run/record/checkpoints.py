"""Checkpoints: written under a temporary name, sealed with the digests of their files, then renamed.

    checkpoints/step_12/   config.json, model.safetensors, tokenizer files      loadable by transformers
                           adapter/                                            for a LoRA run, in peft's format
                           optimizer.pt, learner.json
                           run_state.json         data position, lineage, digests of the inputs
                           run_recipe.yaml        a copy of the run's recipe.yaml at that time
                           complete.json          size and SHA-256 of every file (`rlvr.storage.sealed_folders`)

A crash while writing leaves `step_12.PID.tmp`, which nothing reads and the next resume removes.
"""

import json
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rlvr.batch import Learner
from rlvr.errors import CheckpointError
from rlvr.run.record.directory import RunDirectory
from rlvr.storage import atomic_files, sealed_folders

RUN_STATE = "run_state.json"
RUN_RECIPE = "run_recipe.yaml"
NOT_FOR_INFERENCE = ("optimizer.pt", "optimizer/")
_FULL_BYTES = 32 << 20  # torch does not report a full disk as such
_REQUIRED = ("elapsed_s", "stream", "governor")


def write_checkpoint(folder: Path, *, learner: Learner, run_state: Mapping[str, Any], recipe: str = "") -> None:
    """Writes `folder` atomically; an older checkpoint of the same step is replaced.

    Args:
        run_state: step, data position and everything else that a resume needs; JSON-able.
        recipe: the text of the run's recipe.yaml.

    Raises: CheckpointError when it cannot be written, with the free space; no partial checkpoint is left.
    """
    # The name contains our process id: a learner that outlived its driver may still write under the driver's id.
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        learner.save(temporary)
        (temporary / RUN_STATE).write_text(json.dumps(dict(run_state), indent=2) + "\n")
        if recipe:
            (temporary / RUN_RECIPE).write_text(recipe, encoding="utf-8")
        sealed_folders.seal(temporary)
        older = folder.with_name(f"{folder.name}.old.tmp")
        shutil.rmtree(older, ignore_errors=True)
        if folder.exists():
            folder.rename(older)
        temporary.rename(folder)
        shutil.rmtree(older, ignore_errors=True)
        atomic_files.flush(folder.parent)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors raise their own types
        place = folder.parent
        if not place.is_dir():
            raise CheckpointError(
                f"checkpoint {folder} could not be written: the folder {str(place)!r} is gone"
            ) from error
        free = shutil.disk_usage(place).free  # before the draft is removed
        shutil.rmtree(temporary, ignore_errors=True)
        why = f"the disk is full: {error}" if free < _FULL_BYTES else str(error)
        raise CheckpointError(
            f"checkpoint {folder} could not be written: {why} ({free / 2**30:.1f} GiB free)"
        ) from error


def read_run_state(folder: Path) -> dict[str, Any]:
    """The `run_state` of a complete checkpoint. Raises CheckpointError."""
    try:
        state = json.loads((folder / RUN_STATE).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {folder} has no readable {RUN_STATE}: {error}") from error
    missing = [key for key in _REQUIRED if not isinstance(state, dict) or key not in state]
    if missing:
        raise CheckpointError(
            f"checkpoint {folder}: {RUN_STATE} is damaged, it lacks {', '.join(missing)}; continue from an older one "
            "with --resume --checkpoint step_N"
        )
    return state


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenCheckpoint:
    """An intact checkpoint, and the damaged or newer ones that were skipped, one line each.

    has_digests: False for a checkpoint of an older version, which could not be checked.
    """

    step: int
    folder: Path
    passed_over: tuple[str, ...] = ()
    has_digests: bool = True


def choose_checkpoint(
    directory: RunDirectory, *, name: str = "", ignoring: Collection[str] = ()
) -> ChosenCheckpoint | None:
    """The newest intact checkpoint, or the one with that name; None when the run saved none.

    Every file is compared with its digest, except those in `ignoring`.

    Args: name: `step_12` or `12`; "" for the newest intact one.

    Raises: CheckpointError when none is intact, or the named one is damaged or missing.
    """
    folders = directory.step_folders()
    if name:
        wanted = name if name.startswith("step_") else f"step_{name}"
        folders = [pair for pair in folders if pair[1].name == wanted]
        if not folders:
            held = ", ".join(folder.name for _, folder in directory.complete_checkpoints())
            raise CheckpointError(f"{directory.path} has no checkpoint {wanted!r}; it has: {held or 'none'}")
    passed: list[str] = []
    for step, folder in reversed(folders):
        found = sealed_folders.check(folder, ignoring=ignoring)
        if not found.problems:
            return ChosenCheckpoint(step=step, folder=folder, passed_over=tuple(passed), has_digests=found.has_digests)
        passed.append(f"checkpoint {folder} is damaged: {'; '.join(found.problems)}")
    if not passed:
        return None
    way_out = (
        "omit --checkpoint to use the newest intact one"
        if name
        else "restore a file from a copy, or start a new run with another --run-dir"
    )
    raise CheckpointError("\n  ".join([*passed, f"no checkpoint is left to continue from; {way_out}"]))
