"""Programs that must not get what they want: one test a kind, on both local sandboxes."""

import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlvr.protocols import Limits
from rlvr_sandboxes.outside.boxes import BoxedSandbox
from tests.unit.sandboxes.sandbox_cases import BACKENDS, processes_with, python, sandbox_fixture


@pytest.fixture(scope="module", params=list(BACKENDS))
def sandbox(request: pytest.FixtureRequest) -> Iterator[BoxedSandbox]:
    yield from sandbox_fixture(request.param)


SMALL = Limits(wall_s=5.0, memory_mb=256, pids=16)
SYSCALL = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"

# Each prints "got it" when it succeeds.
REFUSED = {
    "socket_inet": "import socket; socket.socket(); print('got it')",
    "socket_inet6": "import socket; socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); print('got it')",
    "socket_vsock": "import socket; socket.socket(40, socket.SOCK_STREAM); print('got it')",
    "socket_netlink": "import socket; socket.socket(16, socket.SOCK_RAW); print('got it')",
    "socket_alg": "import socket; socket.socket(38, socket.SOCK_SEQPACKET); print('got it')",
    "socket_packet": "import socket; socket.socket(17, socket.SOCK_RAW); print('got it')",
    "name_lookup": "import socket; socket.getaddrinfo('localhost', 80); socket.create_connection(('localhost', 80))",
    "ptrace": SYSCALL + "assert libc.ptrace(0, 0, 0, 0) == 0; print('got it')",
    "memory_of_others": SYSCALL + "assert libc.syscall(310, 1, 0, 0, 0, 0, 0) >= 0; print('got it')",
    "mount": SYSCALL + "assert libc.mount(b'x', b'/tmp', b'tmpfs', 0, None) == 0; print('got it')",
    "unshare": SYSCALL + "assert libc.unshare(0x10000000) == 0; print('got it')",
    "clone_namespace": SYSCALL + "assert libc.syscall(56, 0x10000011, 0, 0, 0, 0) >= 0; print('got it')",
    "clone3": SYSCALL + "assert libc.syscall(435, 0, 0) == 0 or ctypes.get_errno() != 38; print('got it')",
    "bpf": SYSCALL + "assert libc.syscall(321, 0, 0, 0) >= 0; print('got it')",
    "perf": SYSCALL + "assert libc.syscall(298, 0, 0, -1, -1, 0) >= 0; print('got it')",
    "userfaultfd": SYSCALL + "assert libc.syscall(323, 1) >= 0; print('got it')",
    "io_uring": SYSCALL + "b = ctypes.create_string_buffer(120); assert libc.syscall(425, 8, b) >= 0; print('got it')",
    "keyring": SYSCALL + "assert libc.syscall(248, b'user', b'k', b'v', 1, -3) >= 0; print('got it')",
    "kernel_log": SYSCALL + "assert libc.klogctl(10, None, 0) >= 0; print('got it')",
    "set_time": "import time; time.clock_settime(time.CLOCK_REALTIME, 0); print('got it')",
    "host_name": "import socket; socket.sethostname('x'); print('got it')",
    "memfd": "import os; os.memfd_create('x'); print('got it')",
    "system_v_memory": SYSCALL + "assert libc.shmget(1234, 4096, 0o1666) >= 0; print('got it')",
    "message_queue": SYSCALL + "assert libc.msgget(1234, 0o1666) >= 0; print('got it')",
    "posix_queue": SYSCALL + "assert libc.syscall(240, b'q', 0o102, 0o600, 0) >= 0; print('got it')",
    "priority": "import os; os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)); print('got it')",
    "inotify": SYSCALL + "assert libc.inotify_init() >= 0; print('got it')",
    "quota_of_another": "import resource, os; resource.prlimit(os.getppid() or 1, 0, (1, 1)); print('got it')",
    "raise_limit": "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096)); print('got it')",
    "device_node": "import os; os.mknod('d', 0o060600, os.makedev(254, 0)); open('d'); print('got it')",
    "set_user": "import os; os.setuid(1); print('got it')",
    "chroot": "import os; os.chroot('.'); print('got it')",
    "passwords": "open('/etc/passwd').read(); print('got it')",
    "host_names": "open('/etc/hostname').read(); print('got it')",
    "kernel_settings": "open('/proc/sys/kernel/hostname').read(); print('got it')",
    "kernel_memory": "open('/proc/kallsyms').read(1); print('got it')",
    "machine_memory": "open('/proc/meminfo').read(1); print('got it')",
    "sys": "import os; os.listdir('/sys/kernel'); print('got it')",
    "cgroup_escape": "open('/sys/fs/cgroup/cgroup.procs', 'w').write('0'); print('got it')",
    "zygote_environment": "import os; open(f'/proc/{os.getppid() or 1}/environ').read(); print('got it')",
    "init_memory": "open('/proc/1/mem', 'rb'); print('got it')",
    "write_usr": "open('/usr/bin/zz', 'w'); print('got it')",
    "write_interpreter": "import os; open(os.__file__, 'a'); print('got it')",
    "site_packages": "import torch; print('got it')",
    "disks": "open('/dev/vda', 'rb'); print('got it')",
    "terminal": "open('/dev/tty'); print('got it')",
    "huge_file": "f = open('x', 'wb'); f.seek(10 << 30); f.write(b'x'); f.flush(); print('got it')",
    "huge_memory": "x = bytearray(b'x') * (2 << 30); print('got it')",
}  # fmt: skip


