"""The positions of a stream's sequences: as padded blocks, and as ragged sequences.

A block holds sequences of similar length, so that only attention has padding, and little of it. Without prefixes it
is [rows, width], padded on the right, and a causal mask suffices. If sequences continue another one, keys are
[prefix, padded on the left; own, padded on the right].

    sequences   0: a b c    1: d e    2: x (after 0)   3: y z (after 0)
    block 0     d e .       keys: the same             block 1     x .     keys: a b c x .
                a b c                                              y z           a b c y z
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlvr.batch import on_device

# Fixed cost of a block on top of its area (query slots times key slots), in units of area. Measured on a CPU, forward
# and backward: up to 4,000 with heads of 9 x 64, 3,000 to 18,000 with 4 x 16.
BLOCK_COST = 4096
MAX_CUTS = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """Sequences whose own tokens are [start, stop) of the stream. Tensors are on the CPU.

    places: for each query slot, the token in the stream; pads repeat the last token.
    is_real: which query slots are not padding.
    key_places: for each key slot, likewise; the prefix first. Equal to `places` without prefixes.
    is_real_prefix: which of the prefix's key slots are not padding.
    prefix_of_row: which of the block's prefixes each row continues; empty without prefixes.
    """

    start: int
    stop: int
    places: Int[Tensor, "rows width"]
    is_real: Bool[Tensor, "rows width"]
    key_places: Int[Tensor, "rows keys"]
    is_real_prefix: Bool[Tensor, "prefixes prefix_width"]
    prefix_of_row: Int[Tensor, " rows_or_none"]

    @property
    def prefix_width(self) -> int:
        """Key slots before a row's own."""
        return self.is_real_prefix.shape[1]

    @property
    def num_prefixes(self) -> int:
        """How many sequences the rows continue."""
        return self.is_real_prefix.shape[0]

    def visible(self) -> Bool[Tensor, "rows 1 width keys"] | None:
        """Which keys each query sees; None if those are all up to itself."""
        if not self.num_prefixes:
            return None
        rows, width = self.places.shape
        before = self.is_real_prefix[self.prefix_of_row][:, None].expand(-1, width, -1)
        causal = torch.ones(width, width, dtype=torch.bool).tril().expand(rows, -1, -1)
        return torch.cat([before, causal], 2)[:, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gather:
    """How [tokens * heads, dim] becomes [rows, heads, slots, dim] of a block, and back, in one selection each.

    take: for each (row, head, slot), the (token, head). own: for each (token, head) of the block's own tokens, its
    (row, head, slot). prefix: for each (token, head) of the prefixes, its (prefix, head, slot), and prefix_tokens the
    tokens. share: 1 where a row continues a prefix, else 0.
    """

    shape: tuple[int, int, int]
    take: Int[Tensor, " slots"]
    own: Int[Tensor, " own_tokens"]
    prefix: Int[Tensor, " prefix_slots"]
    prefix_tokens: Int[Tensor, " prefix_tokens"]
    share: Float[Tensor, "prefixes rows"]


class PackedLayout:
    """The position of each sequence in a stream, and the index tensors for attention, built at the first layer."""

    def __init__(self, lengths: Sequence[int], prefixes: Sequence[int], *, device: torch.device) -> None:
        """Args: as in `rlvr.models.packed.packing.Stream`."""
        self.lengths = tuple(lengths)
        self.prefixes = tuple(prefixes)
        self.device = device
        self.num_calls = 0
        self._starts = (0, *accumulate(self.lengths))
        self._biases: dict[tuple[Block, torch.dtype], Tensor | None] = {}
        self._gathers: dict[tuple[Block, int, bool], Gather] = {}

    @property
    def num_tokens(self) -> int:
        """Tokens in the stream."""
        return self._starts[-1]

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """All sequences, in stream order."""
        num_roots = sum(prefix < 0 for prefix in self.prefixes)
        found: list[Block] = []
        for low, high in ((0, num_roots), (num_roots, len(self.lengths))):
            own = self.lengths[low:high]
            before = [self.lengths[p] if p >= 0 else 0 for p in self.prefixes[low:high]]
            for first, last in cut_into_blocks(own, before):
                found.append(self._block(range(low + first, low + last)))
        return tuple(found)

    def bias(self, block: Block, dtype: torch.dtype) -> Tensor | None:
        """0 where a query sees a key, else -inf: built once for all layers; None if a causal mask suffices."""
        key = (block, dtype)
        if key not in self._biases:
            visible = block.visible()
            self._biases[key] = (
                None
                if visible is None
                else self._moved(torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, float("-inf")))
            )
        return self._biases[key]

    def gather(self, block: Block, heads: int, *, keys: bool) -> Gather:
        """The selection for the queries or keys of a block: built once for all layers."""
        key = (block, heads, keys)
        if key not in self._gathers:
            self._gathers[key] = self._gather(block, heads, keys=keys)
        return self._gathers[key]

    @cached_property
    def varlen(self) -> "VarlenIndex":
        """Index tensors for kernels that take ragged sequences."""
        starts = torch.tensor(self._starts[:-1])
        lengths, prefixes = torch.tensor(self.lengths), torch.tensor(self.prefixes)
        has_prefix = prefixes >= 0
        before = torch.where(has_prefix, lengths[prefixes.clamp(min=0)], 0)
        ends = torch.cat([torch.zeros(1, dtype=torch.long), (before + lengths).cumsum(0)])
        own_slots = _ranges(ends[:-1] + before, lengths)
        prefix_slots = _ranges(ends[:-1][has_prefix], before[has_prefix])
        prefix_tokens = _ranges(starts[prefixes[has_prefix]], before[has_prefix])
        keys = torch.empty(int(ends[-1]), dtype=torch.long)
        keys[own_slots] = torch.arange(self.num_tokens)
        keys[prefix_slots] = prefix_tokens
        return VarlenIndex(
            ends_q=self._moved(torch.tensor(self._starts, dtype=torch.int32)),
            ends_k=self._moved(ends.to(torch.int32)),
            max_q=int(lengths.max()),
            max_k=int((before + lengths).max()),
            keys=self._moved(keys) if bool(has_prefix.any()) else None,
            own_slots=self._moved(own_slots),
            prefix_slots=self._moved(prefix_slots),
            prefix_tokens=self._moved(prefix_tokens),
        )

    def _moved(self, tensor: Tensor) -> Tensor:
        """The tensor on the device; no layer waits there for the micro-batches before."""
        return on_device(tensor, self.device)

    def _block(self, members: range) -> Block:
        starts, lengths = torch.tensor(self._starts[:-1]), torch.tensor(self.lengths)
        rows = torch.tensor(members)
        own = lengths[rows, None]
        offset = torch.arange(int(own.max()))
        places = starts[rows, None] + torch.minimum(offset, own - 1)
        key_places = places
        prefixes, prefix_of_row = torch.unique(torch.tensor(self.prefixes)[rows], return_inverse=True)
        is_real_prefix = torch.zeros(0, 0, dtype=torch.bool)
        if int(prefixes[-1]) < 0:
            prefix_of_row = prefix_of_row[:0]
        else:
            before = lengths[prefixes, None]
            source = torch.arange(int(before.max())) - (before.max() - before)
            is_real_prefix = source >= 0
            prefix_places = starts[prefixes, None] + source.clamp(min=0)
            key_places = torch.cat([prefix_places[prefix_of_row], places], 1)
        return Block(
            start=self._starts[members.start],
            stop=self._starts[members.stop],
            places=places,
            is_real=offset < own,
            key_places=key_places,
            is_real_prefix=is_real_prefix,
            prefix_of_row=prefix_of_row,
        )

    def _gather(self, block: Block, heads: int, *, keys: bool) -> Gather:
        head = torch.arange(heads)
        places = block.key_places if keys else block.places
        skipped = block.prefix_width if keys else 0  # key slots before a row's own
        row, slot = block.is_real.nonzero(as_tuple=True)
        prefix, prefix_slot = block.is_real_prefix.nonzero(as_tuple=True)
        prefix_rows = block.prefix_of_row == torch.arange(block.num_prefixes)[:, None]
        first_row = prefix_rows.int().argmax(1) if block.num_prefixes else prefix
        num_slots, prefix_width = places.shape[1], block.prefix_width
        return Gather(
            shape=(len(places), heads, num_slots),
            take=self._moved((places[:, None, :] * heads + head[:, None]).flatten()),
            own=self._moved(_slots_by_head(row, head, slot + skipped, num_slots)),
            prefix=self._moved(_slots_by_head(prefix, head, prefix_slot, prefix_width)),
            prefix_tokens=self._moved(block.key_places[first_row[prefix], prefix_slot]),
            share=self._moved(prefix_rows.float()),
        )


