"""The sandbox service: the contract through it, hostile and lost clients, a service that dies, jailed workers."""

import asyncio
import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from rlvr.contracts import check_sandbox
from rlvr.contracts.box import processes_named, settled
from rlvr.errors import SandboxError, SandboxUnavailable
from rlvr.jails import WorkerRequest
from rlvr.processes.frames import encode
from rlvr.protocols import Limits, Program
from rlvr.records import Status
from rlvr.registry import SANDBOXES, build_sandbox, find, load
from rlvr.verification.service import VerifierService
from rlvr_sandboxes.service import keys, wire
from tests.contract.code_suite import Host, planted_host, read_rows, verify_rows, wrong_verdicts
from tests.contract.service_cases import Service, served
from tests.contract.test_code_attacks import is_quick
from tests.unit.verification.jailed_cases import SCORER, hostile_texts, the_check, verdicts

PROGRAM, LIMITS = ("python", "main.py"), Limits(wall_s=10.0)
HELLO = {"main.py": b"print('hello', input())"}


def usable() -> str:
    """A local backend that works here; skips without one."""
    for name in ("landlock", "namespaces"):
        if all(p.is_ok for p in load(find(SANDBOXES, name)).probes() if p.is_required):
            return name
    pytest.skip("no local backend works on this machine; `rlvr sandboxes` says why")


@pytest.fixture(scope="module")
def service() -> Generator[Service]:
    with served(usable(), is_detached=True) as found:
        yield found


@pytest.mark.slow
def test_the_service_keeps_the_contract_of_a_sandbox(service: Service) -> None:
    settings = {"socket": service.path}
    assert check_sandbox(load(find(SANDBOXES, "service")), settings=settings, num_rounds=4) == []


# who may connect


def test_a_wrong_key_is_refused_on_both_sides_and_a_recorded_handshake_proves_nothing(service: Service) -> None:
    with pytest.raises(SandboxError, match="refuses the key; both sides must use the same key file"):
        wire.connect(service.path, b"x" * 32)
    key = keys.read_key(str(service.folder / "key"))
    with service.raw() as first, service.raw() as second:
        theirs = [connection.recv(100)[len(keys.MAGIC) :] for connection in (first, second)]
        assert theirs[0] != theirs[1]
        answer = b"n" * 32 + keys.proof(key, "client", theirs[0], b"n" * 32)
        for connection in (first, second):
            connection.sendall(answer)
        assert first.recv(100).startswith(keys.proof(key, "server", theirs[0], b"n" * 32))
        assert second.recv(100) == keys.REFUSED
        assert second.recv(100) == b""
    assert "refused a connection without the key, of user" in service.log


def test_a_client_sends_nothing_to_a_server_that_cannot_prove_the_key(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(10.0)
        answers = []

        def impostor() -> None:
            connection, _ = listener.accept()
            with connection:
                challenge = b"s" * keys.NONCE_BYTES
                connection.sendall(keys.MAGIC + challenge)
                proof = connection.recv(keys.ANSWER_BYTES)
                connection.sendall(proof[keys.NONCE_BYTES :])  # the client's own proof, sent back
                answers.append(connection.recv(1000))

        async def check() -> None:
            waiting = asyncio.create_task(asyncio.to_thread(impostor))
            with pytest.raises(SandboxError, match="does not have the key, so nothing is sent to it"):
                await asyncio.to_thread(wire.connect, path, b"k" * 32)
            await waiting

        asyncio.run(check())
    assert answers == [b""]


def test_socket_and_key_are_the_users_alone_and_an_open_key_is_refused(service: Service, tmp_path: Path) -> None:
    for name in ("socket", "key"):
        assert (service.folder / name).stat().st_mode & 0o777 == 0o600
    assert len(keys.read_key(str(service.folder / "key"))) == 64
    key = tmp_path / "key"
    key.write_text("k" * 64)
    key.chmod(0o644)
    with pytest.raises(SandboxError, match=f"open to every user of this machine; chmod 600 {key}"):
        keys.read_key(str(key))
    key.chmod(0o600)
    key.write_text("short")
    with pytest.raises(SandboxError, match="has 5 bytes; expected 32 to"):
        keys.read_key(str(key))


# clients that are hostile, slow or dead


def is_well(service: Service) -> bool:
    """Whether both slots are free and run programs."""

    async def run() -> bool:
        box = service.client()
        try:
            programs = [Program(argv=PROGRAM, files={"main.py": b"import os; os.write(4, b'\\0\\0\\0\\1x')"})] * 2
            async with asyncio.timeout(10.0):
                sessions = await box.open_sessions(programs)
                return [await session.receive(5.0) for session in sessions] == [b"x", b"x"]
        finally:
            await box.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    "message",
    [
        struct.pack(">QQ", 1 << 62, 1 << 62),
        struct.pack(">QQ", 10, wire.MAX_BLOB_BYTES + 1),
        b"\xff" * 500,
        struct.pack(">QQ", 2, 0) + b"[]",
        struct.pack(">QQ", 3, 0) + b"\xff\xfe{",
    ],
)
def test_bytes_that_are_no_frame_end_the_connection_and_nothing_else(service: Service, message: bytes) -> None:
    connection = service.connect()
    connection.socket.settimeout(10.0)
    connection.socket.sendall(message)
    assert connection.socket.recv(100) == b""
    connection.close()
    assert is_well(service)


