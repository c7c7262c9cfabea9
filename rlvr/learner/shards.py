"""Parts of tensors for parameters that are sharded over ranks."""

import math

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


def part_like(whole: Tensor, parameter: Tensor) -> Tensor:
    """The part of a whole tensor that a sharded parameter holds, on its device; all of it if not sharded.

    Every rank has the whole tensor, so nothing is sent; the part is a copy, so that the whole tensor can be freed.
    """
    if not isinstance(parameter, DTensor):
        return whole
    local = whole.to(parameter.device)
    return distribute_tensor(local, parameter.device_mesh, parameter.placements, src_data_rank=None).clone()


def local_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, sharing its memory: all of it if it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def first_row(parameter: Tensor) -> int:
    """The row of the whole tensor at which this rank's part begins. Parts are rows: the first dimension is split."""
    if not isinstance(parameter, DTensor):
        return 0
    offsets = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)[1]
    assert not any(offsets[1:])
    return offsets[0] if offsets else 0


def first_number(parameter: Tensor) -> int:
    """The position in the whole tensor, as stored row by row, of the first number of this rank's part."""
    return first_row(parameter) * math.prod(parameter.shape[1:])
