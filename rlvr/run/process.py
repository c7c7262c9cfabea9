"""Settings of the process that must stand before torch is imported or large tensors are made."""

import ctypes
import logging
import os
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8


def prepare_process() -> None:
    """Quiet libraries, and memory and threads set for training on a CPU. Values the user set are kept.

    OMP_WAIT_POLICY=PASSIVE: the engine's thread and the learner's each have a pool; spinning ones would fight.
    mallopt: glibc returns big blocks to the kernel and faults them in again at every step; keeping them was measured to
    take a sixth off a step of a 135M model. One arena: what the engine's thread frees, the learner's can take (a
    process of 5.1 GiB came to 4.5 GiB, at the same speed). Only where the allocator is glibc's.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    if sys.platform == "linux" and "MALLOC_MMAP_MAX_" not in os.environ:
        try:
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
            libc.mallopt(_M_ARENA_MAX, 1)
        except (OSError, AttributeError):  # another C library, for example musl
            logging.getLogger(__name__).debug("this C library has no mallopt")


def configure_logging() -> None:
    """Warnings of libraries and of rlvr on stderr, one line each."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
    logging.captureWarnings(True)
