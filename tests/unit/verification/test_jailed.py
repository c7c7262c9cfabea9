"""Jailed verifiers: what hostile texts can reach, what a fork forgets, and what the parent never imports."""

import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rlvr.errors import PluginError, SandboxError
from rlvr.records import Check, Execution, Status
from rlvr.verification.service import VerifierService
from tests.unit.sandboxes.sandbox_cases import processes_with
from tests.unit.verification.jailed_cases import SCORER, backend, hostile_texts, service_for, the_check, verdicts

__all__ = ["backend"]
NUM_ITEMS = 240


@pytest.fixture
def scorer(tmp_path: Path) -> Path:
    file = tmp_path / "scorers.py"
    file.write_text(SCORER)
    return file


def open_to_all(path: Path) -> None:
    """As root a jail has a user of its own, which must be able to reach what it may read."""
    for folder in (path, *path.parents[:4]):
        folder.chmod(folder.stat().st_mode | 0o777)


def test_hundreds_of_hostile_items_change_nothing_and_earn_nothing(
    backend: str, scorer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "a-secret")
    folder = tmp_path / "open"
    folder.mkdir()
    open_to_all(folder)
    marker = f"jailed-{os.getpid()}-{backend}"
    hostile = hostile_texts(folder, marker)
    names = list(hostile)
    planned = [names[i // 2 % len(names)] if i % 2 else "honest" for i in range(NUM_ITEMS)]
    texts = ["2 + 2" if name == "honest" else hostile[name] for name in planned]
    service = service_for(backend)
    try:
        check = the_check(scorer)
        service.preflight([check])
        found = verdicts(service, check, texts)
    finally:
        service.close()
    paid = {name for name, verdict in zip(planned, found, strict=True) if verdict.passed}
    assert paid == {"honest"}, {n: v for n, v in zip(planned, found, strict=True) if v.passed and n != "honest"}
    assert all(v.passed for n, v in zip(planned, found, strict=True) if n == "honest")
    ended = {n: v.details.get("cause") for n, v in zip(planned, found, strict=True) if v.details.get("cause")}
    assert ended["exits"] == "crash"
    assert "kills its parents" not in ended
    assert list(folder.iterdir()) == []
    assert not Path("/tmp/rlvr-jail-test").exists()
    assert processes_with(marker) == []


def test_what_an_item_changes_in_the_verifier_is_gone_in_the_next_chunk(backend: str, scorer: Path) -> None:
    forge = "[setattr(module.evaluates, 'function', lambda *a, **k: 1.0), module.CALLS.extend(range(99)), 0][-1]"
    service = service_for(backend)
    try:
        check = the_check(scorer)
        service.preflight([check])
        assert not verdicts(service, check, [forge])[0].passed
        assert [verdicts(service, check, [text])[0].passed for text in ("'wrong'", "2 + 2")] == [False, True]
        assert verdicts(service, the_check(scorer, reference="2"), ["count"])[0].passed  # a rehearsal, and this one
        left = (
            "import os\nfor i in range(1500):\n    os.mkdir('d')\n    open('note', 'w').write('x')\n"
            "    os.symlink('/', 'link')\n    os.chdir('d')\nanswer = 0"
        )
        verdicts(service, check, [left])
        assert not verdicts(service, check, ["__import__('os').listdir('.') == ['.shm'] or 4"])[0].passed
    finally:
        service.close()


def test_a_hang_or_a_crash_costs_a_fork_and_the_rest_of_its_chunk_is_verified(backend: str, scorer: Path) -> None:
    service = service_for(backend, deadline_s=1.0)
    try:
        check = the_check(scorer)
        service.preflight([check])
        pid = verdicts(service, check, ["__import__('os').getppid()"])[0]
        hang, crash = "while True:\n    pass", "import ctypes\nctypes.string_at(0)"
        start = time.monotonic()
        found = verdicts(service, check, ["2 + 2", hang, "2 + 2", crash, "2 + 2", "__import__('os')._exit(0)", "5"])
        assert time.monotonic() - start < 30
        assert [v.status for v in found[::2]] == [Status.PASS] * 3 + [Status.FAIL]
        assert [v.details.get("cause") for v in found[1::2]] == ["timeout", "crash", "crash"]
        assert found[3].details["ending"] == "signal SIGSEGV"
        assert found[5].details["ending"] == "exit code 0"
        assert "retry" in found[1].reason
        assert verdicts(service, check, ["__import__('os').getppid()"])[0].reason == pid.reason  # the same worker
    finally:
        service.close()


def test_nothing_of_a_jailed_worker_is_left_when_the_service_is_closed(backend: str, scorer: Path) -> None:
    marker = f"left-{os.getpid()}-{backend}"
    service = service_for(backend)
    before = set(Path("/tmp").glob("rlvr-box-*"))
    try:
        check = the_check(scorer)
        service.preflight([check])
        text = f"__import__('subprocess').Popen(['sh', '-c', 'sleep 600 # {marker}']) and __import__('time').sleep(600)"
        prompt_verdict = verdicts(service, check, ["2 + 2"])[0]
        assert prompt_verdict.passed
        thread = threading.Thread(target=verdicts, args=(service, check, [text]))
        thread.start()
        until = time.monotonic() + 20
        while not processes_with(marker):
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        service.close()
    thread.join(20)
    assert not thread.is_alive()
    until = time.monotonic() + 5
    while processes_with(marker):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert set(Path("/tmp").glob("rlvr-box-*")) <= before


def test_the_parent_never_imports_what_the_recipe_has_jailed(backend: str, tmp_path: Path) -> None:
    package = tmp_path / "jailed_package"
    package.mkdir()
    (package / "__init__.py").write_text("LOADED_IN = __import__('os').getpid()\n")
    (package / "inner.py").write_text(SCORER.replace("CALLS = []", "from jailed_package import LOADED_IN\nCALLS = []"))
    (package / "answers.txt").write_text("4")
    (tmp_path / "secret.txt").write_text("4")
    sys.path.insert(0, str(tmp_path))
    service = service_for(backend)
    try:
        check = Check(name="main", verifier="jailed_package.inner:evaluates", execution=Execution.JAILED, reference="4")
        service.preflight([check])
        assert service.label(check) == "evaluates@1"
        assert not [name for name in sys.modules if name.startswith("jailed_package")]
        relative = "open(__import__('os').path.dirname(module.__file__) + '/answers.txt').read()"
        other = f"open({str(tmp_path / 'secret.txt')!r}).read()"
        found = verdicts(service, check, [relative, other])
        assert [v.passed for v in found] == [True, False]
        open_to_all(tmp_path)
        readable = replace(check, readable=(str(tmp_path / "secret.txt"),))
        assert verdicts(service, readable, [other])[0].passed
    finally:
        sys.path.remove(str(tmp_path))
        service.close()


REFUSED = """
import threading, time
from rlvr.plugin import EmptyConfig, verdict, verifier
from rlvr.protocols import Execution
from rlvr.records import Status

class Threads:
    name, version, execution, Config = "threads", "1", Execution.PROCESS, EmptyConfig
    def __init__(self, config, context): pass
    def warm_up(self): threading.Thread(target=time.sleep, args=(600,), daemon=True, name="watcher").start()
    def verify(self, prompt, completion): return verdict(self, Status.PASS, "")

@verifier(version="1", execution=Execution.ASYNC)
async def asks(text: str) -> bool:
    return True

@verifier(version="1")
def works(text: str, *, times: int = 1) -> bool:
    return True
"""


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("Threads", {}, "it starts threads while it is built (watcher)"),
        ("asks", {}, "cannot run with execution 'jailed': it asks a service"),
        ("works", {"settings": {"times": "no"}}, "times: Input should be a valid integer"),
        ("absent", {}, "its plugins are: Threads, asks, works"),
        ("works", {"python": "/nowhere/python"}, "is not an interpreter"),
        ("works", {"python": "/bin/ls"}, "does not run as a Python interpreter"),
        ("works", {"readable": ("/nowhere",)}, "does not exist"),
    ],
)
def test_a_jailed_verifier_that_cannot_work_is_refused_with_the_reason(
    name: str, fields: dict[str, object], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "refused.py"
    file.write_text(REFUSED)
    service = service_for("namespaces")
    try:
        with pytest.raises((PluginError, SandboxError)) as caught:
            service.preflight([the_check(file, name, **fields)])
        assert message in str(caught.value)
    finally:
        service.close()


def test_a_sandbox_that_holds_no_workers_says_which_do(scorer: Path) -> None:
    settings = {"url": "http://127.0.0.1:9", "service": "piston"}
    service = VerifierService(1, 5.0, ("remote", settings))
    try:
        with pytest.raises(
            PluginError, match=r"cannot run verifiers; these can: auto, landlock, namespaces, service\..*process"
        ):
            service.preflight([the_check(scorer)])
    finally:
        service.close()
