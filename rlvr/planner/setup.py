"""A recipe's demands on a machine, as numbers: the one place where the planner reads the recipe."""

from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.config.derived import num_due
from rlvr.config.recipe import Backend, EngineDtype, Recipe
from rlvr.config.sections.learner import Layout, LearnerDtype, OptimizerKind
from rlvr.config.sections.rollout import RolloutConfig
from rlvr.planner.architecture import Architecture

_COPY_BYTES = {EngineDtype.SHARED: 0, EngineDtype.BFLOAT16: 2, EngineDtype.FLOAT32: 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens of a prompt, on average and at most, and of a completion (its limit)."""

    prompt_mean: int
    prompt_max: int
    completion: int

    @property
    def row_max(self) -> int:
        """Maximum tokens of a prompt and its completion."""
        return self.prompt_max + self.completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The numbers of one training step.

    num_trained: parameters with a gradient; all of them, or those of adapters.
    is_compiled: whether decoder layers are compiled.
    is_engine_elsewhere: whether the engine's weights are in another process than the learner.
    engine_bytes: per element of the engine's copy of the weights; 0 if it uses the learner's own.
    rows_at_once: maximum completions that the engine decodes in one batch.
    overlaps: whether completions are generated while the learner works.
    """

    architecture: Architecture
    lengths: Lengths
    num_trained: int
    is_bfloat16: bool
    has_8bit_states: bool
    has_checkpointing: bool
    is_packed: bool
    shares_prompts: bool
    has_reference_copy: bool
    has_reference_pass: bool
    has_proximal_pass: bool
    micro_batch_tokens: int
    logits_bytes: int
    num_learners: int
    is_compiled: bool
    is_engine_elsewhere: bool
    engine_bytes: int
    rows_at_once: int
    overlaps: bool
    num_workers: int
    prompts_per_step: int
    group_size: int
    minibatches: int
    num_steps: int
    num_eval_completions: int
    cold_start_rows: int
    cold_start_steps: int

    @property
    def is_lora(self) -> bool:
        """Whether only adapters are trained."""
        return self.num_trained < self.architecture.num_parameters

    @property
    def keeps_whole_weights(self) -> bool:
        """Whether several learners' parent holds the whole weights, for an engine in its own process."""
        return self.num_learners > 1 and not self.is_engine_elsewhere

    @property
    def gathers_bfloat16(self) -> bool:
        """Whether several learners gather the weights of products in bfloat16, and keep no casts of them."""
        return self.num_learners > 1 and self.is_bfloat16 and not self.is_compiled

    @property
    def rows_per_step(self) -> int:
        """Completions of a training step."""
        return self.prompts_per_step * self.group_size

    def tokens_of(self, *, prompts: int) -> int:
        """Tokens that the learner runs for this many whole groups at full length."""
        rows = prompts * self.group_size
        prompt_tokens = (prompts if self.shares_prompts else rows) * self.lengths.prompt_mean
        return prompt_tokens + rows * self.lengths.completion

    @property
    def micro_tokens(self) -> int:
        """Tokens of the largest micro-batch of one learner: the limit, or less if the minibatch is smaller."""
        return min(self._minibatch_tokens, max(self.micro_batch_tokens, self.lengths.row_max))

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of a minibatch, per learner."""
        return -(-self._minibatch_tokens // self.micro_tokens)

    @property
    def micro_rows(self) -> int:
        """Completions in that micro-batch."""
        per_group = self.tokens_of(prompts=1)
        return max(1, round(self.micro_tokens / per_group * self.group_size))

    @property
    def micro_targets(self) -> int:
        """Completion tokens in it, whose logits are needed."""
        return min(self.micro_tokens, self.micro_rows * self.lengths.completion)

    @property
    def _minibatch_tokens(self) -> int:
        """Tokens of a minibatch, per learner."""
        tokens = self.tokens_of(prompts=self.prompts_per_step // self.minibatches)
        return -(-tokens // self.num_learners)


def setup_of(
    recipe: Recipe,
    architecture: Architecture,
    *,
    device: str,
    num_adapters: int,
    lengths: Lengths,
    eval_sizes: Sequence[int] | None = None,
) -> Setup:
    """The numbers of a recipe.

    Args:
        device: the type of the learner's device, `cpu` or `cuda`.
        num_adapters: parameters of its adapters; 0 without.
        eval_sizes: prompts of each evaluation, if the data was opened; None: as many as the recipe asks for.
    """
    sizes = [recipe.run.eval_prompts for _ in recipe.data.eval]
    if eval_sizes is not None:
        sizes = list(eval_sizes)
    rollout, learner, algorithm = recipe.rollout, recipe.learner, recipe.algorithm
    has_kl = algorithm.kl_coef > 0.0
    is_lora = recipe.model.lora.rank > 0
    packed = learner.layout is Layout.PACKED
    return Setup(
        architecture=architecture,
        lengths=lengths,
        num_trained=num_adapters if is_lora else architecture.num_parameters,
        is_bfloat16=learner.dtype is LearnerDtype.BFLOAT16_AUTOCAST,
        has_8bit_states=learner.optimizer is OptimizerKind.ADAMW_8BIT,
        has_checkpointing=learner.gradient_checkpointing,
        is_packed=packed,
        shares_prompts=packed and learner.share_prompt_prefix,
        has_reference_copy=has_kl and (not is_lora or recipe.cold_start.steps > 0),
        has_reference_pass=has_kl,
        has_proximal_pass=learner.minibatches_per_step > 1,
        micro_batch_tokens=learner.micro_batch_tokens,
        logits_bytes=learner.logits_memory_on(device) << 20,
        num_learners=recipe.cluster.learners,
        is_compiled=learner.compile,
        is_engine_elsewhere=recipe.cluster.backend is Backend.RAY and rollout.engine.traits.has_weights,
        engine_bytes=_engine_bytes(rollout),
        rows_at_once=_rows_at_once(recipe, sizes),
        overlaps=rollout.max_staleness > 0 or learner.streaming,
        num_workers=recipe.reward.verifier_workers,
        prompts_per_step=rollout.prompts_per_step,
        group_size=rollout.group_size,
        minibatches=learner.minibatches_per_step,
        num_steps=recipe.run.steps,
        num_eval_completions=_num_eval_completions(recipe, sizes),
        cold_start_rows=recipe.cold_start.batch_size if recipe.cold_start.steps else 0,
        cold_start_steps=recipe.cold_start.steps,
    )


def _engine_bytes(rollout: RolloutConfig) -> int:
    traits = rollout.engine.traits
    if not traits.has_weights or traits.needs_own_process:
        return 0
    return _COPY_BYTES[rollout.engine_dtype]


def _rows_at_once(recipe: Recipe, eval_sizes: Sequence[int]) -> int:
    rollout = recipe.rollout
    in_flight = rollout.prompts_per_step * rollout.group_size * (1 + rollout.max_staleness)
    evaluated = max(eval_sizes, default=0)  # one set after the other
    return min(rollout.max_batch_rows, max(in_flight, evaluated))


def _num_eval_completions(recipe: Recipe, eval_sizes: Sequence[int]) -> int:
    """Greedy completions of all evaluations of the run."""
    run = recipe.run
    num_between = num_due(run.steps, every=run.eval_every_steps) - 1
    # each in full before the first step and after the last
    return sum(2 * size + num_between * min(size, run.eval_prompts_between or size) for size in eval_sizes)
