"""`remote` against a small server that answers as SandboxFusion and piston do."""

import asyncio
import base64
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rlvr.errors import SandboxError
from rlvr.protocols import Limits
from rlvr_sandboxes.remote import RemoteConfig, RemoteSandbox
from rlvr_sandboxes.remote_services import fusion_result, piston_result

LIMITS = Limits(wall_s=5.0)
HELLO = {"main.py": b"print('hello', input())"}
PROGRAM = ("python", "main.py")


class Service(http.server.BaseHTTPRequestHandler):
    """Answers as SandboxFusion and piston do, by running the program in a plain process: for trusted tests only."""

    faults: ClassVar[list[tuple[int, str]]] = []  # codes to answer first, with a Retry-After
    bodies: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).bodies.append(body | {"path": self.path, "key": self.headers["Authorization"]})
        if self.faults:
            code, wait = self.faults.pop(0)
            self.send_response(code)
            if wait:
                self.send_header("Retry-After", wait)
            self.end_headers()
            return
        answer = self.fusion(body) if self.path == "/run_code" else self.piston(body)
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def fusion(self, body: dict[str, Any]) -> dict[str, Any]:
        files = {name: base64.b64decode(data) for name, data in body["files"].items()}
        done, seconds = execute(body["code"], files, [], body["stdin"], body["run_timeout"])
        if done is None:
            run = {"status": "TimeLimitExceeded", "execution_time": seconds, "return_code": None}
            return {"status": "Failed", "message": "", "run_result": run}
        run = {
            "status": "Finished",
            "execution_time": seconds,
            "return_code": done.returncode,
            "stdout": done.stdout,
            "stderr": done.stderr,
        }
        status = "Success" if done.returncode == 0 else "Failed"
        return {"status": status, "message": "", "compile_result": None, "run_result": run}

    def piston(self, body: dict[str, Any]) -> dict[str, Any]:
        main, *others = body["files"]
        files = {f["name"]: base64.b64decode(f["content"]) for f in others}
        done, seconds = execute(main["content"], files, body["args"], body["stdin"], body["run_timeout"] / 1000)
        facts = {"wall_time": seconds * 1000, "cpu_time": 10, "memory": 5 << 20, "message": None}
        if done is None:
            ended = {"code": None, "signal": "SIGKILL", "status": "TO", "stdout": "", "stderr": ""}
        else:
            status = None if done.returncode == 0 else "RE"
            ended = {"code": done.returncode, "signal": None, "status": status}
            ended |= {"stdout": done.stdout, "stderr": done.stderr}
        return {"language": "python", "version": "3.11.0", "run": ended | facts}

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def execute(
    code: str, files: dict[str, bytes], arguments: list[str], stdin: str, timeout_s: float
) -> tuple[subprocess.CompletedProcess[str] | None, float]:
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for name, data in {"main.py": code.encode(), **files}.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        try:
            done = subprocess.run(
                [sys.executable, "main.py", *arguments],
                cwd=folder,
                input=stdin,
                text=True,
                capture_output=True,
                timeout=timeout_s,
                check=False,
                encoding="utf-8",
            )
        except subprocess.TimeoutExpired:
            return None, time.monotonic() - start
    return done, time.monotonic() - start


@pytest.fixture
def service() -> Generator[str]:
    """The URL of a small server."""
    Service.faults, Service.bodies = [], []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def remote(url: str, **settings: Any) -> RemoteSandbox:
    return RemoteSandbox(RemoteConfig(url=url, backoff_s=0.01, **settings))


