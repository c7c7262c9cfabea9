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

_LOGITS_MB_ON_CPU = 512
# 1 GiB of logits in bfloat16. Each chunk adds a gradient of the head's size to a float32 sum, which is 10 bytes of
# traffic per weight: with a vocabulary of 152,000 on an H100 an eighth of the head's time in chunks of 512 MiB, and
# 3 % in chunks of 2,048 (arithmetic with 3.35 TB/s, and matrix products at 600 TFLOP/s; not measured).
_LOGITS_MB_ON_GPU = 2048


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
    logits_memory_mb: the largest block of logits held at once (MiB, counted in float32; bfloat16 takes half); beyond
        it the LM head works in chunks. 0: 512 on a CPU, 2048 on a GPU.
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
    logits_memory_mb: Changeable[NonNegativeInt] = 0
    layout: Changeable[Layout] = Layout.PACKED
    share_prompt_prefix: Changeable[bool] = True
    gradient_checkpointing: Changeable[bool] = False
    compile: Changeable[bool] = False
    kernels: Changeable[Kernels] = Kernels.TORCH
    max_nonfinite_steps: NonNegativeInt = 3
    num_threads: Changeable[NonNegativeInt] = 0

    def logits_memory_on(self, kind: str) -> int:
        """`logits_memory_mb` on a type of device (`cpu` or `cuda`), in MiB, with 0 resolved.

        >>> LearnerConfig().logits_memory_on("cpu"), LearnerConfig().logits_memory_on("cuda")
        (512, 2048)
        >>> LearnerConfig(logits_memory_mb=64).logits_memory_on("cuda")
        64
        """
        if self.logits_memory_mb:
            return self.logits_memory_mb
        return _LOGITS_MB_ON_GPU if kind == "cuda" else _LOGITS_MB_ON_CPU
