"""Commands on hosts, with a stand-in for ssh that runs the remote command here."""

import os
from pathlib import Path

import pytest

from rlvr.deploy.cluster.inventory import Host
from rlvr.deploy.cluster.remote import Remote, on_all, script
from rlvr.errors import ClusterError

HERE = Host(name="h", address="10.0.0.1")
THERE = Host(name="t", ssh="ops@t.example", address="10.0.0.2")
FAKE_SSH = """#!/bin/sh
echo "$@" >>"$FAKE_SSH_LOG"
for last; do :; done
if [ -n "$FAKE_SSH_FAILS" ]; then echo "ssh: connect to host t.example port 22: $FAKE_SSH_FAILS" >&2; exit 255; fi
exec sh -c "$last"
"""


@pytest.fixture(autouse=True)
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the stand-in first on PATH; returns the file in which it logs its arguments."""
    program = tmp_path / "bin/ssh"
    program.parent.mkdir()
    program.write_text(FAKE_SSH)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SSH_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("FAKE_SSH_FAILS", "")
    return tmp_path / "log"


@pytest.mark.parametrize("host", [HERE, THERE])
def test_words_arrive_as_they_are(host: Host) -> None:
    words = ["printf", "%s|", "a b", "it's", "$HOME", "; exit 3", "`id`", "*", ""]
    done = Remote().run(host, words)
    assert (done.code, done.stdout) == (0, "a b|it's|$HOME|; exit 3|`id`|*||")


@pytest.mark.parametrize("host", [HERE, THERE])
def test_standard_input_and_the_exit_code_pass_through(host: Host) -> None:
    done = Remote().run(host, script('cat; echo "first" >&2; echo "why: $1" >&2; exit 7', "x y"), stdin=b"secret")
    assert (done.code, done.stdout, done.reason) == (7, "secret", "why: x y")


def test_ssh_asks_no_questions_and_gets_the_options_of_the_inventory(ssh: Path) -> None:
    Remote(["-p", "2222"]).run(THERE, ["true"], stdin=b"a secret")
    logged = ssh.read_text()
    assert "BatchMode=yes" in logged
    assert "ConnectTimeout=10" in logged
    assert logged.startswith("-T -p 2222 -o ")
    assert logged.endswith("-- ops@t.example true\n")
    assert "a secret" not in logged


def test_an_option_of_the_inventory_takes_precedence(ssh: Path) -> None:
    Remote(["-o", "ConnectTimeout=3"]).run(THERE, ["true"])
    logged = ssh.read_text()
    assert logged.index("ConnectTimeout=3") < logged.index("ConnectTimeout=10")  # ssh takes the first


def test_an_unreachable_host_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SSH_FAILS", "Connection refused")
    with pytest.raises(ClusterError, match=r"host t \(ops@t.example\) cannot be reached by ssh: .*Connection refused"):
        Remote().run(THERE, ["true"])


def test_a_command_over_its_deadline_is_an_error() -> None:
    with pytest.raises(ClusterError, match=r"host h \(this machine\): no answer to `sleep` within 0.2 s"):
        Remote().run(HERE, ["sleep", "30"], deadline_s=0.2)


def test_a_missing_program_is_an_error() -> None:
    with pytest.raises(ClusterError, match="no-such-program does not start"):
        Remote().run(HERE, ["no-such-program"])


@pytest.mark.parametrize("host", [HERE, THERE])
def test_a_stream_gives_output_while_the_command_runs(host: Host) -> None:
    with Remote().stream(host, script("echo one; read -r _ || echo closed; exec sleep 30")) as process:
        assert process.stdout is not None
        assert [process.stdout.readline(), process.stdout.readline()] == [b"one\n", b"closed\n"]
        process.kill()


def test_all_hosts_are_tried_and_all_problems_reported() -> None:
    def work(host: Host) -> str:
        if host is not HERE:
            raise ClusterError(f"{host.name} is down")
        return host.name

    assert on_all([HERE], work) == ["h"]
    with pytest.raises(ClusterError, match="t is down\nt is down"):
        on_all([THERE, HERE, THERE], work)
