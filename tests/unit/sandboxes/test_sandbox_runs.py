"""Honest programs must find what a plain interpreter gives them, and every fact about a run must be right."""

import os
import sys
from collections.abc import Iterator

import pytest

from rlvr.protocols import Limits
from rlvr_sandboxes.outside.boxes import BoxedSandbox
from tests.unit.sandboxes.sandbox_cases import BACKENDS, QUICK, python, sandbox_fixture


@pytest.fixture(scope="module", params=list(BACKENDS))
def sandbox(request: pytest.FixtureRequest) -> Iterator[BoxedSandbox]:
    yield from sandbox_fixture(request.param)


HONEST = {
    "input": ("a, b = map(int, input().split()); print(a * b)", b"12\n"),
    "read": ("import sys; a, b = sys.stdin.read().split(); print(int(a) * int(b))", b"12\n"),
    "buffer": ("import sys; print(len(sys.stdin.buffer.readline()))", b"4\n"),
    "descriptor": ("import os; print(os.read(0, 99))", b"b'3 4\\n'\n"),
    "open_zero": ("print(open(0).read().split())", b"['3', '4']\n"),
    "iterate": ("import sys; print([line for line in sys.stdin])", b"['3 4\\n']\n"),
    "quit": ("print(1); quit()", b"1\n"),
    "exit_zero": ("print(1); exit(0)", b"1\n"),
    "unicode": ("print('h\u00e9llo \u4e16\u754c \U0001f600')", "h\u00e9llo \u4e16\u754c \U0001f600\n".encode()),
    "main_guard": ("if __name__ == '__main__': print('main')", b"main\n"),
    "own_file": ("print(open(__file__).read()[:5])", b"print\n"),
    "recursion": (
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(256 << 20)\n"
        "def f(n): return n and 1 + f(n - 1)\n"
        "t = threading.Thread(target=lambda: print(f(50000))); t.start(); t.join()",
        b"50000\n",
    ),
    "threads": (
        "import threading\nout = []\n"
        "ts = [threading.Thread(target=out.append, args=(i,)) for i in range(40)]\n"
        "[t.start() for t in ts]; [t.join() for t in ts]; print(len(out))",
        b"40\n",
    ),
    "unjoined_thread": (
        "import threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.05), print('late'))).start()",
        b"late\n",
    ),
    "exit_function": ("import atexit; atexit.register(print, 'bye'); print('hi')", b"hi\nbye\n"),
    "subprocess": (
        "import subprocess; print(subprocess.run(['sh', '-c', 'echo $((6 * 7))'], capture_output=True).stdout)",
        b"b'42\\n'\n",
    ),
    "interpreter": (
        "import subprocess, sys\n"
        "print(subprocess.run([sys.executable, '-c', 'print(6 * 7)'], capture_output=True, text=True).stdout)",
        b"42\n\n",
    ),
    "inherited_output": ("import os; print('a', flush=True); os.system('echo b'); print('c')", b"a\nb\nc\n"),
    "fork": ("import os\nif os.fork() == 0: os._exit(7)\nprint(os.waitstatus_to_exitcode(os.wait()[1]))", b"7\n"),
    "asyncio": (
        "import asyncio\nasync def main():\n    await asyncio.sleep(0.01); print('done')\nasyncio.run(main())",
        b"done\n",
    ),
    "temporary": (
        "import tempfile\nwith tempfile.NamedTemporaryFile('w+') as f: f.write('x'); f.seek(0); print(f.read())",
        b"x\n",
    ),
    "files": ("import os; os.makedirs('a/b'); open('a/b/c', 'w').write('x'); print(os.listdir('a/b'))", b"['c']\n"),
    "sqlite": (
        "import sqlite3; c = sqlite3.connect('x.db'); c.execute('create table t (a)'); print(c.total_changes)",
        b"0\n",
    ),
    "copy": ("import shutil; open('a', 'w').close(); shutil.copy2('a', 'b'); print('ok')", b"ok\n"),
    "standard_library": (
        "import hashlib, decimal, zlib, lzma, bz2, uuid, ssl, csv, xml.dom.minidom, unittest, statistics, locale\n"
        "print(hashlib.sha256(b'').hexdigest()[:8])",
        b"e3b0c442\n",
    ),
    "numpy": (
        "import numpy as np; print(np.linalg.det(np.eye(3)), np.random.default_rng(0).random() < 1)",
        b"1.0 True\n",
    ),
    "alarm": (
        "import signal, time\ndef ring(*_): print('ring'); raise SystemExit(0)\n"
        "signal.signal(signal.SIGALRM, ring); signal.setitimer(signal.ITIMER_REAL, 0.02); time.sleep(3)",
        b"ring\n",
    ),
    "handled_signal": (
        "import os, signal\nsignal.signal(signal.SIGTERM, lambda *_: print('term'))\n"
        "os.kill(os.getpid(), signal.SIGTERM); print('on')",
        b"term\non\n",
    ),
    "soft_limits": ("import resource; resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 1 << 20)); print(1)", b"1\n"),
    "clean_main": (
        "import __main__, sys; print(sys.argv, __main__.__name__, __name__)",
        b"['main.py'] __main__ __main__\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HONEST)
def test_an_honest_program_runs_as_in_a_plain_interpreter(sandbox: BoxedSandbox, case: str) -> None:
    source, expected = HONEST[case]
    result = python(sandbox, source, b"3 4\n")
    assert (result.stdout, result.exit_code) == (expected, 0), result
    assert result.is_clean


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("raise SystemExit(3)", 3),
        ("raise SystemExit('words')", 1),
        ("raise SystemExit(None)", 0),
        ("import sys; sys.exit(256 + 5)", 5),
        ("1 / 0", 1),
        ("def broken(:", 1),
        ("import os; os._exit(9)", 9),
        ("import ctypes; ctypes.string_at(0)", -11),
        ("import os; os.execv('/bin/sh', ['sh', '-c', 'exit 4'])", 4),
        ("import sys; print('x'); sys.stdout.flush(); sys.stdout.close()", 0),
        ("import os; print('x'); os.close(1)", 120),
        ("import threading; threading.Thread(target=lambda: 1 / 0).start()", 0),
        ("raise KeyboardInterrupt", 1),
    ],
)
def test_the_exit_code_is_the_kernels(sandbox: BoxedSandbox, source: str, code: int) -> None:
    result = python(sandbox, source)
    assert result.exit_code == code, result
    assert result.signal == max(0, -code)


