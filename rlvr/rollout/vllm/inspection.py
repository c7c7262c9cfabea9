"""Checks a weights file before an engine pauses for it: names, shapes, and on a CPU the checksums of its tensors.

The engine's process does this in a thread while requests are being generated. Workers then map the same file, which the
learner replaces but never rewrites. An accelerator's worker sums each tensor on its device instead, as it loads it: the
host would need seconds for every 2 GB, the device milliseconds.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from safetensors import SafetensorError, safe_open
from torch import Tensor

from rlvr.errors import RolloutError
from rlvr.models.checksum import tensor_checksum
from rlvr.records import Transport, WeightsKind, WeightsRef

FileId = tuple[int, int, int]  # device, inode, bytes


class MappedFile:
    """A safetensors file in this process's address space."""

    def __init__(self, path: str) -> None:
        """Raises: OSError, SafetensorError."""
        self.path = path
        self._file = safe_open(path, framework="pt", device="cpu")

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor), in the order of the file, as views of the mapping."""
        for name in self.names():
            yield name, self._file.get_tensor(name)

    def names(self) -> list[str]:
        """The names of the tensors."""
        return list(self._file.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the file's header."""
        return tuple(self._file.get_slice(name).get_shape())


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspected:
    """What a file holds. checksums: by tensor name; empty unless asked for. problems: one line each."""

    checksums: Mapping[str, int]
    problems: Sequence[str]
    file_id: FileId = (0, 0, 0)


def inspect_file(path: str, *, shapes: Mapping[str, Sequence[int]], sums_bytes: bool) -> Inspected:
    """Compares the tensors of a safetensors file with those expected.

    Args:
        shapes: of every tensor that must be there, by name.
        sums_bytes: also compute the checksum of every tensor.
    """
    try:
        file_id = file_id_of(path)
        mapped = MappedFile(path)
    except (OSError, SafetensorError) as error:
        return Inspected(checksums={}, problems=[f"the file cannot be read: {error}"])
    problems: list[str] = []
    names = mapped.names()
    for name in names:
        shape = mapped.shape(name)
        if name not in shapes:
            problems.append(f"{name!r} is in the file but not in the model")
        elif shape != tuple(shapes[name]):
            problems.append(f"{name!r} has shape {shape}; expected {tuple(shapes[name])}")
    there = set(names)
    problems += [f"{name!r} is missing from the file" for name in shapes if name not in there]
    checksums = {n: tensor_checksum(tensor) for n, tensor in mapped.tensors()} if sums_bytes else {}
    return Inspected(checksums=checksums, problems=problems, file_id=file_id)


def file_id_of(path: str) -> FileId:
    """Equal for two processes that see the same file. Raises OSError."""
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size


def require_loadable(ref: WeightsRef, *, has_adapters: bool) -> None:
    """Raises RolloutError for a reference that this engine cannot load, or could not verify."""
    is_adapter = ref.kind is WeightsKind.ADAPTER
    is_loadable = ref.transport is Transport.FILE or (ref.transport.is_sent and not is_adapter)
    if not is_loadable or is_adapter != (ref.base is not None):
        raise RolloutError(
            f"weights of version {ref.policy_version}: kind={ref.kind}, transport={ref.transport}; the vLLM engine "
            "loads whole weights from a file or a broadcast, or adapters with their base from files"
        )
    if is_adapter != has_adapters:
        raise RolloutError(
            f"weights of version {ref.policy_version}: kind={ref.kind}, and the engine was started "
            f"{'with' if has_adapters else 'without'} adapters"
        )
    if not ref.manifest or (ref.base is not None and not ref.base.manifest):
        raise RolloutError(f"weights of version {ref.policy_version} have no manifest, so they cannot be verified")
