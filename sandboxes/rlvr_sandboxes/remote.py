"""`remote`: a SandboxFusion or piston service over HTTP. Programs go there, output comes back, and is judged here."""

import asyncio
import contextlib
import json
import os
import random
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, ClassVar, TypeVar, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from rlvr.errors import SandboxError
from rlvr.protocols import Capability, Limits, RunResult
from rlvr_sandboxes.outside.gate import SlotGate
from rlvr_sandboxes.outside.link import check_call
from rlvr_sandboxes.remote_services import INTERFACES, Service, ServiceFaultError, piston_request

T = TypeVar("T")
_RETRIED_CODES = frozenset({408, 425, 429, 500, 502, 503, 504})
_MAX_ANSWER_BYTES = 256 << 20
_MAX_WAIT_S = 60.0

_SELF_TEST = """
import os, socket
print(6 * 7)
print("\\n".join(name for name in os.environ if any(word in name for word in ("KEY", "TOKEN", "SECRET"))))
try:
    socket.create_connection(("1.1.1.1", 53), 2)
    print("network")
except OSError:
    pass
"""


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError("must begin with http:// or https:// and name a host")
    return url.rstrip("/")


class RemoteConfig(BaseModel):
    """The settings of `remote`.

    url: of the service, without a path of its interface. slots: requests at the same time. retries: after the first
    attempt, for codes 408, 425, 429 and 5xx, for time-outs and for broken connections. grace_s: what the service may
    take beyond a run's wall limit (its queue). api_key_variable: the environment variable whose value is sent as a
    bearer token. python_version: for piston, as it names its runtimes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[str, AfterValidator(_checked_url)]
    service: Service = Service.SANDBOXFUSION
    slots: int = Field(default=32, ge=1, le=4096)
    retries: int = Field(default=5, ge=0)
    backoff_s: float = Field(default=0.5, gt=0)
    grace_s: float = Field(default=30.0, gt=0)
    api_key_variable: str = ""
    python_version: str = "*"


class RemoteSandbox:
    """Stops what the service stops: its isolation, limits and clean-up are its own, and are not proven from here.

    No sessions: references of kind stdio only. Output is text; bytes that are not UTF-8 come as the service makes them.
    """

    name: ClassVar[str] = "remote"
    capabilities: ClassVar[frozenset[Capability]] = frozenset()
    Config: ClassVar[type[BaseModel]] = RemoteConfig

    def __init__(self, config: RemoteConfig) -> None:
        self.config = config
        self._interface = INTERFACES[config.service]
        self._gate = SlotGate(config.slots)
        self._random = random.Random(config.url)  # jitter only
        self._executor: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._is_started = self._is_closed = False
        self.num_retries = 0

    async def start(self) -> None:
        """Runs one program there. Raises SandboxError when the service does not answer as it should."""
        if self._is_started:
            return
        result = await self._run(("python", "main.py"), {"main.py": b"print(6 * 7)"}, b"", Limits())
        if result.stdout != b"42\n" or result.exit_code:
            raise SandboxError(f"the {self.config.service} service at {self.config.url} does not run Python: {result}")
        self._is_started = True

    async def run(self, program: Sequence[str], files: Mapping[str, bytes], stdin: bytes, limits: Limits) -> RunResult:
        """Runs a Python program there. Raises SandboxError when the service stays out of reach or broken."""
        check_call(program, files)
        await self.start()
        return await self._run(program, files, stdin, limits)

    async def self_test(self) -> tuple[str, ...]:
        """What is not safe about the service, as far as a program there can see."""
        try:
            await self.start()
            files = {"main.py": _SELF_TEST.encode()}
            result = await self._run(("python", "main.py"), files, b"", Limits(wall_s=10.0))
        except SandboxError as error:
            return (str(error),)
        first, *others = result.stdout.decode("utf-8", "replace").split()
        problems: list[str] = []
        if first != "42":
            problems.append(f"an honest program fails there: {result}")
        if "network" in others:
            problems.append("programs reach the internet there; forbid it in the service's settings")
        names = [name for name in others if name != "network"]
        if names:
            problems.append(f"programs see the service's secrets there: {', '.join(names)}")
        return tuple(problems)

    async def close(self) -> None:
        """Lets open requests end; later ones fail."""
        with self._lock:
            self._is_closed = True
            executor, self._executor = self._executor, None
        if executor is not None:
            await asyncio.to_thread(executor.shutdown)

    async def _run(self, program: Sequence[str], files: Mapping[str, bytes], stdin: bytes, limits: Limits) -> RunResult:
        if self.config.service is Service.PISTON:
            version = self.config.python_version
            body = piston_request(program, files, stdin, limits, version=version)
        else:
            body = self._interface.request(program, files, stdin, limits)
        data = json.dumps(body).encode()
        timeout_s = limits.wall_s + self.config.grace_s
        async with self._gate.one():
            for attempt in range(self.config.retries + 1):
                try:
                    answer = await self._in_thread(self._post, data, timeout_s)
                    return self._interface.result(answer, limits)
                except ServiceFaultError as error:
                    if attempt == self.config.retries:
                        raise
                    wait_s = error.wait_s
                self.num_retries += 1
                backoff_s = self.config.backoff_s * 2**attempt * self._random.uniform(0.5, 1.5)
                await asyncio.sleep(min(_MAX_WAIT_S, max(wait_s, backoff_s)))
        raise AssertionError("the loop returns or raises")

    def _post(self, data: bytes, timeout_s: float) -> dict[str, Any]:
        """One request. Raises ServiceFaultError where another try may help, SandboxError where none will."""
        url = self.config.url + self._interface.path
        headers = {"Content-Type": "application/json"}
        if self.config.api_key_variable:
            headers["Authorization"] = f"Bearer {os.environ.get(self.config.api_key_variable, '')}"
        request = urllib.request.Request(url, data=data, headers=headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                text = response.read(_MAX_ANSWER_BYTES)
            answer = json.loads(text)
        except urllib.error.HTTPError as error:
            with error:
                message = error.read(300).decode("utf-8", "replace")
            what = f"{url} answered {error.code}: {message!r}"
            if error.code not in _RETRIED_CODES:
                raise SandboxError(f"{what}; check sandbox.settings of the recipe") from error
            raise _fault(what, error.headers.get("Retry-After", "")) from error
        except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise _fault(f"{url} gave no answer: {type(error).__name__}: {error}", "") from error
        if not isinstance(answer, dict):
            raise _fault(f"{url} answered {str(answer)[:100]!r}, not an object", "")
        return cast("dict[str, Any]", answer)

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        with self._lock:
            if self._is_closed:
                raise SandboxError("sandbox 'remote' is closed")
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self.config.slots, "sandbox-remote")
            future = self._executor.submit(function, *args)
        return await asyncio.wrap_future(future)


def _fault(message: str, retry_after: str) -> ServiceFaultError:
    fault = ServiceFaultError(message)
    with contextlib.suppress(ValueError):
        fault.wait_s = float(retry_after)
    return fault
