"""Memory shared by a parent and its ranks: carries models to the ranks and weights back.

`share` puts every tensor of some objects into one anonymous file in memory and describes the rest by pickle, with the
tensors left out; `attach` builds the same objects in a rank, where each parameter is a view of that file, or on the
meta device if it was there. Tied parameters stay tied. Only the parent's own objects pass here, never data from a
rollout.
The file has no name, so nothing is left behind however the processes end; it is freed with its last view.
"""

import io
import mmap
import os
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch.distributed import FileStore, Store, TCPStore  # type: ignore[reportPrivateImportUsage] # documented there

from rlvr.errors import LearnerError
from rlvr.transfer.communicator import host_store

_ALIGNMENT = 64
_Outline = tuple[int, str, tuple[int, ...], bool]  # of a parameter on the meta device: identity, dtype, shape, trained


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The location of a tensor in the shared file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def num_bytes(self) -> int:
        """Its size in bytes."""
        return getattr(torch, self.dtype).itemsize * torch.Size(self.shape).numel()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """Objects in shared memory. fd: must be inherited by the ranks. pairs: each tensor and its copy in the memory.

    pickled: the objects without their tensors, as bytes.
    """

    fd: int
    windows: tuple[Window, ...]
    pickled: Tensor
    pairs: tuple[tuple[Tensor, Tensor], ...]

    @property
    def description(self) -> dict[str, Any]:
        """Where the tensors are, for JSON."""
        return {"fd": self.fd, "windows": [(w.dtype, w.shape, w.offset) for w in self.windows]}

    @property
    def content(self) -> Tensor:
        """The whole memory as bytes, for a rank that cannot inherit it."""
        return torch.frombuffer(bytearray(os.pread(self.fd, os.fstat(self.fd).st_size, 0)), dtype=torch.uint8)


class Meeting:
    """The rendezvous of the ranks: a file on one node, nameless if the system supports that, else a port.

    Keep it open while ranks run: some connections are made at their first use. Ranks must inherit `fds`.
    """

    def __init__(self, address: str = "") -> None:
        """Args: address: of this node, under which ranks of other nodes reach it; "" if all are on this node."""
        self.fds: list[int] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._store: TCPStore | None = None
        self._path = ""
        if address:
            self._store = host_store(address)
        elif hasattr(os, "memfd_create"):
            self.fds = [os.memfd_create("rlvr-ranks", os.MFD_CLOEXEC)]
            self._path = f"/proc/self/fd/{self.fds[0]}"
        else:
            self._folder = tempfile.TemporaryDirectory(prefix="rlvr-ranks-")
            self._path = f"{self._folder.name}/store"

    @property
    def place(self) -> dict[str, Any]:
        """For `meet`, as JSON."""
        if self._store is None:
            return {"path": self._path}
        return {"host": self._store.host, "port": self._store.port}

    def close(self) -> None:
        """Safe to call twice."""
        while self.fds:
            os.close(self.fds.pop())
        self._store = None
        if self._folder is not None:
            self._folder.cleanup()


def meet(place: Mapping[str, Any], *, size: int, timeout: timedelta) -> Store:
    """A rank's view of the parent's `Meeting`."""
    if "path" in place:
        return FileStore(place["path"], size)
    return TCPStore(place["host"], place["port"], is_master=False, wait_for_workers=False, timeout=timeout)