@pytest.mark.parametrize("attack", REFUSED)
def test_a_program_is_refused(sandbox: BoxedSandbox, attack: str) -> None:
    result = python(sandbox, REFUSED[attack], limits=SMALL)
    assert b"got it" not in result.stdout, result
    assert result.exit_code != 0 or attack == "name_lookup", result


def test_only_the_runs_own_descriptors_are_open(sandbox: BoxedSandbox) -> None:
    source = (
        "import os\nfor fd in range(3, 2000):\n"
        "    try:\n        os.fstat(fd); os.write(fd, b'verdict'); print('open', fd)\n    except OSError: pass"
    )
    assert python(sandbox, source).stdout == b""


def test_module_paths_that_stay_open_lead_nowhere_else() -> None:
    for sandbox in sandbox_fixture("landlock"):
        source = (
            "import os\nfor fd in range(3, 2000):\n    for up in ('..', '../..', '../../..', '../../../..'):\n"
            "        for name in ('etc/passwd', 'root', 'site-packages/pip/__init__.py', 'tmp'):\n"
            "            try:\n"
            "                os.close(os.open(f'{up}/{name}', os.O_RDONLY, dir_fd=fd)); print(fd, up, name)\n"
            "            except OSError: pass"
        )
        assert python(sandbox, source).stdout == b""


def test_nothing_of_a_run_is_left_for_the_next(sandbox: BoxedSandbox) -> None:
    leave = (
        "import os, tempfile, multiprocessing.shared_memory as m\n"
        "for d in ('.', '/tmp', '/dev/shm', '/var/tmp', tempfile.gettempdir(), os.path.expanduser('~')):\n"
        "    try: open(d + '/rlvr_left', 'w').write('x'); print('wrote', d)\n    except OSError: pass\n"
        "import sys; sys.rlvr_left = 1\nimport math; math.rlvr_left = 1\nos.environ['RLVR_LEFT'] = '1'"
    )
    assert b"wrote ." in python(sandbox, leave).stdout
    look = (
        "import os, sys, math, tempfile\n"
        "for d in ('.', '/tmp', '/dev/shm', '/var/tmp', tempfile.gettempdir(), os.path.expanduser('~')):\n"
        "    if os.path.exists(d + '/rlvr_left'): print('found', d)\n"
        "print(hasattr(sys, 'rlvr_left'), hasattr(math, 'rlvr_left'), 'RLVR_LEFT' in os.environ)"
    )
    for _ in range(3):
        assert python(sandbox, look).stdout == b"False False False\n"


def test_a_deep_or_locked_directory_is_removed(sandbox: BoxedSandbox) -> None:
    source = (
        "import os\nfor i in range(400):\n    os.mkdir('d'); os.chdir('d')\n"
        "open('f', 'w').close(); os.symlink('/etc', 'link'); os.mkfifo('pipe'); os.chmod('.', 0); print('deep')"
    )
    assert python(sandbox, source).stdout == b"deep\n"
    assert python(sandbox, "import os; print(os.listdir('.'))").stdout == b"['main.py']\n"
    assert Path("/etc/passwd").exists()


def test_a_daemon_that_holds_stdout_open_dies_with_its_run(sandbox: BoxedSandbox) -> None:
    marker = f"rlvr-daemon-{uuid.uuid4().hex}"
    source = (
        "import os, sys\n"
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        f"        os.execvp('sh', ['sh', '-c', 'while :; do sleep 0.01; echo tick; done', '{marker}'])\n"
        "    os._exit(0)\n"
        "import time; time.sleep(0.1); print('done')"
    )
    start = time.monotonic()
    result = python(sandbox, source)
    assert result.exit_code == 0
    assert b"done" in result.stdout
    assert time.monotonic() - start < 4
    assert processes_with(marker) == []


def test_a_fork_bomb_stays_within_its_limit(sandbox: BoxedSandbox) -> None:
    source = (
        "import os, time\nn = 0\n"
        "while True:\n    try:\n        if os.fork() == 0: time.sleep(20); os._exit(0)\n        n += 1\n"
        "    except OSError: print(n, flush=True); break\n    if n > 3000: print('got it', flush=True); break\n"
    )
    result = python(sandbox, source, limits=SMALL)
    assert b"got it" not in result.stdout
    assert result.stdout == b"" or int(result.stdout) <= SMALL.pids
    assert python(sandbox, "print(1)").stdout == b"1\n"


