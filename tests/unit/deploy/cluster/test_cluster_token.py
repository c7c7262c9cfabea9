"""The token's files: who can read them, and what happens when they are wrong."""

import stat
from pathlib import Path

import pytest

from rlvr.deploy.cluster.inventory import Inventory, state_folder
from rlvr.deploy.cluster.remote import Remote
from rlvr.deploy.cluster.shared_token import copy_token, forget_token, record_hosts, require_own_name, token_of
from rlvr.errors import ClusterError


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty state folder."""
    monkeypatch.setenv("RLVR_STATE_DIR", str(tmp_path))
    return tmp_path


def test_a_token_is_made_once_and_only_its_owner_can_read_it() -> None:
    token = token_of("x")
    path = state_folder("x") / "token"
    assert len(token) == 64
    assert token_of("x") == token == path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [p.name for p in path.parent.iterdir()] == ["token"]
    assert token_of("y") != token


def test_a_token_that_others_can_read_is_refused() -> None:
    token_of("x")
    (state_folder("x") / "token").chmod(0o644)
    with pytest.raises(ClusterError, match="has mode 644, so others may know the token"):
        token_of("x")


def test_a_cluster_that_was_not_started_here_has_no_token() -> None:
    with pytest.raises(ClusterError, match="the cluster 'x' was not started from here"):
        token_of("x", is_made=False)
    assert not state_folder("x").exists()


def of_host(address: str, *, ssh: str = "") -> Inventory:
    return Inventory.model_validate(
        {"name": "x", "image": "i", "shared": "/s", "hosts": [{"name": "a", "ssh": ssh, "address": address}]}
    )


def test_the_hosts_of_a_token_are_recorded_for_its_owner_alone() -> None:
    require_own_name(of_host("10.0.0.1"))
    token_of("x")
    require_own_name(of_host("10.0.0.1"))  # an older release made the folder
    record_hosts(of_host("10.0.0.1", ssh="ops@a"))
    assert stat.S_IMODE((state_folder("x") / "hosts.json").stat().st_mode) == 0o600
    require_own_name(of_host("10.0.0.1"))
    require_own_name(of_host("10.0.0.9", ssh="ops@a"))
    with pytest.raises(ClusterError, match=r"in use for hosts a \(10\.0\.0\.1\)"):
        require_own_name(of_host("10.0.0.9", ssh="ops@b"))
    forget_token("x")
    assert not state_folder("x").exists()


def test_loopback_of_two_machines_is_not_one_host() -> None:
    token_of("x")
    record_hosts(of_host("127.0.0.1", ssh="ops@a"))
    for other in (of_host("127.0.0.1"), of_host("127.0.0.1", ssh="ops@b")):
        with pytest.raises(ClusterError, match="in use for hosts a"):
            require_own_name(other)


def test_a_damaged_record_is_named() -> None:
    token_of("x")
    (state_folder("x") / "hosts.json").write_text("[3]")
    with pytest.raises(ClusterError, match=r"hosts\.json is damaged; remove it"):
        require_own_name(of_host("10.0.0.1"))


def test_a_state_folder_that_is_a_file_is_an_error_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("RLVR_STATE_DIR", str(file))
    inventory = of_host("10.0.0.1")
    for use in (
        lambda: token_of("x"),
        lambda: forget_token("x"),
        lambda: require_own_name(inventory),
        lambda: record_hosts(inventory),
    ):
        with pytest.raises(ClusterError, match=str(file)):
            use()


@pytest.mark.parametrize("text", ["", "short", "with a space in the middle of it"])
def test_a_file_without_a_token_is_refused(text: str) -> None:
    token_of("x")
    (state_folder("x") / "token").write_text(text)
    with pytest.raises(ClusterError, match="holds no token"):
        token_of("x")


def test_a_host_gets_a_file_of_its_own_with_mode_600(state: Path) -> None:
    inventory = Inventory.model_validate(
        {"image": "i", "shared": "/s", "hosts": [{"name": "a", "address": "10.0.0.1"}]}
    )
    folder = Path(copy_token(Remote(), inventory, inventory.head, "t" * 64))
    assert folder == state / "clusters/rlvr/hosts/a"
    assert (folder / "token").read_text() == "t" * 64
    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
