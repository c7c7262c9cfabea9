"""Sessions: frames both ways, ends of every kind, two at once, and slots that always come back."""

import asyncio
import gc
import time
from collections.abc import Iterator

import pytest

from rlvr.errors import SandboxError
from rlvr.protocols import Limits, Program
from rlvr_sandboxes.outside.boxes import BoxedSandbox
from tests.unit.sandboxes.sandbox_cases import BACKENDS, QUICK, make, python, sandbox_fixture

FRAMES = """
import os, struct, sys
def receive():
    head = b""
    while len(head) < 4:
        part = os.read(3, 4 - len(head))
        if not part: sys.exit(0)
        head += part
    size, data = struct.unpack(">I", head)[0], b""
    while len(data) < size: data += os.read(3, size - len(data))
    return data
def send(data):
    data = struct.pack(">I", len(data)) + data
    while data: data = data[os.write(4, data):]
"""
ECHO = FRAMES + "while True: send(receive()[::-1])"


@pytest.fixture(scope="module", params=list(BACKENDS))
def sandbox(request: pytest.FixtureRequest) -> Iterator[BoxedSandbox]:
    yield from sandbox_fixture(request.param)


def program(source: str, limits: Limits = QUICK) -> Program:
    return Program(argv=("python", "main.py"), files={"main.py": source.encode()}, limits=limits)


def test_frames_go_both_ways_whatever_their_size(sandbox: BoxedSandbox) -> None:
    async def talk() -> None:
        (session,) = await sandbox.open_sessions([program(ECHO)])
        for size in (0, 1, 65536, 3_000_000):
            frame = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
            sending = asyncio.create_task(session.send(frame))
            assert await session.receive(5.0) == frame[::-1]
            await sending
        result = await session.close()
        assert result.exit_code in (0, -9)
        assert await session.close() is result

    asyncio.run(talk())


def test_two_sessions_live_together_and_four_pairs_take_turns(sandbox: BoxedSandbox) -> None:
    async def pair(number: int) -> bytes:
        first, second = await sandbox.open_sessions([program(ECHO), program(ECHO)])
        try:
            await first.send(b"%d ab" % number)
            await second.send(await first.receive(5.0))
            return await second.receive(5.0)
        finally:
            await first.close()
            await second.close()

    async def all_pairs() -> list[bytes]:
        return list(await asyncio.gather(*(pair(number) for number in range(4))))

    assert asyncio.run(all_pairs()) == [b"%d ab" % number for number in range(4)]


def test_a_silent_program_is_a_timeout_and_an_ended_one_an_end(sandbox: BoxedSandbox) -> None:
    async def talk() -> None:
        silent = await sandbox.open_session(*parts("import time; time.sleep(60)"))
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            await silent.receive(0.2)
        assert time.monotonic() - start < 2
        assert (await silent.close()).exit_code == -9
        ended = await sandbox.open_session(*parts("print('bye'); raise SystemExit(3)"))
        with pytest.raises(EOFError):
            await ended.receive(5.0)
        with pytest.raises(EOFError):
            await ended.send(b"x" * 1_000_000)
        result = await ended.close()
        assert (result.exit_code, result.stdout) == (3, b"bye\n")
        with pytest.raises(EOFError):
            await ended.send(b"x")

    asyncio.run(talk())


def parts(source: str, limits: Limits = QUICK) -> tuple[tuple[str, ...], dict[str, bytes], Limits]:
    return ("python", "main.py"), {"main.py": source.encode()}, limits


def test_the_wall_limit_ends_a_session(sandbox: BoxedSandbox) -> None:
    async def talk() -> None:
        session = await sandbox.open_session(*parts(ECHO, Limits(wall_s=0.3)))
        with pytest.raises(EOFError):
            await session.receive(10.0)
        assert (await session.close()).timed_out

    asyncio.run(talk())


