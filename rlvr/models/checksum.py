"""A 64-bit checksum of a tensor's bytes, fast enough to take at every weight sync."""

from collections.abc import Sequence

import torch
from torch import Tensor

_BLOCK = 4096
_MULTIPLIER = 0x9E3779B97F4A7C15


def tensor_checksum(tensor: Tensor) -> int:
    """A multilinear hash, modulo 2**64, of the bytes in memory order; equal bytes give equal sums on every device.

    It detects torn, swapped, stale and repacked tensors. It is not cryptographic: it can be forged.

    >>> a = torch.arange(6, dtype=torch.bfloat16)
    >>> tensor_checksum(a) == tensor_checksum(a.clone()), tensor_checksum(a) == tensor_checksum(a.flip(0))
    (True, False)
    """
    return int(checksum_on_device(tensor)) % 2**64


def checksum_on_device(tensor: Tensor) -> Tensor:
    """`tensor_checksum` as a signed int64 scalar on the tensor's device, computed without waiting for the device."""
    raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
    padding = -raw.numel() % (8 * _BLOCK)
    whole = raw.numel() - raw.numel() % (8 * _BLOCK)
    total = _sum_blocks(raw[:whole].view(torch.int64).view(-1, _BLOCK), start=0)
    if padding:
        tail = torch.zeros(8 * _BLOCK, dtype=torch.uint8, device=raw.device)
        tail[: raw.numel() - whole] = raw[whole:]
        total = total + _sum_blocks(tail.view(torch.int64).view(1, _BLOCK), start=whole // (8 * _BLOCK))
    return total + raw.numel()


def read_checksums(sums: Sequence[Tensor]) -> list[int]:
    """The checksums that `checksum_on_device` computed, read from the device at once."""
    return [number % 2**64 for number in torch.stack(list(sums)).tolist()] if sums else []


def _sum_blocks(blocks: Tensor, *, start: int) -> Tensor:
    if not blocks.numel():
        return torch.zeros((), dtype=torch.int64, device=blocks.device)
    within = _weights(_BLOCK, start=1, device=blocks.device)
    per_block = (blocks * within).sum(1)  # int64 arithmetic wraps, which is the intended modulus
    across = _weights(len(blocks), start=start + 1_000_003, device=blocks.device)
    return (per_block * across).sum()


def _weights(count: int, *, start: int, device: torch.device) -> Tensor:
    """Odd pseudo-random 64-bit weights by position (splitmix64 without the final shifts of unsigned type)."""
    signed = _MULTIPLIER - 2**64
    index = torch.arange(start, start + count, dtype=torch.int64, device=device)
    mixed = index * signed
    mixed = (mixed ^ ((mixed >> 30) & (2**34 - 1))) * (0xBF58476D1CE4E5B9 - 2**64)
    mixed = (mixed ^ ((mixed >> 27) & (2**37 - 1))) * (0x94D049BB133111EB - 2**64)
    return mixed | 1
