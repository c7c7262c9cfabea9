"""Nodes as processes of a host: the start scripts run in a virtual environment, in a session of their own.

A node that ends is started again, but not after the host has booted.

A file holds the process's id and its start time, so that a process which was given the same id later is never taken for
the node. Every process of the node inherits `RLVR_NODE`, the node's folder, by which those that outlive it are found.
"""

import importlib.resources
from pathlib import Path
from typing import Any

from rlvr.deploy.cluster.inventory import Host, Inventory
from rlvr.deploy.cluster.node import (
    COMMON_PROBE,
    HEAD_SCRIPT,
    NODE_SCRIPT,
    Facts,
    NodeState,
    facts_from,
    key_values,
    node_environment,
    start_script,
)
from rlvr.deploy.cluster.node_commands import FOLDERS
from rlvr.deploy.cluster.remote import Done, Remote, named, script
from rlvr.deploy.cluster.shared_token import copy_token
from rlvr.errors import ClusterError

_WAIT_SCRIPT = "wait-for-head.sh"
_DEADLINE_S = 60.0
_SETUP = (
    FOLDERS
    + """
started() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
runs() {
    pid='' start='' token=''
    [ -r "$folder/pid" ] && read -r pid start token <"$folder/pid"
    [ -n "$pid" ] && [ -n "$start" ] && [ "$(started "$pid")" = "$start" ]
}
left() { grep -lszxF "$1" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3; }
"""
)
_PROBE = (
    _SETUP
    + """
if runs; then echo state=running; elif [ -e "$folder/pid" ]; then echo state=ended; fi
echo "token=$token"
for program in ray rlvr python; do
    [ -x "$3/bin/$program" ] && continue
    echo "problem=$3/bin/$program does not exist there; install rlvr[ray] into $3"
    break
done
[ -d "$4" ] || echo "problem=the shared folder $4 does not exist there"
[ ! -d "$4" ] || [ -w "$4" ] || echo "problem=the user $(id -un) cannot write to the shared folder $4"
"""
    + COMMON_PROBE
)
# As a container's restart policy does: a node that ends, because its head was lost or Ray was slow, is started again.
_KEEP_RUNNING = """#!/bin/sh
trap 'kill -TERM "$child" 2>/dev/null; wait "$child"; exit 0' TERM
while :; do
    "$1" &
    child=$!
    wait "$child"
    sleep 5 &
    child=$!
    wait "$child"
done
"""
_START = (
    "set -eu\n"
    + _SETUP
    + """
venv=$3 name=$4 fingerprint=$5
mkdir -p -m 700 "$place"
[ -O "$place" ] && [ ! -L "$place" ] || { echo "$place belongs to somebody else" >&2; exit 1; }
mkdir -p "$folder/bin"
printf '%s' "$6" >"$folder/bin/start-head.sh"
printf '%s' "$7" >"$folder/bin/start-node.sh"
printf '%s' "$8" >"$folder/bin/wait-for-head.sh"
printf '%s' "$9" >"$folder/bin/keep-running.sh"
chmod 755 "$folder"/bin/*
shift 9
cd "$folder"
setsid env "$@" "PATH=$folder/bin:$venv/bin:$PATH" "RAY_AUTH_TOKEN_PATH=$folder/token" "RAY_TMPDIR=$place" \\
    "RLVR_NODE=$folder" "$folder/bin/keep-running.sh" "$folder/bin/$name" </dev/null >"$folder/log" 2>&1 &
pid=$!
echo "$pid $(started "$pid") $fingerprint" >"$folder/pid"
"""
)
_STOP = (
    _SETUP
    + """
ends=$(($(date +%s) + $3))
if runs; then
    kill -TERM "$pid"
    while runs && [ "$(date +%s)" -lt "$ends" ]; do sleep 0.2; done
fi
for signal in TERM KILL KILL KILL; do
    pids=$(left "RLVR_NODE=$folder")
    [ -n "$pids" ] || break
    # shellcheck disable=SC2086  # one word each
    kill -"$signal" $pids 2>/dev/null
    sleep 0.5
done
pids=$(left "RLVR_NODE=$folder")
[ -z "$pids" ] || { echo "processes $(echo $pids) do not end" >&2; exit 1; }
rm -rf "$folder"
[ -n "$(left "RAY_TMPDIR=$place")" ] || rm -rf "$place"
rmdir "${folder%/*}" "${folder%/*/*}" 2>/dev/null || true
"""
)
_LOG = _SETUP + 'tail -n 20 "$folder/log" 2>&1'


class HostProcesses:
    """See `NodeRuntime`."""

    def __init__(self, inventory: Inventory, remote: Remote) -> None:
        self._inventory = inventory
        self._remote = remote

    def probe(self, host: Host) -> Facts:
        """See `NodeRuntime`."""
        done = self._run(_PROBE, host, self._inventory.venv, self._inventory.shared)
        if done.code:
            raise ClusterError(f"{named(host)}: does not answer as expected: {done.reason}")
        lines = key_values(done.stdout)
        states = {"running": NodeState.RUNNING, "ended": NodeState.ENDED}
        fields: dict[str, Any] = facts_from(lines, inventory=self._inventory)
        return Facts(state=states.get(lines.get("state", ""), NodeState.ABSENT), **fields)

    def prepare(self, host: Host, token: str) -> None:
        """See `NodeRuntime`."""
        copy_token(self._remote, self._inventory, host, token)

    def start(self, host: Host, facts: Facts, *, fingerprint: str) -> None:
        """See `NodeRuntime`."""
        environment = node_environment(self._inventory, host, facts)
        done = self._run(
            _START,
            host,
            self._inventory.venv,
            start_script(self._inventory, host),
            fingerprint,
            *(start_script_text(name) for name in (HEAD_SCRIPT, NODE_SCRIPT, _WAIT_SCRIPT)),
            _KEEP_RUNNING,
            *(f"{name}={value}" for name, value in environment.items()),
        )
        if done.code:
            raise ClusterError(f"{named(host)}: the node does not start: {done.reason}")

    def stop(self, host: Host, *, grace_s: int) -> None:
        """See `NodeRuntime`."""
        done = self._run(_STOP, host, str(grace_s), deadline_s=grace_s + _DEADLINE_S)
        if done.code:
            raise ClusterError(f"{named(host)}: the node cannot be stopped: {done.reason}")

    def log(self, host: Host) -> Done:
        """See `NodeRuntime`."""
        return self._run(_LOG, host)

    def _run(self, text: str, host: Host, *arguments: str, deadline_s: float = _DEADLINE_S) -> Done:
        words = script(text, self._inventory.name, host.name, *arguments)
        return self._remote.run(host, words, deadline_s=deadline_s)


def start_script_text(name: str) -> str:
    """A start script: of `rlvr/_docker` in the wheel, of docker/ in a checkout.

    Raises: ClusterError when the installation has none.
    """
    package = Path(str(importlib.resources.files("rlvr")))
    for folder in (package / "_docker", package.parent / "docker"):
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8")
    raise ClusterError(f"this installation has no {name}; use a checkout or the wheel of rlvr, or a container runtime")