@pytest.mark.parametrize("kind", ["sandboxfusion", "piston"])
def test_remote_runs_programs_with_input_files_and_arguments(service: str, kind: str) -> None:
    async def check() -> None:
        box = remote(service, service=kind, api_key_variable="RLVR_TEST_SERVICE")
        result = await box.run(PROGRAM, HELLO, "wörld".encode(), LIMITS)
        assert (result.exit_code, result.stdout) == (0, "hello wörld\n".encode())
        assert result.seconds > 0
        source = b"import sys\nprint(sys.argv[1:], open('d/x', 'rb').read())\nraise SystemExit(3)"
        files = {"main.py": source, "d/x": b"\xff\x00"}
        result = await box.run(("python", "main.py", "a b"), files, b"", LIMITS)
        assert (result.exit_code, result.stdout) == (3, b"['a b'] b'\\xff\\x00'\n")
        result = await box.run(PROGRAM, {"main.py": b"while 1: pass"}, b"", Limits(wall_s=0.5))
        assert result.timed_out
        assert not result.is_clean
        limits = Limits(wall_s=5.0, output_bytes=10)
        result = await box.run(PROGRAM, {"main.py": b"print('x' * 100)"}, b"", limits)
        assert result.overflowed
        assert len(result.stdout) == 10
        await box.close()

    os.environ["RLVR_TEST_SERVICE"] = "sesame"
    try:
        asyncio.run(check())
    finally:
        del os.environ["RLVR_TEST_SERVICE"]
    paths = {"sandboxfusion": "/run_code", "piston": "/api/v2/execute"}
    assert {body["path"] for body in Service.bodies} == {paths[kind]}
    assert {body["key"] for body in Service.bodies} == {"Bearer sesame"}


def test_remote_tries_again_when_the_service_is_busy_or_broken(service: str) -> None:
    async def check() -> None:
        box = remote(service)
        await box.start()
        Service.faults += [(429, "0.2"), (503, ""), (500, "")]
        start = time.monotonic()
        result = await box.run(PROGRAM, HELLO, b"x", LIMITS)
        assert result.stdout == b"hello x\n"
        assert box.num_retries == 3
        assert time.monotonic() - start >= 0.2  # as Retry-After asked
        await box.close()

    asyncio.run(check())


def test_remote_gives_up_with_an_error_and_never_a_result(service: str) -> None:
    async def check() -> None:
        box = remote(service, retries=2)
        await box.start()
        Service.faults += [(503, "")] * 3
        with pytest.raises(SandboxError, match="answered 503"):
            await box.run(PROGRAM, HELLO, b"x", LIMITS)
        Service.faults += [(404, "")]
        with pytest.raises(SandboxError, match=r"answered 404.*check sandbox.settings"):
            await box.run(PROGRAM, HELLO, b"x", LIMITS)
        assert Service.faults == []  # 404 is not tried again
        with pytest.raises(SandboxError, match="runs Python programs only"):
            await box.run(("./a.out",), {"a.out": b""}, b"", LIMITS)
        await box.close()
        with pytest.raises(SandboxError, match="closed"):
            await box.run(PROGRAM, HELLO, b"x", LIMITS)

    asyncio.run(check())


def test_remote_says_when_nobody_answers() -> None:
    box = remote("http://127.0.0.1:9", retries=1)
    with pytest.raises(SandboxError, match="gave no answer"):
        asyncio.run(box.start())
    with pytest.raises(ValueError, match="http://"):
        RemoteConfig(url="localhost:8080")


def test_remote_tells_what_programs_can_reach_there(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLVR_TEST_API_KEY", "secret")
    problems = asyncio.run(remote(service).self_test())
    assert any("RLVR_TEST_API_KEY" in problem for problem in problems)


def test_a_broken_service_is_an_error_and_not_a_failed_program() -> None:
    with pytest.raises(SandboxError, match="overloaded"):
        fusion_result({"status": "SandboxError", "message": "overloaded"}, LIMITS)
    with pytest.raises(SandboxError, match="no return code"):
        fusion_result({"status": "Failed", "run_result": {"status": "Error"}}, LIMITS)
    with pytest.raises(SandboxError, match="no such runtime"):
        piston_result({"message": "no such runtime"}, LIMITS)
    killed = {"code": None, "signal": "SIGSEGV", "status": "SG", "stdout": "", "stderr": ""}
    assert piston_result({"run": killed}, LIMITS).signal == 11
