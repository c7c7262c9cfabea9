"""Runs that are forked from a process which has imported everything, so that a fault costs a second and not ten.

    python -m tests.e2e.chaos_runs      the fork server: one JSON request a line, one JSON answer a line

Everything that a run starts inherits a mark in its environment, by which what is left of it is found.
"""

import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rlvr.processes.lifeline import end_with_parent

MARK = "RLVR_CHAOS_MARK"
HEAVY = (
    "torch",
    "pyarrow.parquet",
    "safetensors.torch",
    "transformers.models.llama.modeling_llama",
    "rlvr.cli",
    "rlvr.run.launch.local",
)


class ForkServer:
    """The server as the test sees it; a context manager."""

    def __init__(self, folder: Path) -> None:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.chaos_runs"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        )
        self._folder = folder

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def start(self, arguments: list[str], *, log: Path, mark: str, temporary: Path) -> int:
        """The process id of `rlvr ARGUMENTS`."""
        environment = {MARK: mark, "TMPDIR": str(temporary)}
        return self._ask(arguments=arguments, log=str(log), cwd=str(self._folder), env=environment)

    def exit_code(self, pid: int) -> int | None:
        """How it ended; None while it runs."""
        return self._ask(pid=pid)

    def _ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def family(mark: str) -> list[int]:
    """The living processes of a run, wherever they are in the tree."""
    wanted = f"{MARK}={mark}".encode()
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z" and wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def digests(checkpoint: Path) -> dict[str, str]:
    """Hashes of weights and optimiser; of a sharded checkpoint, of the stored numbers without their layout in files."""
    sharded = sorted(path.parent for path in checkpoint.rglob(".metadata"))
    if sharded:
        return {str(folder.relative_to(checkpoint)): _digest_of_sharded(folder) for folder in sharded}
    names = ("model.safetensors", "optimizer.pt")
    return {name: hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() for name in names}


def _digest_of_sharded(folder: Path) -> str:
    """A hash of everything that torch.distributed.checkpoint stored in the folder."""
    import torch
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
    from torch.utils._pytree import tree_flatten_with_path

    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole.pt"
        dcp_to_torch_save(folder, whole)
        stored = torch.load(whole, weights_only=False)
    digest = hashlib.sha256()
    for path, value in tree_flatten_with_path(stored)[0]:
        digest.update(str(path).encode())
        digest.update(value.double().numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode())
    return digest.hexdigest()


def torn_lines(run: Path) -> list[tuple[str, bytes]]:
    """Lines of the JSON Lines files that are no JSON."""
    torn: list[tuple[str, bytes]] = []
    for name in ("metrics.jsonl", "events.jsonl"):
        for line in (run / name).read_bytes().splitlines():
            try:
                json.loads(line)
            except ValueError:
                torn.append((name, line[:80]))
    return torn


def unfinished_files(run: Path) -> list[str]:
    """Files and folders that a writer would have renamed or removed at its end."""
    endings = (".tmp", "-wal", "-shm", "-journal")
    return [
        str(path.relative_to(run))
        for path in run.rglob("*")
        if path.name.endswith(endings) or path.name.startswith(".write")
    ]


def _serve() -> None:
    import rlvr.run.launch.process

    rlvr.run.launch.process.prepare_process()
    for name in HEAVY:
        importlib.import_module(name)
    ended: dict[int, int] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "pid" in request:
            pid = request["pid"]
            if pid not in ended and (found := os.waitpid(pid, os.WNOHANG))[0]:
                ended[pid] = os.waitstatus_to_exitcode(found[1])
            answer = ended.get(pid)
        else:
            answer = os.fork()
            if answer == 0:
                _run(**request)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _run(*, arguments: list[str], log: str, cwd: str, env: dict[str, str]) -> None:
    """Becomes `rlvr ARGUMENTS`. Never returns."""
    import rlvr.cli

    end_with_parent(os.getppid())
    os.setsid()
    os.chdir(cwd)
    os.environ.update(env)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    sys.argv = ["rlvr", *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code: Any = 70
    try:
        rlvr.cli.main()
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:  # before there was anybody to handle it
        code = 130
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def wait_until(met: Any, *, limit_s: float) -> bool:
    """Whether it was met in time."""
    until = time.monotonic() + limit_s
    while not met():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


if __name__ == "__main__":
    _serve()
