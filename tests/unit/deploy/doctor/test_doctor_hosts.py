"""`rlvr cluster doctor` on network namespaces as hosts: a planted fault for each check, and a sound cluster.

A stand-in for ssh enters the namespace of the host, and runs the host's `setup`, which may mount over folders.
Stand-ins also play `date`, `nvidia-smi` and `docker`. Clocks are not namespaced, and there is no GPU, so these are
simulated; the network, mounts, limits and processes are real.
"""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlvr.deploy.cluster.inventory import Inventory
from rlvr.deploy.doctor.examine import Examination
from rlvr.deploy.doctor.machine import Needs

ROOT = Path(__file__).parents[4]
PORT = 21300
SSH = """#!/bin/sh
for last; do host=$word; word=$last; done
echo "Warning: Permanently added '$host' (ED25519) to the list of known hosts." >&2
if [ -e "$HOSTS/$host/down" ]; then echo "ssh: connect to host $host port 22: No route to host" >&2; exit 255; fi
export HOST="$HOSTS/$host" COMMAND="$last"
exec ip netns exec "$MARK$host" sh -c '. "$HOST/setup"; PATH=$HOST/bin:$PATH; export PATH; exec sh -c "$COMMAND"'
"""
DOCKER = """#!/bin/sh
case "$1" in
    version) echo 27.0 ;;
    image) cat "$(dirname "$0")/image" ;;
    container) echo running ;;
    exec) shift 3; exec "$@" ;;
esac
"""
SMI = "#!/bin/sh\necho 'NVIDIA H100, 81559, {driver}'\n"


