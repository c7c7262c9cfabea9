"""The inventory file: what it means, and what its errors say."""

import re
from pathlib import Path

import pytest

from rlvr.deploy.cluster.inventory import Inventory, Runtime, read_inventory, state_folder
from rlvr.errors import ConfigError

TWO = """\
image: rlvr:gpu
shared: /shared
hosts:
  - {name: a, ssh: ops@a.example, address: 10.0.0.1, gpus: 8}
  - {name: b, address: 10.0.0.2}
"""


def read(folder: Path, text: str) -> Inventory:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return read_inventory(path)


def test_the_first_host_is_the_head(tmp_path: Path) -> None:
    inventory = read(tmp_path, TWO)
    assert inventory.head.name == "a"
    assert inventory.head_address == "10.0.0.1:6379"
    assert inventory.runtime is Runtime.DOCKER
    assert (inventory.hosts[0].gpus, inventory.hosts[1].gpus, inventory.hosts[1].ssh) == (8, "auto", "")
    assert (inventory.ports.first, inventory.ports.last) == (6379, 7478)


def test_an_ipv6_head_is_written_in_brackets(tmp_path: Path) -> None:
    text = TWO.replace("10.0.0.1", "'fd00::1'").replace("10.0.0.2", "'fd00::2'")
    assert read(tmp_path, text).head_address == "[fd00::1]:6379"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: b, address: 10.0.0.2", "name: b, address: 10.0.0.1", "address 10.0.0.1 is given 2 times (a, b)"),
        ("name: b", "name: a", "name a is given 2 times (a, a)"),
        ("10.0.0.2", "b.example", "cluster.yaml:5: hosts.1.address: must be an IP address, such as 10.0.0.1"),
        ("10.0.0.2", "'fd00::2'", "address must be IPv4 for all hosts or IPv6 for all"),
        ("10.0.0.2", "127.0.0.1", "a loopback address is reached from its own host alone"),
        ("ssh: ops@a.example", "shh: ops@a.example", "did you mean hosts.0.ssh?"),
        (
            "ssh: ops@a.example",
            "ssh: -oProxyCommand=x",
            "cluster.yaml:4: hosts.0.ssh: must be one word such as ops@host",
        ),
        ("shared: /shared", "shared: runs", "must be an absolute path"),
        ("image: rlvr:gpu", "runtime: podman", "runtime=podman needs image"),
        ("image: rlvr:gpu", "runtime: host", "runtime=host needs venv"),
        ("image: rlvr:gpu", "image: rlvr:gpu\nport: 65000", "port: must be at most 64436"),
        ("image: rlvr:gpu", "image: rlvr:gpu\nenv: {HF_TOKEN: x}", "this file is not for secrets"),
        ("gpus: 8", "gpus: all", "cluster.yaml:4: hosts.0.gpus: must be a whole number or 'auto' (got 'all')"),
        ("gpus: 8", "gpus: -1", "cluster.yaml:4: hosts.0.gpus: must be at least 0 or 'auto' (got -1)"),
        ("gpus: 8", "gpus: true", "cluster.yaml:4: hosts.0.gpus: must be a number (got True)"),
        ("ssh: ops@a.example", "ssh: u@h -p 2222", "such as ops@host; ports belong in ssh_options (got 'u@h -p 2222')"),
        ("image: rlvr:gpu", "image: rlvr:gpu\nshm: 24gb", "such as 24g or 512m (got '24gb')"),
        ("image: rlvr:gpu", "image: rlvr gpu", "image: must be one word such as rlvr:gpu (got 'rlvr gpu')"),
        ("name: b", f"name: {'b' * 61}", "hosts.1.name: must be at most 60 characters"),
        ("name: b", "name: B", "hosts.1.name: must be lower-case letters, digits, '.', '_' and '-', beginning with"),
        ("10.0.0.2", "'fe80::1%eth0'", "neither link-local nor with an interface after '%' (got 'fe80::1%eth0')"),
        ("10.0.0.2", "'fd00::1%eth0'", "neither link-local nor with an interface after '%'"),
        ("10.0.0.2", "169.254.0.9", "must be an address that all hosts can reach"),
        ("10.0.0.2", "'::ffff:10.0.0.2'", "must be written as IPv4, 10.0.0.2"),
        ("10.0.0.2", "255.255.255.255", "must be the address of one host"),
        ("10.0.0.2", "224.0.0.1", "must be the address of one host"),
        ("10.0.0.2", "'ff02::1'", "must be the address of one host"),
        ("10.0.0.2", "0.0.0.0", "must be the address of one host"),
        ("name: b,", "name: b, ssh: ops@a.example,", "hosts: ssh ops@a.example is given 2 times (a, b)"),
        ("ssh: ops@a.example,", "", "hosts: a and b have no ssh, so each would be this machine"),
        ("image: rlvr:gpu", "image: rlvr:gpu\nenv: {A B: x}", "'A B' is not the name of an environment variable"),
        (TWO, "", "cluster.yaml: the file is empty; an inventory needs shared and hosts"),
        (TWO, "- a\n", "cluster.yaml:line 1: an inventory is a mapping"),
        ("shared: /shared", "shared: /shared\nqqqq: 1", "unknown key; an inventory has the keys name, runtime, image"),
        ("shared: /shared", "shared: /shared\nnum_generations: 1", "unknown key; an inventory has the keys"),
    ],
)
def test_an_error_names_the_line_and_what_is_expected(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TWO
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, TWO.replace(old, new))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not re.search("recipe|pattern|constrained|literal", str(caught.value))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("hosts:", 'env: {A: "x\\0y"}\nhosts:'),
        ("hosts:", 'env: {"A\\0": x}\nhosts:'),
        ("hosts:", 'options: ["--label\\n"]\nhosts:'),
        ("hosts:", 'ssh_options: ["-o", "a\\e[31m"]\nhosts:'),
        ("ssh: ops@a.example", 'ssh: "ops@a\\0"'),
        ("/shared", '"/shared\\0"'),
        ("rlvr:gpu", '"rlvr:gpu\\x07"'),
    ],
)
def test_control_characters_are_refused_in_every_text(tmp_path: Path, old: str, new: str) -> None:
    with pytest.raises(ConfigError, match="must contain no control characters"):
        read(tmp_path, TWO.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("hosts:\n", "hosts: {a: {env: {HF_TOKEN: hf_abcdefSECRET}}}\n#"),
        ("hosts:", "env: {WANDB_API_KEY: 1234567}\nhosts:"),
        ("hosts:", "env: [PLAIN=1234567]\nhosts:"),
        ("hosts:", "env: {PLAIN: [1234567]}\nhosts:"),
        ("hosts:", "env: {OPENAI_API_KEY: 1234567x, AWS_SECRET_ACCESS_KEY: y, HUGGING_FACE_HUB_TOKEN: z}\nhosts:"),
        ("hosts:", "env: {HTTPS_PROXY: 'http://me:1234567@proxy:3128'}\nhosts:"),
        ("hosts:", "options: [-e, HF_TOKEN=1234567]\nhosts:"),
        ("hosts:", "options: ['--env=SSH_KEY=1234567']\nhosts:"),
        ("gpus: 8", "gpus: 8, env: {HF_TOKEN: '1234567'}"),
    ],
)
def test_no_error_repeats_a_secret(tmp_path: Path, old: str, new: str) -> None:
    text = TWO.replace(old, new) if "hosts: {" not in new else TWO.partition("hosts:")[0] + new
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert not re.search("SECRET(?!_)|1234567", str(caught.value)), caught.value


