"""What `--resume` needs: the newest whole checkpoint, of the same recipe."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.config.load import load_recipe
from rlvr.config.recipe import Recipe
from rlvr.errors import CheckpointError, ConfigError
from rlvr.run.checkpoints import read_run_state
from rlvr.run.directory import RunDirectory

# What may change when a run goes on: how long, how often, how fast; never what is learned from what.
CHANGEABLE = (
    "run.", "description", "cluster.", "reward.verifier_workers", "reward.verifier_deadline_s", "sandbox.",
    "reward.max_error_rate", "rollout.max_batch_rows", "learner.device", "learner.micro_batch_tokens",
    "algorithm.governor.", "learner.num_threads", "learner.gradient_checkpointing", "learner.share_prompt_prefix",
    "learner.layout", "learner.logits_memory_mb", "learner.compile", "learner.kernels",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Where a run goes on: the step of the checkpoint, its folder, its run state, and the keys that were changed."""

    step: int
    folder: Path
    state: dict[str, Any]
    changed: dict[str, str]


def find_resume(directory: RunDirectory, recipe: Recipe) -> Resume:
    """The place to go on from.

    Raises: CheckpointError when there is no whole checkpoint; ConfigError when the recipe is another one, or the run is
        already as long as the recipe asks for.
    """
    found = directory.newest_checkpoint()
    if found is None:
        raise CheckpointError(
            f"{directory.path} holds no whole checkpoint to resume from; start anew with another --run-dir, and set "
            "run.checkpoint_every_steps so that an interrupted run can go on"
        )
    step, folder = found
    if step >= recipe.run.steps:
        raise ConfigError(
            f"{directory.path} is at step {step} and run.steps is {recipe.run.steps}: there is nothing left to "
            f"train; to go on, raise it, for example run.steps={2 * step}"
        )
    stored = load_recipe(str(directory.recipe)).recipe
    changed = _differences(stored.model_dump(mode="json"), recipe.model_dump(mode="json"), "")
    refused = {key: how for key, how in changed.items() if not key.startswith(CHANGEABLE)}
    if refused:
        raise ConfigError(
            f"{directory.path} cannot go on with another recipe; give it the one it was started with "
            f"({directory.recipe}), or start a new run from its checkpoint with model.path={folder}. Different:\n  "
            + "\n  ".join(f"{key}: {how}" for key, how in refused.items())
        )
    return Resume(step=step, folder=folder, state=read_run_state(folder), changed=changed)


def _differences(stored: Any, now: Any, path: str) -> dict[str, str]:
    """Dotted leaves that differ, as "stored -> now"."""
    if isinstance(stored, dict) and isinstance(now, dict):
        found: dict[str, str] = {}
        for key in dict.fromkeys((*stored, *now)):
            found |= _differences(
                stored.get(key), now.get(key), f"{path}.{key}" if path else str(key)
            )
        return found
    return {} if stored == now else {path: f"{stored!r} -> {now!r}"}
