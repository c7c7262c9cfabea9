"""Differentiable attention over a stream in padded blocks, for devices and dtypes without a ragged kernel."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rlvr.models.packed.layout import Gather, PackedLayout

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def attend_in_blocks(
    query: Float[Tensor, "tokens heads dim"],
    key: Float[Tensor, "tokens kv_heads dim"],
    value: Float[Tensor, "tokens kv_heads value_dim"],
    *,
    layout: PackedLayout,
    attend: Attend,
) -> Float[Tensor, "tokens heads value_dim"]:
    """Attention over a stream; attend(query, key, value, bias) sees [rows, heads, places, dim], bias None is causal."""
    parts = ToBlocks.apply(query, key, value, layout)
    outputs = [
        attend(parts[3 * i], parts[3 * i + 1], parts[3 * i + 2], layout.bias(block, query.dtype))
        for i, block in enumerate(layout.blocks)
    ]
    return FromBlocks.apply(layout, *outputs)  # type: ignore[no-any-return] # torch leaves apply untyped


class ToBlocks(torch.autograd.Function):
    """Stream tensors [tokens, heads, dim] -> query, key, value [rows, heads, slots, dim] of each block, flattened.

    The backward pass sums the rows' gradients of their common prefix.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout) -> tuple[Tensor, ...]:
        ctx.layout = layout
        found: list[Tensor] = []
        for block in layout.blocks:
            for stream, keys in ((query, False), (key, True), (value, True)):
                gather = layout.gather(block, stream.shape[1], keys=keys)
                rows = stream.reshape(-1, stream.shape[2])
                found.append(rows.index_select(0, gather.take).view(*gather.shape, -1))
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        layout: PackedLayout = ctx.layout
        streams: list[Tensor] = []
        for k in range(3):
            parts = gradients[k::3]
            heads, dim = parts[0].shape[1], parts[0].shape[3]
            stream = parts[0].new_empty((layout.num_tokens * heads, dim))
            gathers = [layout.gather(block, heads, keys=k > 0) for block in layout.blocks]
            for block, gather, part in zip(layout.blocks, gathers, parts, strict=True):
                own = stream[block.start * heads : block.stop * heads]
                torch.index_select(part.reshape(-1, dim), 0, gather.own, out=own)
            stream = stream.view(-1, heads, dim)
            if k > 0:
                for block, gather, part in zip(layout.blocks, gathers, parts, strict=True):
                    if block.num_prefixes:
                        _add_to_prefixes(stream, part[:, :, : block.prefix_width], gather)
            streams.append(stream)
        return (*streams, None)


class FromBlocks(torch.autograd.Function):
    """Outputs [rows, heads, width, dim] of the blocks -> the stream [tokens, heads, dim]."""

    @staticmethod
    def forward(ctx: Any, layout: PackedLayout, *outputs: Tensor) -> Tensor:
        ctx.layout = layout
        heads, dim = outputs[0].shape[1], outputs[0].shape[3]
        stream = outputs[0].new_empty((layout.num_tokens * heads, dim))
        for block, output in zip(layout.blocks, outputs, strict=True):
            own = stream[block.start * heads : block.stop * heads]
            gather = layout.gather(block, heads, keys=False)
            torch.index_select(output.reshape(-1, dim), 0, gather.own, out=own)
        return stream.view(-1, heads, dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        layout: PackedLayout = ctx.layout
        heads, dim = gradients[0].shape[1:]
        rows = gradients[0].reshape(-1, dim)
        found: list[Tensor] = []
        for block in layout.blocks:
            gather = layout.gather(block, heads, keys=False)
            slots = rows.new_zeros((len(gather.take), dim))
            slots.index_copy_(0, gather.own, rows[block.start * heads : block.stop * heads])
            found.append(slots.view(*gather.shape, dim))
        return (None, *found)


def _add_to_prefixes(
    stream: Float[Tensor, "tokens heads dim"], gradient: Float[Tensor, "rows heads prefix_width dim"], gather: Gather
) -> None:
    """Adds the gradient of prefix slots, summed over the rows that share them, to their tokens.

    The sum is a matrix product, so it accumulates in float32 or wider whatever the gradient's dtype.
    """
    dim = stream.shape[2]
    total = gather.share.to(gradient.dtype) @ gradient.reshape(len(gradient), -1)
    tokens = total.view(-1, dim).index_select(0, gather.prefix).view(-1, *stream.shape[1:])
    stream.index_add_(0, gather.prefix_tokens, tokens)
