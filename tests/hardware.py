"""What the machine of a test run can do."""

import os

import torch

# Without these instructions torch multiplies bfloat16 in a reference loop. oneDNN's own limit imitates such a CPU.
HAS_FAST_BFLOAT16 = (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()) and os.environ.get(
    "ONEDNN_MAX_CPU_ISA", "ALL"
).upper() not in {"SSE41", "AVX", "AVX2"}
NEEDS_FAST_BFLOAT16 = "needs AVX-512-BF16 or AMX instructions; a float32 twin runs everywhere"


def cpu_seconds() -> float:
    """CPU time of this process and of its children that ended: what a busy machine does not change."""
    return sum(os.times()[:4])
