"""The token of a cluster: Ray's nodes and drivers must present it at every connection.

It is kept in files with mode 600 alone: in the cluster's state folder here, and in one on each host. Ray reads it
through RAY_AUTH_TOKEN_PATH, so that it is in no environment and on no command line.
"""

import ipaddress
import json
import os
import re
import secrets
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rlvr.deploy.cluster.inventory import Host, Inventory, state_folder
from rlvr.deploy.cluster.node_commands import FOLDERS
from rlvr.deploy.cluster.remote import Remote, named, script
from rlvr.errors import ClusterError

FILE = "token"
_RECORD = "hosts.json"  # which hosts have the token
_MOST_NAMED = 5
_BYTES = 32
_VALID = re.compile(r"[A-Za-z0-9._~+/=-]{16,4096}")
_WRITE = (
    FOLDERS + 'set -eu; umask 077; mkdir -p "$folder"; chmod 700 "$folder"; cat >"$folder/token.new"; '
    'mv "$folder/token.new" "$folder/token"; printf %s "$folder"'
)


def token_of(name: str, *, is_made: bool = True) -> str:
    """The token of a cluster, made with `secrets` at the first call.

    Args: is_made: False: a cluster without a token is an error.

    Raises: ClusterError when the file cannot be used, or other users can read it.
    """
    path = state_folder(name) / FILE
    try:
        if is_made and not path.exists():
            _make(path)
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError as error:
        raise ClusterError(f"{path} does not exist: the cluster {name!r} was not started from here") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"the token {path} cannot be used: {error}") from error
    if mode & 0o077:
        raise ClusterError(
            f"{path} has mode {mode:03o}, so others may know the token; remove it and start the cluster again"
        )
    if not _VALID.fullmatch(text):
        raise ClusterError(f"{path} holds no token: expected 16 or more characters of A-Z a-z 0-9 . _ ~ + / = -")
    return text


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.chmod(0o700)
    new = path.with_name(f"{FILE}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secrets.token_hex(_BYTES))
        os.link(new, path)  # fails when another command was faster
    except FileExistsError:
        pass  # the token of the faster command is used
    finally:
        new.unlink()


def record_hosts(inventory: Inventory) -> None:
    """Writes down next to the token for which hosts it is. Raises ClusterError."""
    path = state_folder(inventory.name) / _RECORD
    rows = [{"name": host.name, "ssh": host.ssh, "address": host.address} for host in inventory.hosts]
    new = path.with_name(f"{_RECORD}.{os.getpid()}")
    try:
        new.touch(mode=0o600)
        new.write_text(json.dumps(rows) + "\n", encoding="utf-8")
        new.replace(path)
    except OSError as error:
        raise ClusterError(f"{path} cannot be written: {error.strerror or error}") from error


def require_own_name(inventory: Inventory) -> None:
    """Raises ClusterError when a cluster of this name was started from here on entirely different hosts.

    Both would use one token, and stopping one would remove that of the other. Nothing is known about clusters of older
    releases, and about a token that was copied from another machine.
    """
    path = state_folder(inventory.name) / _RECORD
    try:
        recorded = [Host.model_validate(row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return
    except OSError as error:
        raise ClusterError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError) as error:  # pydantic's ValidationError is a ValueError
        raise ClusterError(f"{path} is damaged; remove it and repeat the command") from error
    if recorded and not _marks(recorded) & _marks(inventory.hosts):
        listed = ", ".join(f"{host.name} ({host.address})" for host in recorded[:_MOST_NAMED])
        if len(recorded) > _MOST_NAMED:
            listed += f" and {len(recorded) - _MOST_NAMED} more"
        raise ClusterError(
            f"cluster name {inventory.name!r} is in use for hosts {listed}; give this inventory another `name`. If "
            f"those hosts no longer have a node, remove {path.parent}"
        )


def _marks(hosts: Sequence[Host]) -> set[str]:
    """What identifies the hosts: ssh destination and address, except loopback of another machine."""
    found: set[str] = set()
    for host in hosts:
        if host.ssh:
            found.add(host.ssh)
        if not host.ssh or not ipaddress.ip_address(host.address).is_loopback:
            found.add(host.address)
    return found


def forget_token(name: str) -> None:
    """Removes the token here, so that the next cluster of this name gets another one.

    Raises: ClusterError when a file cannot be removed.
    """
    folder = state_folder(name)
    try:
        for file in (FILE, _RECORD):
            (folder / file).unlink(missing_ok=True)
    except OSError as error:
        raise ClusterError(f"the token in {folder} cannot be removed: {error.strerror or error}") from error
    for path in (folder / "hosts", folder):
        with suppress(OSError):  # not empty, or not there
            path.rmdir()


def copy_token(remote: Remote, inventory: Inventory, host: Host, token: str) -> str:
    """Writes the token into a file with mode 600 on the host; returns the folder of that file.

    Raises: ClusterError when the host refuses.
    """
    done = remote.run(host, script(_WRITE, inventory.name, host.name), stdin=token.encode(), deadline_s=30)
    if done.code:
        raise ClusterError(f"{named(host)}: the token cannot be written: {done.reason}")
    return done.stdout.strip().splitlines()[-1]
