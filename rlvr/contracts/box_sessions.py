"""Sessions: frames both ways, reported results, two boxes at once; and preloaded sources."""

import asyncio
import time

from rlvr.contracts.box import FAST, PROGRAM, Box, Check, end_of
from rlvr.protocols import Limits, Program, SandboxSession, SupportsPreload

_FRAMES = """
import os, struct, sys
def read_frame():
    head = b""
    while len(head) < 4:
        part = os.read(3, 4 - len(head))
        if not part:
            raise SystemExit(0)
        head += part
    left, parts = struct.unpack(">I", head)[0], []
    while left:
        part = os.read(3, left)
        if not part:
            raise SystemExit(9)
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
def write_frame(data):
    data = struct.pack(">I", len(data)) + data
    while data:
        data = data[os.write(4, data):]
"""
_ECHO = _FRAMES + "while True: write_frame(read_frame()[::-1])"


def _files(source: str) -> dict[str, bytes]:
    return {"main.py": source.encode()}


async def _open(box: Box, source: str, *, limits: Limits = FAST) -> SandboxSession:
    return await box.sandbox.open_session(PROGRAM, _files(source), limits)


async def frames_of_all_sizes(box: Box) -> list[str]:
    session = await _open(box, _ECHO)
    problems: list[str] = []
    try:
        for size in (0, 1, 1000, 65_536, 5_000_000):
            data = bytes(index % 251 for index in range(min(size, 1000))) * (max(size, 1000) // 1000)
            data = data[:size]
            await session.send(data)
            if await session.receive(10.0) != data[::-1]:
                problems.append(f"a frame of {size} bytes comes back changed")
        start = time.monotonic()
        try:
            await session.receive(0.3)
            problems.append("receive returned a frame that was never sent")
        except TimeoutError:
            if not 0.2 <= time.monotonic() - start <= 3.0:
                problems.append(f"receive(0.3) took {time.monotonic() - start:.2f} s")
        await session.send(b"still there")
        if await session.receive(5.0) != b"ereht llits":
            problems.append("after a receive that timed out the session is broken")
    finally:
        result = await session.close()
    again = await session.close()
    if result != again:
        problems.append(f"a second close returns something else: {result} and {again}")
    if result.timed_out or result.exit_code not in (0, -9):
        problems.append(f"a session that was closed: {end_of(result)}")
    return problems


async def reported_results(box: Box) -> list[str]:
    problems: list[str] = []
    session = await _open(box, _FRAMES + "write_frame(b'bye'); print('out'); raise SystemExit(7)")
    try:
        if await session.receive(10.0) != b"bye":
            problems.append("a frame sent before the exit is lost")
        try:
            await session.receive(5.0)
            problems.append("receive returned a frame after the program's end")
        except EOFError:
            pass
    finally:
        result = await session.close()
    if result.exit_code != 7 or result.stdout != b"out\n":
        problems.append(f"exit code 7 and its output must be reported: {end_of(result)}")
    session = await _open(box, "while True: pass", limits=Limits(wall_s=1.0))
    try:
        await session.receive(10.0)
        problems.append("receive returned a frame that was never sent")
    except EOFError:
        pass
    except TimeoutError:
        problems.append("the wall limit must end a session (EOFError)")
    result = await session.close()
    if not result.timed_out:
        problems.append(f"a session past its wall limit: {end_of(result)}")
    session = await _open(box, "import time; time.sleep(60)", limits=Limits(wall_s=30.0))
    start = time.monotonic()
    result = await session.close()
    if result.timed_out or result.exit_code != -9 or time.monotonic() - start > 5.0:
        problems.append(f"closing a running program must kill it at once: {end_of(result)}")
    return problems


async def hostile_frames(box: Box) -> list[str]:
    problems: list[str] = []
    session = await _open(box, "import os, time\nos.write(4, b'\\xff' * 64)\ntime.sleep(20)")
    try:
        await session.receive(5.0)
        problems.append("a length of 4 GiB must raise ValueError")
    except ValueError:
        pass
    except EOFError:
        problems.append("a length of 4 GiB must raise ValueError, not EOFError")
    finally:
        await session.close()
    session = await _open(box, "import os\nos.write(4, b'\\0\\0\\0\\x64half')\nos._exit(0)")
    try:
        await session.receive(5.0)
        problems.append("half a frame must not be returned")
    except EOFError:
        pass
    finally:
        await session.close()
    flood = "import os\nwhile True: os.write(4, b'\\0\\0\\0\\1x' * 1000)"
    session = await _open(box, flood, limits=Limits(wall_s=2.0))
    try:
        for _ in range(50):
            if await session.receive(5.0) != b"x":
                problems.append("a frame of a flood comes changed")
                break
    finally:
        await session.close()
    return problems


async def a_program_that_does_not_read(box: Box) -> list[str]:
    session = await _open(box, "import time; time.sleep(60)", limits=Limits(wall_s=2.0))
    start = time.monotonic()
    try:
        await session.send(b"x" * (8 << 20))
        await session.receive(30.0)
    except EOFError:
        pass
    finally:
        await session.close()
    seconds = time.monotonic() - start
    return [] if seconds < 10.0 else [f"send waited {seconds:.0f} s past a wall limit of 2 s"]


async def two_at_once(box: Box) -> list[str]:
    """Pairs opened at the same time by more callers than there are slots: none waits forever."""

    async def pair(number: int) -> bool:
        programs = [Program(argv=PROGRAM, files=_files(_ECHO)) for _ in range(2)]
        sessions = await box.sandbox.open_sessions(programs)
        try:
            texts = [b"%d-%d" % (number, index) for index in range(2)]
            for session, text in zip(sessions, texts, strict=True):
                await session.send(text)
            return [await s.receive(10.0) for s in sessions] == [t[::-1] for t in texts]
        finally:
            for session in sessions:
                await session.close()

    right = await asyncio.gather(*(pair(number) for number in range(box.num_rounds)))
    return [] if all(right) else [f"{right.count(False)} pairs of sessions got wrong frames"]


async def killed_session(box: Box) -> list[str]:
    """Kill -9 of a process of the box during a session: EOFError or SandboxError, and then it works again."""
    session = await _open(box, _ECHO)
    await session.send(b"a")
    await session.receive(10.0)
    if not box.kill_one_child():
        await session.close()
        return []
    try:
        await session.send(b"b")
        await asyncio.wait_for(session.receive(10.0), 20.0)
    except TimeoutError:
        return ["a session hangs when a process of the box is killed"]
    except Exception as error:  # noqa: BLE001 - its type is checked
        if type(error).__name__ not in ("EOFError", "SandboxError"):
            return [f"a killed session raises {type(error).__name__}: {error}"]
    try:
        await asyncio.wait_for(session.close(), 20.0)
    except TimeoutError:
        return ["close hangs when a process of the box was killed"]
    except Exception as error:  # noqa: BLE001 - its type is checked
        if type(error).__name__ != "SandboxError":
            return [f"close of a killed session raises {type(error).__name__}: {error}"]
    result = await box.python("print('back')")
    return [] if result.stdout == b"back\n" else [f"it does not recover: {end_of(result)}"]


async def preloaded_sources(box: Box) -> list[str]:
    assert isinstance(box.sandbox, SupportsPreload)  # its capabilities say so, and `check_sandbox` has looked
    box.sandbox.preload({"contract": "import sys\nprint(__name__, sys.argv[1:], open('data').read())"})
    program = ("preloaded", "contract", "one", "two")
    problems: list[str] = []
    for _ in range(2):
        result = await box.sandbox.run(program, {"data": b"here"}, b"", FAST)
        if result.stdout != b"__main__ ['one', 'two'] here\n" or result.exit_code:
            problems.append(f"it ran otherwise: {result.stdout!r}, {end_of(result)}")
    return problems


SESSION_CHECKS: list[tuple[str, Check]] = [
    ("frames", frames_of_all_sizes),
    ("ends of sessions", reported_results),
    ("hostile frames", hostile_frames),
    ("frames nobody reads", a_program_that_does_not_read),
    ("two sessions at once", two_at_once),
    ("a killed session", killed_session),
]
PRELOAD_CHECKS: list[tuple[str, Check]] = [("preloaded sources", preloaded_sources)]