@pytest.mark.parametrize(
    ("body", "blob", "words"),
    [
        ({"op": "nothing"}, b"", "does not know the request 'nothing'"),
        ({"op": "run"}, b"", "KeyError"),
        (
            {"op": "run", "program": {"argv": ["x"], "files": [["a", 10**9]], "limits": {}}, "stdin": 0},
            b"",
            "a part of",
        ),
        (
            {"op": "run", "program": {"argv": ["x"], "files": [["../a", 1]], "limits": {}}, "stdin": 0},
            b"1",
            "file name",
        ),
        ({"op": "run", "program": {"argv": ["x"], "files": [], "limits": {"y": 1}}, "stdin": 0}, b"", "TypeError"),
        ({"op": "open", "programs": []}, b"", "0 sessions at once"),
        ({"op": "close", "index": 7}, b"", "no open session 7"),
        ({"op": "preload", "sources": [["big", 17 << 20]]}, b"#" * (17 << 20), "preloaded sources"),
    ],
)
def test_a_request_that_makes_no_sense_is_an_error_with_the_reason(
    service: Service, body: dict[str, object], blob: bytes, words: str
) -> None:
    connection = service.connect()
    connection.socket.settimeout(20.0)
    connection.socket.sendall(encode(body, blob))
    reply = json.loads(connection.socket.recv(65536)[16:])
    connection.close()
    assert reply["op"] == "error"
    assert words in reply["message"]