def test_a_program_gets_its_arguments_and_files(sandbox: BoxedSandbox) -> None:
    files = {"pkg/part.py": b"def g(): return 5", "data.bin": bytes(range(256))}
    source = "import sys, pkg.part; print(sys.argv[1:], pkg.part.g(), len(open('data.bin', 'rb').read()))"
    result = python(sandbox, source, files=files, arguments=("a b", "\u00e9"))
    assert result.stdout.decode() == "['a b', '\u00e9'] 5 256\n"


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", "a//b", "x\0y"])
def test_a_file_name_that_leaves_the_working_directory_is_refused(sandbox: BoxedSandbox, name: str) -> None:
    with pytest.raises(ValueError, match="relative name"):
        python(sandbox, "print(1)", files={name: b""})


def test_a_program_that_is_no_python_is_executed(sandbox: BoxedSandbox) -> None:
    import asyncio

    script = {"go.sh": b"#!/bin/sh\nread line; echo got $line; exit 6\n"}
    result = asyncio.run(sandbox.run(("./go.sh",), script, b"this\n", QUICK))
    assert (result.stdout, result.exit_code) == (b"got this\n", 6)
    absent = asyncio.run(sandbox.run(("no-such-program",), {}, b"", QUICK))
    assert absent.exit_code == 127
    assert b"no-such-program" in absent.stderr
    cold = asyncio.run(sandbox.run(("python", "-I", "-c", "print(2 ** 10)"), {}, b"", QUICK))
    assert cold.stdout == b"1024\n", cold


def test_invalid_utf8_passes_through_untouched(sandbox: BoxedSandbox) -> None:
    result = python(sandbox, "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())", b"\xff\xfe\x00\n")
    assert result.stdout == b"\xff\xfe\x00\n"


