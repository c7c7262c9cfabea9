"""Weights on their way to engines in other processes: one safetensors file a version, in memory where there is room.

    <parent>/rlvr-weights-<pid>-<random>/v<version>.safetensors, and base.safetensors where adapters travel alone

A file is written under another name and renamed, so that nobody reads half of it; only the newest are kept. The folder
goes with `close`; where a process was killed before that, the next one on this machine removes what it left.
"""

import fcntl
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from rlvr.errors import LearnerError
from rlvr.models.checksum import tensor_checksum
from rlvr.records import TensorEntry

_PREFIX = "rlvr-weights-"
_SHARED_MEMORY = Path("/dev/shm")
_FILES_KEPT = 2
_FILES_AT_ONCE = 4  # the two that are kept, the one that is written, and room for one of a proof
_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
}


class WeightsFolder:
    """Writes versions of one policy's weights, one tensor in memory at a time."""

    def __init__(self, parent: Path | None = None) -> None:
        """Args: parent: where the folder is made, at the first write; None: `/dev/shm`, or the temporary folder."""
        self._parent = parent
        self._folder: Path | None = None
        self._lock = -1

    def write(
        self,
        version: int,
        tensors: Iterable[tuple[str, Tensor]],
        *,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: torch.dtype,
    ) -> tuple[Path, tuple[TensorEntry, ...]]:
        """Writes a version, and returns the file's absolute path and what stands in it.

        Args:
            version: a negative one is a trial, which takes the place of the trial before it.
            tensors: name and tensor, in the order of `shapes`; converted to `dtype` one by one.

        Raises: LearnerError when the file cannot be written.
        """
        if version < 0:
            self.remove_trials()
        written = self._write(f"v{version}", tensors, shapes=shapes, dtype=dtype)
        if self._folder is not None:
            self._prune(self._folder)
        return written

    def write_base(
        self,
        tensors: Iterable[tuple[str, Tensor]],
        *,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: torch.dtype,
    ) -> tuple[Path, tuple[TensorEntry, ...]]:
        """Writes what stays while versions of adapters come and go; as `write`."""
        return self._write("base", tensors, shapes=shapes, dtype=dtype)

    def _write(
        self,
        stem: str,
        tensors: Iterable[tuple[str, Tensor]],
        *,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: torch.dtype,
    ) -> tuple[Path, tuple[TensorEntry, ...]]:
        header, num_bytes = _header(shapes, dtype=dtype)
        folder = self._made(num_bytes)
        file = folder / f"{stem}.safetensors"
        draft = file.with_suffix(".draft")
        entries: list[TensorEntry] = []
        try:
            with draft.open("wb") as out:
                out.write(header)
                for (name, tensor), expected in zip(tensors, shapes.items(), strict=True):
                    assert (name, tuple(tensor.shape)) == expected
                    sent = tensor.detach().to(dtype).contiguous()
                    checksum = tensor_checksum(sent)
                    out.write(sent.cpu().view(-1).view(torch.uint8).numpy().data)
                    entries.append(TensorEntry(name=name, shape=expected[1], checksum=checksum))
            draft.replace(file)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise LearnerError(
                f"weights ({num_bytes >> 20} MiB) could not be written to {file}: {error}; free "
                "the space, or set TMPDIR to a folder that has it"
            ) from error
        return file.absolute(), tuple(entries)

    def remove_trials(self) -> None:
        """Removes the files of negative versions."""
        if self._folder is not None:
            for version, file in _versions(self._folder):
                if version < 0:
                    file.unlink(missing_ok=True)

    def close(self) -> None:
        """Removes the folder with all files; readers that have one open keep it. Safe to call twice."""
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(self._lock)

    def _made(self, num_bytes: int) -> Path:
        if self._folder is None:
            parent = self._parent or place_for(num_bytes * _FILES_AT_ONCE)
            try:
                parent.mkdir(parents=True, exist_ok=True)
                remove_stale(parent)
                made = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent)
                self._lock = os.open(made, os.O_RDONLY)
                fcntl.flock(
                    self._lock, fcntl.LOCK_EX
                )  # the system lets go of it when the process ends
            except OSError as error:
                raise LearnerError(
                    f"no folder for weights could be made in {parent}: {error}; it must be writable"
                ) from error
            self._folder = Path(made)
        return self._folder

    def _prune(self, folder: Path) -> None:
        files = sorted(_versions(folder), reverse=True)
        for version, file in files[_FILES_KEPT:]:
            if version >= 0:
                file.unlink(missing_ok=True)


def place_for(num_bytes: int) -> Path:
    """`/dev/shm` where it has so many bytes free, else the temporary folder."""
    if os.access(_SHARED_MEMORY, os.W_OK) and shutil.disk_usage(_SHARED_MEMORY).free > num_bytes:
        return _SHARED_MEMORY
    return Path(tempfile.gettempdir())


def remove_stale(parent: Path) -> list[Path]:
    """Removes the weights folders in `parent` whose process is gone, and returns them.

    A process number alone does not tell: containers that share the memory may have numbers of their own.
    """
    removed: list[Path] = []
    for folder in parent.glob(f"{_PREFIX}*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdecimal() and not _is_alive(int(pid)) and not _is_locked(folder):
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _is_locked(folder: Path) -> bool:
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError:  # gone, or another user's
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _versions(folder: Path) -> list[tuple[int, Path]]:
    return [(int(file.stem[1:]), file) for file in folder.glob("v*.safetensors")]


def _header(shapes: Mapping[str, tuple[int, ...]], *, dtype: torch.dtype) -> tuple[bytes, int]:
    """The head of a safetensors file: 8 bytes of length, JSON padded to 8 bytes; and the bytes of all tensors."""
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + torch.Size(shape).numel() * dtype.itemsize
        described[name] = {
            "dtype": _DTYPE_NAMES[dtype],
            "shape": shape,
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, offset
