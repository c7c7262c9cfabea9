"""The last step of a forked child of the zygote: it becomes the program.

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
from collections.abc import Callable, Sequence
from typing import NoReturn

_MAIN = "__main__"
_MAIN_GUARD = b'if __name__ == "__main__":\n    main()'
_REHEARSALS = 20  # the interpreter specialises code after some runs of it
_REHEARSAL = b"""
import sys
def solve(items):
    return sum(item * 2 for item in items), [x for x in items if x > 1], {"a": 1}, {1, 2}, f"{items[0]}"
class Shape:
    def __init__(self, name):
        self.name = name
try:
    total, *rest = solve([1, 2, 3])
    print(total, " ".join(map(str, sorted(range(3), key=lambda x: -x))), len(Shape("a").name))
    a, b = map(int, sys.stdin.readline().split())
except ValueError:
    pass
"""
Preloaded = types.CodeType | types.ModuleType


def standard_streams() -> None:
    """Opens sys.stdin, sys.stdout and sys.stderr on 0, 1 and 2, as a fresh interpreter in UTF-8 would.

    Called in the zygote, with empty memory files as placeholders, which each run replaces by its own.
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


def rehearse() -> None:
    """Runs the usual beginning of a program in the zygote, so that what it writes to once is not written to in each
    run: the interpreter's caches and the memory that they lie in."""
    for _ in range(_REHEARSALS):
        names = {"__name__": _MAIN}
        exec(compile(_REHEARSAL, "main.py", "exec", dont_inherit=True), names)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.ftruncate(1, 0)


def run_source(source: bytes, argv: Sequence[str]) -> NoReturn:
    """Runs the text of a file as `__main__`, and leaves as the interpreter would."""
    _leave(_run(source, argv))


def preload(source: bytes, name: str) -> Preloaded:
    """Prepares a trusted source in the zygote. Raises what it raises.

    One that ends by calling `main` when it is `__main__` is executed here, under its own name, so that its runs find
    its functions and imports done; what it defines as `rehearse` is called once. Any other source is only compiled.
    """
    if source.rstrip().endswith(_MAIN_GUARD):
        module = types.ModuleType(name)
        exec(compile(source, name, "exec", dont_inherit=True), module.__dict__)
        if "rehearse" in module.__dict__:
            module.rehearse()
        return module
    return compile(source, name, "exec", dont_inherit=True)


def run_preloaded(program: Preloaded, argv: Sequence[str]) -> NoReturn:
    """Runs a preloaded source as `__main__`."""
    if isinstance(program, types.CodeType):
        _leave(_run(program, argv))
    program.__name__ = _MAIN
    sys.modules[_MAIN] = program
    _leave(_finish(lambda: program.main(), argv))


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

    def body() -> None:
        code = program
        if isinstance(code, bytes):
            code = compile(code, argv[0], "exec", dont_inherit=True)
        exec(code, module.__dict__)

    return _finish(body, argv)


def _finish(body: Callable[[], None], argv: Sequence[str]) -> int:
    """The exit code of a program that `body` runs."""
    sys.argv = list(argv)
    sys.path.insert(0, os.getcwd())
    try:
        body()
    except SystemExit as leaving:
        return _exit_code(leaving)
    except BaseException as error:  # noqa: BLE001 - the interpreter's own last resort: print it and exit 1
        _report(error)
        return 1
    return 0


def _report(error: BaseException) -> None:
    """The traceback without the frames of this file, by the program's own hook if it set one."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
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
    """Ends as an interpreter does: threads, exit functions, flush (120 when stdout cannot be flushed)."""
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
