"""Requests and results of the sandbox service as frames: facts in JSON, files and output as bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from rlvr.errors import SandboxError
from rlvr.jails import WorkerRequest
from rlvr.processes.frames import Frame
from rlvr.protocols import Limits, Program, RunResult


def run_request(program: Program, stdin: bytes) -> tuple[dict[str, Any], bytes]:
    """A run."""
    header, files = _program_header(program)
    return {"op": "run", "program": header, "stdin": len(stdin)}, files + stdin


def open_request(programs: Sequence[Program]) -> tuple[dict[str, Any], bytes]:
    """Sessions that are to be open at the same time."""
    parts = [_program_header(program) for program in programs]
    return {"op": "open", "programs": [header for header, _ in parts]}, b"".join(files for _, files in parts)


def preload_request(sources: Mapping[str, str]) -> tuple[dict[str, Any], bytes]:
    """Trusted sources."""
    texts = [text.encode() for text in sources.values()]
    sizes = [[name, len(text)] for name, text in zip(sources, texts, strict=True)]
    return {"op": "preload", "sources": sizes}, b"".join(texts)


def worker_request(request: WorkerRequest) -> dict[str, Any]:
    """A jailed worker."""
    return {"op": "worker", "request": {**asdict(request), "environment": dict(request.environment)}}


def read_run(frame: Frame) -> tuple[Program, bytes]:
    """Program and stdin of a run. Raises ValueError for an inconsistent request."""
    reader = _Reader(frame.blob)
    program = _program(frame.body["program"], reader)
    stdin = reader.take(frame.body["stdin"])
    reader.finish()
    return program, stdin


def read_open(frame: Frame) -> list[Program]:
    """The programs of sessions. Raises ValueError."""
    reader = _Reader(frame.blob)
    programs = [_program(header, reader) for header in frame.body["programs"]]
    reader.finish()
    return programs


def read_preload(frame: Frame) -> dict[str, str]:
    """Sources by name. Raises ValueError."""
    reader = _Reader(frame.blob)
    sources = {str(name): reader.take(size).decode() for name, size in frame.body["sources"]}
    reader.finish()
    return sources


def read_worker(frame: Frame) -> WorkerRequest:
    """The request of a worker. Raises ValueError, TypeError."""
    facts = dict(frame.body["request"])
    facts["packages"] = tuple((str(name), str(place)) for name, place in facts["packages"])
    for name in ("arguments", "readable", "writable"):
        facts[name] = tuple(map(str, facts[name]))
    return WorkerRequest(**facts)


def result_message(result: RunResult) -> tuple[dict[str, Any], bytes]:
    """How a run ended."""
    facts = asdict(replace(result, stdout=b"", stderr=b""))
    del facts["stdout"], facts["stderr"]
    return {"op": "result", "facts": facts, "stdout": len(result.stdout)}, result.stdout + result.stderr


def read_result(frame: Frame) -> RunResult:
    """How a run ended. Raises what `raise_error` raises, and ValueError for another message."""
    raise_error(frame)
    try:
        split = int(frame.body["stdout"])
        return RunResult(stdout=frame.blob[:split], stderr=frame.blob[split:], **frame.body["facts"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"the service's answer is not a result: {error!r}") from error


def error_message(error: Exception) -> dict[str, Any]:
    """An error that the caller is to get: its own ValueError, or a SandboxError."""
    if isinstance(error, SandboxError):
        return {"op": "error", "kind": "sandbox", "message": str(error)}
    kind = "value" if isinstance(error, ValueError) else "sandbox"
    return {"op": "error", "kind": kind, "message": str(error) if kind == "value" else repr(error)}


def raise_error(frame: Frame) -> None:
    """Raises CallError for an answer that is an error."""
    if frame.body.get("op") == "error":
        message = str(frame.body.get("message", ""))
        raise CallError(ValueError(message) if frame.body.get("kind") == "value" else SandboxError(message))


class CallError(Exception):
    """The service refused a request, or failed at it; the connection can still be used. error: for the caller."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _program_header(program: Program) -> tuple[dict[str, Any], bytes]:
    header = {
        "argv": list(program.argv),
        "files": [[name, len(data)] for name, data in program.files.items()],
        "limits": asdict(program.limits),
    }
    return header, b"".join(program.files.values())


def _program(header: Mapping[str, Any], reader: "_Reader") -> Program:
    files = {str(name): reader.take(size) for name, size in header["files"]}
    return Program(argv=tuple(map(str, header["argv"])), files=files, limits=Limits(**header["limits"]))


class _Reader:
    """Cuts a frame's bytes into the parts that its JSON announces."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: Any) -> bytes:
        """The next bytes. Raises ValueError when there are not that many."""
        if not isinstance(size, int) or not 0 <= size <= len(self._data) - self._at:
            raise ValueError(f"a part of {size!r} bytes in a frame that has {len(self._data) - self._at} left")
        self._at += size
        return self._data[self._at - size : self._at]

    def finish(self) -> None:
        """Raises ValueError when bytes are left."""
        if self._at != len(self._data):
            raise ValueError(f"{len(self._data) - self._at} bytes too many in a frame")
