"""What ordinary programs need from a sandbox: bytes in and out, exit codes, files, concurrent runs."""

import asyncio

from rlvr.contracts.box import FAST, Box, Check, end_of, open_descriptors
from rlvr.errors import SandboxError
from rlvr.protocols import Limits

_MIB = 1 << 20


async def exit_codes(box: Box) -> list[str]:
    problems: list[str] = []
    for source, expected in (
        ("pass", 0),
        ("raise SystemExit(3)", 3),
        ("raise SystemExit('a message')", 1),
        ("raise ValueError('x')", 1),
        ("import os; os._exit(255)", 255),
        ("this is no Python", 1),
    ):
        result = await box.python(source)
        if result.exit_code != expected:
            problems.append(f"{source!r} must give {expected}, not {end_of(result)}")
        if result.timed_out or result.out_of_memory or result.overflowed or result.seconds < 0.0:
            problems.append(f"{source!r} breaks no limit, but its result says so: {result}")
    result = await box.python("import os; os.abort()")
    if result.exit_code >= 0 or not result.signal:
        problems.append(f"a signal's death must give a negative exit code, not {end_of(result)}")
    return problems


async def bytes_pass_unchanged(box: Box) -> list[str]:
    data = bytes(range(256)) * 4096
    echo = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())"
    problems: list[str] = []
    for name, stdin in (("all byte values", data), ("nothing", b""), ("one NUL", b"\0")):
        result = await box.python(echo, stdin=stdin)
        if result.stdout != stdin or result.exit_code:
            problems.append(f"{name}: {len(result.stdout)} of {len(stdin)} bytes, {end_of(result)}")
    return problems


async def utf8(box: Box) -> list[str]:
    text = "h\u00e9llo \u4e16\u754c \U0001f600\n"
    result = await box.python("print(input()); print('\\u00e9' * 3)", stdin=text.encode())
    if result.stdout.decode("utf-8", "replace") != text + "\u00e9" * 3 + "\n":
        return [f"print and input must speak UTF-8; got {result.stdout!r}, {end_of(result)}"]
    return []


async def stdin_nobody_reads(box: Box) -> list[str]:
    result = await box.python("print('done')", stdin=b"x" * (20 * _MIB))
    ok = result.stdout == b"done\n" and result.exit_code == 0 and not result.timed_out
    return [] if ok else [f"20 MiB that the program ignores: {end_of(result)}"]


async def large_output(box: Box) -> list[str]:
    limits = Limits(wall_s=20.0, output_bytes=60 * _MIB)
    source = "import sys\nfor _ in range(50): sys.stdout.buffer.write(b'0123456789abcde\\n' * 65536)"
    result = await box.python(source, limits=limits)
    if len(result.stdout) != 50 * _MIB or result.stdout != b"0123456789abcde\n" * (50 * 65536):
        return [f"50 MiB within the limit came as {len(result.stdout)} bytes, {end_of(result)}"]
    return [] if not result.overflowed and result.exit_code == 0 else [end_of(result)]


async def standard_error(box: Box) -> list[str]:
    source = "import sys; sys.stderr.write('x' * 300000 + 'the end'); print('out')"
    result = await box.python(source, limits=Limits(wall_s=10.0, stderr_bytes=1000))
    problems: list[str] = []
    if result.stdout != b"out\n" or result.exit_code or result.overflowed:
        problems.append(f"much standard error must change nothing else: {end_of(result)}")
    if len(result.stderr) > 1000 or not result.stderr.endswith(b"the end"):
        problems.append(f"the last 1000 bytes must be kept, not {len(result.stderr)}")
    return problems


