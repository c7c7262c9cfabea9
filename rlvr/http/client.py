"""JSON over HTTP for engines and verifiers: bounded concurrency, deadlines, retries, and a key that is never shown.

Calls run in threads, each with a persistent connection. A temporary status (408, 429, 5xx), a refused or broken
connection and a silent server are retried, after a random pause whose bound doubles, so that many clients do not come
back together; any other status is an answer. Redirects are not followed: they would send the key to another host.
"""

import asyncio
import http.client
import json
import logging
import random
import socket
import threading
import time
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

from rlvr.errors import ConfigError, RolloutError
from rlvr.records import Json

logger = logging.getLogger(__name__)
RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_MAX_SHOWN = 300  # characters of an error body


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """The retry policy of a call.

    attempts: in total. pause_s: bound of the first pause; each further bound is twice as long, up to max_pause_s. A
    longer `Retry-After` of the server is followed, up to max_pause_s.
    """

    attempts: int = 6
    pause_s: float = 0.5
    max_pause_s: float = 30.0

    def bound_s(self, attempt: int) -> float:
        """The longest pause after this attempt, counted from 0.

        >>> [Retries(pause_s=0.5, max_pause_s=3.0).bound_s(attempt) for attempt in range(4)]
        [0.5, 1.0, 2.0, 3.0]
        """
        return min(self.max_pause_s, self.pause_s * 2.0**attempt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A server's answer: its status, and its body as JSON if it is JSON, else as text."""

    status: int
    body: Json

    @property
    def is_ok(self) -> bool:
        """Whether the status means success."""
        return 200 <= self.status < 300

    @property
    def message(self) -> str:
        """The server's error message, on one line."""
        found = self.body
        for key in ("error", "message", "detail"):
            if isinstance(found, dict) and found.get(key):
                found = found[key]
        text = found if isinstance(found, str) else json.dumps(found)
        return " ".join(text.split())[:_MAX_SHOWN]


class DeadlineError(Exception):
    """A call was not answered before its deadline."""


class JsonClient:
    """Sends JSON requests to one server.

    Args:
        url: the base, for example `http://127.0.0.1:8000/v1`.
        key: sent as a bearer token if not empty.
        max_open: number of concurrent calls; others wait.
        answer_s: how long one attempt may wait for an answer.
    """

    def __init__(
        self, url: str, *, key: str = "", max_open: int = 64, answer_s: float = 3600.0, retries: Retries | None = None
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError(f"server {_without_login(url)!r} is not a server URL; expected http://HOST:PORT/v1")
        if parts.username or parts.password:
            raise ConfigError(
                f"server {_without_login(url)!r}: a login in a URL ends up in logs; put the key into an environment "
                "variable and give its name"
            )
        if key and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            logger.warning(
                "server %s: over plain http anyone on the network path can read its key; use https if the network "
                "is not private",
                url,
            )
        if any(character in key for character in "\r\n"):
            raise ConfigError("the server's key holds a line break; write it without one")
        self.url = url.rstrip("/")
        self._parts = parts
        self._key = key
        self._answer_s = answer_s
        self._retries = retries or Retries()
        self._threads = ThreadPoolExecutor(max_open, thread_name_prefix="rlvr-server")
        self._own = threading.local()
        self._open: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()

    async def get(self, path: str, *, deadline_s: float = 60.0) -> Answer:
        """The answer to GET. Raises the errors of `post`."""
        return await self._call("GET", path, None, deadline_s)

    async def post(self, path: str, body: Mapping[str, Json], *, deadline_s: float) -> Answer:
        """The answer to POST, after retries; first waits for a free slot, which counts towards the deadline.

        A temporary status that persists through every attempt is returned as the answer.

        Raises: RolloutError when the server could not be reached or the client was closed, DeadlineError at the
            deadline.
        """
        return await self._call("POST", path, json.dumps(body).encode(), deadline_s)

    def close(self) -> None:
        """Ends open calls, which fail with RolloutError."""
        self._closed.set()
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            _end(connection)
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _call(self, method: str, path: str, body: bytes | None, deadline_s: float) -> Answer:
        deadline = time.monotonic() + deadline_s
        if self._closed.is_set():
            raise self._was_closed()
        call = asyncio.get_running_loop().run_in_executor(self._threads, self._attempts, method, path, body, deadline)
        try:
            return await call
        except asyncio.CancelledError:
            if self._closed.is_set():  # closed while it waited for a slot
                raise self._was_closed() from None
            raise

    def _attempts(self, method: str, path: str, body: bytes | None, deadline: float) -> Answer:
        problem = ""
        answer: Answer | None = None
        for attempt in range(self._retries.attempts):
            room = deadline - time.monotonic()
            if room <= 0:
                raise DeadlineError(problem)
            answer, asked_s = None, 0.0
            try:
                answer, asked_s = self._once(method, path, body, timeout_s=min(room, self._answer_s))
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                if self._closed.is_set():
                    raise self._was_closed() from error
                problem = f"{type(error).__name__}: {error}".rstrip(": ")
            else:
                if answer.status not in RETRIED_STATUS:
                    return answer
                problem = f"status {answer.status}: {answer.message}"
            if attempt + 1 < self._retries.attempts:
                pause = max(
                    random.uniform(0.0, self._retries.bound_s(attempt)), min(asked_s, self._retries.max_pause_s)
                )
                if self._closed.wait(min(pause, max(0.0, deadline - time.monotonic()))):
                    raise self._was_closed()
        if answer is not None:
            return answer
        if time.monotonic() >= deadline:
            raise DeadlineError(problem)
        raise RolloutError(
            f"server {self.url}: {method} {path} failed {self._retries.attempts} times, last with {problem}; check "
            "that it is up and reachable from here"
        )

    def _once(self, method: str, path: str, body: bytes | None, *, timeout_s: float) -> tuple[Answer, float]:
        """One attempt: the answer, and the seconds that the server asks us to wait."""
        connection, prefix = self._connection()
        is_kept = connection.sock is not None
        connection.timeout = timeout_s
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        target = f"{prefix}{self._parts.path.rstrip('/')}{path}"
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
        except (ConnectionResetError, BrokenPipeError):  # http.client.RemoteDisconnected is one too
            if not is_kept or self._closed.is_set():
                raise
            self._drop()  # the server closed the idle connection; not this request's fault
            return self._once(method, path, body, timeout_s=timeout_s)
        text = response.read().decode("utf-8", errors="replace")
        if self._key:
            text = text.replace(self._key, "<key>")  # some servers repeat the key that they refuse
        try:
            found: Json = json.loads(text)
        except ValueError:
            found = text
        return Answer(status=response.status, body=found), _seconds(response.getheader("Retry-After"))

    def _connection(self) -> tuple[http.client.HTTPConnection, str]:
        """This thread's connection, and the prefix of the path (a plain-http proxy needs the whole URL)."""
        known = getattr(self._own, "connection", None)
        if known is not None:
            return known
        host, port, scheme = self._parts.hostname or "", self._parts.port, self._parts.scheme
        kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        proxy = urllib.request.getproxies().get(scheme, "")
        if proxy and not urllib.request.proxy_bypass(host):
            through = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
            made = kind(through.hostname or "", through.port)
            prefix = f"http://{self._parts.netloc}" if scheme == "http" else ""
            if scheme == "https":
                made.set_tunnel(host, port or 443)
        else:
            made, prefix = kind(host, port), ""
        self._own.connection = (made, prefix)
        with self._lock:
            self._open.add(made)
        return made, prefix

    def _drop(self) -> None:
        known = getattr(self._own, "connection", None)
        self._own.connection = None
        if known is not None:
            with self._lock:
                self._open.discard(known[0])
            known[0].close()

    def _was_closed(self) -> RolloutError:
        return RolloutError(f"server {self.url}: the call was cancelled, because the client was closed")


def _end(connection: http.client.HTTPConnection) -> None:
    """Wakes a thread that waits on the connection; closing the descriptor alone would not."""
    if connection.sock is not None:
        try:
            connection.sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # it had already ended
            return


def _seconds(header: str | None) -> float:
    """`Retry-After` in seconds; a date counts as none."""
    try:
        return max(0.0, float(header or 0.0))
    except ValueError:
        return 0.0


def _without_login(url: str) -> str:
    """The URL without its login, safe to show.

    >>> _without_login("https://me:secret@host/v1")
    'https://host/v1'
    """
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}" if mark else url.rpartition("@")[2]
