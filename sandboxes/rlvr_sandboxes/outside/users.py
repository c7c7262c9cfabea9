"""A user id of its own for each slot, when the supervisor is root.

The kernel does not hold user 0 to RLIMIT_NPROC, and programs of one user may signal each other; so each slot gets an id
that no other slot on this machine has, reserved by a socket name that the kernel frees when this process ends.
"""

import os
import socket

from rlvr.errors import SandboxError

FIRST_UID, NUM_UIDS = 60_000, 4_000


class UserIds:
    """Hands out user ids; `close` returns them. Gives 0 ("no change") to a supervisor that is not root."""

    def __init__(self) -> None:
        self._reserved: dict[int, socket.socket] = {}

    def take(self) -> int:
        """Raises SandboxError when all are taken."""
        if os.geteuid() != 0:
            return 0
        for uid in range(FIRST_UID, FIRST_UID + NUM_UIDS):
            if uid in self._reserved:
                continue
            mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                mark.bind(f"\0rlvr-box-uid-{uid}")
            except OSError:
                mark.close()
                continue
            self._reserved[uid] = mark
            return uid
        raise SandboxError(
            f"all user ids from {FIRST_UID} to {FIRST_UID + NUM_UIDS - 1} are taken by other sandboxes on this machine"
        )

    def give_back(self, uid: int) -> None:
        """Frees one id; its processes must be gone."""
        mark = self._reserved.pop(uid, None)
        if mark is not None:
            mark.close()

    def close(self) -> None:
        """Frees all."""
        for uid in list(self._reserved):
            self.give_back(uid)
