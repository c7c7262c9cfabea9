"""Builds a learner that is ready for its first step: on its device, cold-started or restored, with its reference.

Runs in the learner's process: the run's own, or an actor.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from rlvr.algorithms.build import build_loss
from rlvr.config.recipe import ModelConfig, Recipe
from rlvr.config.sections.algorithm import RatioBase
from rlvr.data.load import demonstrations
from rlvr.errors import ConfigError, StorageError
from rlvr.learner.learner import PolicyLearner
from rlvr.learner.ranks.group import LearnerGroup
from rlvr.learner.ranks.loading import weight_source
from rlvr.learner.ranks.start import Spread
from rlvr.learner.weights.publication import require_room
from rlvr.models import lora
from rlvr.models.export import export_policy
from rlvr.models.policy import Policy, load_policy, load_weightless
from rlvr.records import Transport, WeightsKind
from rlvr.rollout.transformers_engine import COPY_DTYPES
from rlvr.stages.supervised import SupervisedReport, imitate
from rlvr.storage import sealed_folders


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedLearner:
    """A learner at the first step of a run or at a checkpoint. cold_start: its report, if it was run."""

    learner: PolicyLearner | LearnerGroup
    cold_start: SupervisedReport | None


def start_learner(
    recipe: Recipe,
    *,
    policy: Policy,
    transport: Transport,
    faults: Path,
    reference_folder: Path,
    checkpoint: Path | None,
    progress: Callable[[int, float], None],
    spread: Spread | None = None,
) -> StartedLearner:
    """The learner of a recipe, on the weights of `checkpoint` or after the recipe's cold start.

    Args:
        faults: folder for micro-batches with a non-finite gradient.
        reference_folder: folder of the policy after a cold start, for the KL term of a resumed run.
        progress: called with (step, loss) after each step of the cold start.
        spread: learners on other nodes, for a policy without weights; None if all are on this one.

    Raises: ConfigError when its published weights will not fit on this machine.
    """
    dtype, kind = _published(recipe)
    require_room(policy.model, transport=transport, dtype=dtype, kind=kind)
    if policy.is_weightless:
        return _start_ranks(
            recipe,
            policy=policy,
            transport=transport,
            faults=faults,
            reference_folder=reference_folder,
            checkpoint=checkpoint,
            progress=progress,
            spread=spread,
        )
    report = None
    if checkpoint is None and recipe.cold_start.steps:
        report = imitate(
            policy,
            config=recipe.cold_start,
            learner_config=recipe.learner,
            demonstrations=demonstrations(recipe.data.train, seed=recipe.seed),
            fault_folder=faults,
            progress=progress,
        )
    learner = build_learner(  # only the learner may hold the reference: ranks free the parent's copy
        recipe,
        policy=policy,
        transport=transport,
        faults=faults,
        reference=_reference(recipe, policy, reference_folder, is_resumed=checkpoint is not None),
    )
    if checkpoint is not None:
        try:
            learner.restore(checkpoint)
        except BaseException:
            learner.close()
            raise
    return StartedLearner(learner=learner, cold_start=report)


def _start_ranks(
    recipe: Recipe,
    *,
    policy: Policy,
    transport: Transport,
    faults: Path,
    reference_folder: Path,
    checkpoint: Path | None,
    progress: Callable[[int, float], None],
    spread: Spread | None,
) -> StartedLearner:
    """`start_learner` with ranks that alone hold the weights: they run the cold start and copy the reference."""
    has_copy = recipe.algorithm.kl_coef > 0 and (not recipe.model.lora.rank or recipe.cold_start.steps > 0)
    reference = policy.model if recipe.algorithm.kl_coef > 0 else None
    if has_copy:
        reference = lora.plain_architecture(policy.model, dtype=policy.model.dtype)
    learner = LearnerGroup(
        policy,
        num_ranks=recipe.cluster.learners,
        transport=transport,
        reference=reference,
        source=weight_source(recipe.model, policy.model, seed=recipe.seed),
        device_type=learner_device(recipe).type,
        spread=spread,
        **_publishing(recipe),
        **_stage(recipe, faults),
    )
    report = None
    try:
        if checkpoint is None and recipe.cold_start.steps:
            report = imitate(
                policy,
                config=recipe.cold_start,
                learner_config=recipe.learner,
                demonstrations=demonstrations(recipe.data.train, seed=recipe.seed),
                fault_folder=faults,
                progress=progress,
                group=learner,
            )
            learner.begin(**_stage(recipe, faults))
            if has_copy:
                _keep(learner.save_weights, reference_folder)
        if has_copy:
            is_kept = checkpoint is not None and recipe.cold_start.steps > 0
            if is_kept:
                sealed_folders.require_whole(reference_folder)
            learner.load_reference(reference_folder if is_kept else None)
        if checkpoint is not None:
            learner.restore(checkpoint)
    except BaseException:  # also when interrupted: its processes would stay
        learner.close()
        raise
    return StartedLearner(learner=learner, cold_start=report)


def build_learner(
    recipe: Recipe, *, policy: Policy, transport: Transport, faults: Path, reference: PreTrainedModel | None
) -> PolicyLearner | LearnerGroup:
    """The learner of a recipe: in this process, or over `cluster.learners` ranks that its `close` ends.

    Args: reference: the frozen policy for the KL term.
    """
    start = PolicyLearner
    if recipe.cluster.learners > 1:
        start = partial(LearnerGroup, num_ranks=recipe.cluster.learners)
    return start(policy, transport=transport, reference=reference, **_publishing(recipe), **_stage(recipe, faults))


def _stage(recipe: Recipe, faults: Path) -> dict[str, Any]:
    """The arguments of a learner that describe the recipe's RL stage."""
    rollout = recipe.rollout
    ratio_base = recipe.algorithm.correction.ratio_base
    if ratio_base is RatioBase.AUTO:
        is_own = not rollout.has_copy and rollout.max_staleness == 0
        ratio_base = RatioBase.BEHAVIOR if is_own else RatioBase.PROXIMAL
    loss = build_loss(
        recipe.algorithm,
        max_completion_tokens=rollout.max_completion_tokens,
        uses_proximal=ratio_base is RatioBase.PROXIMAL,
    )
    return {"config": recipe.learner, "loss": loss, "temperature": rollout.temperature, "fault_folder": faults}


