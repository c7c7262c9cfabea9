"""Memory and utilisation of the node's GPUs, from the library that comes with NVIDIA's driver."""

import ctypes
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)
_LIBRARY = "libnvidia-ml.so.1"


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class _Utilization(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU: memory in bytes, utilisation from 0 to 1; None where the driver does not say."""

    index: int
    memory_size: int
    memory_used: int
    utilization: float | None


class Nvml:
    """The driver's library; without one there are no GPUs."""

    def __init__(self, library: str = _LIBRARY) -> None:
        self._library: Any = None
        try:
            loaded = ctypes.CDLL(library)
        except OSError:
            return
        if loaded.nvmlInit_v2() == 0:
            self._library = loaded

    def gpus(self) -> Iterator[Gpu]:
        """The GPUs that the driver shows to this process."""
        if self._library is None:
            return
        count = ctypes.c_uint()
        if self._library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return
        for index in range(count.value):
            handle, memory, load = ctypes.c_void_p(), _Memory(), _Utilization()
            if (
                self._library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) != 0
                or self._library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) != 0
            ):
                continue
            has_load = self._library.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(load)) == 0
            yield Gpu(
                index=index,
                memory_size=int(memory.total),
                memory_used=int(memory.used),
                utilization=load.gpu / 100 if has_load else None,
            )
