"""Settings of the allocators: the C library's on a CPU, torch's on a GPU."""

import ctypes
import logging
import os
import sys
from collections.abc import MutableMapping

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8


def keep_freed_memory() -> None:
    """Makes glibc keep freed tensor memory for reuse; settings of the user are respected.

    By default big blocks are returned to the kernel and faulted in again at every step: 1.5 million page faults and a
    quarter of a step of a 135M model. With one arena the learner's thread can reuse what the engine's frees (a process
    of 5.1 GiB came to 4.5 GiB, at the same speed). Call it early in each process. Does nothing with another C library.
    """
    if sys.platform != "linux" or "MALLOC_MMAP_MAX_" in os.environ:
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_ARENA_MAX, 1)
    except (OSError, AttributeError):  # another C library, for example musl
        logging.getLogger(__name__).debug("this C library has no mallopt")


def use_expandable_segments(environ: MutableMapping[str, str] = os.environ) -> None:
    """Makes torch's allocator for GPUs grow its segments, so that rows of changing lengths do not fragment them.

    Call it before CUDA is used; settings of the user are respected. Not for a process whose tensors another one maps
    (CUDA IPC), nor for one in which vLLM sleeps: neither works with such segments.
    """
    if "PYTORCH_CUDA_ALLOC_CONF" not in environ and "PYTORCH_ALLOC_CONF" not in environ:
        environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"


def release_cached_memory() -> None:
    """Returns the device memory that torch keeps for reuse; does nothing where no GPU is in use."""
    import torch  # not above: the command line imports this module, and must start quickly

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
