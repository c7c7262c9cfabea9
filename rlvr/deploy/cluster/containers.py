"""Nodes as containers of Docker or Podman: one on each host, in its network, with the token mounted as a file."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from rlvr.deploy import sandbox_service
from rlvr.deploy.cluster.inventory import Host, Inventory, Runtime
from rlvr.deploy.cluster.node import (
    COMMON_PROBE,
    Facts,
    NodeState,
    facts_from,
    key_values,
    node_environment,
    start_script,
)
from rlvr.deploy.cluster.node_commands import FOLDERS
from rlvr.deploy.cluster.remote import Done, Remote, named, script
from rlvr.errors import ClusterError

TOKEN_PLACE = "/run/rlvr/token"
_ALIVE = ("created", "initialized", "running", "restarting")  # the runtime starts a container that failed again
_START_S, _PROBE_S = 180.0, 60.0
_PROBE = (
    """
if ! command -v "$1" >/dev/null; then echo "problem=$1 is not installed there"; exit 0; fi
if ! why=$("$1" ps -q 2>&1 >/dev/null); then
    echo "problem=$1 does not work there: $(echo "$why" | tail -n 1)"
    echo "state=unknown"
    exit 0
fi
echo "image=$("$1" image inspect -f '{{.Id}}' "$4" 2>/dev/null)"
echo "state=$("$1" container inspect -f '{{.State.Status}}' "$6" 2>/dev/null)"
echo "token=$("$1" container inspect -f '{{index .Config.Labels "rlvr.token"}}' "$6" 2>/dev/null)"
[ -d "$5" ] || echo "problem=the shared folder $5 does not exist there"
"""
    + COMMON_PROBE
)
# A file of the container's user with mode 600: its user id is not that of ssh, so root of a container writes it.
_WRITE_TOKEN = """
set -eu
umask 077
cat >/state/token.new
chown "$(id -u rlvr 2>/dev/null || echo 1000)" /state/token.new
mv /state/token.new /state/token
"""
_PREPARE = (
    FOLDERS
    + """
set -eu
mkdir -p "$folder"
chmod 711 "$folder"
runtime=$3 image=$4 text=$5
shift 5
exec "$runtime" run --rm -i --user 0 -v "$folder:/state" "$@" --entrypoint sh "$image" -c "$text"
"""
)
# What the container's user finds. $1: the shared folder.
_CHECK = """
user=$(id -u)
test -r /run/rlvr/token || { echo "the user $user of the image cannot read the token"; exit 1; }
command -v start-head.sh >/dev/null || { echo "the image is not one of rlvr: it has no start-head.sh"; exit 1; }
test -w "$1" && exit 0
echo "the user $user of the image cannot write to the shared folder $1; run 'chown $user $1' where it is served"
exit 1
"""
_USE = (
    FOLDERS
    + """
set -eu
runtime=$3 image=$4 text=$5 shared=$6
shift 6
exec "$runtime" run --rm -v "$shared:$shared" -v "$folder/token:/run/rlvr/token:ro" "$@" \\
    --entrypoint sh "$image" -c "$text" rlvr "$shared"
"""
)
_RUN = (
    FOLDERS
    + """
set -eu
runtime=$3 name=$4
shift 4
"$runtime" rm -f "$name" >/dev/null 2>&1 || true
exec "$runtime" run -d --name "$name" -v "$folder/token:/run/rlvr/token:ro" "$@"
"""
)
_RUN_SANDBOX = """
set -eu
runtime=$1 name=$2
shift 2
"$runtime" rm -f "$name" >/dev/null 2>&1 || true
exec "$runtime" run -d --name "$name" "$@"
"""
# A host without the runtime has no container; one whose runtime does not answer may have one that runs.
_STOP = (
    FOLDERS
    + """
if command -v "$3" >/dev/null && ! why=$("$3" ps -q 2>&1 >/dev/null); then
    echo "$3 does not work there: $(echo "$why" | tail -n 1)" >&2
    exit 1
