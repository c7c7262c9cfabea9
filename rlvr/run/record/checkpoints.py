"""Checkpoints: written under a temporary name, sealed with the digests of their files, then renamed.

    checkpoints/step_12/   config.json, model.safetensors, tokenizer files      loadable by transformers
                           adapter/                                            for a LoRA run, in peft's format
                           optimizer.pt, learner.json
                           weights/, optimizer/                of several learners, in place of model.safetensors,
                                                               the adapter's weights and optimizer.pt
                           run_state.json         data position, lineage, digests of the inputs
                           run_recipe.yaml        a copy of the run's recipe.yaml at that time
                           complete.json          size and SHA-256 of every file (`rlvr.storage.sealed_folders`)

Several learners write theirs while training continues; it is complete, and counts, once it is renamed.
A crash while writing leaves `step_12.PID.tmp`, which nothing reads and the next resume removes.
"""

import json
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
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


class CheckpointDraft:
    """A checkpoint that is being written under another name; the files of the run are in it from the start."""

    def __init__(self, folder: Path, *, run_state: Mapping[str, Any], recipe: str = "") -> None:
        """Creates the draft of `folder`.

        Args:
            run_state: step, data position and everything else that a resume needs; JSON-able.
            recipe: the text of the run's recipe.yaml.

        Raises: CheckpointError when it cannot be written.
        """
        self._folder = folder
        # The name contains our process id: a learner that outlived its driver may still write under the driver's id.
        self._draft = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
        self._sealing: Future[None] | None = None
        with self._explained():
            shutil.rmtree(self._draft, ignore_errors=True)
            self._draft.mkdir()
            (self._draft / RUN_STATE).write_text(json.dumps(dict(run_state), indent=2) + "\n")
            if recipe:
                (self._draft / RUN_RECIPE).write_text(recipe, encoding="utf-8")

    @property
    def folder(self) -> Path:
        """Where the checkpoint will be."""
        return self._folder

    def start(self, learner: Learner) -> None:
        """Has the learner write its part. Raises CheckpointError; no draft is left then."""
        with self._explained():
            learner.start_save(self._draft)

    def finish(self, learner: Learner, *, waits: bool) -> bool:
        """Seals and renames the draft once the learner's part is written; an older checkpoint of the step is replaced.

        Unless it waits, the digests are computed in another thread, and a later call finds them.

        Returns: whether the checkpoint is complete.

        Raises: CheckpointError when it cannot be written, with the free space; no draft is left then.
        """
        with self._explained():
            if self._sealing is None:
                if not learner.is_saved(waits=waits):
                    return False
                if waits:
                    sealed_folders.seal(self._draft)
                else:
                    self._sealing = _in_thread(lambda: sealed_folders.seal(self._draft))
            if self._sealing is not None:
                if not (waits or self._sealing.done()):
                    return False
                self._sealing.result()
            self._rename()
        return True

    def finish_alone(self) -> bool:
        """Completes it without the learner, if the learner's part was written; returns whether it is complete.

        Raises: CheckpointError when it cannot be written; no draft is left then.
        """
        if self._sealing is None:
            return False
        with self._explained():
            self._sealing.result()
            self._rename()
        return True

    def drop(self) -> None:
        """Removes the draft."""
        if self._sealing is not None:
            with suppress(OSError):
                self._sealing.result()
        shutil.rmtree(self._draft, ignore_errors=True)

    def _rename(self) -> None:
        """Gives the sealed draft its name; an older checkpoint of the step is replaced."""
        older = self._folder.with_name(f"{self._folder.name}.old.tmp")
        shutil.rmtree(older, ignore_errors=True)
        if self._folder.exists():
            self._folder.rename(older)
        self._draft.rename(self._folder)
        shutil.rmtree(older, ignore_errors=True)
        atomic_files.flush(self._folder.parent)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Removes the draft after an error, and says what is wrong with the place."""
        try:
            yield
        except CheckpointError:
            shutil.rmtree(self._draft, ignore_errors=True)
            raise
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors raise their own types
            place = self._folder.parent
            if not place.is_dir():
                raise CheckpointError(
                    f"checkpoint {self._folder} could not be written: the folder {str(place)!r} is gone"
                ) from error
            free = shutil.disk_usage(place).free  # before the draft is removed
            shutil.rmtree(self._draft, ignore_errors=True)
            why = f"the disk is full: {error}" if free < _FULL_BYTES else str(error)
            raise CheckpointError(
                f"checkpoint {self._folder} could not be written: {why} ({free / 2**30:.1f} GiB free)"
            ) from error


def write_checkpoint(folder: Path, *, learner: Learner, run_state: Mapping[str, Any], recipe: str = "") -> None:
    """Writes a whole checkpoint; arguments and errors of `CheckpointDraft`."""
    draft = CheckpointDraft(folder, run_state=run_state, recipe=recipe)
    draft.start(learner)
    draft.finish(learner, waits=True)


def _in_thread(work: Callable[[], None]) -> "Future[None]":
    """The result of `work`, which runs in a thread that does not keep the process alive."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - who asks for the result gets it
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


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