def test_a_forking_storm_is_ended(sandbox: BoxedSandbox) -> None:
    marker = f"rlvr-storm-{uuid.uuid4().hex}"
    source = (
        "import os\nopen('x.sh', 'w').write('#!/bin/sh\\n$0 & $0 &\\n'); os.chmod('x.sh', 0o755)\n"
        f"os.system('./x.sh {marker}')\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    )
    result = python(sandbox, source, limits=Limits(wall_s=1.0, pids=16, memory_mb=256))
    assert not result.is_clean
    assert processes_with(marker) == []
    assert python(sandbox, "print(1)").stdout == b"1\n"


def test_memory_spread_over_processes_is_limited(sandbox: BoxedSandbox) -> None:
    source = (
        "import os, time\nkids = []\n"
        "for _ in range(6):\n    pid = os.fork()\n    if pid == 0:\n"
        "        x = bytearray(b'x') * (200 << 20); time.sleep(1); os._exit(0)\n    kids.append(pid)\n"
        "print([os.waitpid(k, 0)[1] for k in kids])"
    )
    result = python(sandbox, source, limits=Limits(wall_s=8.0, memory_mb=512))
    assert result.stdout != b"[0, 0, 0, 0, 0, 0]\n", result


def test_the_trainer_cannot_be_signalled(sandbox: BoxedSandbox) -> None:
    source = (
        "import os, signal\n"
        f"for pid in (os.getppid(), {os.getpid()}, {os.getppid()}, 0, -os.getpgrp(), -1):\n"
        "    try:\n        if pid not in (0, -os.getpgrp()): os.kill(pid, signal.SIGTERM); print('sent', pid)\n"
        "    except OSError: pass\nos.killpg(0, signal.SIGKILL)"
    )
    result = python(sandbox, source)
    assert f"sent {os.getpid()}".encode() not in result.stdout
    assert sandbox.counters.retried_broken == 0
    assert python(sandbox, "print(1)").stdout == b"1\n"


def test_named_and_abstract_sockets_of_the_machine_are_out_of_reach(sandbox: BoxedSandbox, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    abstract = f"\0rlvr-test-{uuid.uuid4().hex}"
    received: list[bytes] = []
    listeners = [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
    for listener, name in zip(listeners, (path, abstract), strict=True):
        listener.bind(name)
        listener.setblocking(False)
    os.chmod(path, 0o777)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o005)
    source = (
        "import socket\n"
        "makers = [lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),\n"
        "          lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0]]\n"
        f"for make in makers:\n    for name in ({path!r}, {abstract!r}, '/dev/log', '/run/systemd/journal/socket'):\n"
        "        try: make().sendto(b'x', name); print('sent', name)\n        except OSError: pass"
    )
    result = python(sandbox, source)
    for listener in listeners:
        try:
            received.append(listener.recv(9))
        except BlockingIOError:
            continue
        finally:
            listener.close()
    assert received == []
    assert result.stdout == b""


def test_files_of_this_user_keep_their_mode_and_times(sandbox: BoxedSandbox, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.write_text("x", encoding="ascii")
    before = target.stat()
    source = (
        "import os\n"
        "for call in (lambda p: os.chmod(p, 0), lambda p: os.utime(p, (0, 0)),\n"
        "             lambda p: os.setxattr(p, 'user.a', b'1'),\n"
        "             os.unlink, lambda p: os.truncate(p, 0), lambda p: os.rename(p, p + '2'),\n"
        "             lambda p: os.link(p, 'l')):\n"
        f"    try: call({str(target)!r})\n    except OSError: pass"
    )
    python(sandbox, source)
    after = target.stat()
    assert (after.st_mode, after.st_mtime, after.st_size, os.listxattr(target)) == (
        before.st_mode,
        before.st_mtime,
        1,
        [],
    )


def test_the_interpreter_that_a_program_patches_is_its_own(sandbox: BoxedSandbox) -> None:
    source = (
        "import builtins, os, sys, gc\nbuiltins.print = lambda *a: None\nos._exit = lambda c: None\n"
        "for o in gc.get_objects():\n"
        "    if type(o).__name__ in ('Zygote', 'NamespaceRoom', 'LandlockRoom'):\n"
        "        for k in list(vars(o)): vars(o)[k] = None\n"
        "sys.modules.clear()\nraise SystemExit(5)"
    )
    assert not python(sandbox, source).is_clean
    assert python(sandbox, "print(1)").stdout == b"1\n"
    assert sandbox.counters.retried_broken == 0
