"""NCCL's broadcast through ctypes: a communicator that another thread can abort, and that no watchdog of torch owns.

torch's own process group ends the whole process when a peer fails; here the run continues with the remaining engines.
"""

import ctypes
import threading
from typing import Any

import torch
from torch import Tensor

from rlvr.errors import TransferError

_LIBRARY = "libnccl.so.2"  # torch's own, which is loaded already
_UINT8 = 1
_ID_BYTES = 128
_KEY = "nccl"


class _UniqueId(ctypes.Structure):
    _fields_ = [("internal", ctypes.c_byte * _ID_BYTES)]


class NcclCommunicator:
    """Implements `rlvr.transfer.communicator.Communicator` over NCCL, on one CUDA device."""

    def __init__(self, store: Any, rank: int, size: int, device: torch.device) -> None:
        """Waits for all ranks. Args: store: a torch Store, through which rank 0 passes NCCL's address.

        Raises: TransferError when NCCL cannot be loaded or refuses.
        """
        try:
            self._nccl = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise TransferError(f"NCCL cannot be loaded: {error}; set cluster.weight_transport=file") from error
        self._nccl.ncclGetErrorString.restype = ctypes.c_char_p
        self._store = store  # its server must outlive the others' last question
        self._device = device
        self._lock = threading.Lock()
        self._comm: ctypes.c_void_p | None = None
        identity = _UniqueId()
        if rank == 0:
            self._check(self._nccl.ncclGetUniqueId(ctypes.byref(identity)), "ncclGetUniqueId")
            store.set(_KEY, bytes(identity.internal).hex())
        else:
            raw = bytes.fromhex(store.get(_KEY).decode())
            ctypes.memmove(ctypes.addressof(identity), raw, _ID_BYTES)
        comm = ctypes.c_void_p()
        self._check(self._nccl.ncclCommInitRank(ctypes.byref(comm), size, identity, rank), "ncclCommInitRank")
        self._comm = comm

    def broadcast(self, tensor: Tensor, src: int) -> None:
        """Enqueues the broadcast on the current stream; see `Communicator`."""
        comm = self._comm
        if comm is None:
            raise TransferError("the communicator was aborted")
        assert tensor.device == self._device
        assert tensor.is_contiguous()
        pointer = ctypes.c_void_p(tensor.data_ptr())
        stream = ctypes.c_void_p(torch.cuda.current_stream(self._device).cuda_stream)
        count = ctypes.c_size_t(tensor.numel() * tensor.element_size())
        status = self._nccl.ncclBroadcast(pointer, pointer, count, _UINT8, src, comm, stream)
        self._check(status, "ncclBroadcast")

    def destroy(self) -> None:
        """Aborts: unlike NCCL's own destroy, this waits for no peer."""
        with self._lock:
            comm, self._comm = self._comm, None
        if comm is not None:
            torch.cuda.set_device(self._device)  # of this thread
            self._nccl.ncclCommAbort(comm)

    def _check(self, status: int, what: str) -> None:
        if status:
            text = self._nccl.ncclGetErrorString(status).decode(errors="replace")
            raise TransferError(f"{what} failed: {text} (NCCL_DEBUG=INFO logs more)")
