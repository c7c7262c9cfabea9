"""Where vLLM's processes have their sockets: in the folder of the engine, which ends with it. No vLLM."""

import os
import socket
import tempfile
from pathlib import Path

import pytest

from rlvr.rollout.vllm import environment
from rlvr.rollout.vllm.environment import SOCKETS, make_folder, sockets_in

UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SOCKETS, raising=False)


@pytest.mark.parametrize("num_characters", [40, 51, 52, 200])
def test_the_folder_is_in_the_temporary_directory_if_its_sockets_have_paths_that_a_socket_may_have(
    num_characters: int, monkeypatch: pytest.MonkeyPatch
):
    made: list[str] = []

    def mkdtemp(*, prefix: str, dir: str) -> str:
        made.append(f"{dir}/{prefix}{'x' * 8}")
        return made[-1]

    place = "/" + "t" * (num_characters - 1)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: place)
    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    folder = make_folder()
    is_near = folder.parent == Path(place)
    assert is_near == (len(f"{place}/{folder.name}/{UUID}") <= 107)
    assert is_near or folder.parent == Path("/tmp")
    assert len(f"{folder}/{UUID}") <= 107


def test_a_path_of_the_greatest_length_is_one_that_a_socket_can_be_bound_to():
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        folder = Path(place) / ("f" * (107 - len(place) - 2 - len(UUID)))
        folder.mkdir()
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(f"{folder}/{UUID}")
        with socket.socket(socket.AF_UNIX) as bound, pytest.raises(OSError, match="too long"):
            bound.bind(f"{folder}/{UUID}x")


def test_the_variable_names_the_folder_while_the_engine_starts_and_is_then_as_before():
    for name in ("/tmp/first", "/tmp/second"):  # a second engine of the process has its own
        with sockets_in(Path(name)):
            assert os.environ[SOCKETS] == name
        assert SOCKETS not in os.environ
    with pytest.raises(RuntimeError, match="did not start"), sockets_in(Path("/tmp/third")):
        raise RuntimeError("did not start")
    assert SOCKETS not in os.environ
    assert not environment._starting.locked()


def test_a_place_that_the_user_has_chosen_stays(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(SOCKETS, "/run/sockets")
    with sockets_in(Path("/tmp/first")):
        assert os.environ[SOCKETS] == "/run/sockets"
    assert os.environ[SOCKETS] == "/run/sockets"