def test_a_length_above_the_cap_is_refused(sandbox: BoxedSandbox) -> None:
    async def talk() -> None:
        session = await sandbox.open_session(*parts("import os, time; os.write(4, b'\\xff' * 8); time.sleep(9)"))
        with pytest.raises(ValueError, match="a frame of 4294967295 bytes"):
            await session.receive(5.0)
        await session.close()

    asyncio.run(talk())


def test_a_program_that_reads_nothing_cannot_hold_the_sender(sandbox: BoxedSandbox) -> None:
    async def talk() -> None:
        session = await sandbox.open_session(*parts("import time; time.sleep(60)", Limits(wall_s=0.5)))
        with pytest.raises(EOFError):
            await session.send(b"x" * 5_000_000)
        await session.close()

    asyncio.run(talk())


def test_a_preloaded_source_runs_with_the_files_of_the_session(sandbox: BoxedSandbox) -> None:
    sandbox.preload({"shim": FRAMES + "import sys\nsend(repr((sys.argv, open('main.py').read(), __name__)).encode())"})

    async def talk() -> bytes:
        session = await sandbox.open_session(("preloaded", "shim", "x"), {"main.py": b"pass"}, QUICK)
        try:
            return await session.receive(5.0)
        finally:
            await session.close()

    for _ in range(3):
        assert asyncio.run(talk()) == b"(['shim', 'x'], 'pass', '__main__')"
    with pytest.raises(ValueError, match="already preloaded"):
        sandbox.preload({"shim": "pass"})
    with pytest.raises(ValueError, match="does not compile"):
        sandbox.preload({"broken": "def ("})
    with pytest.raises(ValueError, match="preloaded are shim"):
        asyncio.run(sandbox.run(("preloaded", "other"), {}, b"", QUICK))


def test_a_preloaded_source_with_a_main_is_executed_once_and_no_run_changes_it(sandbox: BoxedSandbox) -> None:
    source = FRAMES + (
        "import sys\nSTATE = [__name__]\n"
        "def rehearse():\n    STATE.append('rehearsed')\n"
        "def main():\n"
        "    STATE.append(sys.argv)\n"
        "    send(repr((STATE, __name__, sys.modules['__main__'].STATE is STATE)).encode())\n"
        'if __name__ == "__main__":\n    main()\n'
    )
    sandbox.preload({"with_main": source})

    async def talk() -> bytes:
        session = await sandbox.open_session(("preloaded", "with_main", "x"), {}, QUICK)
        try:
            return await session.receive(5.0)
        finally:
            await session.close()

    wanted = repr((["with_main", "rehearsed", ["with_main", "x"]], "__main__", True)).encode()
    for _ in range(3):
        assert asyncio.run(talk()) == wanted


def test_a_session_that_nobody_closes_gives_its_slot_back(sandbox: BoxedSandbox) -> None:
    async def forget() -> None:
        for _ in range(3):
            await sandbox.open_sessions([program(ECHO), program(ECHO)])
            gc.collect()

    asyncio.run(asyncio.wait_for(forget(), 30))
    assert python(sandbox, "print(1)").stdout == b"1\n"


def test_more_sessions_at_once_than_slots_is_an_error_and_not_a_wait(sandbox: BoxedSandbox) -> None:
    with pytest.raises(ValueError, match="raise slots"):
        asyncio.run(sandbox.open_sessions([program(ECHO)] * 3))


def test_a_box_killed_during_a_session_is_reported() -> None:
    sandbox = make("namespaces")

    async def talk() -> None:
        session = await sandbox.open_session(*parts(ECHO))
        session._slot._launched.process.kill()
        import signal

        signal.pidfd_send_signal(session._slot._zygote_pidfd, signal.SIGKILL)
        with pytest.raises((EOFError, TimeoutError)):
            await session.receive(5.0)
        with pytest.raises(SandboxError):
            await session.close()
        again = await sandbox.open_session(*parts(ECHO))
        await again.send(b"ab")
        assert await again.receive(5.0) == b"ba"
        await again.close()
        await sandbox.close()

    asyncio.run(talk())
