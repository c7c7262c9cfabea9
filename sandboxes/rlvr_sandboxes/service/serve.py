"""What `rlvr sandboxes serve` does: key, socket, confinement, backend, and then connections until SIGTERM."""

import asyncio
import contextlib
import logging
import os
from typing import Any

from rlvr.errors import SandboxError
from rlvr.protocols import Sandbox
from rlvr_sandboxes.service import confinement, keys
from rlvr_sandboxes.service.server import NEEDED, Server, listen, run_until_stopped

_LOG = logging.getLogger(__name__)


def serve(backend: Sandbox, config: Any, *, mode: int) -> None:
    """Runs the service until SIGTERM or SIGINT.

    Args: config: a `ServiceConfig`. mode: of the socket, and of a key file that is made here.

    Raises: SandboxError when the backend does not work here, or a path cannot be used.
    """
    lacks = NEEDED - backend.capabilities
    if lacks:
        raise SandboxError(
            f"sandbox {backend.name!r} cannot be served, because it lacks {', '.join(sorted(lacks))}; these can: auto, "
            "namespaces, landlock"
        )
    key_path = config.key_path
    secret_files = (os.path.realpath(key_path), os.path.realpath(config.socket))
    folders = tuple(getattr(getattr(backend, "config", None), "folders", ()))
    for path in secret_files:
        if shown := keys.is_shown_by(path, folders):
            raise SandboxError(f"folders: {shown} contains {path}, which programs must not see; name another folder")
    folder = os.path.dirname(config.socket)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError as error:
        raise SandboxError(
            f"the socket's folder {folder} cannot be created: {error.strerror}; create it as a folder of user id "
            f"{os.geteuid()}, or name a socket in a folder of this user with --socket"
        ) from error
    if not os.path.lexists(key_path):
        keys.make_key(key_path, mode=mode)
    key = keys.read_key(key_path)
    confinement.become_child_of_init()
    confinement.confine()
    asyncio.run(_serve(backend, key, config.socket, mode, secret_files))


async def _serve(backend: Sandbox, key: bytes, path: str, mode: int, secret_files: tuple[str, ...]) -> None:
    try:
        await backend.start()
        with listen(path, mode=mode) as listener:
            chosen = str(getattr(backend, "chosen", "")) or backend.name
            _LOG.info("the sandbox service serves %r at %s", chosen, path)
            for what in confinement.missing():
                _LOG.warning("the sandbox service could be confined further: %s", what)
            try:
                await run_until_stopped(Server(backend, key, listener, secret_files=secret_files))
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(path)
    finally:
        await backend.close()