def test_connections_that_prove_nothing_are_dropped_in_seconds_and_stop_nobody_for_longer(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = [service.raw() for _ in range(40)]
    start = time.monotonic()
    assert is_well(service)  # its client waits until the service has dropped them
    assert time.monotonic() - start < wire.HANDSHAKE_S + 5.0
    for connection in silent:
        while connection.recv(1000):
            pass
        connection.close()


def test_a_client_that_dies_loses_its_programs_and_frees_its_slots(service: Service) -> None:
    async def leave() -> None:
        box = service.client()
        name = "rlvrdeadclient"
        sleeper = f"import ctypes, time; ctypes.CDLL(None).prctl(15, b'{name}'); time.sleep(60)".encode()
        limits = Limits(wall_s=60.0)
        running = asyncio.create_task(box.run(PROGRAM, {"main.py": sleeper}, b"", limits))
        session = await box.open_session(PROGRAM, {"main.py": sleeper}, limits)
        while len(processes_named(name)) < 2:
            await asyncio.sleep(0.02)
        for connection in list(box._used):
            connection.socket.shutdown(socket.SHUT_RDWR)  # as the kernel does for a process that has died
        with pytest.raises(SandboxError):
            await session.close()
        running.cancel()
        await asyncio.wait({running})
        assert not await settled(lambda: processes_named(name))
        await box.close()

    asyncio.run(leave())
    assert is_well(service)


def test_a_run_that_is_cancelled_is_ended(service: Service) -> None:
    async def check() -> None:
        box = service.client()
        name = "rlvrcancelled"
        sleeper = f"import ctypes, time; ctypes.CDLL(None).prctl(15, b'{name}'); time.sleep(60)".encode()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await box.run(PROGRAM, {"main.py": sleeper}, b"", Limits(wall_s=60.0))
        assert not await settled(lambda: processes_named(name))
        assert (await box.run(PROGRAM, HELLO, b"again", LIMITS)).stdout == b"hello again\n"
        await box.close()

    asyncio.run(check())


# a service that is absent, dies or is stopped


def test_an_absent_service_is_an_error_with_the_command_that_starts_it(tmp_path: Path) -> None:
    box = Service(tmp_path, "landlock").client(reconnect_s=0.2)
    with pytest.raises(SandboxUnavailable, match=r"cannot be reached or was lost.*rlvr sandboxes serve --socket"):
        asyncio.run(box.start())
    start = time.monotonic()
    (problem,) = asyncio.run(Service(tmp_path, "landlock").client().self_test())
    assert "there is no such socket" in problem
    assert time.monotonic() - start < 5.0


def test_a_killed_service_costs_its_runs_a_repetition_and_a_lost_one_is_an_error() -> None:
    async def check(service: Service) -> None:
        box = service.client()
        await box.start()
        slow = {"main.py": b"import time; time.sleep(1.5); print('done')"}
        running = [asyncio.create_task(box.run(PROGRAM, slow, b"", LIMITS)) for _ in range(2)]
        session = await asyncio.create_task(box.open_session(PROGRAM, HELLO, LIMITS))
        await asyncio.sleep(0.3)
        service.stop(signal.SIGKILL)
        with pytest.raises(SandboxError, match="was lost during a session"):
            await session.close()
        service.start(wait=False)  # its socket is still there, and is replaced
        assert [(await run).stdout for run in running] == [b"done\n"] * 2
        hanging = asyncio.create_task(box.run(PROGRAM, slow, b"", LIMITS))
        await asyncio.sleep(0.3)
        assert service.stop() == 0  # SIGTERM ends what runs, in order
        assert not os.path.exists(service.path)
        box.config = box.config.model_copy(update={"reconnect_s": 0.5})
        with pytest.raises(SandboxError, match="cannot be reached or was lost"):
            await hanging
        await box.close()

    with served(usable(), "slots=3") as service:
        asyncio.run(check(service))


def test_a_second_service_and_a_backend_that_cannot_be_served_are_refused(service: Service) -> None:
    second = Service(service.folder, usable())
    second.start(wait=False)
    assert second.wait() == 1
    assert f"a service listens at {service.path} already" in " ".join(service.log.split())
    with pytest.raises(SandboxError, match="cannot be served, because it lacks preload, worker"):
        load(find(SANDBOXES, "service")).serve(build_sandbox("docker", {}), socket=service.path)


# attacks


def test_an_attack_of_each_kind_earns_nothing_through_the_service_and_the_host_is_unchanged(service: Service) -> None:
    attacks = {row["category"]: row for row in read_rows("attacks") if is_quick(row) and not row.get("needs")}
    honest = [row for row in read_rows("honest") if is_quick(row) and not row.get("needs")][::6]
    rows = [*(row for row in attacks.values() if row["language"] == "python"), *honest]

    async def verify(host: Host) -> list[str]:
        box = service.client()
        verdicts = await verify_rows(box, rows)
        await box.close()
        return [*wrong_verdicts(rows, verdicts), *(effect for row in rows for effect in host.effects_of(row))]

    with planted_host() as host:
        assert asyncio.run(verify(host)) == []
        assert host.changes() == []


# jailed workers


def test_a_worker_may_not_be_shown_the_key_or_a_path_that_the_service_does_not_have(service: Service) -> None:
    box = service.client()
    try:
        with pytest.raises(SandboxError, match="has no /nowhere/data: it sees the files of its own container"):
            box.start_worker(WorkerRequest(module="json", readable=("/nowhere/data",)))
        with pytest.raises(SandboxError, match=r"contains .*key, which a jailed verifier must not see"):
            box.start_worker(WorkerRequest(module="json", readable=(str(service.folder),)))
        with pytest.raises(SandboxError, match="is not an interpreter"):
            box.start_worker(WorkerRequest(module="json", python="/etc/passwd"))
    finally:
        asyncio.run(box.close())


@pytest.fixture
def scorer(tmp_path: Path) -> Path:
    """A file with a scorer that evaluates the completion; as root a jail's user must be able to reach it."""
    file = tmp_path / "scorers.py"
    file.write_text(SCORER)
    for folder in (tmp_path, *tmp_path.parents[:4]):
        folder.chmod(folder.stat().st_mode | 0o755)
    return file


def test_a_jailed_scorer_works_through_the_service_and_hostile_texts_earn_nothing(
    service: Service, scorer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "a-secret")
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    hostile = hostile_texts(folder, f"far-{os.getpid()}")
    hostile["reads the key"] = f"4 if open({str(service.folder / 'key')!r}).read() else 0"
    hostile["connects to the service"] = f"__import__('socket').socket(1).connect({service.path!r}) or 4"
    texts = [text for item in hostile.values() for text in ("2 + 2", item)]
    verifiers = VerifierService(1, 5.0, ("service", {"socket": service.path}))
    try:
        check = the_check(scorer)
        verifiers.preflight([check])
        found = verdicts(verifiers, check, texts)
    finally:
        verifiers.close()
    assert all(verdict.passed for verdict in found[::2])
    assert [name for name, verdict in zip(hostile, found[1::2], strict=True) if verdict.passed] == []
    assert list(folder.iterdir()) == []
    assert not Path("/tmp/rlvr-jail-test").exists()


@pytest.mark.slow
def test_a_service_that_dies_costs_no_jailed_item_its_verdict_and_a_lost_one_gives_errors(scorer: Path) -> None:
    with served(usable()) as service:
        settings = {"socket": service.path, "reconnect_s": 15.0}
        verifiers = VerifierService(1, 20.0, ("service", settings))
        try:
            check = the_check(scorer)
            verifiers.preflight([check])
            slow = ["__import__('time').sleep(0.4) or 4"] * 4
            assert verdicts(verifiers, check, ["2 + 2"])[0].passed
            timer = threading.Timer(0.6, lambda: (service.stop(signal.SIGKILL), service.start(wait=False)))
            timer.start()
            found = verdicts(verifiers, check, slow)
            timer.join()
            assert [verdict.status for verdict in found] == [Status.PASS] * 4, found
            client: Any = verifiers._sandbox._sandbox
            client.config = client.config.model_copy(update={"reconnect_s": 0.3})
            threading.Timer(0.6, lambda: service.stop(signal.SIGKILL)).start()
            found = verdicts(verifiers, check, slow)
            assert {verdict.status for verdict in found[2:]} == {Status.ERROR}, found
            assert Status.FAIL not in {verdict.status for verdict in found}
        finally:
            verifiers.close()