def share(value: Any) -> Shared:
    """Copies every tensor of `value` into shared memory.

    Parameters of `value` on the CPU are moved into the shared memory, so that they see what a rank writes there.

    Raises: LearnerError when a part of `value` cannot be pickled (a lambda, a local class).
    """
    stream = io.BytesIO()
    pickler = _Pickler(stream)
    try:
        pickler.dump(value)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise LearnerError(
            f"a {type(value).__name__} cannot be sent to the ranks: {error}; set cluster.learners=1"
        ) from error
    windows: list[Window] = []
    offset = 0
    for tensor in pickler.tensors:
        window = Window(dtype=str(tensor.dtype).removeprefix("torch."), shape=tuple(tensor.shape), offset=offset)
        windows.append(window)
        offset += -(-window.num_bytes // _ALIGNMENT) * _ALIGNMENT
    fd = _anonymous_file()
    os.ftruncate(fd, max(offset, _ALIGNMENT))
    views = _open_windows(fd, windows)
    with torch.no_grad():
        for tensor, view in zip(pickler.tensors, views, strict=True):
            view.copy_(tensor)
            if isinstance(tensor, torch.nn.Parameter) and tensor.device.type == "cpu":
                tensor.data = view
    return Shared(
        fd=fd,
        windows=tuple(windows),
        pickled=torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8),
        pairs=tuple(zip(pickler.tensors, views, strict=True)),
    )


def attach(description: Mapping[str, Any], pickled: Tensor, *, content: Tensor | None = None) -> Any:
    """The objects passed to `share`, over the same memory; closes the inherited descriptor.

    Args: content: of that memory, if it belongs to another node; the objects then have a copy.
    """
    windows = [Window(dtype=d, shape=tuple(s), offset=o) for d, s, o in description["windows"]]
    fd = description["fd"]
    if content is not None:
        fd = _anonymous_file()
        with open(fd, "wb", closefd=False) as file:
            file.write(content.numpy().tobytes())
    views = _open_windows(fd, windows)
    os.close(fd)
    return _Unpickler(io.BytesIO(pickled.numpy().tobytes()), views).load()


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("rlvr-weights", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _open_windows(fd: int, windows: Sequence[Window]) -> list[Tensor]:
    memory = mmap.mmap(fd, os.fstat(fd).st_size)
    views: list[Tensor] = []
    for window in windows:
        dtype = getattr(torch, window.dtype)
        count = torch.Size(window.shape).numel()
        if count:
            flat = torch.frombuffer(memory, dtype=dtype, count=count, offset=window.offset)
            views.append(flat.view(window.shape))
        else:
            views.append(torch.empty(window.shape, dtype=dtype))
    return views


class _Pickler(pickle.Pickler):
    """Replaces each tensor by its number."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
        self.tensors: list[Tensor] = []
        self._numbers: dict[int, int] = {}
        self._outlined: list[Tensor] = []

    def persistent_id(self, obj: Any) -> tuple[int, bool | None] | _Outline | None:
        if not isinstance(obj, Tensor):
            return None
        if obj.is_meta:
            self._outlined.append(obj)  # kept alive, so that no other object gets its id
            return id(obj), str(obj.dtype).removeprefix("torch."), tuple(obj.shape), obj.requires_grad
        if id(obj) not in self._numbers:
            self._numbers[id(obj)] = len(self.tensors)
            self.tensors.append(obj)
        is_parameter = isinstance(obj, torch.nn.Parameter)
        return self._numbers[id(obj)], obj.requires_grad if is_parameter else None


class _Unpickler(pickle.Unpickler):
    """Restores parameters as views of the shared memory, and all other tensors (buffers) as copies.

    A tensor that occurs twice becomes one object.
    """

    def __init__(self, stream: io.BytesIO, views: Sequence[Tensor]) -> None:
        super().__init__(stream)
        self._views = views
        self._built: dict[int, Tensor] = {}
        self._outlined: dict[int, Tensor] = {}

    def persistent_load(self, pid: tuple[int, bool | None] | _Outline) -> Tensor:
        if len(pid) == 4:
            key, dtype, shape, is_trained = pid
            if key not in self._outlined:
                empty = torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
                self._outlined[key] = torch.nn.Parameter(empty, is_trained)
            return self._outlined[key]
        number, requires_grad = pid
        if number not in self._built:
            view = self._views[number]
            self._built[number] = view.clone() if requires_grad is None else torch.nn.Parameter(view, requires_grad)
        return self._built[number]
