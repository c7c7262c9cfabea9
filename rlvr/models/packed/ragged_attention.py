"""Attention over a stream by one kernel that takes ragged sequences (torch's flash attention, on a GPU)."""

import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlvr.models.packed.block_attention import attend_in_blocks
from rlvr.models.packed.layout import PackedLayout, VarlenIndex

logger = logging.getLogger(__name__)

Kernel = Callable[..., Any]
KERNEL_DEVICES = frozenset({"cuda"})  # types of device that flash attention runs on
_kernels: dict[torch.device, Kernel | None] = {}  # the result for each probed device


def attend_ragged(
    query: Tensor, key: Tensor, value: Tensor, *, layout: PackedLayout, scale: float, kernel: Kernel
) -> Tensor:
    """One kernel call over all sequences of a stream, whose common prefixes are copied into the keys of each.

    Args:
        query, key, value: [tokens, heads, dim].
        kernel: kernel(query, key, value, ends_q, ends_k, max_q, max_k, scale=), causal, aligned at the last token.
    """
    index = layout.varlen
    if index.keys is not None:
        key, value = GatherKeys.apply(key, index), GatherKeys.apply(value, index)
    ends = (index.ends_q, index.ends_k, index.max_q, index.max_k)
    return kernel(query.contiguous(), key.contiguous(), value.contiguous(), *ends, scale=scale)


def fits_kernel(query: Tensor, value: Tensor) -> bool:
    """Whether flash attention supports these tensors: on a GPU, 16 bits, equal dimensions up to 256."""
    return (
        query.device.type in KERNEL_DEVICES
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] == value.shape[-1] <= 256
    )


def probe_kernel(device: torch.device) -> Kernel | None:
    """The ragged kernel of a device, or None if there is none; probed at the first call for each device.

    Call it before a model runs over a stream on that device, never inside the model's forward pass: the probe takes a
    gradient, and a checkpointed layer would count the tensors that it saves as its own.

    Raises: torch.OutOfMemoryError; the next call probes again.
    """
    if device not in _kernels:
        _kernels[device] = _probe(device) if device.type in KERNEL_DEVICES else None
    return _kernels[device]


def known_kernel(device: torch.device) -> Kernel | None:
    """The result of `probe_kernel` for the device: only a look-up, so that layers may call it.

    Raises: RuntimeError when `probe_kernel` was not called for the device.
    """
    try:
        return _kernels[device]
    except KeyError:
        raise RuntimeError(
            f"attention over a stream on {device}: the ragged kernel was not probed; call probe_kernel before the model"
        ) from None


def _probe(device: torch.device) -> Kernel | None:
    """torch's attention over ragged sequences, or None if it is missing or gives wrong results.

    Its signature changes between versions of torch, and its causal mask must be aligned at the last token. So it is
    tested on an example, with gradient, against plain attention. The answer is kept for the life of the process, so it
    must not depend on the caller's modes (no_grad, inference mode, autocast) or on the free memory.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError as error:
        logger.warning("torch has no varlen attention (%s); packed attention runs in padded blocks", error)
        return None
    takes = inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in takes else {"is_causal": True}

    def kernel(query: Tensor, key: Tensor, value: Tensor, *ends: Any, scale: float) -> Any:
        grouped = query.shape[1] != key.shape[1]
        if grouped and "enable_gqa" in takes:
            return varlen_attn(query, key, value, *ends, scale=scale, enable_gqa=True, **causal)
        return varlen_attn(query, key, value, *ends, scale=scale, **causal)

    try:
        difference = _difference_on_an_example(kernel, device)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, RuntimeError, ValueError, NotImplementedError) as error:
        reason = f"it failed on an example: {error}"
    else:
        if difference < 0.05:
            return kernel
        reason = f"it differs by {difference:.2g} from plain attention on an example"
    logger.warning("torch's varlen attention is not used (%s); packed attention runs in padded blocks", reason)
    return None


class GatherKeys(torch.autograd.Function):
    """Stream [tokens, heads, dim] -> [key slots, heads, dim] of a `VarlenIndex`; gradients add up in float32."""

    @staticmethod
    def forward(ctx: Any, stream: Tensor, index: VarlenIndex) -> Tensor:
        ctx.index = index
        assert index.keys is not None
        return stream.index_select(0, index.keys)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        index: VarlenIndex = ctx.index
        own = _wide(gradient.index_select(0, index.own_slots))
        own.index_add_(0, index.prefix_tokens, _wide(gradient.index_select(0, index.prefix_slots)))
        return own.to(gradient.dtype), None


def _difference_on_an_example(kernel: Kernel, device: torch.device) -> float:
    """The largest relative difference of outputs and gradients: prompts of 3 and 2 tokens, one continued twice."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        layout = PackedLayout((2, 3, 1, 4), (-1, -1, 1, 1), device=device)
        generator = torch.Generator().manual_seed(0)
        found: list[list[Tensor]] = []
        numbers = [torch.randn(10, heads, 64, generator=generator) for heads in (4, 2, 2, 4)]
        for ragged in (True, False):
            query, key, value = (t.to(device, torch.bfloat16).detach().requires_grad_() for t in numbers[:3])
            if ragged:
                out = attend_ragged(query, key, value, layout=layout, scale=0.125, kernel=kernel)
            else:
                out = attend_in_blocks(query, key, value, layout=layout, attend=_plain)
            gradients = torch.autograd.grad(out, (query, key, value), numbers[3].to(out))
            found.append([t.detach().float() for t in (out, *gradients)])
        return max(float((a - b).norm() / b.norm()) for a, b in zip(*found, strict=True))


def _plain(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Softmax attention in float32, scale 0.125."""
    query, key, value = query.float(), key.float(), value.float()
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(-1, -2) * 0.125
    if bias is None:
        size = query.shape[2]
        bias = torch.full((size, size), float("-inf"), device=query.device).triu(1)
    return (torch.softmax(scores + bias, -1) @ value).bfloat16()


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
