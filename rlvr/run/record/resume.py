"""What `--resume` needs: the newest intact checkpoint, with the same recipe, data and verifiers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlvr.config.document.paths import may_change_on_resume
from rlvr.config.dtypes import with_stored_dtypes
from rlvr.config.load import LoadedRecipe, load_recipe
from rlvr.config.recipe import Recipe
from rlvr.errors import ConfigError
from rlvr.run.record.checkpoints import ChosenCheckpoint, choose_checkpoint, read_run_state
from rlvr.run.record.directory import RunDirectory
from rlvr.run.record.inputs import require_same_inputs
from rlvr.run.record.lineage import lost_lineage
from rlvr.run.record.recipe_file import stored_recipe
from rlvr.run.record.resume_choice import ResumeChoice

# Keeps no step: step 0's evaluation is repeated too.
BEFORE_EVERYTHING = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Where a run resumes: the step of the checkpoint, its folder, its run state, and the changed keys.

    warnings: damage that was found, and what is lost because of it.
    """

    step: int
    folder: Path
    state: dict[str, Any]
    changed: dict[str, str]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """How a run continues.

    loaded: its recipe, with the dtypes that were chosen when it started. resume: None when it saved no checkpoint and
    starts over.
    """

    loaded: LoadedRecipe
    resume: Resume | None


def find_resume(
    directory: RunDirectory, loaded: LoadedRecipe, *, inputs: Mapping[str, str], choice: ResumeChoice
) -> Continuation:
    """The place to resume from. Changes nothing, except that a damaged ledger is moved aside.

    Args: inputs: the digests of the current data and verifiers.

    Raises: CheckpointError when no checkpoint is intact; StorageError when a file cannot be read; ConfigError when the
        recipe or the inputs have changed, or the run is already longer than the recipe asks for.
    """
    chosen = choose_checkpoint(directory, name=choice.checkpoint)
    if chosen is None:
        lost_lineage(directory, BEFORE_EVERYTHING, stored=None)
    try:
        path, problem = stored_recipe(directory, chosen)
        stored = load_recipe(str(path)).recipe
    except ConfigError:
        if chosen is not None:
            raise
        return Continuation(loaded=loaded, resume=None)  # it ended while writing its first files
    loaded = with_stored_dtypes(loaded, stored)
    recipe = loaded.recipe
    if chosen is not None and chosen.step > recipe.run.steps:
        raise ConfigError(
            f"{directory.path} is at step {chosen.step} and run.steps is {recipe.run.steps}: there is nothing left to "
            f"train; to continue, raise it, for example run.steps={2 * chosen.step}; to continue from an earlier step, "
            "name its checkpoint with --checkpoint step_N"
        )
    changed = _differences(stored.model_dump(mode="json"), recipe.model_dump(mode="json"), "")
    refused = {key: how for key, how in changed.items() if not may_change_on_resume(Recipe, tuple(key.split(".")))}
    if refused:
        start = ", or choose another --run-dir"
        if chosen is not None:
            start = f", or start a new run from its checkpoint with model.path={chosen.folder}"
        raise ConfigError(
            f"{directory.path} cannot be resumed with another recipe; use the one it was started with "
            f"({directory.recipe}){start}. Different:\n  "
            + "\n  ".join(f"{key}: {how}" for key, how in refused.items())
        )
    if chosen is None:
        return Continuation(loaded=loaded, resume=None)
    resume = resume_from(directory, chosen, changed=changed)
    other = require_same_inputs(
        resume.state.get("inputs", {}), inputs, run=str(directory.path), may_differ=choice.allows_changed_inputs
    )
    warnings = [f"{key} has changed: {how}" for key, how in other.items()]
    if problem:
        warnings.insert(0, problem)
    return Continuation(
        loaded=loaded, resume=replace(resume, changed={**changed, **other}, warnings=(*resume.warnings, *warnings))
    )


def resume_from(directory: RunDirectory, chosen: ChosenCheckpoint, *, changed: dict[str, str]) -> Resume:
    """That checkpoint as the place to resume from, with warnings of damage. Raises the errors of `find_resume`."""
    state = read_run_state(chosen.folder)
    warnings = [*chosen.passed_over]
    if warnings:
        warnings.append(f"resuming from step {chosen.step}, the newest intact checkpoint")
    if not chosen.has_digests:
        warnings.append(
            f"checkpoint {chosen.folder} was written by an older rlvr without digests: damage to it cannot be detected"
        )
    warnings += lost_lineage(directory, chosen.step, stored=state.get("lineage"))
    return Resume(step=chosen.step, folder=chosen.folder, state=state, changed=changed, warnings=tuple(warnings))


def _differences(stored: Any, now: Any, path: str) -> dict[str, str]:
    """Dotted leaves that differ, as "stored -> now"."""
    if isinstance(stored, dict) and isinstance(now, dict):
        found: dict[str, str] = {}
        for key in dict.fromkeys((*stored, *now)):
            found |= _differences(stored.get(key), now.get(key), f"{path}.{key}" if path else str(key))
        return found
    return {} if stored == now else {path: f"{stored!r} -> {now!r}"}
