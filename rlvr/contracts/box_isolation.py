"""Only files and input get into a box, only output leaves it, and nothing stays behind."""

import contextlib
import os
import socket
import tempfile
from collections.abc import Generator
from pathlib import Path

from rlvr.contracts.box import Box, Check, end_of

_PLAIN_NAMES = {
    "HOME", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LOGNAME", "PATH", "PWD", "SHELL", "SHLVL", "TEMP", "TERM", "TMP",
    "TMPDIR", "TZ", "USER", "_",
}  # fmt: skip
_CONTRACT_NAME = "RLVR_CONTRACT_MARK"

_COUNT = """
import os, socket, sys, tempfile
seen = []
folders = (".", "..", "/tmp", "/var/tmp", "/dev/shm", os.path.expanduser("~"), tempfile.gettempdir(), "/run", "/")
paths = [os.path.join(folder, "MARK") for folder in folders]
seen += [path for path in paths if os.path.exists(path)]
for path in paths:
    try:
        open(path, "w").write("x")
    except OSError:
        pass
import ctypes, math
libc = ctypes.CDLL(None)
key = int("MARK"[4:11], 16)
if libc.shmget(key, 4096, 0) >= 0: seen.append("System V shared memory")
libc.shmget(key, 4096, 0o1666)
if libc.semget(key, 1, 0) >= 0: seen.append("System V semaphore")
libc.semget(key, 1, 0o1666)
if libc.msgget(key, 0) >= 0: seen.append("System V message queue")
libc.msgget(key, 0o1666)
if hasattr(math, "MARK"): seen.append("a module's attribute")
math.MARK = 1
if "MARK" in os.environ: seen.append("an environment variable")
os.environ["MARK"] = "1"
print(seen)
"""

_REMOVE = """
import ctypes, sys
libc = ctypes.CDLL(None)
key = int("MARK"[4:11], 16)
libc.shmctl(libc.shmget(key, 4096, 0), 0, None)
libc.semctl(libc.semget(key, 1, 0), 0, 0, None)
libc.msgctl(libc.msgget(key, 0), 0, None)
"""

_CONNECT = """
import socket
def attempt(family, kind, address):
    try:
        with socket.socket(family, kind) as s:
            s.settimeout(1)
            s.connect(address)
            s.send(b"out")
            print("connected", address)
    except OSError:
        pass
attempt(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", TCP))
attempt(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", UDP))
attempt(socket.AF_UNIX, socket.SOCK_STREAM, "\\0MARK")
attempt(socket.AF_UNIX, socket.SOCK_STREAM, "PATH")
attempt(socket.AF_INET, socket.SOCK_STREAM, ("1.1.1.1", 53))
print("done")
"""


_TOUCH = """
print("ran")
for base in ("", "/proc/1/root", "/proc/self/root"):
    for mode in ("r", "a"):
        try:
            file = open(base + FOLDER + "/secret", mode)
            print(file.read() if mode == "r" else file.write("y"))
        except OSError:
            pass
try:
    open(FOLDER + "/new", "w").write("x")
except OSError:
    pass
"""


async def environment(box: Box) -> list[str]:
    names = {name for name in os.environ if name not in _PLAIN_NAMES}
    os.environ[_CONTRACT_NAME] = box.mark
    try:
        result = await box.python("import os; print('\\n'.join(os.environ))")
        parent = await box.python(
            "import os\nfor pid in {os.getppid(), 1, *range(2, 100)} - {os.getpid()}:\n    try:\n"
            "        print(open(f'/proc/{pid}/environ').read())\n    except OSError:\n        pass"
        )
    finally:
        del os.environ[_CONTRACT_NAME]
    found = set(result.stdout.decode("utf-8", "replace").split())
    problems: list[str] = []
    if _CONTRACT_NAME in found:
        problems.append("a variable of the host is visible; clear the environment")
    secret = {n for n in found & names if any(w in n for w in ("KEY", "TOKEN", "SECRET", "PASS"))}
    if secret:
        problems.append(f"secrets of the host are visible: {', '.join(sorted(secret))}")
    if box.mark.encode() in parent.stdout:
        problems.append("the environment of another process can be read")
    return problems


async def network(box: Box) -> list[str]:
    with _listeners(box.mark) as (sockets, tcp, udp, path):
        source = _CONNECT.replace("TCP", str(tcp)).replace("UDP", str(udp)).replace("PATH", path)
        result = await box.python(source)
        arrived = [name for name, listener in sockets.items() if _has_arrived(listener)]
    problems = [f"{name} of the host can be reached" for name in arrived]
    if b"done" not in result.stdout:
        problems.append(f"the attempt must fail inside the program, not {end_of(result)}")
    if b"1.1.1.1" in result.stdout:
        problems.append("the internet can be reached")
    return problems


