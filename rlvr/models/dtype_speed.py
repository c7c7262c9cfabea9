"""Whether bfloat16 or float32 is faster for a model on a device, for `learner.dtype: auto`.

On a GPU it is bfloat16 if the device supports it. On a CPU it is measured: without AVX-512-BF16 or AMX instructions
torch multiplies bfloat16 in a reference loop, several times slower than float32.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import linear
from transformers import PreTrainedModel

from rlvr.config.sections.learner import LearnerDtype

NUM_TOKENS = 128  # rows of the products that are timed
_MAX_WIDTH = 1536  # wider layers are timed at this width: the ratio no longer changes, and the budget is short
_NUM_SHAPES = 2
_BUDGET_S = 0.2  # per shape, with at least one run of each dtype
_MAX_REPEATS = 5
# bfloat16 must be faster by this factor: at equal speed float32 is more exact, and noise must not decide.
_MARGIN = 0.9

Shape = tuple[int, int]  # outputs, inputs of a linear layer


@dataclass(frozen=True, slots=True, kw_only=True)
class DtypeSpeeds:
    """The speeds measured on a device.

    shapes: (outputs, inputs) of the linear layers that were timed, forward and both gradients, over NUM_TOKENS tokens;
    empty if nothing was timed. float32_flops, bfloat16_flops: FLOP/s, 0 if nothing was timed.
    """

    device: str
    has_bfloat16: bool
    shapes: tuple[Shape, ...] = ()
    float32_flops: float = 0.0
    bfloat16_flops: float = 0.0

    @property
    def choice(self) -> LearnerDtype:
        """The faster dtype."""
        is_faster = not self.shapes or self.float32_flops < _MARGIN * self.bfloat16_flops
        return LearnerDtype.BFLOAT16_AUTOCAST if self.has_bfloat16 and is_faster else LearnerDtype.FLOAT32

    @property
    def reason(self) -> str:
        """The figures as one phrase."""
        if not self.shapes:
            return f"{self.device} {'has' if self.has_bfloat16 else 'lacks'} bfloat16 arithmetic"
        layers = " and ".join(f"{inputs}x{outputs}" for outputs, inputs in self.shapes)
        return (
            f"float32 {self.float32_flops / 1e9:.0f}, bfloat16 {self.bfloat16_flops / 1e9:.0f} GFLOP/s in layers of "
            f"{layers} on {self.device}"
        )


def measure_dtypes(model: PreTrainedModel, device: torch.device | None = None) -> DtypeSpeeds:
    """The speeds of a model's largest linear layers; takes a fraction of a second and changes no random state.

    Uses torch's present number of threads.

    Args: device: where they are timed; None for the model's own. A model on the meta device needs one.
    """
    return measure_shapes(linear_shapes(model), device or next(model.parameters()).device)


def measure_shapes(shapes: Sequence[Shape], device: torch.device) -> DtypeSpeeds:
    """The speeds of linear layers of these shapes."""
    if device.type == "cuda":
        return DtypeSpeeds(
            device=torch.cuda.get_device_name(device),
            has_bfloat16=torch.cuda.is_bf16_supported(including_emulation=False),
        )
    flops = seconds_32 = seconds_16 = 0.0
    for outputs, inputs in shapes:
        first, second = _seconds(outputs, inputs, device)
        flops += 6.0 * NUM_TOKENS * outputs * inputs
        seconds_32, seconds_16 = seconds_32 + first, seconds_16 + second
    return DtypeSpeeds(
        device=f"{torch.get_num_threads()} CPU threads",
        has_bfloat16=True,
        shapes=tuple(shapes),
        float32_flops=flops / seconds_32,
        bfloat16_flops=flops / seconds_16,
    )


def linear_shapes(model: PreTrainedModel) -> list[Shape]:
    """(outputs, inputs) of the layers that hold most of a model's weights, without the head, at most 1536 wide."""
    head = model.get_output_embeddings()
    held: Counter[Shape] = Counter()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            outputs, inputs = module.weight.shape
            held[min(outputs, _MAX_WIDTH), min(inputs, _MAX_WIDTH)] += outputs * inputs
    if not held:  # weights in other modules: experts in one tensor, convolutions
        width = min(_MAX_WIDTH, int(getattr(model.config.get_text_config(), "hidden_size", 512)))
        return [(width, width)]
    return [shape for shape, _ in held.most_common(_NUM_SHAPES)]


def _seconds(outputs: int, inputs: int, device: torch.device) -> tuple[float, float]:
    """Seconds of a linear layer forward and backward in float32 and in bfloat16 autocast, the casts included.

    Runs alternate, and the fastest counts: other programs on the machine can only slow runs down.
    """
    weight = torch.full((outputs, inputs), 0.5, device=device, requires_grad=True)
    tokens = torch.full((NUM_TOKENS, inputs), 0.5, device=device, requires_grad=True)
    gradient = torch.ones((NUM_TOKENS, outputs), device=device)

    def run(is_bfloat16: bool) -> float:
        start = time.perf_counter()
        with torch.enable_grad(), torch.autocast(device.type, torch.bfloat16, enabled=is_bfloat16):
            result = linear(tokens, weight)
        torch.autograd.grad(result, (tokens, weight), gradient.to(result.dtype))
        return time.perf_counter() - start

    for is_bfloat16 in (False, True):
        run(is_bfloat16)  # the first runs choose kernels
    best = [float("inf"), float("inf")]
    deadline = time.perf_counter() + _BUDGET_S
    for _ in range(_MAX_REPEATS):
        for is_bfloat16 in (False, True):
            best[is_bfloat16] = min(best[is_bfloat16], run(is_bfloat16))
        if time.perf_counter() > deadline:
            break
    return best[0], best[1]
