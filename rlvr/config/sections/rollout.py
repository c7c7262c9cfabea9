"""The rollout and the reward section: how completions are generated, and what they earn."""

import math
from enum import StrEnum
from typing import Annotated

from pydantic import Field, JsonValue

from rlvr.config.sections.engines import EngineConfig, EngineKind
from rlvr.config.sections.section import (
    Changeable,
    Fraction,
    NonNegative,
    NonNegativeInt,
    PositiveInt,
    Seconds,
    Section,
)


class EngineDtype(StrEnum):
    """The engine's weights: the learner's own tensors, or a copy refreshed at each publish."""

    AUTO = "auto"  # follows learner.dtype: bfloat16 with bfloat16, else float32 (shared where that is possible)
    SHARED = "shared"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


class RolloutConfig(Section):
    """How completions are generated. `max_batch_rows` bounds the rows decoded at once (memory, not mathematics).

    engine_dtype: dtype of the engine's weights; only the transformers engine in the learner's process can share them,
        and for vLLM `shared` means bfloat16.
    engine_args: passed to vLLM by name (`gpu_memory_utilization`, `tensor_parallel_size`, `enforce_eager`, ...). On a
        GPU async_scheduling defaults to true and max_num_batched_tokens to 8192.
    max_staleness: how many versions older than the learner a completion may be (0 = strictly on-policy).
    completion_deadline_s: a completion that takes longer is cut off and removed from its group.
    stop_strings: text that ends a completion and stays in it. The text of a special token (`<|im_end|>`) ends it too,
        and is left out of the text like the model's own end tokens.
    stop_token_ids: tokens that end a completion, in addition to the model's end tokens.
    """

    engine: EngineConfig = EngineKind.TRANSFORMERS
    engine_dtype: EngineDtype = EngineDtype.AUTO
    prompts_per_step: PositiveInt = 8
    group_size: PositiveInt = 8
    max_staleness: NonNegativeInt = 0
    max_completion_tokens: PositiveInt = 256
    temperature: Annotated[float, Field(ge=0.01, le=100.0)] = 1.0
    stop_strings: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list[str])
    stop_token_ids: list[NonNegativeInt] = Field(default_factory=list[int])
    max_batch_rows: Changeable[PositiveInt] = 256
    completion_deadline_s: Seconds = 3600.0
    engine_args: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])

    @property
    def shares_tensors(self) -> bool:
        """Whether the engine reads the learner's own tensors, so that no weights are copied or sent."""
        return self.engine_dtype is EngineDtype.SHARED and self.engine.traits.can_share_tensors

    @property
    def has_copy(self) -> bool:
        """Whether the engine holds weights of its own, which a sync must reach."""
        return self.engine.traits.has_weights and not self.shares_tensors

    @property
    def gpus_per_engine(self) -> int:
        """The devices over which a vLLM engine is spread: tensor_parallel_size x pipeline_parallel_size."""
        degrees = (self.engine_args.get(f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline"))
        return math.prod(degree for degree in degrees if isinstance(degree, int))


class Truncated(StrEnum):
    """Reward of a completion that hit the length limit, and whether it enters the loss."""

    ZERO = "zero"  # earns nothing
    JUDGE = "judge"  # earns what its verifier says
    MASK = "mask"  # earns what its verifier says, counts in the baseline, and leaves the loss


class RewardConfig(Section):
    """From verdicts to a reward. max_error_rate: the run stops when verifier errors stay above it for 3 steps.

    It stops too when a verifier hangs, exits or runs out of memory on more than 90 % of the completions (or than
    max_error_rate, if that is higher) for 3 steps.

    overlong_buffer_tokens: number of tokens before the limit that cost reward, linearly up to overlong_penalty
        (0 = off).
    """

    unparsed_score: Fraction = 0.0
    truncated: Truncated = Truncated.ZERO
    overlong_buffer_tokens: NonNegativeInt = 0
    overlong_penalty: NonNegative = 1.0
    verifier_workers: Changeable[PositiveInt] = 2
    verifier_deadline_s: Changeable[Seconds] = 5.0
    max_error_rate: Changeable[Fraction] = 0.2