class Hosts:
    """Namespaces on one bridge, 10.88.0.1 and so on."""

    def __init__(self, folder: Path, names: str) -> None:
        self.folder, self.names = folder, names
        self.mark = f"d{secrets.token_hex(2)}"
        self.shared = folder / "shared"
        self.shared.mkdir()
        self._bridge = f"{self.mark}br"

    def start(self) -> None:
        names, folder = self.names, self.folder
        shell(f"ip netns add {self._bridge} && ip -n {self._bridge} link add name br type bridge")
        shell(f"ip -n {self._bridge} link set dev br up")
        for number, name in enumerate(names, 1):
            space, cable = self.space(name), f"{self.mark}{name}"
            shell(f"ip netns add {space} && ip -n {space} link set lo up")
            shell(f"ip -n {space} link add eth0 type veth peer name {cable} netns {self._bridge}")
            shell(f"ip -n {self._bridge} link set dev {cable} up master br")
            shell(f"ip -n {space} addr add 10.88.0.{number}/24 dev eth0 && ip -n {space} link set dev eth0 up")
            (folder / name / "bin").mkdir(parents=True)
            self.setup(name, "")
            self.program(name, "python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')

    def space(self, name: str) -> str:
        return f"{self.mark}{name}"

    def setup(self, name: str, text: str) -> None:
        (self.folder / name / "setup").write_text(text)

    def program(self, name: str, program: str, text: str) -> None:
        path = self.folder / name / "bin" / program
        path.write_text(text)
        path.chmod(0o755)

    def inventory(self, **values: Any) -> Inventory:
        hosts = [{"name": n, "ssh": n, "address": f"10.88.0.{i}"} for i, n in enumerate(self.names, 1)]
        return Inventory.model_validate({"shared": str(self.shared), "port": PORT, "hosts": hosts, **values})

    def close(self) -> None:
        for name in (*self.names, "br"):
            pids = subprocess.run(
                ["ip", "netns", "pids", self.space(name)], capture_output=True, text=True, check=False
            )
            for pid in pids.stdout.split():
                os.kill(int(pid), 9)
            subprocess.run(["ip", "netns", "del", self.space(name)], check=False, capture_output=True)


def shell(text: str) -> None:
    subprocess.run(text, shell=True, check=True, capture_output=True, text=True)


@pytest.fixture
def hosts(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    made = Hosts(tmp_path, request.param)
    try:
        made.start()
    except subprocess.CalledProcessError as error:
        made.close()
        pytest.skip(f"no network namespaces here: {error.stderr}")
    program = tmp_path / "here/ssh"
    program.parent.mkdir()
    program.write_text(SSH)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.setenv("HOSTS", str(tmp_path))
    monkeypatch.setenv("MARK", made.mark)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "RAY_TMPDIR", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    yield made
    made.close()


@pytest.mark.parametrize("hosts", ["ab"], indirect=True)
def test_a_sound_cluster_has_no_finding(hosts: Hosts):
    inventory = hosts.inventory(runtime="host", venv=str(Path(sys.executable).parents[1]))
    (snapshot := hosts.shared / "huggingface/hub/models--org--m/snapshots/1").mkdir(parents=True)
    (snapshot / "config.json").touch()
    needs = Needs(shm=1 << 30, disk=1 << 20, model="org/m", env={"NCCL_SOCKET_IFNAME": "=eth0"})
    examination = Examination(inventory, needs)
    assert examination.run() == []
    (_, a, b) = examination.table
    assert (a[:2], b[:2]) == (("a", "10.88.0.1"), ("b", "10.88.0.2"))
    assert a[2] == b[2] != ""
    assert [path.name for path in hosts.shared.iterdir()] == ["huggingface"]  # cleaned up
    assert abs(examination.answers.clocks["b"].ahead_s) < 1.0


@pytest.mark.slow
@pytest.mark.parametrize("hosts", ["abcd"], indirect=True)
def test_each_planted_fault_is_found_with_its_host_and_a_fix(hosts: Hosts):
    for name, driver in zip("abc", ("550.1", "535.9", "550.1"), strict=True):
        hosts.program(name, "nvidia-smi", SMI.format(driver=driver))
        hosts.program(name, "docker", DOCKER)
        (hosts.folder / name / "bin/image").write_text("sha256:1111\n" if name != "c" else "sha256:2222\n")
    other = hosts.folder / "other"
    shutil.copytree(ROOT / "rlvr", other / "rlvr", ignore=shutil.ignore_patterns("__pycache__"))
    (other / "rlvr/errors.py").open("a").write("# changed\n")
    hosts.program("b", "date", '#!/bin/sh\necho "$(($(/bin/date +%s) - 60)).0"\n')
    hosts.setup(
        "b",
        f"cd /; export PYTHONPATH={other}:$PYTHONPATH NCCL_SOCKET_IFNAME=ib RAY_TMPDIR={hosts.folder}/full\n"
        "mount -t tmpfs -o size=64m none /dev/shm; ulimit -n 1024; ulimit -l 64\n"
        f'mkdir -p "$RAY_TMPDIR"; mount -t tmpfs -o size=1m none "$RAY_TMPDIR"\n'
        'head -c 1040000 /dev/zero >"$RAY_TMPDIR/x"\n'
        'mkdir -p "$HF_HOME/hub"; mount -t tmpfs -o ro none "$HF_HOME/hub"\n',
    )
    hosts.setup("c", f"mount -t tmpfs -o size=1g none {hosts.shared}; export NCCL_SOCKET_IFNAME=lo\n")
    (hosts.folder / "d/down").touch()
    shell(f"ip -n {hosts.space('a')} route add unreachable 10.88.0.2")
    taken = (
        f"import socket, time; s = socket.create_server(('10.88.0.2', {PORT + 2})); print(flush=True); time.sleep(600)"
    )
    listener = subprocess.Popen(
        ["ip", "netns", "exec", hosts.space("b"), sys.executable, "-c", taken], stdout=subprocess.PIPE
    )
    inventory = hosts.inventory(image="rlvr:gpu")
    a, b, c, d = inventory.hosts
    c = c.model_copy(update={"address": "10.88.0.9"})
    inventory = inventory.model_copy(update={"hosts": [a.model_copy(update={"gpus": 2}), b, c, d]})
    try:
        assert listener.stdout is not None
        listener.stdout.readline()
        found = Examination(inventory, Needs(gpus=64, disk=1 << 60, model="org/m")).run()
    finally:
        listener.kill()
        listener.wait()
    expected = [
        ("a", "nvidia-smi shows 1 GPU, the inventory has gpus: 2"),
        ("a", "its torch is a CPU build"),
        ("a", "are free in"),
        ("a", f"it cannot reach b (10.88.0.2) on ports {PORT + 1}, {PORT + 2}"),
        ("a", "the model org/m is not in"),
        ("b", "sources of rlvr is"),
        ("b", "the NVIDIA driver is 535.9, most hosts have 550.1"),
        ("b", "s behind that of a (measured to"),
        ("b", "/dev/shm has 64 MiB, and a node needs 1.0 GiB"),
        ("b", "is more than 95% full"),
        ("b", "cannot be written"),
        ("b", "the limit of open files is 1,024"),
        ("b", "locked memory is limited to 64 KiB"),
        ("b", "NCCL_SOCKET_IFNAME=ib names no interface; it has eth0"),
        ("b", f"another program listens on port {PORT + 2}, which the cluster needs"),
        ("c", "none of its interfaces has 10.88.0.9; it has 10.88.0.3 (eth0)"),
        ("c", "NCCL_SOCKET_IFNAME=lo means lo, which does not have 10.88.0.9"),
        ("c", "files that a, b wrote in"),
        ("c", "rlvr:gpu is 2222, a has 1111"),
        ("d", "cannot be reached by ssh: ssh: connect to host d port 22: No route to host"),
        ("all", "the recipe takes 64 GPUs, and the hosts have 3"),
    ]
    shown = "\n".join(f"{f.host}: {f.what}" for f in found)
    for host, text in expected:
        assert any(finding.host == host and text in finding.what for finding in found), f"{host}: {text}\n{shown}"
    assert all(finding.fix for finding in found)
    assert [finding.host for finding in found] == sorted((f.host for f in found), key=["a", "b", "c", "d", "all"].index)