def test_a_secret_is_refused_by_its_name_with_the_place_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f"{TWO}env: {{OPENAI_API_KEY: x, HF_TOKEN: y, NCCL_DEBUG: INFO}}\n")
    assert "env: OPENAI_API_KEY, HF_TOKEN would be visible on command lines" in str(caught.value)
    assert "set OPENAI_API_KEY_FILE, HF_TOKEN_PATH to its path" in str(caught.value)
    with pytest.raises(ConfigError, match="`rlvr cluster up` makes the token"):
        read(tmp_path, f"{TWO}env: {{RAY_AUTH_TOKEN: x}}\n")


def test_files_of_secrets_and_ordinary_variables_are_accepted(tmp_path: Path) -> None:
    env = {
        "HF_TOKEN_PATH": "/shared/t",
        "OPENAI_API_KEY_FILE": "/shared/k",
        "TOKENIZERS_PARALLELISM": "true",
        "VLLM_MAX_TOKENS_PER_EXPERT_FP4_MOE": "163840",
    }
    assert read(tmp_path, f"{TWO}env: {env}\noptions: [-e, HF_TOKEN, -e, NCCL_DEBUG=INFO]\n").env == env


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("image: rlvr:gpu", "image: !x rlvr:gpu", "the tag '!x' is not supported in an inventory"),
        ("image: rlvr:gpu", "<<: {}\nimage: rlvr:gpu", "merge keys are not supported; write the keys out"),
    ],
)
def test_what_yaml_may_not_hold_is_said_of_an_inventory(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TWO
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, TWO.replace(old, new))
    assert message in str(caught.value)


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, TWO.replace("10.0.0.2", "x").replace("gpus: 8", "gpus: many").replace("/shared", "shared"))
    assert len(str(caught.value).splitlines()) >= 3


def test_an_unknown_host_gets_a_suggestion(tmp_path: Path) -> None:
    inventory = read(tmp_path, TWO.replace("name: b", "name: gpu-box"))
    with pytest.raises(ConfigError, match=r"'gpu-bx' is not a host of the inventory.*did you mean gpu-box"):
        inventory.host("gpu-bx")


def test_the_state_folder_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RLVR_STATE_DIR", str(tmp_path))
    assert state_folder("x") == tmp_path / "clusters/x"
