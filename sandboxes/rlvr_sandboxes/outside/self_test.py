"""Attacks that a box must withstand before a program of a policy runs in it; about a second.

Each is a program whose success would be visible from outside: in its output, on this machine's disk, at our sockets.
"""

import asyncio
import contextlib
import os
import secrets
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from pathlib import Path

from rlvr.errors import SandboxError
from rlvr.protocols import Limits, RunResult
from rlvr_sandboxes.outside.request import Request

Run = Callable[[Request], Awaitable[RunResult]]
_LIMITS = Limits(wall_s=5.0, memory_mb=256, pids=16)

_HONEST = "import sys, json; print(sum(json.loads(sys.stdin.read())))"
_ESCAPE = """
import os
def attempt(path, flags):
    try:
        os.close(os.open(path, flags, 0o666))
        print("opened", path)
    except OSError:
        pass
for path in %r:
    attempt(path, os.O_WRONLY | os.O_CREAT)
for path in %r:
    attempt(path, os.O_RDONLY)
"""
_ENVIRONMENT = "import os; print(*os.environ.values())"
_NETWORK = """
import socket
for family, kind, address in (
    (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", %d)),
    (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", %d)),
    (socket.AF_UNIX, socket.SOCK_STREAM, %r),
    (socket.AF_UNIX, socket.SOCK_STREAM, "\\0" + %r),
):
    try:
        with socket.socket(family, kind) as s:
            s.settimeout(0.2)
            s.connect(address)
            s.send(b"x")
        print("sent to", address)
    except OSError:
        pass
"""
_FORKS = """
import os, time
started = 0
for _ in range(400):
    try:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
    except OSError:
        break
    started += 1
time.sleep(0.1)
print(started)
"""
_MEMORY = "x = bytearray(b'x') * (1 << 31); print(len(x))"
_FORGED = "import os; os.write(1, b'partial'); os._exit(3)"
_DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            time.sleep(0.01)
            open("tick", "a").write("x")
    os._exit(0)
open(%r, "w").write("left")
print("done")
"""
_LEFTOVER = "import os; print(os.path.exists(%r), os.listdir('.'))"
_KILL = """
import os, signal
for pid in (os.getppid(), %d, -1):
    if pid > 0 or pid == -1:
        try:
            os.kill(pid, signal.SIGTERM)
            print("signalled", pid)
        except OSError:
            pass
"""


async def find_problems(run: Run) -> tuple[str, ...]:
    """What the box let through; empty when it held. A box that cannot run at all is a problem too."""
    try:
        return tuple([problem async for problem in _problems(run)])
    except SandboxError as error:
        return (f"the box does not run: {error}",)


async def _problems(run: Run) -> AsyncIterator[str]:
    async def python(source: str, stdin: bytes = b"", limits: Limits = _LIMITS) -> RunResult:
        files = {"main.py": source.encode()}
        return await run(Request(argv=("python", "main.py"), files=files, stdin=stdin, limits=limits))

    honest = await python(_HONEST, b"[1, 2, 39]")
    if honest.stdout != b"42\n" or not honest.is_clean:
        yield f"an honest program did not run: {honest}"
        return
    secret = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="rlvr-self-test-") as folder:
        os.chmod(folder, 0o777)
        answers = Path(folder, "answers")
        answers.write_text(secret, encoding="ascii")
        answers.chmod(0o666)
        marker = f"rlvr-self-test-{secret}"
        targets = [f"{folder}/{marker}", f"/var/tmp/{marker}", f"{Path.cwd()}/{marker}", f"{Path.home()}/{marker}"]
        readable = [str(answers), "/etc/passwd", "/proc/1/environ", "/sys/kernel", str(Path.home())]
        seen = await python(_ESCAPE % (targets, readable))
        left = [path for path in targets if os.path.exists(path)]
        for path in left:
            os.unlink(path)
        leaked = [line for line in seen.stdout.decode("utf-8", "replace").splitlines() if folder in line]
        if left or leaked or b"/etc/passwd" in seen.stdout or b"environ" in seen.stdout:
            yield f"files of this machine are open to programs: {left} {seen.stdout!r}"
        with _secret_in_environment(secret):
            environment = await python(_ENVIRONMENT)
        if secret.encode() in environment.stdout:
            yield "programs see this process's environment"
        async for problem in _network(python, folder):
            yield problem
    forks = await python(_FORKS)
    if forks.exit_code == 0 and int(forks.stdout or b"0") > _LIMITS.pids:
        yield f"a program started {forks.stdout!r} processes; the limit was {_LIMITS.pids}"
    memory = await python(_MEMORY)
    if memory.is_clean:
        yield f"a program used 2 GiB of memory; the limit was {_LIMITS.memory_mb} MiB"
    forged = await python(_FORGED)
    if (forged.exit_code, forged.stdout) != (3, b"partial"):
        yield f"exit codes do not come from the kernel: {forged}"
    name = f"/dev/shm/{secret}"
    await python(_DAEMON % "left")
    later = await python(_LEFTOVER % name)
    if later.stdout.decode().split("[")[0].strip() != "False" or b"left" in later.stdout:
        yield f"a run finds what another left: {later.stdout!r}"
    killed = await python(_KILL % os.getpid())
    if b"signalled %d" % os.getpid() in killed.stdout:
        yield "programs can signal this process"


async def _network(python: Callable[[str], Awaitable[RunResult]], folder: str) -> AsyncIterator[str]:
    """Listens in every way that a program might reach, and reports what came."""
    name = f"{folder}/socket"
    kinds = {
        "TCP": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
        "UDP": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
        "a named socket": (socket.AF_UNIX, socket.SOCK_STREAM, name),
        "an abstract socket": (socket.AF_UNIX, socket.SOCK_STREAM, f"\0{name}"),
    }
    with contextlib.ExitStack() as stack:
        listeners: dict[str, socket.socket] = {}
        for title, (family, kind, address) in kinds.items():
            try:
                listener = socket.socket(family, kind)
            except PermissionError:
                continue  # this process may have no such socket, and a box cannot do more than the process
            listeners[title] = stack.enter_context(listener)
            listener.bind(address)
            listener.setblocking(False)
            if kind is socket.SOCK_STREAM:
                listener.listen()
        os.chmod(name, 0o777)
        ports = [listeners[title].getsockname()[1] if title in listeners else 9 for title in ("TCP", "UDP")]
        said = await python(_NETWORK % (*ports, name, name))
        await asyncio.sleep(0)
        reached = [title for title, listener in listeners.items() if title != "UDP" and _accepts(listener)]
        if "UDP" in listeners:
            with contextlib.suppress(BlockingIOError):
                listeners["UDP"].recv(1)
                reached.append("UDP")
        if reached:
            yield f"programs reach this machine's network by {', '.join(reached)}: {said.stdout!r}"


def _accepts(listener: socket.socket) -> bool:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _secret_in_environment(secret: str) -> Generator[None]:
    """A value in this process's environment, as an API key would be."""
    name = "RLVR_SELF_TEST_KEY"
    os.environ[name] = secret
    try:
        yield
    finally:
        del os.environ[name]
