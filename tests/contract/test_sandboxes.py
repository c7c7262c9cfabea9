"""Every local sandbox that works here keeps the contract; what the contract finds; `unsafe`, `auto`, their parts."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from rlvr.contracts import check_sandbox
from rlvr.errors import PluginError, SandboxError, SandboxUnavailable
from rlvr.protocols import Limits
from rlvr.registry import SANDBOXES, build_sandbox, find, list_plugins, load
from rlvr_sandboxes.outside.gate import SlotGate
from rlvr_sandboxes.outside.link import check_call
from rlvr_sandboxes.outside.supervised_box import supervisor_source
from rlvr_sandboxes.selection import AutoSandbox
from rlvr_sandboxes.unsafe import UnsafeConfig, UnsafeSandbox, refusal

ROOT = Path(__file__).parents[2]
LIMITS = Limits(wall_s=5.0)
HELLO = {"main.py": b"print('hello', input())"}
PROGRAM = ("python", "main.py")


def is_usable(name: str) -> bool:
    """Whether this machine has all that a local backend requires."""
    return all(p.is_ok for p in load(find(SANDBOXES, name)).probes() if p.is_required)


@pytest.mark.parametrize("name", ["namespaces", "landlock", pytest.param("auto", marks=pytest.mark.slow)])
def test_a_local_sandbox_keeps_the_contract(name: str) -> None:
    usable = ("namespaces", "landlock") if name == "auto" else (name,)
    if not any(is_usable(backend) for backend in usable):
        pytest.skip(f"{name} does not work on this machine; `rlvr sandboxes` says why")
    assert check_sandbox(load(find(SANDBOXES, name)), settings={"slots": 2}) == []


def test_every_built_in_sandbox_is_registered_and_loads() -> None:
    names = {entry.name for entry in list_plugins(SANDBOXES)}
    assert names >= {"auto", "docker", "landlock", "namespaces", "remote", "unsafe"}
    for name in names:
        loaded = load(find(SANDBOXES, name))
        assert loaded.name == name
        assert loaded.Config.model_config["extra"] == "forbid"


def test_a_wrong_setting_of_a_sandbox_is_named() -> None:
    with pytest.raises(PluginError, match=r"settings of sandbox 'namespaces': slots: .*\(got 'many'\)"):
        build_sandbox("namespaces", {"slots": "many"})
    with pytest.raises(PluginError, match=r"sandbox 'dockr' is not installed.*Did you mean 'docker'"):
        build_sandbox("dockr", {})


# what the contract finds


def test_the_contract_names_what_a_class_lacks() -> None:
    class Nothing:
        name = "nothing@1"

    problems = "\n".join(check_sandbox(Nothing))
    for word in ("name='nothing@1'", "capabilities=None", "Config=None", "method run", "docstring"):
        assert word in problems


class OpenSandbox(UnsafeSandbox):
    """Stops nothing: `unsafe` without its refusals."""

    async def start(self) -> None:
        self._source = supervisor_source()


@pytest.mark.slow
def test_the_contract_finds_what_a_sandbox_without_walls_lets_through() -> None:
    settings = {"i_understand_unsafe": True, "slots": 2}
    problems = "\n".join(check_sandbox(OpenSandbox, settings=settings))
    for words in (
        "network: a TCP port of the host can be reached",
        "network: a UDP port of the host can be reached",
        "network: an abstract UNIX socket of the host can be reached",
        "what runs leave: a run sees what another left",
        "the host's files: a file of the host can be read",
        "the host's files: a file of the host can be written",
        "other processes: a program can send signals to a process of the host",
        "process limit: pids=16 let 100 processes live",
        "privileges: a program gets",
    ):
        assert words in problems
    # what its supervisor does give: bytes, exit codes, time, output, memory, sessions, no grandchildren
    for title in ("exit codes", "bytes", "UTF-8", "50 MiB", "wall time", "grandchildren", "output",
                  "memory limit", "file limit", "frames", "ends of sessions", "two sessions", "kill -9"):  # fmt: skip
        assert f"{title}" not in problems, problems


# unsafe


def test_unsafe_needs_its_flag_an_ordinary_user_and_no_secrets() -> None:
    willing = UnsafeConfig(i_understand_unsafe=True)
    assert "i_understand_unsafe=true" in refusal(UnsafeConfig(), environment={}, is_root=False)
    assert "root" in refusal(willing, environment={}, is_root=True)
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "MY_SECRET_1", "aws_secret_access_key"):
        assert name in refusal(willing, environment={name: "x"}, is_root=False)
    assert refusal(willing, environment={"KEYBOARD": "de", "HF_TOKEN": ""}, is_root=False) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused for being root")
def test_unsafe_refuses_as_root() -> None:
    box = UnsafeSandbox(UnsafeConfig(i_understand_unsafe=True))
    with pytest.raises(SandboxError, match="root"):
        asyncio.run(box.run(PROGRAM, HELLO, b"", LIMITS))


# auto


def test_auto_refuses_with_every_reason_and_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlvr_sandboxes.landlock import LandlockSandbox
    from rlvr_sandboxes.namespaces import NamespacesSandbox
    from rlvr_sandboxes.outside.probes import Probe

    for backend in (NamespacesSandbox, LandlockSandbox):
        probe = Probe(name="border", is_ok=False, detail=f"no {backend.name} here", fix=f"fix {backend.name}")
        monkeypatch.setattr(backend, "probes", classmethod(lambda cls, probe=probe: (probe,)))
    box = AutoSandbox(AutoSandbox.Config())  # type: ignore[arg-type] # its own Config
    with pytest.raises(SandboxUnavailable) as caught:
        asyncio.run(box.run(PROGRAM, HELLO, b"", LIMITS))
    message = str(caught.value)
    for words in ("no namespaces here", "fix namespaces", "no landlock here", "fix landlock"):
        assert words in message
    assert "i_understand_unsafe=true" in message
    assert caught.value.exit_code == 2
    assert asyncio.run(box.self_test()) == (message,)


# what remote, docker and unsafe share


def test_a_gate_serves_in_order_and_survives_cancelled_waiters() -> None:
    async def check() -> list[int]:
        gate, order = SlotGate(2), list[int]()
        await gate.acquire(2)

        async def enter(number: int, wanted: int) -> None:
            await gate.acquire(wanted)
            order.append(number)
            await asyncio.sleep(0)
            gate.release(wanted)

        tasks = [asyncio.create_task(enter(*pair)) for pair in enumerate((1, 2, 1, 2))]
        await asyncio.sleep(0)
        tasks[1].cancel()
        gate.release(2)
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.wait_for(gate.acquire(2), 1.0)  # every slot came back
        with pytest.raises(ValueError, match="3 slots"):
            await gate.acquire(3)
        return order

    assert asyncio.run(check()) == [0, 2, 3]


def test_a_gate_joins_callers_of_several_event_loops() -> None:
    gate, most, inside, lock = SlotGate(1), 0, 0, threading.Lock()

    async def use() -> None:
        nonlocal most, inside
        for _ in range(20):
            async with gate.one():
                with lock:
                    inside += 1
                    most = max(most, inside)
                await asyncio.sleep(0)
                with lock:
                    inside -= 1

    threads = [threading.Thread(target=lambda: asyncio.run(use())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert not any(thread.is_alive() for thread in threads)
    assert most == 1


@pytest.mark.parametrize("name", ["../x", "/x", "", ".", "a/../../x", "a\0b"])
def test_a_file_name_cannot_leave_the_working_folder(name: str) -> None:
    check_call(PROGRAM, {"a/b.txt": b"", "..x": b"", "main.py": b""})  # these are fine
    with pytest.raises(ValueError, match="stay in the working folder"):
        check_call(PROGRAM, {name: b""})
