"""A stand-in for Docker on several hosts of one machine: ssh runs the command here, docker writes down its calls."""

import json
from pathlib import Path
from typing import Any

from rlvr.deploy.cluster.inventory import Inventory

SSH = """#!/bin/sh
for last; do :; done
while [ "$1" != -- ]; do shift; done
export STUB_HOST=${2#*@}
if [ -e "$STUB/$STUB_HOST.down" ]; then
    echo "ssh: connect to host $STUB_HOST port 22: No route to host" >&2
    exit 255
fi
exec sh -c "$last"
"""
# HOST.broken: no answer from the daemon; HOST.silent: none from Ray.
# Containers are files NAME.state ("running") and NAME.label; members are the running ones.
DOCKER = """#!/bin/sh
cd "$STUB" || exit 9
echo "$STUB_HOST: $*" >>calls
case "$1 $2" in
    "ps -q") [ ! -e "$STUB_HOST.broken" ] || { echo "Cannot connect to the Docker daemon" >&2; exit 1; } ;;
    "image inspect") cat "$STUB_HOST.image" 2>/dev/null || exit 1 ;;
    "container inspect")
        for name; do :; done
        case "$name" in *-sandbox) [ -e "$name" ]; exit ;; esac
        [ -e "$name.state" ] || exit 1
        case "$*" in *Status*) cat "$name.state" ;; *Labels*) cat "$name.label" ;; esac ;;
    "run --rm")
        [ ! -e "$STUB_HOST.refuses" ] || { cat "$STUB_HOST.refuses"; exit 1; }
        case "$*" in *"--user 0"*) cat >"$STUB_HOST.token" ;; esac ;;
    "run -d")
        [ ! -e "$STUB_HOST.fails" ] || { echo "Error: $(cat "$STUB_HOST.fails")" >&2; exit 125; }
        name=$4
        case "$name" in *-sandbox) touch "$name"; exit 0 ;; esac
        case "$*" in *RLVR_NODE_IP=*) ;; *) exit 9 ;; esac
        for word; do
            case "$word" in
                rlvr.token=*) printf %s "${word#*=}" >"$name.label" ;;
                RLVR_NODE_IP=*) printf %s "${word#*=}" >"$name.address" ;;
            esac
        done
        cat "$STUB_HOST.becomes" 2>/dev/null >"$name.state" || echo running >"$name.state" ;;
    "stop -t") rm -f "$4.state" ;;
    "volume rm") ;;
    "rm -f") case "$3" in *-sandbox) rm -f "$3" ;; esac; rm -f "$3.state" "$3.label" "$3.address" ;;
    "logs --tail") echo "noise"; echo "rlvr: no head answers at h:1 within 120 s"; echo "more noise" ;;
    "exec -i")
        [ ! -e "$STUB_HOST.silent" ] || { echo "GcsClient timed out" >&2; exit 1; }
        exec python3 "$STUB/members.py" "$@" ;;
    *) echo "unexpected: $*" >&2; exit 9 ;;
esac
"""
MEMBERS = """
import json, pathlib, sys
here = pathlib.Path(__file__).parent
command = sys.argv[sys.argv.index("rlvr.run.ray.nodes.members") + 1]
running = [p for p in sorted(here.glob("*.state")) if p.read_text().strip() == "running"]
if command == "drain":
    (here / "draining").write_text(sys.argv[-1])
    print(len([p for p in running if p.with_suffix(".address").read_text() == sys.argv[-1]]))
    sys.exit()
busy = json.loads((here / "busy").read_text()) if (here / "busy").exists() else []
answer = []
for number, path in enumerate(running):
    address = path.with_suffix(".address").read_text()
    stamp = str(path.stat().st_mtime_ns)
    answer.append(dict(node_id=stamp, address=address, cpus=4.0, gpus=0.0, is_head=number == 0, is_draining=False,
                       is_busy=address in busy))
print(json.dumps(answer))
"""


class Hosts:
    """Hosts that exist as files in a folder."""

    def __init__(self, folder: Path, monkeypatch: Any) -> None:
        self.folder = folder / "stub"
        programs = folder / "bin"
        for place in (self.folder, programs):
            place.mkdir()
        for name, text in {"ssh": SSH, "docker": DOCKER}.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        (self.folder / "members.py").write_text(MEMBERS)
        monkeypatch.setenv("PATH", f"{programs}:/usr/local/bin:/usr/bin:/bin")
        monkeypatch.setenv("STUB", str(self.folder))
        monkeypatch.setenv("RLVR_STATE_DIR", str(folder / "state"))
        for host in "abc":
            self.set(f"{host}.image", "sha256:1111111111111111")
        self.shared = folder / "shared"
        self.shared.mkdir()

    def set(self, name: str, text: str) -> None:
        """Writes a file of the stand-in."""
        (self.folder / name).write_text(text)

    def busy(self, *addresses: str) -> None:
        """Places work on nodes."""
        self.set("busy", json.dumps(addresses))

    @property
    def calls(self) -> list[str]:
        """What docker was called with: `HOST: WORDS`."""
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def started(self) -> list[str]:
        """Hosts on which a container was started, in order."""
        return [call[0] for call in self.calls if call[3:].startswith("run -d")]

    def inventory(self, names: str = "ab", **more: Any) -> Inventory:
        """An inventory of these hosts."""
        hosts = [{"name": n, "ssh": f"ops@{n}", "address": f"10.9.0.{i}"} for i, n in enumerate(names, start=1)]
        return Inventory.model_validate({"image": "rlvr:gpu", "shared": str(self.shared), "hosts": hosts, **more})
