"""Environment variables of nodes that `rlvr cluster` sets itself, so an inventory must not."""

# With the key of the inventory that determines each, if there is one. PATH finds the start scripts.
_KEYS = {
    "RLVR_PORT": "port",
    "RLVR_NODE_IP": "address",
    "RLVR_HEAD": "address",
    "RLVR_CPUS": "cpus",
    "RLVR_GPUS": "gpus",
    "RLVR_SUBMITTED": "",
    "RLVR_NODE": "",
    "PATH": "",
}


def unmanaged(env: dict[str, str]) -> dict[str, str]:
    """A validator of `env` in an inventory; returns it as it is.

    Raises: ValueError for a variable that is managed.
    """
    for name in env:
        if name in _KEYS or name.startswith("RAY_AUTH_"):
            key = _KEYS.get(name)
            raise ValueError(f"`rlvr cluster` sets {name} itself; {f'set `{key}` instead' if key else 'remove it'}")
    return env
