"""Commands inside a node: in its container, or with the environment of the virtual environment's node."""

from collections.abc import Sequence

from rlvr.deploy.cluster.inventory import Host, Inventory, Runtime
from rlvr.deploy.cluster.remote import script

_IN_VENV = (
    "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=${RLVR_STATE_DIR:-$HOME/.rlvr}/clusters/$1/hosts/$2/token "
    'RLVR_PORT=$3 RLVR_NODE_IP=$4 RAY_USAGE_STATS_ENABLED=0; PATH=$5/bin:$PATH; shift 5; exec "$@"'
)


def python_of(inventory: Inventory) -> str:
    """The interpreter in a node."""
    return f"{inventory.venv}/bin/python" if inventory.runtime is Runtime.HOST else "python"


def in_node(inventory: Inventory, host: Host, words: Sequence[str]) -> list[str]:
    """Words for the host that run a command in its node, with standard input, and with Ray's token."""
    if inventory.runtime is not Runtime.HOST:
        return [inventory.runtime.value, "exec", "-i", inventory.container, *words]
    env = [f"{name}={value}" for name, value in {**inventory.env, **host.env}.items()]
    given = (inventory.name, host.name, str(inventory.port), host.address, inventory.venv)
    return script(_IN_VENV, *given, *(["env", *env] if env else []), *words)
