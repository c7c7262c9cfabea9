"""Weights in the format of torch.distributed.checkpoint: written by several ranks at once, read by any number.

    FOLDER/weights/.metadata, __RANK_N.distcp
        weights.NAME      the plain architecture in float32, adapters merged, and the buffers that belong to it
        adapter.NAME      the adapters alone, under peft's names, if there are any
    FOLDER/optimizer/.metadata, __RANK_N.distcp
        NAME.KEY          the optimiser's state of each trained parameter

FOLDER itself has config.json, generation_config.json and the tokenizer, as a folder of transformers has.
`rlvr export` makes such a folder of it. Reading takes no pickle but that of the metadata, which our own code wrote and
a checkpoint's digests cover.
"""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from transformers import PreTrainedModel

from rlvr.errors import CheckpointError, OtherCheckpoint

WEIGHTS_FOLDER = "weights"
OPTIMIZER_FOLDER = "optimizer"
WEIGHTS = "weights."
ADAPTER = "adapter."
_METADATA = ".metadata"
_UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, LookupError, pickle.UnpicklingError)


def persistent_buffers(model: PreTrainedModel) -> dict[str, Tensor]:
    """The buffers that a checkpoint holds, by name."""
    stored = set(model.state_dict(keep_vars=True))
    return {name: buffer for name, buffer in model.named_buffers() if name in stored}


def is_sharded(folder: Path) -> bool:
    """Whether the folder holds weights in this format."""
    return (folder / WEIGHTS_FOLDER / _METADATA).is_file()


def stored_shapes(folder: Path, part: str = WEIGHTS_FOLDER) -> dict[str, tuple[int, ...]]:
    """Name -> whole shape of everything that is stored. Raises CheckpointError."""
    try:
        found = FileSystemReader(folder / part).read_metadata().state_dict_metadata
    except _UNREADABLE as error:
        raise unreadable(folder, error) from error
    return {name: tuple(entry.size) for name, entry in found.items() if isinstance(entry, TensorStorageMetadata)}


def require_same(folder: Path, own: Mapping[str, Tensor], *, prefix: str, what: str) -> None:
    """Raises OtherCheckpoint when the tensors stored under `prefix` are not those of `own`, by name and shape."""
    stored = {n.removeprefix(prefix): shape for n, shape in stored_shapes(folder).items() if n.startswith(prefix)}
    wanted = {name: tuple(tensor.shape) for name, tensor in own.items()}
    missing, unknown = sorted(set(wanted) - set(stored)), sorted(set(stored) - set(wanted))
    other = sorted(name for name in set(wanted) & set(stored) if wanted[name] != stored[name])
    first = next(iter((*missing, *unknown, *other)), None)
    if first is not None:
        raise OtherCheckpoint(
            f"checkpoint {folder} does not match this {what}: of its tensors {len(missing)} missing, {len(unknown)} "
            f"unknown, {len(other)} of another shape (first: {first!r}); the recipe's model section must be the one of "
            "the run that wrote it"
        )


def read_into(folder: Path, tensors: Mapping[str, Tensor], part: str = WEIGHTS_FOLDER) -> None:
    """Fills the tensors from what is stored under their names. Of sharded ones each rank reads its own part.

    In a process group every rank calls it with the same names.

    Raises: CheckpointError when a file is damaged or a name is not stored.
    """
    if not tensors:
        return
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")  # it is, in one process
            load(dict(tensors), checkpoint_id=folder / part, no_dist=not dist.is_initialized())
    except (*_UNREADABLE, CheckpointException) as error:
        raise unreadable(folder, error) from error


def read_adapters(folder: Path) -> dict[str, Tensor]:
    """The stored adapters, whole, on the CPU, under peft's names. Raises CheckpointError."""
    stored = {name: torch.empty(shape) for name, shape in stored_shapes(folder).items() if name.startswith(ADAPTER)}
    read_into(folder, stored)
    return {name.removeprefix(ADAPTER): tensor for name, tensor in stored.items()}


def unreadable(folder: Path, error: BaseException) -> CheckpointError:
    """The error for a damaged checkpoint."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return CheckpointError(
        f"checkpoint {folder} cannot be read: {first}; resume from an older one with --checkpoint step_N"
    )
