"""Commands inside a node: in its container, or with the environment of the virtual environment's node."""

from collections.abc import Sequence

from rlvr.deploy.cluster.inventory import Host, Inventory, Runtime
from rlvr.deploy.cluster.remote import script

# $1: the cluster, $2: the host. `folder` is the node's alone: several hosts may share a home folder. `place` is Ray's,
# and short, because the path of a socket may have 107 characters.
FOLDERS = """
folder=${RLVR_STATE_DIR:-$HOME/.rlvr}/clusters/$1/hosts/$2
place=/tmp/rlvr-$(printf %s "$1-$(id -u)" | cksum | cut -d' ' -f1)
"""
_IN_VENV = (
    FOLDERS
    + """
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$folder/token" RAY_TMPDIR="$place" RAY_USAGE_STATS_ENABLED=0
export RLVR_PORT="$3" RLVR_NODE_IP="$4" RLVR_HEAD="$5" HF_HOME="$6" PATH="$7/bin:$PATH"
shift 7
exec env "$@"
"""
)


def python_of(inventory: Inventory) -> str:
    """The interpreter in a node."""
    return f"{inventory.venv}/bin/python" if inventory.runtime is Runtime.HOST else "python"


def in_node(inventory: Inventory, host: Host, words: Sequence[str]) -> list[str]:
    """Words for the host that run a command in its node, with standard input, and with Ray's token."""
    if inventory.runtime is not Runtime.HOST:
        return [inventory.runtime.value, "exec", "-i", inventory.container_of(host), *words]
    env = [f"{name}={value}" for name, value in {**inventory.env, **host.env}.items()]
    given = (str(inventory.port), host.address, inventory.head_address, hub_folder(inventory), inventory.venv)
    return script(_IN_VENV, inventory.name, host.name, *given, *env, *words)


def hub_folder(inventory: Inventory) -> str:
    """Where models by hub name lie, for all hosts: `HF_HOME`."""
    return f"{inventory.shared}/huggingface"
