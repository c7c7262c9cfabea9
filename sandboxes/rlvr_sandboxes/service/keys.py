"""The key file, and the handshake in which both sides prove that they have the key without sending it.

    server -> client    MAGIC | 32 random bytes
    client -> server    32 random bytes | HMAC-SHA256(key, "client" and both)
    server -> client    HMAC-SHA256(key, "server" and both), or zeros and the end of the connection

Both sides contribute random bytes, so a recorded handshake proves nothing later; the role is part of what is signed, so
that a proof cannot be sent back to its sender.
"""

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path

from rlvr.errors import SandboxError

MAGIC, FULL = b"rlvrbox1", b"rlvrfull"
NONCE_BYTES = PROOF_BYTES = 32
CHALLENGE_BYTES = len(MAGIC) + NONCE_BYTES
ANSWER_BYTES = NONCE_BYTES + PROOF_BYTES
REFUSED = bytes(PROOF_BYTES)
_LEAST_BYTES, _MOST_BYTES = 32, 4096


def read_key(path: str) -> bytes:
    """The key, without white space around it.

    Raises: FileNotFoundError when there is no such file yet; SandboxError when it cannot be used, with the fix.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SandboxError(f"the key file {path} cannot be read: {error.strerror}") from error
    with open(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise SandboxError(f"the key file {path} is not a regular file")
        if mode & stat.S_IRWXO:
            raise SandboxError(f"the key file {path} is open to every user of this machine; chmod 600 {path}")
        key = file.read(_MOST_BYTES + 1).strip()
    if not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
        raise SandboxError(
            f"the key file {path} has {len(key)} bytes; expected {_LEAST_BYTES} to {_MOST_BYTES} random ones. Delete "
            "it, and the service creates a new one"
        )
    return key


def make_key(path: str, *, mode: int) -> None:
    """Writes a new key to a file that does not exist yet; another process may do the same at the same time.

    Raises: SandboxError when the folder cannot be written.
    """
    new = f"{path}.{secrets.token_hex(8)}"
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(f"{secrets.token_hex(32)}\n")
                os.fchmod(file.fileno(), mode)
            os.link(new, path)
        except FileExistsError:
            return
        finally:
            os.unlink(new)
    except OSError as error:
        raise SandboxError(f"the key file {path} cannot be created: {error.strerror}") from error


def is_shown_by(path: str, folders: Sequence[str]) -> str:
    """The first of the folders (or files) that contains this path; "" if none does."""
    place = Path(os.path.realpath(path))
    return next((folder for folder in folders if place.is_relative_to(os.path.realpath(folder))), "")


def new_nonce() -> bytes:
    """Random bytes for one handshake."""
    return secrets.token_bytes(NONCE_BYTES)


def proof(key: bytes, role: str, of_server: bytes, of_client: bytes) -> bytes:
    """What only a holder of the key can compute for this handshake."""
    return hmac.digest(key, b"rlvr sandbox service\0" + role.encode() + b"\0" + of_server + of_client, hashlib.sha256)


def is_proof(given: bytes, key: bytes, role: str, of_server: bytes, of_client: bytes) -> bool:
    """Whether the bytes are that proof, compared in constant time."""
    return hmac.compare_digest(given, proof(key, role, of_server, of_client))
