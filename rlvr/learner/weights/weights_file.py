"""Weights for engines in other processes: one safetensors file per version, in shared memory.

    <parent>/rlvr-weights-<pid>-<random>/v<version>.safetensors, and base.safetensors if adapters are sent alone

A file is written under a temporary name and renamed, so that nobody reads half of it; only the newest are kept. The
folder is removed by `close`, or with its process (`rlvr.processes.watchdog`); if both were killed, the next process on
this machine removes it. Other users cannot read it, and symbolic links that they place there are not followed.
A disk is only used if RLVR_WEIGHTS_FOLDER names a folder on one: in a container whose shared memory is too small for
the model, every weight sync would otherwise silently write to the container's disk.
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

from rlvr.errors import ConfigError, LearnerError
from rlvr.models.checksum import tensor_checksum
from rlvr.processes import watchdog
from rlvr.records import TensorEntry

_PREFIX = "rlvr-weights-"
FOLDER_VARIABLE = "RLVR_WEIGHTS_FOLDER"
FILES_AT_ONCE = 4  # two kept, one being written, and room for one of a proof
_SHARED_MEMORY = Path("/dev/shm")
_FILES_KEPT = 2
_OBJECT_STORE_BYTES = 512 << 20  # Ray's, which is in shared memory too
_DTYPE_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


class WeightsFolder:
    """Writes versions of one policy's weights, one tensor in memory at a time."""

    def __init__(self, parent: Path | None = None, *, made: Path | None = None) -> None:
        """Args:
        parent: where the folder is created, at the first write; None: the result of `place_for`.
        made: a folder that another process has made and removes.
        """
        self._parent = parent
        self._folder = made
        self._lock = -1

    def write(
        self,
        version: int,
        tensors: Iterable[tuple[str, Tensor]],
        *,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: torch.dtype,
        num_files: int = FILES_AT_ONCE,
    ) -> tuple[Path, tuple[TensorEntry, ...]]:
        """Writes a version; returns the file's absolute path and its manifest.

        Args:
            version: a negative one is a trial, which replaces the previous trial.
            tensors: name and tensor, in the order of `shapes`; converted to `dtype` one by one.
            num_files: how many files of this size there must be room for, at the first.

        Raises: LearnerError when the file cannot be written, ConfigError when there is no room.
        """
        if version < 0:
            self.remove_trials()
        written = self._write(f"v{version}", tensors, shapes=shapes, dtype=dtype, num_files=num_files)
        if self._folder is not None:
            self._prune(self._folder)
        return written

    def write_base(
        self, tensors: Iterable[tuple[str, Tensor]], *, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype
    ) -> tuple[Path, tuple[TensorEntry, ...]]:
        """Writes the base that is kept while adapters change; like `write`, but needs room for this file only."""
        return self._write("base", tensors, shapes=shapes, dtype=dtype, num_files=1)

    def _write(
        self,
        stem: str,
        tensors: Iterable[tuple[str, Tensor]],
        *,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: torch.dtype,
        num_files: int,
    ) -> tuple[Path, tuple[TensorEntry, ...]]:
        header, num_bytes = _header(shapes, dtype=dtype)
        folder = self.make(num_bytes * num_files)
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
                f"space there, or set {FOLDER_VARIABLE} to a folder with enough space"
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
        if folder is not None and self._lock >= 0:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(self._lock)
            watchdog.forget(folder)

    def make(self, num_bytes: int) -> Path:
        """The folder, created if there is none yet.

        Args: num_bytes: the space needed there.

        Raises: LearnerError when it cannot be created, ConfigError when there is no room.
        """
        if self._folder is None:
            parent = self._parent or place_for(num_bytes)
            try:
                parent.mkdir(parents=True, exist_ok=True)
                remove_stale(parent)
                made = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent)
                watchdog.guard(Path(made))
                self._lock = os.open(made, os.O_RDONLY)
                # The system releases it when the process ends.
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            except OSError as error:
                raise LearnerError(
                    f"no folder for weights could be created in {parent}: {error}; it must be writable"
                ) from error
            self._folder = Path(made)
        return self._folder

    def _prune(self, folder: Path) -> None:
        files = sorted(_versions(folder), reverse=True)
        for version, file in files[_FILES_KEPT:]:
            if version >= 0:
                file.unlink(missing_ok=True)


def place_for(num_bytes: int) -> Path:
    """The folder that RLVR_WEIGHTS_FOLDER names, else `/dev/shm`, else (no Linux) the temporary folder.

    Args: num_bytes: the space needed there.

    Raises: ConfigError with the remedy when there is less, or the folder is not writable.
    """
    named = os.environ.get(FOLDER_VARIABLE, "")
    if named:
        place = Path(named)
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{FOLDER_VARIABLE}={named!r}: the folder cannot be made: {error}") from error
    else:
        place = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
    there = shutil.disk_usage(place)
    is_writable = os.access(place, os.W_OK)
    if is_writable and there.free >= num_bytes:
        return place
    found = f"{place} has {_bytes(there.free)} free of {_bytes(there.total)}"
    if not is_writable:
        found = f"{place} is not writable"
    remedy = f"set {FOLDER_VARIABLE} on this node to a folder with enough space"
    if place == _SHARED_MEMORY:
        gib = -(-(num_bytes + there.used + _OBJECT_STORE_BYTES) // 2**30)
        remedy = (
            f"give the container more shared memory (docker run --shm-size={gib}g; RLVR_SHM={gib}gb with the compose "
            f"files; without a container: mount -o remount,size={gib}g {place}), or {remedy}: on a disk, which "
            "slows each weight sync down"
        )
    raise ConfigError(f"the files of several weight versions need {_bytes(num_bytes)}, and {found}; {remedy}")


def _bytes(count: int) -> str:
    """
    >>> _bytes(1_610_612_736)
    '1,610,612,736 bytes (1.5 GiB)'
    """
    return f"{count:,} bytes ({count / 2**30:.1f} GiB)"


def remove_stale(parent: Path) -> list[Path]:
    """Removes the weights folders in `parent` whose process is gone, and returns them.

    A process id alone is not enough: containers that share the memory may have their own numbering.
    """
    removed: list[Path] = []
    for folder in parent.glob(f"{_PREFIX}*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdecimal() and not _is_alive(int(pid)) and watchdog.remove_unused(folder):
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


def _versions(folder: Path) -> list[tuple[int, Path]]:
    return [(int(file.stem[1:]), file) for file in folder.glob("v*.safetensors")]


def _header(shapes: Mapping[str, tuple[int, ...]], *, dtype: torch.dtype) -> tuple[bytes, int]:
    """The head of a safetensors file: 8 bytes of length, JSON padded to 8 bytes; and the bytes of all tensors."""
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + torch.Size(shape).numel() * dtype.itemsize
        described[name] = {"dtype": _DTYPE_NAMES[dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, offset