async def files_of_the_program(box: Box) -> list[str]:
    files = {"data.bin": bytes(range(256)), "sub/deep/module.py": b"X = 5\n"}
    source = (
        "import os, sys\nsys.path.insert(0, 'sub/deep')\nimport module\n"
        "data = open('data.bin', 'rb').read()\nopen('new.txt', 'w').write('n')\n"
        "print(module.X, len(data), data == bytes(range(256)), sorted(os.listdir('.')))\n"
        "print(__name__, sys.argv[1:])"
    )
    result = await box.sandbox.run(
        ("python", "main.py", "one", "t w o"), {"main.py": source.encode(), **files}, b"", FAST
    )
    lines = result.stdout.decode("utf-8", "replace").splitlines()
    problems: list[str] = []
    if len(lines) != 2 or not lines[0].startswith("5 256 True") or "new.txt" not in lines[0]:
        problems.append(f"files must lie in the working directory: {lines}, {end_of(result)}")
    elif lines[1] != "__main__ ['one', 't w o']":
        problems.append(f"it must run as __main__ with its arguments, not as {lines[1]!r}")
    return problems


async def wrong_calls(box: Box) -> list[str]:
    problems: list[str] = []
    calls: list[tuple[tuple[str, ...], dict[str, bytes], str]] = [
        ((), {}, "an empty argv"),
        (("python", "main.py"), {"main.py": b"", "../out": b"x"}, "a file name with .."),
        (("python", "main.py"), {"main.py": b"", "/tmp/out": b"x"}, "an absolute file name"),
    ]
    for program, files, what in calls:
        try:
            await box.sandbox.run(program, files, b"", FAST)
        except ValueError:
            continue
        except SandboxError as error:
            problems.append(f"{what} must raise ValueError, not {type(error).__name__}: {error}")
        else:
            problems.append(f"{what} must raise ValueError")
    return problems


async def many_at_once(box: Box) -> list[str]:
    """Four rounds' worth of concurrent runs: each gets its own output, and nothing of ours grows."""
    await asyncio.gather(*(box.python("pass") for _ in range(box.num_rounds)))  # every slot is up
    before = open_descriptors()

    async def one(number: int) -> bool:
        result = await box.python(f"print(int(input()) * {number})", stdin=b"%d\n" % number)
        return result.stdout == b"%d\n" % (number * number)

    right = await asyncio.gather(*(one(number) for number in range(4 * box.num_rounds)))
    problems: list[str] = []
    if not all(right):
        problems.append(f"{right.count(False)} of {len(right)} concurrent runs got wrong output")
    if open_descriptors() > before + 2:
        problems.append(f"{open_descriptors() - before} descriptors stay open after the runs")
    return problems


async def killed_from_outside(box: Box) -> list[str]:
    """Kill -9 of a process of the box during a run: a result or SandboxError, and then it works again."""
    problems: list[str] = []
    for _ in range(3):
        run = asyncio.create_task(box.python("import time; time.sleep(0.6); print('whole')", limits=Limits(wall_s=5.0)))
        await asyncio.sleep(0.3)
        if not box.kill_one_child():
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
            return []  # nothing of this box runs below this process
        try:
            result = await asyncio.wait_for(run, 30.0)
        except SandboxError:
            continue
        except TimeoutError:
            problems.append("a run hangs when a process of the box is killed")
            continue
        if result.exit_code == 0 and result.stdout != b"whole\n":
            problems.append(f"half a run counts as a success: {result.stdout!r}")
    result = await asyncio.wait_for(box.python("print('back')"), 30.0)
    if result.stdout != b"back\n":
        problems.append(f"it does not recover: {end_of(result)}")
    return problems


RUN_CHECKS: list[tuple[str, Check]] = [
    ("exit codes", exit_codes),
    ("bytes", bytes_pass_unchanged),
    ("UTF-8", utf8),
    ("unread standard input", stdin_nobody_reads),
    ("50 MiB of output", large_output),
    ("standard error", standard_error),
    ("files and arguments", files_of_the_program),
    ("wrong calls", wrong_calls),
    ("many runs at once", many_at_once),
    ("kill -9", killed_from_outside),
]
