"""Contradictions between keys of a recipe; each message begins with the key to change."""

import math
from collections.abc import Iterable, Iterator

from rlvr.config.sections.algorithm import (
    AlgorithmConfig,
    Baseline,
    BatchNormAdvantage,
    KlEstimator,
    KlPlacement,
    PassAtKAdvantage,
    PolicyGradientLoss,
    RatioBase,
)
from rlvr.config.sections.cluster import Backend, ClusterConfig, Placement, WeightTransport
from rlvr.config.sections.data import GENERATOR, DataConfig, source_name
from rlvr.config.sections.engines import EngineTraits
from rlvr.config.sections.learner import Kernels, LearnerConfig, OptimizerKind
from rlvr.config.sections.model import LoraConfig
from rlvr.config.sections.rollout import EngineDtype, RewardConfig, RolloutConfig

MOST_RANK_ALONE = 512  # of adapters that vLLM takes
MOST_COMPLETIONS = 2**22  # of one step; a hundred times the largest published

# Arguments of vLLM that `rollout.engine_args` may not hold, because rlvr sets them, each with the reason.
_WEIGHTS = "the learner's weights arrive through rlvr's own transfer"
REFUSED_ENGINE_ARGUMENTS = {
    "model": "the recipe names it in model.path or model.tiny",
    "tokenizer": "it is the policy's own",
    "tokenizer_mode": "it is the policy's own",
    "skip_tokenizer_init": "stop strings need the tokenizer",
    "load_format": _WEIGHTS,
    "weight_transfer_config": _WEIGHTS,
    "worker_extension_cls": _WEIGHTS,
    "worker_cls": _WEIGHTS,
    "scheduler_cls": "scored rows need a step of their own, which rlvr's scheduler provides",
    "logprobs_mode": "log-probs must be those of the distribution that was sampled from",
    "generation_config": "sampling follows the recipe, not the model's folder",
    "override_generation_config": "sampling follows the recipe",
    "dtype": "set rollout.engine_dtype",
    "seed": "set the recipe's seed",
    "data_parallel_size": "set cluster.engines",
    "speculative_config": "a draft model would not follow the policy",
    "enable_lora": "set model.lora.sends_alone",
    "max_lora_rank": "set model.lora.rank",
    "lora_target_modules": "set model.lora.target_modules",
    "lora_dtype": "set rollout.engine_dtype",
    "enable_sleep_mode": "set cluster.placement=colocated",
    "trust_remote_code": "set model.trust_remote_code",
    "runner": "the engine always generates",
}


def contradictions(
    *,
    lora: LoraConfig,
    data: DataConfig,
    rollout: RolloutConfig,
    reward: RewardConfig,
    algorithm: AlgorithmConfig,
    learner: LearnerConfig,
    cluster: ClusterConfig,
    traits: EngineTraits,
) -> list[str]:
    """One message for each contradiction; none for a valid recipe.

    Args: traits: of the engine; the defaults for a plugin, which is not imported to load a recipe.
    """
    return [
        *_of_sizes(rollout=rollout, reward=reward, algorithm=algorithm, learner=learner),
        *_of_streaming(algorithm=algorithm, learner=learner),
        *_of_data(data),
        *_of_signal(rollout=rollout, algorithm=algorithm),
        *_of_kl(algorithm),
        *_of_staleness(rollout=rollout, algorithm=algorithm, traits=traits),
        *_of_machines(learner=learner, num_learners=cluster.learners),
        *_of_cluster(rollout=rollout, learner=learner, cluster=cluster, traits=traits),
        *_of_transport(lora, rollout=rollout, cluster=cluster, traits=traits),
        *_of_adapters(lora, rollout=rollout, placement=cluster.placement, traits=traits),
    ]


def _of_sizes(
    *, rollout: RolloutConfig, reward: RewardConfig, algorithm: AlgorithmConfig, learner: LearnerConfig
) -> Iterator[str]:
    advantage = algorithm.advantage
    if rollout.group_size < advantage.min_judged:
        is_of_k = isinstance(advantage, PassAtKAdvantage)
        of_k = f" with algorithm.advantage.k={advantage.k}" if is_of_k else ""
        yield (
            f"rollout.group_size={rollout.group_size}: the {advantage.kind} advantage{of_k} compares the rollouts of "
            f"a group and needs at least {advantage.min_judged}; 8 is usual"
        )
    completions = rollout.prompts_per_step * rollout.group_size
    if completions > MOST_COMPLETIONS:
        yield (
            f"rollout.prompts_per_step={rollout.prompts_per_step} with rollout.group_size={rollout.group_size} are "
            f"{completions:,} completions per step; the limit is {MOST_COMPLETIONS:,}"
        )
    if rollout.prompts_per_step % learner.minibatches_per_step:
        yield (
            f"learner.minibatches_per_step={learner.minibatches_per_step} does not divide "
            f"rollout.prompts_per_step={rollout.prompts_per_step}; groups are never split over minibatches"
        )
    if reward.overlong_buffer_tokens >= rollout.max_completion_tokens:
        yield (
            f"reward.overlong_buffer_tokens={reward.overlong_buffer_tokens} leaves no completion without penalty; it "
            f"must be below rollout.max_completion_tokens={rollout.max_completion_tokens}"
        )


