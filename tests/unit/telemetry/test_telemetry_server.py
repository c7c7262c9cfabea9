"""The HTTP server: answers a scrape whatever other clients do."""

import socket
import time
import urllib.request
from collections.abc import Iterator

import pytest

from rlvr.telemetry import server as module
from rlvr.telemetry.server import MOST_OPEN, MOST_REQUEST_BYTES, MetricsServer, listening_socket

ADDRESS = "127.0.0.1"


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    started = MetricsServer(listening_socket(ADDRESS, 0), lambda: "rlvr_run_step 1\n")
    yield started
    started.close()


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://{ADDRESS}:{port}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return answer.read().decode()


def answer_to(port: int, request: bytes) -> bytes:
    with socket.create_connection((ADDRESS, port), timeout=10) as client:
        try:
            client.sendall(request)
            return client.recv(65536)
        except (ConnectionResetError, BrokenPipeError):
            return b""


def test_a_scrape_is_answered(server: MetricsServer) -> None:
    assert scrape(server.port) == "rlvr_run_step 1\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200"),
        (b"GET /metrics?name[]=x HTTP/1.1\r\n\r\n", b"200"),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"\x16\x03\x01\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
    ],
)
def test_other_requests_get_their_status(server: MetricsServer, request_: bytes, status: bytes) -> None:
    assert answer_to(server.port, request_).split(b" ")[1] == status


def test_a_huge_header_is_refused_after_a_few_kilobytes(server: MetricsServer) -> None:
    answer = answer_to(server.port, b"GET /metrics HTTP/1.1\r\nX: " + b"a" * (64 * MOST_REQUEST_BYTES))
    assert answer[:12] in (b"", b"HTTP/1.1 400")  # the connection may be reset before the answer is read
    assert scrape(server.port)


def test_silent_clients_are_dropped_and_a_scrape_comes_through(
    server: MetricsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REQUEST_S", 0.3)
    silent = [socket.create_connection((ADDRESS, server.port), timeout=10) for _ in range(5 * MOST_OPEN)]
    try:
        start = time.monotonic()
        while True:
            try:
                assert scrape(server.port)
                break
            except OSError:  # refused while the silent ones have all places
                assert time.monotonic() - start < 30
        assert time.monotonic() - start < 30
    finally:
        for client in silent:
            client.close()


def test_the_text_is_made_once_per_second_however_often_it_is_asked_for() -> None:
    made: list[float] = []

    def text() -> str:
        made.append(time.monotonic())
        return "x 1\n"

    server = MetricsServer(listening_socket(ADDRESS, 0), text)
    start = time.monotonic()
    for _ in range(30):
        scrape(server.port)
    server.close()
    assert len(made) <= 1 + (time.monotonic() - start)


def test_a_closed_server_no_longer_answers(server: MetricsServer) -> None:
    port = server.port
    server.close()
    with pytest.raises(OSError, match=r".*"):
        scrape(port)