def _ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """start, start + 1, ... of each length, one after the other."""
    skipped = starts - (lengths.cumsum(0) - lengths)
    return torch.repeat_interleave(skipped, lengths) + torch.arange(int(lengths.sum()))


def _slots_by_head(row: Tensor, head: Tensor, slot: Tensor, num_slots: int) -> Tensor:
    """Places in a flattened [rows, heads, slots], in the order (token, head)."""
    return ((row[:, None] * len(head) + head) * num_slots + slot[:, None]).flatten()


@dataclass(frozen=True, slots=True, kw_only=True)
class VarlenIndex:
    """Ends of the sequences among queries and keys, and the source of the keys.

    keys: place in the stream of each key slot (prefix, then own); None if no sequence has a prefix.
    own_slots: for each token of the stream, the key slot that is its own. prefix_slots, prefix_tokens: the other key
        slots, and the tokens in them.
    """

    ends_q: Int[Tensor, " sequences_1"]
    ends_k: Int[Tensor, " sequences_1"]
    max_q: int
    max_k: int
    keys: Int[Tensor, " key_slots"] | None
    own_slots: Int[Tensor, " tokens"]
    prefix_slots: Int[Tensor, " prefix_slots"]
    prefix_tokens: Int[Tensor, " prefix_slots"]


def cut_into_blocks(own: Sequence[int], before: Sequence[int]) -> list[tuple[int, int]]:
    """[first, last) of each block, which minimise the sum of areas plus BLOCK_COST per block.

    Args:
        own, before: length of each sequence and of its prefix, in stream order.

    >>> cut_into_blocks([10, 10, 11], [0, 0, 0]), cut_into_blocks([10, 10, 200], [0, 0, 0])
    ([(0, 3)], [(0, 2), (2, 3)])
    """
    count = len(own)
    if not count:
        return []
    step = -(-count // MAX_CUTS)
    places = sorted({0, count, *range(step, count, step)} | {i for i in range(1, count) if own[i] > 2 * own[i - 1]})
    # Lowest cost up to each place, and where its last block begins.
    best: list[tuple[int, int]] = [(0, 0)]
    for j in range(1, len(places)):
        options: list[tuple[int, int]] = []
        width = reach = 0
        for i in range(j - 1, -1, -1):
            width = max(width, *own[places[i] : places[i + 1]])
            reach = max(reach, *before[places[i] : places[i + 1]])
            area = (places[j] - places[i]) * width * (width + reach)
            options.append((best[i][0] + area + BLOCK_COST, i))
        best.append(min(options))
    cuts: list[tuple[int, int]] = []
    j = len(places) - 1
    while j > 0:
        i = best[j][1]
        cuts.append((places[i], places[j]))
        j = i
    return cuts[::-1]