def _publishing(recipe: Recipe) -> dict[str, Any]:
    dtype, kind = _published(recipe)
    return {"published_dtype": dtype, "published_kind": kind}


def _published(recipe: Recipe) -> tuple[torch.dtype, WeightsKind]:
    """The dtype and the kind of weights that are published to engines."""
    dtype = COPY_DTYPES.get(recipe.rollout.engine_dtype, torch.float32)
    return dtype, WeightsKind.ADAPTER if recipe.sends_adapters else WeightsKind.FULL


def _reference(recipe: Recipe, policy: Policy, folder: Path, *, is_resumed: bool) -> PreTrainedModel | None:
    """The frozen policy before its first RL step, if there is a KL term; after a cold start it is saved for a resume.

    With adapters it is the policy's own model, run without them; but a cold start trains them, so after one it is a
    copy too.
    """
    if recipe.algorithm.kl_coef == 0:
        return None
    if recipe.cold_start.steps and is_resumed:
        kept = load_policy(ModelConfig(path=str(folder)), seed=recipe.seed)
        return place_policy(kept, recipe).model.eval().requires_grad_(False)
    if recipe.cold_start.steps:
        _keep(partial(export_policy, policy), folder)
    elif recipe.model.lora.rank:
        return policy.model
    return lora.plain_copy(policy.model, dtype=policy.model.dtype)


def _keep(write: Callable[[Path], None], folder: Path) -> None:
    """Has the policy written to `folder`, sealed; replaces what an earlier start left there. Raises StorageError."""
    draft = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        write(draft)
        sealed_folders.seal(draft)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise StorageError(f"the policy after the cold start could not be kept in {folder}: {error}") from error


def use_threads(recipe: Recipe) -> None:
    """Sets torch's number of threads from the recipe; 0 keeps torch's default."""
    if recipe.learner.num_threads:
        torch.set_num_threads(recipe.learner.num_threads)


def open_policy(recipe: Recipe, *, transport: Transport, spans_nodes: bool = False) -> Policy:
    """The policy of a recipe for `start_learner`, on its device; sets the recipe's number of threads.

    Without weights where several learners will hold them alone, because the engine is in another process or they run on
    several nodes.
    """
    if recipe.cluster.learners > 1 and (transport is Transport.FILE or spans_nodes):
        use_threads(recipe)
        return load_weightless(recipe.model, seed=recipe.seed)
    return place_policy(load_policy(recipe.model, seed=recipe.seed), recipe)


def learner_device(recipe: Recipe) -> torch.device:
    """The device of `learner.device`."""
    name = recipe.learner.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def place_policy(policy: Policy, recipe: Recipe) -> Policy:
    """Moves the policy to its device, and sets the recipe's number of threads."""
    use_threads(recipe)
    try:
        policy.model.to(learner_device(recipe))  # type: ignore[arg-type] # the stub of transformers
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"learner.device={recipe.learner.device!r} cannot be used: {error}; `rlvr doctor` lists the devices"
        ) from error
    return policy
