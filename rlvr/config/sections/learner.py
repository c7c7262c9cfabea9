"""The learner section: precision, optimiser, batches, memory."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from rlvr.config.sections.section import (
    Changeable,
    Fraction,
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveInt,
    Section,
)


class LearnerDtype(StrEnum):
    """Arithmetic of the forward and backward pass; master weights and optimiser state are float32."""

    AUTO = "auto"  # bfloat16 where a short measurement at the start finds it faster, else float32
    FLOAT32 = "float32"
    BFLOAT16_AUTOCAST = "bfloat16_autocast"


class Layout(StrEnum):
    """How rows are laid out for the model. It affects speed and memory, never the gradient."""

    PACKED = "packed"  # no padding; falls back to padded where the architecture does not allow it
    PADDED = "padded"


class OptimizerKind(StrEnum):
    """The optimiser."""

    ADAMW = "adamw"
    ADAMW_8BIT = "adamw_8bit"  # states in 8 bits; needs bitsandbytes, and one learner


class Kernels(StrEnum):
    """Implementation of norms, rotary embeddings and gated linear units."""

    TORCH = "torch"
    LIGER = "liger"  # needs liger-kernel and a GPU


class LearnerConfig(Section):
    """The optimiser step. micro_batch_tokens and logits_memory_mb bound memory and never change the gradient.

    streaming: accumulate the gradient of each group as it arrives, while others are generated.
    logits_memory_mb: the largest block of logits held at once (float32); beyond it the LM head works in chunks.
    share_prompt_prefix: compute the common prefix of a group's rows once; padded rows share nothing.
    """

    device: Changeable[str] = "auto"
    dtype: LearnerDtype = LearnerDtype.AUTO
    optimizer: OptimizerKind = OptimizerKind.ADAMW
    lr: Positive = 1e-6
    lr_warmup_steps: NonNegativeInt = 0
    weight_decay: NonNegative = 0.0
    adam_betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    minibatches_per_step: PositiveInt = 1
    streaming: bool = False
    micro_batch_tokens: Changeable[PositiveInt] = 8192
    logits_memory_mb: Changeable[PositiveInt] = 512
    layout: Changeable[Layout] = Layout.PACKED
    share_prompt_prefix: Changeable[bool] = True
    gradient_checkpointing: Changeable[bool] = False
    compile: Changeable[bool] = False
    kernels: Changeable[Kernels] = Kernels.TORCH
    max_nonfinite_steps: NonNegativeInt = 3
    num_threads: Changeable[NonNegativeInt] = 0
