"""What `rlvr cluster doctor` takes for an answer of a host, how long it waits for one, and its advice without one."""

import os
import shlex
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlvr.deploy.cluster.inventory import Host, Inventory
from rlvr.deploy.cluster.remote import Done, Remote
from rlvr.deploy.doctor import examine, probe
from rlvr.deploy.doctor.examine import Examination

SERVED = '{"busy": [], "open": [7], "lock": ""}'


class Scripted(Remote):
    """`date` works; each round of the probe, of `report`, `serve`, `reach` and `clean`, runs a shell script."""

    def __init__(self, **scripts: str) -> None:
        super().__init__()
        self._scripts = scripts

    def run(self, host: Host, words: Sequence[str], *, stdin: bytes = b"", deadline_s: float = 60.0) -> Done:
        if words[0] == "date":
            return Done(0, f"{time.time()}\n", "")
        done = subprocess.run(["sh", "-c", self._scripts[words[-1]]], capture_output=True, text=True, check=False)
        return Done(done.returncode, done.stdout, done.stderr)

    def stream(self, host: Host, words: Sequence[str]) -> "subprocess.Popen[bytes]":
        return super().stream(Host(name="a", address=host.address), ["sh", "-c", self._scripts[words[-1]]])


def cluster(**values: object) -> Inventory:
    host = {"name": "b", "ssh": "u@b", "address": "127.0.0.1"}
    if "runtime" not in values:
        values = {"runtime": "host", "venv": "/opt/rlvr", **values}
    return Inventory.model_validate({"shared": "/shared", "hosts": [host], **values})


def examined(serve: str) -> Examination:
    """An examination of which only the rounds `serve` and `reach` were run."""
    done = Examination(cluster(), remote=Scripted(serve=serve, reach="echo '{\"ports\": []}'"))
    done._meet()
    return done


def test_what_ssh_and_the_shell_print_before_the_answer_is_no_finding():
    done = examined(f"echo 'Authorized users only'; echo 3 >&2; echo {shlex.quote(SERVED)}; printf ..; sleep 60")
    assert done.answers.served == {"b": {"busy": [], "open": [7], "lock": ""}}
    assert done._silent == {}


def test_an_output_that_ends_without_an_answer_is_quoted():
    assert (
        "its probe printed 'no such container' instead of an answer"
        in examined("echo no such container")._silent["b"].what
    )


def test_a_host_that_hangs_is_a_finding_at_the_deadline_and_the_ports_of_the_others_are_still_open(
    monkeypatch: pytest.MonkeyPatch,
):
    assert probe._SERVE_S > 2 * examine._ROUND_S
    monkeypatch.setattr(examine, "_ROUND_S", 0.5)
    begun = time.monotonic()
    # The process in the background keeps the output open when the shell has been killed.
    done = examined("echo banner; sleep 20 & wait")
    assert time.monotonic() - begun < 10
    assert done._silent["b"].what == "its probe did not answer within 0.5 s"


def test_advice_on_an_unreachable_host_is_a_command_with_the_inventorys_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\necho 'Permission denied' >&2\nexit 255\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (found,) = Examination(cluster(ssh_options=["-p", "2222"])).run()
    assert found.fix == "make `ssh -p 2222 u@b true` work without a password"


def test_advice_on_a_host_without_the_virtual_environment_says_where_to_install(tmp_path: Path):
    here = {"name": "a", "address": "127.0.0.1"}
    (found,) = Examination(cluster(venv=f"{tmp_path}/venv", hosts=[here])).run()
    assert f"{tmp_path}/venv/bin/python" in found.what
    assert found.fix == f"install rlvr[ray] into {tmp_path}/venv there"


@pytest.mark.parametrize(
    ("values", "command"),
    [
        ({"venv": "/opt/rlvr", "ssh_options": ["-p", "22"]}, "ssh -p 22 u@b /opt/rlvr/bin/rlvr doctor"),
        ({"runtime": "docker", "image": "rlvr:gpu"}, "ssh u@b docker run --rm rlvr:gpu doctor"),
    ],
)
def test_advice_on_a_probe_that_fails_names_the_command_to_run(values: dict[str, object], command: str):
    inventory = cluster(**values)
    advice = Examination(inventory)._advice(inventory.head, "its probe failed: Segmentation fault")
    assert advice.startswith(f"run `{command}`, which checks the installation there")