def _of_streaming(*, algorithm: AlgorithmConfig, learner: LearnerConfig) -> Iterator[str]:
    if not learner.streaming:
        return
    takes = "learner.streaming=true takes each group as it arrives"
    if not algorithm.advantage.is_per_group:
        yield (
            f"{takes}, but the {algorithm.advantage.kind} advantage needs the whole batch; set learner.streaming=false"
        )
    if learner.minibatches_per_step > 1:
        yield (
            f"{takes}, but learner.minibatches_per_step={learner.minibatches_per_step} splits the whole batch; set "
            "learner.streaming=false"
        )


def _of_data(data: DataConfig) -> Iterator[str]:
    names = [source_name(source) for source in data.eval]
    if len(set(names)) != len(names):
        yield f"data.eval: two sources share a name: {names}; set data.eval.N.name"
    difficulty = data.difficulty
    if not all(source.source.startswith(GENERATOR) for source in data.train):
        return
    follows = "follows each prompt's solve rate, but every source of data.train is a generator, which repeats no prompt"
    if difficulty.retire_solve_rate > 0.0:
        yield (
            f"data.difficulty.retire_solve_rate={difficulty.retire_solve_rate} {follows}; set "
            "data.difficulty.retire_solve_rate=0"
        )
    if difficulty.prefer_signal:
        yield (f"data.difficulty.prefer_signal=true {follows}; set data.difficulty.prefer_signal=false")


def _of_signal(*, rollout: RolloutConfig, algorithm: AlgorithmConfig) -> Iterator[str]:
    dynamic, advantage = algorithm.dynamic_sampling, algorithm.advantage
    if not dynamic.enabled:
        return
    if math.floor(dynamic.max_refill_factor * rollout.prompts_per_step) == 0:
        yield (
            f"algorithm.dynamic_sampling.max_refill_factor={dynamic.max_refill_factor} of "
            f"rollout.prompts_per_step={rollout.prompts_per_step} rounds to 0 replacements; raise it, or set "
            "algorithm.dynamic_sampling.enabled=false (algorithm.zero_variance=drop drops without replacing)"
        )
    if isinstance(advantage, BatchNormAdvantage) and advantage.baseline is Baseline.NONE:
        yield (
            "algorithm.dynamic_sampling.enabled=true replaces groups of equal rewards, but with "
            "algorithm.advantage.baseline=none these have a signal too; set algorithm.dynamic_sampling.enabled=false"
        )


def _of_kl(algorithm: AlgorithmConfig) -> Iterator[str]:
    if algorithm.kl_coef == 0.0:
        return
    is_in_reward = algorithm.kl_placement is KlPlacement.REWARD
    if not is_in_reward and algorithm.kl_estimator is KlEstimator.K1:
        yield (
            "algorithm.kl_estimator=k1 has a gradient with mean 0 on-policy, so in the loss it has no effect; set "
            "algorithm.kl_estimator=k3 or k2, or algorithm.kl_placement=reward"
        )
    advantage = algorithm.advantage
    if is_in_reward and isinstance(advantage, PassAtKAdvantage) and advantage.threshold == 1.0:
        yield (
            "algorithm.kl_placement=reward lowers a full reward below algorithm.advantage.threshold=1.0, so "
            "nothing passes; set algorithm.kl_placement=loss, or a lower threshold"
        )


def _of_staleness(*, rollout: RolloutConfig, algorithm: AlgorithmConfig, traits: EngineTraits) -> Iterator[str]:
    stale = f"rollout.max_staleness={rollout.max_staleness}"
    if rollout.max_staleness == 0:
        return
    if _is_shared(rollout, traits):
        yield (
            f"{stale}: an engine that shares the learner's tensors would see them change while it generates; set "
            "rollout.engine_dtype=bfloat16 or float32 (a copy)"
        )
    if algorithm.correction.is_active:
        return
    if isinstance(algorithm.loss, PolicyGradientLoss):
        yield (
            f"{stale} needs an explicit correction, and the policy_gradient loss has no ratio: set "
            "algorithm.correction.weight=token (truncated importance sampling), or another algorithm.loss.kind"
        )
    elif algorithm.correction.ratio_base is not RatioBase.BEHAVIOR:
        yield (
            f"{stale} needs an explicit correction: set algorithm.correction.weight=token (truncated importance "
            "sampling), or algorithm.correction.ratio_base=behavior (the clipped ratio itself then holds the whole "
            "difference)"
        )


def _is_shared(rollout: RolloutConfig, traits: EngineTraits) -> bool:
    return traits.can_share_tensors and rollout.engine_dtype is EngineDtype.SHARED


