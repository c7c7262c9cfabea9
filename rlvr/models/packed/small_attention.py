"""Attention over many short sequences in bfloat16 on a CPU, with a backward pass of batched matrix products.

torch's fused kernel spends most of a backward pass over short sequences on overhead (18.7 ms against 3.4 ms for 48
sequences of 11 queries and 51 keys, 9 heads of 64, on 2 cores). The forward pass is that kernel, so log-probs are the
same; the backward pass here recomputes the probabilities from its log-normaliser:

    P = exp(scale Q K' + bias - lse)        dV = P' dO        dS = P (dO V' - rowsum(dO O))
    dQ = scale dS K                         dK = scale dS' Q  (Dao et al., arXiv:2205.14135, app. B.4)
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

# Above this many query-key pairs the fused kernel is faster: equal at 400 x 500, 1.6 times at 1,500 x 1,500.
MAX_PAIRS = 1 << 17
# Elements in a block of scores: 2 MB, so that the passes over it stay in the cache.
_BLOCK = 1 << 19


def is_small(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether `attend_small` is faster: 16 bits, on a CPU, short sequences."""
    return (
        query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and query.shape[2] * key.shape[2] <= MAX_PAIRS
        and query.shape[-1] == value.shape[-1]
        and torch.is_grad_enabled()
    )


def attend_small(query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None, scale: float) -> Tensor:
    """Softmax attention, [rows, heads, places, dim]; keys and values may have fewer heads.

    Args:
        bias: added to the scores, [rows, 1, query places, key places]; None means causal.
    """
    return _SmallAttention.apply(query, key, value, bias, scale)  # type: ignore[no-any-return] # torch leaves it untyped


@lru_cache(maxsize=64)
def _causal_bias(width: int) -> Tensor:
    return torch.full((width, width), float("-inf")).triu(1)


class _SmallAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        output, normaliser = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, bias is None, attn_mask=bias, scale=scale
        )
        ctx.save_for_backward(query, key, value, output, normaliser, bias)
        ctx.scale = scale
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        query, key, value, output, normaliser, bias = ctx.saved_tensors
        scale: float = ctx.scale
        rows, heads, width, dim = query.shape
        kv_heads, reach = key.shape[1], key.shape[2]
        if bias is None:
            bias = _causal_bias(width).expand(rows, 1, width, reach)
        inner = (gradient.float() * output.float()).sum(-1)
        d_query, d_key, d_value = (torch.empty_like(tensor) for tensor in (query, key, value))
        step = max(1, _BLOCK // (heads * width * reach))
        for start in range(0, rows, step):
            part = slice(start, min(start + step, rows))
            count = part.stop - start

            # The query heads of one key head are stacked, so that one product serves them all.
            def fold(tensor: Tensor, part: slice = part, count: int = count) -> Tensor:
                return tensor[part].reshape(count * kv_heads, -1, dim)

            q, k, v, g = fold(query), fold(key), fold(value), fold(gradient)
            grid = (count, heads, width, reach)
            scores = torch.bmm(q, k.transpose(1, 2)).view(grid).float().mul_(scale)
            p = scores.add_(bias[part]).sub_(normaliser[part].unsqueeze(-1)).exp_()
            flat = (count * kv_heads, -1, reach)
            d_value[part] = torch.bmm(p.to(q.dtype).view(flat).transpose(1, 2), g).view(count, kv_heads, reach, dim)
            d_scores = torch.bmm(g, v.transpose(1, 2)).view(grid).float()
            d_scores.sub_(inner[part].unsqueeze(-1)).mul_(p).mul_(scale)
            s = d_scores.to(q.dtype).view(flat)
            d_query[part] = torch.bmm(s, k).view(count, heads, width, dim)
            d_key[part] = torch.bmm(s.transpose(1, 2), q).view(count, kv_heads, reach, dim)
        return d_query, d_key, d_value, None, None
