"""What a forked child of the zygote does last: it becomes the program.

Nothing here is trusted once the program runs: it shares this interpreter. It knows no expected output and holds no
descriptor but its own. Standard library only: this file runs inside the box.
"""

import atexit
import builtins
import io
import os
import signal
import sys
import types
from collections.abc import Sequence
from typing import NoReturn

_MAIN = "__main__"


def standard_streams() -> None:
    """Opens sys.stdin, sys.stdout and sys.stderr on 0, 1 and 2, as a fresh interpreter in UTF-8 would.

    Called in the zygote, where empty memory files stand for those of the runs: each run puts its own in their place.
    """
    for number in (0, 1, 2):
        stand_in = os.memfd_create("standard")
        os.dup2(stand_in, number)
        os.close(stand_in)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - they live as long as the program
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = io.TextIOWrapper(
        open(2, "wb", closefd=False),  # noqa: SIM115
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr


def interactive_names() -> None:
    """`exit`, `quit` and `help`, which the interpreter lacks when it starts without `site`."""
    import _sitebuiltins

    for name in ("exit", "quit"):
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))
    builtins.help = _sitebuiltins._Helper()  # pyright: ignore[reportPrivateUsage]


def run_source(source: bytes, argv: Sequence[str]) -> NoReturn:
    """Runs the text of a file as `__main__`, and leaves as the interpreter would."""
    _leave(_run(source, argv))


def run_code(code: types.CodeType, argv: Sequence[str]) -> NoReturn:
    """Runs a compiled source as `__main__`."""
    _leave(_run(code, argv))


def execute(argv: Sequence[str]) -> NoReturn:
    """Replaces this process by a program; 127 when there is none of that name, 126 when it cannot run (as a shell)."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    program = sys.executable if argv[0] in ("python", "python3") else argv[0]
    try:
        os.execvp(program, list(argv))
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode("utf-8", "replace"))
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def _run(program: bytes | types.CodeType, argv: Sequence[str]) -> int:
    module = types.ModuleType(_MAIN)
    module.__dict__.update(__builtins__=builtins, __file__=argv[0], __cached__=None)
    sys.modules[_MAIN] = module
    sys.argv = list(argv)
    sys.path.insert(0, os.getcwd())
    try:
        if isinstance(program, bytes):
            program = compile(program, argv[0], "exec", dont_inherit=True)
        exec(program, module.__dict__)
    except SystemExit as leaving:
        return _exit_code(leaving)
    except BaseException as error:  # noqa: BLE001 - the interpreter's own last resort: print it and exit 1
        _report(error)
        return 1
    return 0


def _report(error: BaseException) -> None:
    """The traceback without the frames of this file, by the program's own hook if it set one."""
    trace = error.__traceback__
    trace = trace.tb_next if trace else None
    try:
        sys.excepthook(type(error), error.with_traceback(trace), trace)
    except BaseException:  # noqa: BLE001 - a broken hook of the program
        os.write(2, f"{type(error).__name__} (and sys.excepthook failed)\n".encode())


def _exit_code(leaving: SystemExit) -> int:
    code = leaving.code
    if code is None:
        return 0
    if isinstance(code, int):
        return int(code) & 0xFF
    try:
        sys.stderr.write(f"{code}\n")
    except BaseException:  # noqa: BLE001 - stderr is the program's, and may be anything
        return 1
    return 1


def _leave(code: int) -> NoReturn:
    """The end of an interpreter: threads, exit functions, flush (120 when stdout cannot be flushed)."""
    try:
        threading = sys.modules.get("threading")
        if threading is not None:
            threading._shutdown()  # what the interpreter itself calls to wait for threads
        atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
    except SystemExit as leaving:
        code = _exit_code(leaving)
    except BaseException:  # noqa: BLE001 - the program's own threads and exit functions
        code = code or 1
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BaseException:  # noqa: BLE001 - closed or full
            code = code or (120 if not getattr(stream, "closed", False) else 0)
    os._exit(code)