fi
if "$3" container inspect "$4" >/dev/null 2>&1; then
    "$3" stop -t "$5" "$4" >/dev/null
    "$3" rm -f "$4" >/dev/null || exit 1
fi
if "$3" container inspect "$4-sandbox" >/dev/null 2>&1; then
    "$3" rm -f "$4-sandbox" >/dev/null || exit 1
    "$3" volume rm "$4-sandbox" >/dev/null || exit 1
fi
rm -f "$folder/token"
[ ! -e "$folder/token" ] || { echo "$folder/token cannot be removed" >&2; exit 1; }
rmdir "$folder" "${folder%/*}" "${folder%/*/*}" 2>/dev/null || true
"""
)


def _state(status: str) -> NodeState:
    """Args: status: of the container; "" if there is none."""
    if status == NodeState.UNKNOWN:
        return NodeState.UNKNOWN
    return NodeState.RUNNING if status in _ALIVE else NodeState.ENDED if status else NodeState.ABSENT


class Containers:
    """See `NodeRuntime`."""

    def __init__(self, inventory: Inventory, remote: Remote) -> None:
        self._inventory = inventory
        self._remote = remote
        self._program = inventory.runtime.value

    def probe(self, host: Host) -> Facts:
        """See `NodeRuntime`."""
        inventory = self._inventory
        words = script(
            _PROBE,
            self._program,
            inventory.name,
            host.name,
            inventory.image,
            inventory.shared,
            inventory.container_of(host),
        )
        done = self._remote.run(host, words, deadline_s=_PROBE_S)
        if done.code:
            raise ClusterError(f"{named(host)}: {self._program} does not answer: {done.reason}")
        lines = key_values(done.stdout)
        fields: dict[str, Any] = facts_from(lines, inventory=inventory)
        if not fields["problem"] and not lines.get("image"):
            fields["problem"] = f"there is no image {inventory.image}; {self._copy_hint(host)}"
        state = _state(lines.get("state", ""))
        return Facts(state=state, image=lines.get("image", ""), **fields)

    def _copy_hint(self, host: Host) -> str:
        where = f"ssh {host.ssh} {self._program} load" if host.ssh else f"{self._program} load"
        return f"copy it with `{self._program} save {self._inventory.image} | {where}`, or pull it there"

    def prepare(self, host: Host, token: str) -> None:
        """See `NodeRuntime`."""
        inventory = self._inventory
        first, site = (inventory.name, host.name, self._program, inventory.image), self._site_options(host)
        write = script(_PREPARE, *first, _WRITE_TOKEN, *site)
        done = self._remote.run(host, write, stdin=token.encode(), deadline_s=_START_S)
        if done.code:
            raise ClusterError(f"{named(host)}: the token cannot be written: {done.reason}")
        check = script(_USE, *first, _CHECK, inventory.shared, *site)
        done = self._remote.run(host, check, deadline_s=_START_S)
        if done.code:
            raise ClusterError(f"{named(host)}: {done.stdout.strip() or done.reason}")

    def start(self, host: Host, facts: Facts, *, fingerprint: str) -> None:
        """See `NodeRuntime`."""
        if self._inventory.sandbox_slots:
            words = script(_RUN_SANDBOX, self._program, self._sandbox(host), *self._sandbox_options(host))
            done = self._remote.run(host, words, deadline_s=_START_S)
            if done.code:
                raise ClusterError(f"{named(host)}: the container of the sandbox does not start: {done.reason}")
        words = script(_RUN, *self._first(host), *self.options(host, facts, fingerprint))
        done = self._remote.run(host, words, deadline_s=_START_S)
        if done.code:
            raise ClusterError(f"{named(host)}: the container does not start: {done.reason}")

    def options(self, host: Host, facts: Facts, fingerprint: str) -> list[str]:
        """The words after `docker run -d --name NAME`, except the mount of the token."""
        inventory = self._inventory
        words = ["--label", f"rlvr.cluster={inventory.name}", "--label", f"rlvr.token={fingerprint}", "--init"]
        words += ["--restart", "unless-stopped", "--health-cmd", "healthy.sh", "--health-start-period", "60s"]
        words += ["-e", f"RAY_AUTH_TOKEN_PATH={TOKEN_PLACE}", *self._surroundings(host, facts)]
        return [*words, "--entrypoint", start_script(inventory, host), inventory.image]

    def once(self, host: Host, facts: Facts, words: Sequence[str]) -> list[str]:
        """Words that run a program, with standard input, in a container like the node's, but without the token."""
        program, *arguments = words
        options = ["--rm", "-i", *self._surroundings(host, facts), "--entrypoint", program]
        return [self._program, "run", *options, self._inventory.image, *arguments]

    def _surroundings(self, host: Host, facts: Facts) -> list[str]:
        """What a program in the container sees of the host: limits, devices, folders, variables, network."""
        inventory, has_gpus = self._inventory, self._num_gpus(host, facts) > 0
        limits = {"nofile": "65536:65536"}
        if has_gpus:
            limits |= {"memlock": "-1:-1", "stack": "67108864:67108864"}
        words = ["--shm-size", inventory.shm, "--pids-limit", "-1"]
        words += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        given = [*inventory.options, *host.options]
        for name, value in limits.items():
            if not any(word.startswith((f"{name}=", f"--ulimit={name}=")) for word in given):
                words += ["--ulimit", f"{name}={value}"]
        if has_gpus:
            words += self._gpu_options(host)
        words += ["-v", f"{inventory.shared}:{inventory.shared}"]
        if inventory.sandbox_slots:
            words += sandbox_service.trainer_options(volume=self._sandbox(host))
        for name, value in node_environment(inventory, host, facts).items():
            words += ["-e", f"{name}={value}"]
        return words + self._site_options(host)

    def _sandbox(self, host: Host) -> str:
        """The name of the sandbox's container and of its volume."""
        return f"{self._inventory.container_of(host)}-sandbox"

    def _sandbox_options(self, host: Host) -> list[str]:
        """The words after `docker run -d --name NAME` of the sandbox: of the site's options only the limits."""
        size = sandbox_service.SandboxSize(slots=self._inventory.sandbox_slots, workers=self._inventory.sandbox_slots)
        given = [*self._inventory.options, *host.options]
        limits = [f"{word}={value}" for word, value in pairwise(given) if word == "--ulimit"]
        limits += [word for word in given if word.startswith("--ulimit=")]
        restart = ["--restart", "unless-stopped", "--label", f"rlvr.cluster={self._inventory.name}"]
        options = sandbox_service.container_options(size, volume=self._sandbox(host))
        return [*restart, *limits, *options, self._inventory.image]

    def _site_options(self, host: Host) -> list[str]:
        """The options of the inventory, and the host's network unless they name another one."""
        given = [*self._inventory.options, *host.options]
        names = {word.partition("=")[0] for word in given}
        return given if names & {"--network", "--net"} else ["--network", "host", *given]

    def _num_gpus(self, host: Host, facts: Facts) -> int:
        return facts.gpus if host.gpus == "auto" else host.gpus

    def _gpu_options(self, host: Host) -> list[str]:
        if self._inventory.runtime is Runtime.PODMAN:
            which = ["all"] if host.gpus == "auto" else [str(index) for index in range(host.gpus)]
            return [word for index in which for word in ("--device", f"nvidia.com/gpu={index}")]
        return ["--gpus", "all" if host.gpus == "auto" else str(host.gpus)]

    def stop(self, host: Host, *, grace_s: int) -> None:
        """See `NodeRuntime`."""
        words = script(_STOP, *self._first(host), str(grace_s))
        done = self._remote.run(host, words, deadline_s=grace_s + _START_S)
        if done.code:
            raise ClusterError(f"{named(host)}: the container cannot be removed: {done.reason}")

    def log(self, host: Host) -> Done:
        """See `NodeRuntime`."""
        words = script('exec "$1" logs --tail 20 "$2" 2>&1', self._program, self._inventory.container_of(host))
        return self._remote.run(host, words)

    def _first(self, host: Host) -> tuple[str, str, str, str]:
        return self._inventory.name, host.name, self._program, self._inventory.container_of(host)
