"""Both ends of the sandbox service without a service: where it may listen, and what a cancelled connection costs."""

import asyncio
import threading
from pathlib import Path

import pytest

from rlvr.errors import SandboxError
from rlvr.protocols import Limits
from rlvr.registry import SANDBOXES, build_sandbox, find, load
from rlvr_sandboxes.outside.gate import SlotGate
from rlvr_sandboxes.service import keys, wire
from rlvr_sandboxes.service.client import ServiceConfig, ServiceSandbox
from rlvr_sandboxes.service.server import listen


class Connection:
    """A connection that is not used."""

    def close(self) -> None:
        pass


@pytest.mark.parametrize("is_started", [False, True])
def test_a_run_that_is_cancelled_while_it_connects_leaves_no_connection_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_started: bool
) -> None:
    keys.make_key(f"{tmp_path}/key", mode=0o600)
    box = ServiceSandbox(ServiceConfig(socket=f"{tmp_path}/socket"))
    connecting, proceed = threading.Semaphore(0), threading.Event()

    def connect(path: str, key: bytes) -> Connection:
        connecting.release()
        assert proceed.wait(10.0)
        return Connection()

    monkeypatch.setattr(wire, "connect", connect)
    monkeypatch.setattr(box, "_greet", lambda connection: None)
    if is_started:
        box._gate = SlotGate(4)

    async def check() -> None:
        limits = Limits(wall_s=1.0)
        runs = [asyncio.create_task(box.run(("python", "main.py"), {"main.py": b""}, b"", limits)) for _ in range(2)]
        for _ in runs:
            assert await asyncio.to_thread(connecting.acquire, timeout=10.0)
        for run in runs:
            run.cancel()
        await asyncio.wait(runs)
        proceed.set()

    asyncio.run(check())  # waits for its threads
    assert box._used == set()
    assert len(box._idle) == 2


def test_a_file_in_the_place_of_the_socket_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes"
    file.write_text("mine")
    with pytest.raises(SandboxError, match=f"{file} exists and is not a socket; remove it, or name another --socket"):
        listen(str(file), mode=0o600)
    assert file.read_text() == "mine"


def test_a_folder_that_cannot_be_created_is_an_error_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SandboxError, match=r"cannot be created: Not a directory; create it .* with --socket"):
        load(find(SANDBOXES, "service")).serve(build_sandbox("landlock", {}), socket=f"{tmp_path}/file/folder/socket")
