"""Parts of tensors for parameters that are sharded over ranks."""

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def part_like(whole: Tensor, parameter: Tensor) -> Tensor:
    """The part of a whole tensor that a sharded parameter holds, on its device; all of it if not sharded.

    Every rank has the whole tensor, so nothing is sent; the part is a copy, so that the whole tensor can be freed.
    """
    if not isinstance(parameter, DTensor):
        return whole
    local = whole.to(parameter.device)
    return distribute_tensor(local, parameter.device_mesh, parameter.placements, src_data_rank=None).clone()