@contextlib.contextmanager
def _listeners(mark: str) -> Generator[tuple[dict[str, socket.socket], int, int, str]]:
    """Sockets of the host that nothing should reach: (by name, TCP port, UDP port, path of the UNIX socket)."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        path = str(Path(folder) / "s")
        made: dict[str, socket.socket] = {
            "a TCP port": socket.create_server(("127.0.0.1", 0)),
            "a UDP port": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            "an abstract UNIX socket": socket.socket(socket.AF_UNIX),
            "a UNIX socket": socket.socket(socket.AF_UNIX),
        }
        for listener in made.values():
            stack.enter_context(listener)
            listener.setblocking(False)
        made["a UDP port"].bind(("127.0.0.1", 0))
        made["an abstract UNIX socket"].bind(f"\0{mark}")
        made["a UNIX socket"].bind(path)
        Path(folder).chmod(0o755)
        Path(path).chmod(0o777)
        for name in ("an abstract UNIX socket", "a UNIX socket"):
            made[name].listen()
        tcp = int(made["a TCP port"].getsockname()[1])
        yield made, tcp, int(made["a UDP port"].getsockname()[1]), path


def _has_arrived(listener: socket.socket) -> bool:
    try:
        if listener.type == socket.SOCK_DGRAM:
            return bool(listener.recv(100))
        connection, _ = listener.accept()
    except OSError:
        return False
    connection.close()
    return True


async def nothing_stays(box: Box) -> list[str]:
    found: set[str] = set()
    for _ in range(box.num_rounds):
        result = await box.python(_COUNT)
        text = result.stdout.decode("utf-8", "replace").strip()
        if result.exit_code or text != "[]":
            found.add(text if result.exit_code == 0 else end_of(result))
    if not found:
        return []
    await box.python(_REMOVE)
    return [f"a run sees what another left: {max(found, key=len)}"]


async def the_hosts_files(box: Box) -> list[str]:
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        secret = Path(folder) / "secret"
        secret.write_text(box.mark)
        secret.chmod(0o666)
        source = _TOUCH.replace("FOLDER", repr(folder))
        result = await box.python(source)
        if box.mark.encode() in result.stdout:
            problems.append("a file of the host can be read")
        if secret.read_text() != box.mark or (Path(folder) / "new").exists():
            problems.append("a file of the host can be written")
        if b"ran" not in result.stdout:
            problems.append(f"the attempt must fail inside the program, not {end_of(result)}")
    for place in ("/", "/run", "/tmp", "/var/tmp", "/dev/shm", str(Path.home())):
        path = Path(place) / box.mark
        if path.exists():
            problems.append(f"a run left {path} on the host")
            with contextlib.suppress(OSError):
                path.unlink()
    return problems


async def other_processes(box: Box) -> list[str]:
    source = f"""
import os, signal
try:
    os.kill({os.getpid()}, 0)
except OSError:
    for number in (signal.SIGTERM, signal.SIGKILL):  # only where the host's processes are out of reach
        try:
            os.kill(-1, number)
        except OSError:
            pass
    print("alive")
else:
    print("reached")
"""
    result = await box.python(source)
    if b"reached" in result.stdout:
        return ["a program can send signals to a process of the host"]
    after = await box.python("print('next')")
    problems: list[str] = []
    if b"alive" not in result.stdout:
        problems.append(f"signals to everyone must not end the program itself: {end_of(result)}")
    if after.stdout != b"next\n":
        problems.append(f"signals to everyone break the next run: {end_of(after)}")
    return problems


async def inherited_descriptors(box: Box) -> list[str]:
    """Those that only name a path (O_PATH) can neither be read nor written."""
    source = (
        "import fcntl, os\nopen_ones = []\nfor fd in range(3, 1024):\n    try:\n"
        "        if not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH: open_ones.append(fd)\n"
        "    except OSError:\n        pass\nprint(open_ones)"
    )
    result = await box.python(source)
    if result.stdout.strip() != b"[]":
        return [f"a program inherits descriptors: {result.stdout[:100]!r}"]
    return []


async def privileges(box: Box) -> list[str]:
    source = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
done = []
if libc.ptrace(0x4206, os.getppid() or 1, 0, 0) == 0: done.append("ptrace")  # seize: it stops nobody
if libc.unshare(0x10000000) == 0: done.append("a user namespace")
ctypes.set_errno(0)
libc.mount(b"none", b".", b"no such system", 0, None)  # with privileges it gets as far as the unknown name
if ctypes.get_errno() == 19: done.append("mount")
try:
    socket.sethostname(socket.gethostname())
    done.append("the host name")
except OSError:
    pass
try:
    os.mknod("node", 0o600 | 0o020000, os.makedev(1, 1))
    os.close(os.open("node", os.O_RDONLY))
    done.append("a device node")
except OSError:
    pass
try:
    status = open("/proc/self/status").read()
    if "NoNewPrivs:\\t0" in status: done.append("new privileges by setuid programs")
except OSError:
    pass
print(done)
"""
    result = await box.python(source)
    text = result.stdout.decode("utf-8", "replace").strip()
    return [] if text == "[]" else [f"a program gets {text or end_of(result)}"]


ISOLATION_CHECKS: list[tuple[str, Check]] = [
    ("environment", environment),
    ("network", network),
    ("what runs leave", nothing_stays),
    ("the host's files", the_hosts_files),
    ("other processes", other_processes),
    ("descriptors", inherited_descriptors),
    ("privileges", privileges),
]