def _of_machines(*, learner: LearnerConfig, num_learners: int) -> Iterator[str]:
    if num_learners > 1 and learner.optimizer is OptimizerKind.ADAMW_8BIT:
        yield (
            f"learner.optimizer=adamw_8bit works with cluster.learners=1, not {num_learners}: its blocks do not follow "
            "the shards; adamw shards its states over the learners"
        )
    if learner.device == "cpu" and learner.kernels is Kernels.LIGER:
        yield "learner.kernels=liger needs a GPU, and learner.device=cpu; set learner.kernels=torch"


def _of_adapters(
    lora: LoraConfig, *, rollout: RolloutConfig, placement: Placement, traits: EngineTraits
) -> Iterator[str]:
    if not lora.sends_alone:
        return
    if lora.rank == 0:
        yield "model.lora.sends_alone=true needs adapters; set model.lora.rank"
    if not traits.takes_adapters:
        yield (
            f"model.lora.sends_alone=true: rollout.engine={rollout.engine} takes whole weights; set it to false, or "
            "rollout.engine=vllm"
        )
    if placement is Placement.COLOCATED:
        yield (
            "model.lora.sends_alone=true: with cluster.placement=colocated engines drop the base at every step, so "
            "all weights would be sent each time; set it to false"
        )
    if lora.rank > MOST_RANK_ALONE:
        yield (
            f"model.lora.sends_alone=true: vLLM takes adapters to rank {MOST_RANK_ALONE}, not {lora.rank}; set it to "
            "false"
        )


def _of_cluster(
    *, rollout: RolloutConfig, learner: LearnerConfig, cluster: ClusterConfig, traits: EngineTraits
) -> Iterator[str]:
    if cluster.backend is Backend.LOCAL:
        if traits.needs_own_process:
            yield (
                f"rollout.engine={rollout.engine} runs in processes of its own: set cluster.backend=ray (one machine "
                "is enough)"
            )
        if cluster.engines > 1:
            yield f"cluster.engines={cluster.engines} needs cluster.backend=ray; the local backend has one engine"
    elif _is_shared(rollout, traits):
        yield (
            "cluster.backend=ray: an engine in another process cannot share the learner's tensors; set "
            "rollout.engine_dtype=float32 or bfloat16 (a copy)"
        )
    if rollout.engine_args and not traits.takes_vllm_arguments:
        yield f"rollout.engine_args are vLLM's, and rollout.engine={rollout.engine}; remove them"
    else:
        yield from refused_engine_arguments(rollout.engine_args)
    if cluster.placement is Placement.COLOCATED and rollout.max_staleness > 0:
        yield (
            f"cluster.placement=colocated alternates, so rollout.max_staleness={rollout.max_staleness} gains nothing; "
            "set it to 0, or cluster.placement=disaggregated"
        )
    if 0 < cluster.learners_per_node < cluster.learners:
        apart = f"cluster.learners_per_node={cluster.learners_per_node} with cluster.learners={cluster.learners}"
        if cluster.backend is Backend.LOCAL:
            yield f"{apart} needs cluster.backend=ray: the local backend has one node"
        elif cluster.placement is Placement.COLOCATED:
            yield f"{apart}: colocated learners and engines share the devices of one node; set it to 0"
    if cluster.placement is Placement.COLOCATED and learner.streaming:
        yield "cluster.placement=colocated alternates: learner.streaming=true cannot overlap; set it to false"


def _of_transport(
    lora: LoraConfig, *, rollout: RolloutConfig, cluster: ClusterConfig, traits: EngineTraits
) -> Iterator[str]:
    transport = cluster.weight_transport
    if transport in (WeightTransport.AUTO, WeightTransport.FILE):
        return
    asked = f"cluster.weight_transport={transport}"
    if not traits.takes_broadcasts:
        yield f"{asked} is for rollout.engine=vllm, and rollout.engine={rollout.engine} loads files; set it to auto"
    if lora.sends_alone:
        yield f"{asked} sends whole weights, and model.lora.sends_alone=true sends adapters as files; set it to auto"
    is_colocated = cluster.placement is Placement.COLOCATED
    if transport is WeightTransport.NCCL and is_colocated:
        yield f"{asked} needs separate GPUs for learner and engines, and cluster.placement=colocated; set it to auto"
    if transport is WeightTransport.IPC and not is_colocated:
        yield f"{asked} needs cluster.placement=colocated: learner and engine must share a GPU; set it to auto"


def refused_engine_arguments(given: Iterable[str]) -> Iterator[str]:
    """One message for each argument that cannot be set.

    >>> list(refused_engine_arguments(["enforce_eager", "dtype"]))
    ['rollout.engine_args.dtype cannot be set: set rollout.engine_dtype']
    """
    for name in given:
        if name in REFUSED_ENGINE_ARGUMENTS:
            yield f"rollout.engine_args.{name} cannot be set: {REFUSED_ENGINE_ARGUMENTS[name]}"
