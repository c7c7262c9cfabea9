"""The two HTTP interfaces that `remote` speaks, as pure functions: a run as a JSON request, a JSON answer as a result.

SandboxFusion: POST /run_code, version of July 2026. piston: POST /api/v2/execute.
"""

import base64
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from rlvr.errors import SandboxError
from rlvr.protocols import Limits, RunResult


class Service(StrEnum):
    """Which interface a service has."""

    SANDBOXFUSION = "sandboxfusion"
    PISTON = "piston"


class ServiceFaultError(SandboxError):
    """The service broke or was out of reach; worth another try, after `wait_s` where it named a time."""

    wait_s = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """path: below the service's URL. request, result: to its JSON, and from it."""

    path: str
    request: Callable[..., dict[str, Any]]
    result: Callable[[Mapping[str, Any], Limits], RunResult]


def split_program(
    program: Sequence[str], files: Mapping[str, bytes]
) -> tuple[str, str, tuple[str, ...], dict[str, bytes]]:
    """(name of the main file, its text, arguments, the other files) of a Python program.

    Raises: SandboxError for anything else: these services take a source and not a command.
    """
    if len(program) < 2 or program[0] != "python" or program[1] not in files:
        raise SandboxError(f"sandbox 'remote' runs Python programs only (python FILE ...), not {list(program)!r}")
    others = {name: data for name, data in files.items() if name != program[1]}
    return program[1], _text(files[program[1]], program[1]), tuple(program[2:]), others


def fusion_request(program: Sequence[str], files: Mapping[str, bytes], stdin: bytes, limits: Limits) -> dict[str, Any]:
    """The body of a `/run_code` request.

    >>> body = fusion_request(("python", "m.py"), {"m.py": b"print(1)"}, b"x", Limits(wall_s=2.5))
    >>> body["code"], body["run_timeout"], body["memory_limit_MB"], body["stdin"]
    ('print(1)', 2.5, 1024, 'x')
    """
    _, code, arguments, others = split_program(program, files)
    if arguments:
        code = f"import sys; sys.argv[1:] = {list(arguments)!r}\n{code}"
    return {
        "code": code,
        "language": "python",
        "stdin": _text(stdin, "standard input"),
        "compile_timeout": limits.wall_s,
        "run_timeout": limits.wall_s,
        "memory_limit_MB": limits.memory_mb,
        "files": {name: base64.b64encode(data).decode() for name, data in others.items()},
        "fetch_files": [],
    }


def fusion_result(answer: Mapping[str, Any], limits: Limits) -> RunResult:
    """The result in a `/run_code` answer. Raises ServiceFaultError."""
    run = _object(answer.get("run_result"))
    if answer.get("status") == "SandboxError" or run is None:
        raise ServiceFaultError(f"SandboxFusion broke: {str(answer.get('message'))[:300]!r}")
    has_timed_out = run.get("status") == "TimeLimitExceeded"
    code = -int(signal.SIGKILL) if has_timed_out else run.get("return_code")
    if code is None:
        raise ServiceFaultError(f"SandboxFusion gave no return code: {str(run)[:300]}")
    return _result(
        exit_code=_shell_code(int(code)),
        stdout=str(run.get("stdout") or ""),
        stderr=str(run.get("stderr") or ""),
        seconds=float(run.get("execution_time") or 0.0),
        has_timed_out=has_timed_out,
        limits=limits,
    )


def piston_request(
    program: Sequence[str], files: Mapping[str, bytes], stdin: bytes, limits: Limits, *, version: str = "*"
) -> dict[str, Any]:
    """The body of an `/api/v2/execute` request; the main file comes first.

    >>> body = piston_request(("python", "m.py", "a"), {"m.py": b"print(1)"}, b"", Limits(wall_s=2.5))
    >>> body["files"][0]["name"], body["args"], body["run_timeout"], body["run_memory_limit"]
    ('m.py', ['a'], 2500, 1073741824)
    """
    name, code, arguments, others = split_program(program, files)
    listed = [{"name": name, "content": code, "encoding": "utf8"}]
    listed += [
        {"name": other, "content": base64.b64encode(data).decode(), "encoding": "base64"}
        for other, data in others.items()
    ]
    milliseconds = round(limits.wall_s * 1000)
    return {
        "language": "python",
        "version": version,
        "files": listed,
        "stdin": _text(stdin, "standard input"),
        "args": list(arguments),
        "run_timeout": milliseconds,
        "run_cpu_time": round((limits.cpu_s or limits.wall_s + 1.0) * 1000),
        "compile_timeout": milliseconds,
        "run_memory_limit": limits.memory_mb << 20,
    }


def piston_result(answer: Mapping[str, Any], limits: Limits) -> RunResult:
    """The result in an `/api/v2/execute` answer. Raises ServiceFaultError."""
    run = _object(answer.get("run"))
    if run is None or run.get("status") == "XX":
        raise ServiceFaultError(f"piston broke: {str(answer.get('message') or answer.get('run'))[:300]!r}")
    has_timed_out = run.get("status") == "TO"
    code, name = run.get("code"), run.get("signal")
    if name:
        code = -int(getattr(signal, str(name), signal.SIGKILL))
    elif code is None:
        raise ServiceFaultError(f"piston gave neither code nor signal: {str(run)[:300]}")
    return _result(
        exit_code=int(code),
        stdout=str(run.get("stdout") or ""),
        stderr=str(run.get("stderr") or ""),
        seconds=float(run.get("wall_time") or 0.0) / 1000.0,
        has_timed_out=has_timed_out,
        limits=limits,
        cpu_s=float(run.get("cpu_time") or 0.0) / 1000.0,
        memory_mb=float(run.get("memory") or 0.0) / 2**20,
        has_overflowed=run.get("status") == "OL",
    )


def _object(value: Any) -> dict[str, Any] | None:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


INTERFACES: Mapping[Service, Interface] = {
    Service.SANDBOXFUSION: Interface(path="/run_code", request=fusion_request, result=fusion_result),
    Service.PISTON: Interface(path="/api/v2/execute", request=piston_request, result=piston_result),
}


def _result(
    *,
    exit_code: int,
    stdout: str,
    stderr: str,
    seconds: float,
    has_timed_out: bool,
    limits: Limits,
    cpu_s: float = 0.0,
    memory_mb: float = 0.0,
    has_overflowed: bool = False,
) -> RunResult:
    output = stdout.encode("utf-8", "surrogatepass")
    errors = stderr.encode("utf-8", "surrogatepass")
    return RunResult(
        exit_code=exit_code,
        stdout=output[: limits.output_bytes],
        stderr=errors[max(0, len(errors) - limits.stderr_bytes) :],
        seconds=seconds,
        cpu_s=cpu_s,
        memory_mb=memory_mb,
        timed_out=has_timed_out,
        overflowed=has_overflowed or len(output) > limits.output_bytes,
    )


def _shell_code(code: int) -> int:
    """A shell reports death by a signal as 128 + its number.

    >>> _shell_code(137), _shell_code(3), _shell_code(-9)
    (-9, 3, -9)
    """
    return 128 - code if 128 < code < 128 + 65 else code


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SandboxError(f"sandbox 'remote' carries text only, and {what} is not UTF-8: {error}") from error