def test_output_above_the_limit_is_cut_and_reported(sandbox: BoxedSandbox) -> None:
    result = python(sandbox, "import sys\nfor _ in range(50): sys.stdout.write('x' * (1 << 20))")
    assert len(result.stdout) == QUICK.output_bytes
    assert result.overflowed
    assert not result.is_clean
    endless = python(sandbox, "while True: print('x' * 100000)")
    assert endless.overflowed
    exact = python(sandbox, "print('x' * 999)", limits=Limits(wall_s=5.0, output_bytes=1000))
    assert (len(exact.stdout), exact.overflowed) == (1000, False)


def test_the_end_of_stderr_is_kept(sandbox: BoxedSandbox) -> None:
    result = python(sandbox, "import sys; sys.stderr.write('a' * 200000); raise ValueError('the end')")
    assert len(result.stderr) == QUICK.stderr_bytes
    assert result.stderr.rstrip().endswith(b"ValueError: the end")
    assert b"zygote" not in result.stderr


def test_large_input_arrives_whole(sandbox: BoxedSandbox) -> None:
    data = b"0123456789abcdef" * (1 << 20)
    result = python(sandbox, "import sys, zlib; print(zlib.crc32(sys.stdin.buffer.read()))", data)
    import zlib

    assert result.stdout == b"%d\n" % zlib.crc32(data)
    big = {"big.bin": data}
    assert python(sandbox, "print(len(open('big.bin', 'rb').read()))", files=big).stdout == b"%d\n" % len(data)


def test_a_busy_program_times_out_with_its_cpu_time(sandbox: BoxedSandbox) -> None:
    result = python(sandbox, "print('start', flush=True)\nwhile True: pass", limits=Limits(wall_s=1.0))
    assert (result.timed_out, result.exit_code, result.stdout) == (True, -9, b"start\n")
    assert result.delay_s is not None
    assert 0.9 < result.seconds - result.delay_s < 3.0
    assert result.cpu_s > 0.3


def test_a_cpu_limit_ends_a_program_before_its_wall_limit(sandbox: BoxedSandbox) -> None:
    result = python(sandbox, "while True: pass", limits=Limits(wall_s=20.0, cpu_s=1.0))
    assert (result.exit_code, result.timed_out) == (-9, False)
    assert result.seconds < 15


def test_several_busy_processes_time_out_with_the_cpu_time_of_all(sandbox: BoxedSandbox) -> None:
    result = python(sandbox, "import os\nos.fork()\nwhile True: pass", limits=Limits(wall_s=1.0))
    assert (result.exit_code, result.timed_out) == (-9, True)


def test_a_sleeping_program_times_out_without_a_delay(sandbox: BoxedSandbox) -> None:
    result = python(sandbox, "import time; time.sleep(60)", limits=Limits(wall_s=0.3))
    assert (result.timed_out, result.starved) == (True, False)
    assert result.delay_s is not None
    assert result.seconds - result.delay_s >= 0.3


def test_memory_facts_grow_with_the_program(sandbox: BoxedSandbox) -> None:
    small = python(sandbox, "print(1)")
    large = python(sandbox, "x = bytearray(b'x') * (200 << 20); print(1)")
    assert 1 < small.memory_mb < 100
    assert 200 < large.memory_mb < 400
    assert large.is_clean


def test_equal_programs_see_equal_hashes_and_different_random_numbers(sandbox: BoxedSandbox) -> None:
    source = "import random; print(hash('rlvr')); print(random.random())"
    first, second = (python(sandbox, source).stdout.split() for _ in range(2))
    assert first[0] == second[0]
    assert first[1] != second[1]


def test_the_environment_holds_only_the_boxs_own_names(sandbox: BoxedSandbox) -> None:
    os.environ["RLVR_TEST_SECRET"] = "rlvr-secret-value"
    try:
        result = python(sandbox, "import os; print(sorted(os.environ)); print(*os.environ.values())")
    finally:
        del os.environ["RLVR_TEST_SECRET"]
    assert b"rlvr-secret-value" not in result.stdout
    assert b"RLVR" not in result.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_standard_input_has_a_name_in_namespaces() -> None:
    for sandbox in sandbox_fixture("namespaces"):
        result = python(sandbox, "print(open('/dev/stdin').read(), file=open('/dev/stdout', 'w'))", b"3 4")
        assert result.stdout == b"3 4\n"
