"""A small HTTP server for `GET /metrics` that no client can slow down or fill.

The text is made at most once per second, whoever asks. A request has 8 KiB and 5 s, at most 16 are open at a time, and
no connection is kept.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable

from rlvr.telemetry.exposition import CONTENT_TYPE

MOST_REQUEST_BYTES = 8 << 10
MOST_OPEN = 16
REQUEST_S = 5.0
_FRESH_S = 1.0
_PAUSE_S = 0.01  # after a refused connection, so that a flood costs little


def listening_socket(address: str, port: int) -> socket.socket:
    """A socket that listens. Raises OSError (EADDRINUSE when another process has the port)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((address, port))
        opened.listen(MOST_OPEN)
    except OSError:
        opened.close()
        raise
    return opened


class MetricsServer:
    """Serves what `text` returns until it is closed."""

    def __init__(self, listening: socket.socket, text: Callable[[], str]) -> None:
        self._listening = listening
        self._text = text
        self._making = threading.Lock()
        self._made, self._made_at = b"", float("-inf")
        self._free = threading.Semaphore(MOST_OPEN)
        self._is_closed = False
        self._thread = threading.Thread(target=self._accept, name="rlvr-metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return int(self._listening.getsockname()[1])

    def close(self) -> None:
        """Ends it; open requests end within their limit."""
        self._is_closed = True
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._listening.close()
        self._thread.join(timeout=1.0)

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                client, _ = self._listening.accept()
            except OSError:
                if self._is_closed:
                    return
                time.sleep(_PAUSE_S)  # out of descriptors, or the client is gone already
                continue
            if self._free.acquire(blocking=False):
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()
            else:
                client.close()
                time.sleep(_PAUSE_S)

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, contextlib.suppress(OSError):
                client.settimeout(REQUEST_S)
                client.sendall(self._answer(_request_line(client)))
                client.shutdown(socket.SHUT_WR)
        finally:
            self._free.release()

    def _answer(self, request: str) -> bytes:
        method, _, rest = request.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if not rest:
            return _response("400 Bad Request", b"this is not an HTTP request, or it is too long\n")
        if method not in ("GET", "HEAD"):
            return _response("405 Method Not Allowed", b"GET /metrics\n")
        if path not in ("/metrics", "/"):
            return _response("404 Not Found", b"GET /metrics\n")
        body = self._body()
        return _response("200 OK", b"" if method == "HEAD" else body)

    def _body(self) -> bytes:
        with self._making:
            if time.monotonic() - self._made_at > _FRESH_S:
                self._made = self._text().encode()
                self._made_at = time.monotonic()
            return self._made


def _request_line(client: socket.socket) -> str:
    """The first line of a request whose head was read whole; "" when it is too long or too slow."""
    until, data = time.monotonic() + REQUEST_S, b""
    while b"\r\n\r\n" not in data and b"\n\n" not in data:
        remaining = until - time.monotonic()
        if remaining <= 0 or len(data) > MOST_REQUEST_BYTES:
            return ""
        client.settimeout(remaining)
        more = client.recv(4096)
        if not more:
            return ""
        data += more
    client.settimeout(REQUEST_S)
    return data.split(b"\n", 1)[0].decode("latin-1").strip()


def _response(status: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
