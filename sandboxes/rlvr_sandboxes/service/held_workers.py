"""A jailed worker at the server: a thread starts it, gives its pipes to the client, and ends it with the client."""

import contextlib
import importlib.util
import os
import select
from dataclasses import replace
from typing import Any

from rlvr.errors import SandboxError
from rlvr.jails import JailedProcess, SupportsWorkers, WorkerRequest
from rlvr_sandboxes.service import keys, messages
from rlvr_sandboxes.service.wire import Wire

_MOST_PIDS, _MOST_BYTES = 4096, 1 << 40


def check_paths(request: WorkerRequest, secret_files: tuple[str, ...]) -> WorkerRequest:
    """The request with the service's own copies of rlvr's packages where the client's are elsewhere.

    Raises: SandboxError for a path that this container does not have, and for one that would show a secret file.
    """
    packages: list[tuple[str, str]] = []
    for name, place in request.packages:
        if not os.path.exists(place) and name.partition(".")[0] in ("rlvr", "rlvr_verifiers"):
            spec = importlib.util.find_spec(name)
            place = next(iter(spec.submodule_search_locations or ()), place) if spec else place
        packages.append((name, place))
    shown = [place for _, place in packages] + list(request.readable) + list(request.writable)
    missing = [path for path in [*shown, *([request.python] if request.python else [])] if not os.path.exists(path)]
    if missing:
        raise SandboxError(
            f"the sandbox service has no {', '.join(missing)}: it sees the files of its own container, not those of "
            "the trainer. Mount them into the service's container at the same path, read-only"
        )
    for secret in secret_files:
        folder = keys.is_shown_by(secret, shown)
        if folder:
            raise SandboxError(f"{folder} contains {secret}, which a jailed verifier must not see; name another folder")
    if not 0 < request.pids <= _MOST_PIDS or not 0 < request.memory_bytes <= _MOST_BYTES:
        raise SandboxError(f"a worker of {request.pids} processes and {request.memory_bytes} bytes is not started")
    return replace(request, packages=tuple(packages))


def hold(backend: SupportsWorkers, request: WorkerRequest, wire: Wire) -> None:
    """Starts a worker and keeps it until it is no longer wanted. Returns when nothing of it is left.

    The thread that calls this is the worker's parent for the kernel (PDEATHSIG), so it does nothing else.
    """
    try:
        worker = backend.start_worker(request)
    except (SandboxError, OSError, ValueError) as error:
        with contextlib.suppress(OSError):
            wire.send_now(messages.error_message(error))
        return
    try:
        with contextlib.suppress(OSError, EOFError, ValueError):
            _give_pipes(worker, wire)
            _serve(worker, wire)
    finally:
        if worker.process.returncode is None:
            worker.kill()
            worker.process.wait()
        worker.close()


def _give_pipes(worker: JailedProcess, wire: Wire) -> None:
    stdin, stdout = worker.process.stdin, worker.process.stdout
    assert stdin is not None
    assert stdout is not None
    with stdin, stdout:  # from here on the client's alone, so that each end sees that the other has gone
        wire.send_now({"op": "started", "pid": worker.process.pid}, [stdin.fileno(), stdout.fileno()])


def _serve(worker: JailedProcess, wire: Wire) -> None:
    """Answers the client until it closes the connection, and says when the process has ended."""
    process = os.pidfd_open(worker.process.pid)
    try:
        poll = select.poll()
        poll.register(wire.socket, select.POLLIN)
        poll.register(process, select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in poll.poll()]
            if process in ready:
                poll.unregister(process)
                wire.send_now({"op": "ended", "code": worker.process.wait()})
            while wire.socket.fileno() in ready and (frame := wire.poll()) is not None:
                wire.send_now(_answer(worker, str(frame.body.get("op"))))
    finally:
        os.close(process)


def _answer(worker: JailedProcess, op: str) -> dict[str, Any]:
    if op == "starved":
        return {"op": op, "seconds": worker.starved_s()}
    if op == "errors":
        return {"op": op, "text": worker.errors()}
    if op == "kill":
        if worker.process.poll() is None:
            worker.kill()
        return {"op": op, "code": worker.process.wait()}
    raise ValueError(f"a worker's connection got {op!r}")
