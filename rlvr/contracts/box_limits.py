"""Limits hold, and a run's resource use is reported."""

import time

from rlvr.contracts.box import Box, Check, end_of
from rlvr.protocols import Limits, RunResult

# A grandchild that leaves its session and gives itself a name which the machine outside can see.
_GRANDCHILD = """
import ctypes, os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        ctypes.CDLL(None).prctl(15, b"MARK", 0, 0, 0)
        time.sleep(60)
    os._exit(0)
time.sleep(0.2)
"""


async def wall_time(box: Box) -> list[str]:
    problems: list[str] = []
    for what, source in (
        ("a busy loop", "while True: pass"),
        ("a sleep", "import time; time.sleep(60)"),
        ("a loop in C", "(10 ** 10000000) ** 10"),
        ("a stop", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nwhile True: pass"),
    ):
        start = time.monotonic()
        result = await box.python(source, limits=Limits(wall_s=1.0))
        seconds = time.monotonic() - start
        if not result.timed_out or result.exit_code == 0:
            problems.append(f"{what} must time out, not {end_of(result)}")
        if seconds > 8.0:  # a time-out with little CPU may be tried twice
            problems.append(f"{what} with wall_s=1 took {seconds:.1f} s")
    return problems


async def grandchildren_of_a_timeout(box: Box) -> list[str]:
    result = await box.python(_GRANDCHILD + "while True: pass", limits=Limits(wall_s=1.5))
    left = await box.named_left(box.mark)
    problems = [f"a grandchild lives on: {sorted(left)}"] if left else []
    return problems if result.timed_out else [*problems, f"it must time out: {end_of(result)}"]


async def grandchildren_of_an_exit(box: Box) -> list[str]:
    start = time.monotonic()
    result = await box.python(_GRANDCHILD + "print('done')", limits=Limits(wall_s=20.0))
    seconds = time.monotonic() - start
    left = await box.named_left(box.mark)
    problems = [f"a grandchild lives on: {sorted(left)}"] if left else []
    if result.stdout != b"done\n" or result.exit_code:
        problems.append(f"the program itself ended well, but: {end_of(result)}")
    if seconds > 10.0:
        problems.append(f"the run waited {seconds:.0f} s for a grandchild that holds its output")
    return problems


async def output_limit(box: Box) -> list[str]:
    problems: list[str] = []
    limits = Limits(wall_s=10.0, output_bytes=100_000)
    source = "import sys\nwhile True: sys.stdout.write('x' * 65536)"
    start = time.monotonic()
    result = await box.python(source, limits=limits)
    if not result.overflowed or len(result.stdout) > 100_000:
        problems.append(f"endless output: {len(result.stdout)} bytes, {end_of(result)}")
    if time.monotonic() - start > 8.0:
        problems.append("endless output must end the run at once, not at its wall limit")
    result = await box.python("print('x' * 99_999)", limits=limits)
    if result.overflowed or len(result.stdout) != 100_000:
        problems.append(f"output of exactly the limit: {len(result.stdout)}, {end_of(result)}")
    return problems


async def memory_limit(box: Box) -> list[str]:
    source = "x = bytearray(1 << 30)\nx[::4096] = b'x' * len(x[::4096])\nprint('got it')"
    result = await box.python(source, limits=Limits(wall_s=10.0, memory_mb=256))
    if result.exit_code == 0 or b"got it" in result.stdout:
        return [f"1 GiB with memory_mb=256 must fail, not {end_of(result)}"]
    result = await box.python("x = bytearray(100 << 20)\nprint('got it')")
    return [] if result.stdout == b"got it\n" else [f"100 MiB of 1 GiB: {end_of(result)}"]


async def process_limit(box: Box) -> list[str]:
    source = (
        "import os, time\nn = 0\nfor _ in range(100):\n    try:\n        pid = os.fork()\n"
        "    except OSError:\n        break\n    if pid == 0:\n        time.sleep(5)\n        os._exit(0)\n"
        "    n += 1\nprint(n, flush=True)\nos._exit(0)"
    )
    result = await box.python(source, limits=Limits(wall_s=10.0, pids=16))
    if result.exit_code < 0 and not result.timed_out:
        return []  # a run that is ended for its processes keeps the limit too
    made = result.stdout.decode("utf-8", "replace").strip()
    if not made.isdigit() or int(made) > 20:
        return [f"pids=16 let {made or 'none'} processes live, {end_of(result)}"]
    return [] if int(made) >= 4 else [f"pids=16 let only {made} processes live"]


async def file_limit(box: Box) -> list[str]:
    source = "f = open('big', 'wb')\nfor _ in range(64): f.write(b'x' * (1 << 20))\nprint('wrote')"
    result = await box.python(source, limits=Limits(wall_s=10.0, file_bytes=8 << 20))
    if result.exit_code == 0 or b"wrote" in result.stdout:
        return [f"64 MiB with file_bytes=8 MiB must fail, not {end_of(result)}"]
    return []


async def resource_facts(box: Box) -> list[str]:
    source = (
        "import time\nx = bytearray(120 << 20)\nx[::4096] = b'x' * len(x[::4096])\n"
        "end = time.process_time() + 0.4\nwhile time.process_time() < end: pass\ntime.sleep(0.3)"
    )
    result = await box.python(source)
    problems: list[str] = []
    if result.exit_code:
        problems.append(end_of(result))
    if not 0.6 <= result.seconds <= 9.0:
        problems.append(f"0.4 s of work and 0.3 s of sleep are reported as {result.seconds:.2f} s")
    return problems + _fact_problems(result)


def _fact_problems(result: RunResult) -> list[str]:
    """0 means that the box cannot measure it."""
    problems: list[str] = []
    if result.cpu_s and not 0.3 <= result.cpu_s <= 1.5:
        problems.append(f"0.4 s of CPU time are reported as cpu_s={result.cpu_s:.3f}")
    if result.memory_mb and not 110 <= result.memory_mb <= 1000:
        problems.append(f"120 MiB of memory are reported as memory_mb={result.memory_mb:.0f}")
    return problems


LIMIT_CHECKS: list[tuple[str, Check]] = [
    ("wall time", wall_time),
    ("grandchildren of a run that timed out", grandchildren_of_a_timeout),
    ("grandchildren of a run that ended", grandchildren_of_an_exit),
    ("output limit", output_limit),
    ("memory limit", memory_limit),
    ("process limit", process_limit),
    ("file limit", file_limit),
    ("resource facts", resource_facts),
]
