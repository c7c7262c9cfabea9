"""JSON over HTTP to a server on the loopback interface, and which of its models is meant."""

import asyncio
from typing import Any

import pytest

from rlvr.errors import ConfigError, RolloutError
from rlvr.http.client import JsonClient, Retries
from rlvr.http.served_model import find_model
from tests.unit.rollout.loopback_server import Loopback, loopback

QUICK = Retries(attempts=4, pause_s=0.001, max_pause_s=0.002)


def test_a_kept_connection_that_the_server_closed_costs_no_attempt():
    async def ask_thrice(url: str) -> list[int]:
        client = JsonClient(url, max_open=1, retries=Retries(attempts=1))
        try:
            return [(await client.get("/models")).status for _ in range(3)]
        finally:
            client.close()

    with loopback(hangs_up=True) as server:
        assert asyncio.run(ask_thrice(server.url)) == [200, 200, 200]


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("127.0.0.1:8000", "is not a server URL"),
        ("ftp://host/v1", "is not a server URL"),
        ("http://me:hidden@host/v1", "a login in a URL"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_login(url, match):
    with pytest.raises(ConfigError, match=match) as caught:
        JsonClient(url)
    assert "hidden" not in str(caught.value)


def find(server: Loopback, **arguments: Any) -> Any:
    async def ask() -> Any:
        client = JsonClient(server.url, retries=QUICK)
        try:
            return await find_model(client, **{"name": "", "alias": "folder", **arguments})
        finally:
            client.close()

    return asyncio.run(ask())


def test_the_model_is_the_one_named_or_the_alias_or_the_only_one():
    with loopback(models=("a",), max_model_len=128) as server:
        assert (find(server).name, find(server).max_positions) == ("a", 128)
        assert find(server, name="b").name == "b"
    with loopback(models=("a", "folder")) as server:
        assert find(server).name == "folder"
        with pytest.raises(ConfigError, match=r"--server-model.*'a', 'folder'"):
            find(server, alias="c")
    with loopback(models=None) as server, pytest.raises(ConfigError, match="no listing at /models"):
        find(server)


def test_a_listing_that_breaks_matters_only_where_no_model_was_named():
    with loopback() as server:
        pass
    assert find(server, name="a").name == "a"
    with pytest.raises(RolloutError, match="does not list its models"):
        find(server)
