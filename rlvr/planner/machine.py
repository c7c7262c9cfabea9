"""This machine's resources: free memory of each device, and its speed, measured in about a second."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from rlvr.errors import ConfigError

# Measured on a CPU, with SmolLM2-135M in both dtypes and a tiny model; on a GPU it is an estimate.
ATTAINED = {"cpu": 0.8, "cuda": 0.35}
_GROUPS = Path("/sys/fs/cgroup")
_SIZE = 1024  # of the square matrices that are multiplied to measure
# Side of the matrix that one row is multiplied with: 64 MiB in float32, more than caches hold.
_THIN = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device that a run may use. name: for display."""

    kind: str
    index: int
    name: str
    available_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """The speed of a device, per second.

    flops: of large matrix products in the learner's arithmetic. bytes: of weights streamed through a product with one
    row, as in decoding. call_s: the time of a negligible product. attained: the share of `flops` that a
    model's passes reach.
    """

    flops: float
    bytes: float
    call_s: float
    attained: float


def devices(wanted: str) -> list[Device]:
    """The devices that `learner.device` resolves to here: all GPUs, or the CPU.

    Raises: ConfigError when the device is not there.
    """
    has_cuda = torch.cuda.is_available()
    if wanted.startswith("cuda") and not has_cuda:
        raise ConfigError(
            f"learner.device={wanted!r}: this machine has no CUDA device that torch {torch.__version__} can use; "
            "`rlvr doctor` says why"
        )
    if wanted == "cpu" or not has_cuda:
        return [Device(kind="cpu", index=0, name="memory of this machine", available_bytes=free_memory())]
    return [
        Device(
            kind="cuda",
            index=i,
            name=f"GPU {i} ({torch.cuda.get_device_name(i)})",
            available_bytes=torch.cuda.mem_get_info(i)[0],
        )
        for i in range(torch.cuda.device_count())
    ]


def torch_device(device: Device) -> torch.device:
    """The device's name in torch."""
    return torch.device("cuda", device.index) if device.kind == "cuda" else torch.device("cpu")


def free_memory(*, meminfo: Path = Path("/proc/meminfo"), groups: Path = _GROUPS) -> int:
    """Bytes that new processes can take: the system's available memory, or less if a control group allows less."""
    found = _available(meminfo)
    limit = _group_room(groups)
    return found if limit is None else min(found, limit)


def measure(device: Device, *, is_bfloat16: bool) -> Speed:
    """Measures the speed of a device in about a second."""
    where = torch_device(device)
    dtype = torch.bfloat16 if is_bfloat16 else torch.float32
    square = torch.ones(_SIZE, _SIZE, dtype=dtype, device=where)
    wide = torch.ones(_THIN, _THIN, dtype=dtype, device=where)
    row = torch.ones(1, _THIN, dtype=dtype, device=where)
    small = torch.ones(1, 8, dtype=dtype, device=where)
    tiny = torch.ones(8, 8, dtype=dtype, device=where)
    return Speed(
        flops=2 * _SIZE**3 / _seconds_each(square, square, budget_s=0.5),
        bytes=wide.numel() * wide.element_size() / _seconds_each(row, wide, budget_s=0.3),
        call_s=_seconds_each(small, tiny, budget_s=0.1),
        attained=ATTAINED[device.kind],
    )


def _seconds_each(a: torch.Tensor, b: torch.Tensor, *, budget_s: float) -> float:
    """Seconds of a product, averaged over at least `budget_s`, without the first runs, which choose kernels."""
    for _ in range(3):
        torch.mm(a, b)
    _wait(a)
    count, start = 0, time.perf_counter()
    elapsed = 0.0
    while elapsed < budget_s:
        for _ in range(4):
            torch.mm(a, b)
        _wait(a)
        count += 4
        elapsed = time.perf_counter() - start
    return elapsed / count


def _wait(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def _available(meminfo: Path) -> int:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:  # not Linux: the machine's total
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return int(kilobytes) * 1024


def _group_room(groups: Path) -> int | None:
    """The bytes left by the tightest limit of a control group, with cached files counted as free; None: no limit."""
    rooms: list[int] = []
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            allowed = (groups / limit).read_text().strip()
            # "max", or the largest number of version 1
            if not allowed.isdigit() or int(allowed) >= 1 << 60:
                continue
            now = int((groups / used).read_text())
            stat = (groups / limit).with_name("memory.stat").read_text().splitlines()
        except OSError:
            continue
        files = next((int(line.split()[1]) for line in stat if line.split()[0] == cached), 0)
        rooms.append(max(0, int(allowed) - now + files))
    return min(rooms, default=None)
