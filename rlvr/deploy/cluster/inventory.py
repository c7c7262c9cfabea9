"""The inventory: a short YAML file with the hosts of a cluster.

name: rlvr
runtime: docker
image: rlvr:gpu
shared: /shared
hosts:
  - {name: a, ssh: ops@a.example, address: 10.0.0.1}
  - {name: b, ssh: ops@b.example, address: 10.0.0.2}
"""

import ipaddress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from rlvr.config.document.document_type import INVENTORY
from rlvr.config.document.yaml_lines import read_document
from rlvr.config.messages.problems import boolean_problems, control_problems, unique, validation_problems
from rlvr.config.messages.suggestions import close, did_you_mean, listed
from rlvr.config.sections.section import NonNegativeInt, Section
from rlvr.deploy.cluster.inventory_values import (
    absolute_path,
    address_of_host,
    host_name,
    image_name,
    memory_size,
    options_without_secrets,
    ssh_destination,
    ssh_ports,
    variables_without_secrets,
)
from rlvr.deploy.cluster.managed_variables import unmanaged
from rlvr.errors import ConfigError
from rlvr.ports import DEFAULT_FIRST, LARGEST_FIRST, PortLayout, host_port
from rlvr.storage.input_files import read_input_text
from rlvr.telemetry.places import state_roots

DEFAULT_FILE = Path("cluster.yaml")
ONE_MACHINE = "this-machine"  # the name of the cluster of `one_machine`
_MAX_BYTES = 1 << 20


class Runtime(StrEnum):
    """What runs a node on a host."""

    DOCKER = "docker"
    PODMAN = "podman"
    HOST = "host"


Auto = Literal["auto"]
Variables = Annotated[dict[str, str], AfterValidator(variables_without_secrets), AfterValidator(unmanaged)]
Options = Annotated[list[str], AfterValidator(options_without_secrets)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Host(Section):
    """One host. The first of the inventory is the head, where the run's driver runs too."""

    name: Annotated[
        str, Field(max_length=60, description="how commands and tables name the host"), AfterValidator(host_name)
    ]
    ssh: Annotated[
        str,
        AfterValidator(ssh_destination),
        Field(description="destination for ssh, such as ops@a.example; empty: the machine that runs the command"),
    ] = ""
    address: Annotated[
        str,
        AfterValidator(address_of_host),
        Field(description="the host's address in the private network of the cluster"),
    ]
    gpus: Annotated[
        NonNegativeInt | Auto, Field(description="GPUs that Ray may assign; auto: all that nvidia-smi lists")
    ] = "auto"
    cpus: Annotated[NonNegativeInt | Auto, Field(description="cores that Ray may assign; auto: all")] = "auto"
    options: Options = Field(
        default_factory=list[str], description="further options of `docker run` or `podman run` here"
    )
    env: Variables = Field(
        default_factory=dict[str, str], description="further environment variables of this host's node; no secrets"
    )


class Inventory(Section):
    """The hosts of a cluster and what runs on them."""

    name: Annotated[
        str,
        Field(max_length=40, description="prefix of containers, name of the folder of its state"),
        AfterValidator(host_name),
    ] = "rlvr"
    runtime: Annotated[
        Runtime, Field(description="docker or podman run the image; host runs the installation in `venv`")
    ] = Runtime.DOCKER
    image: Annotated[str, AfterValidator(image_name), Field(description="the image, the same on all hosts")] = ""
    venv: Annotated[
        str,
        AfterValidator(absolute_path),
        Field(description="for runtime host: a virtual environment with rlvr and Ray, at the same path on all hosts"),
    ] = ""
    shared: Annotated[
        str,
        AfterValidator(absolute_path),
        Field(description="folder that all hosts mount at the same path, for runs and models"),
    ]
    port: Annotated[
        int,
        Field(ge=1024, le=LARGEST_FIRST, description="first of the 1,100 ports of the cluster, the same on all hosts"),
    ] = DEFAULT_FIRST
    shm: Annotated[
        str, AfterValidator(memory_size), Field(description="shared memory of a container, for weights, such as 24g")
    ] = "16g"
    sandbox_slots: Annotated[
        NonNegativeInt,
        Field(
            description="programs at once in a sandbox container next to each node, for sandbox.backend=service; "
            "0 starts none"
        ),
    ] = 0
    options: Options = Field(
        default_factory=list[str], description="further options of `docker run` or `podman run` on all hosts"
    )
    env: Variables = Field(default_factory=dict[str, str], description="environment variables of all nodes; no secrets")
    ssh_options: list[str] = Field(
        default_factory=list[str], description="further options of ssh, such as [-p, '2222']"
    )
    open_ports: Annotated[
        list[Port],
        Field(
            max_length=100,
            description="further TCP ports of the hosts that the firewall rule leaves open to everyone, such as that "
            "of an sshd that only ~/.ssh/config names",
        ),
    ] = Field(default_factory=list[int])
    hosts: Annotated[list[Host], Field(min_length=1, max_length=10000, description="the hosts; the first is the head")]

    @model_validator(mode="after")
    def _cross(self) -> "Inventory":
        problems: list[str] = []
        for key in ("name", "address", "ssh"):
            names: dict[str, list[str]] = {}
            for host in self.hosts:
                names.setdefault(getattr(host, key), []).append(host.name)
            for value, those in names.items():
                if len(those) > 1 and value:
                    problems.append(f"hosts: {key} {value} is given {len(those)} times ({', '.join(those)})")
                elif len(those) > 1:
                    problems.append(f"hosts: {listed(those, 'and')} have no {key}, so each would be this machine")
        for port in self.reachable_ports:
            if self.ports.first <= port <= self.ports.last:
                problems.append(
                    f"port={self.port}: the cluster's ports are {self.ports.range_text}, and {port} is one of ssh or "
                    "of open_ports"
                )
        if self.runtime is Runtime.HOST and not self.venv:
            problems.append("runtime=host needs venv, the folder of a virtual environment on the hosts")
        if self.runtime is not Runtime.HOST and not self.image:
            problems.append(f"runtime={self.runtime} needs image, such as rlvr:gpu")
        if self.runtime is Runtime.HOST and any("RAY_TMPDIR" in part.env for part in (self, *self.hosts)):
            problems.append("env: runtime=host sets RAY_TMPDIR itself; remove it")
        if self.name == ONE_MACHINE:
            problems.append(f"name: {ONE_MACHINE!r} is reserved for containers that were started without an inventory")
        if self.runtime is Runtime.HOST and self.sandbox_slots:
            problems.append("sandbox_slots needs containers: runtime docker or podman")
        if len({":" in host.address for host in self.hosts}) > 1:
            problems.append("hosts: address must be IPv4 for all hosts or IPv6 for all")
        if len(self.hosts) > 1 and any(ipaddress.ip_address(host.address).is_loopback for host in self.hosts):
            problems.append("hosts: a loopback address is reached from its own host alone")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def head(self) -> Host:
        """The host of the head and of the run's driver."""
        return self.hosts[0]

    @property
    def head_address(self) -> str:
        """Where nodes join, as HOST:PORT."""
        return host_port(self.head.address, self.port)

    @property
    def ports(self) -> PortLayout:
        """The ports of every node."""
        return PortLayout(self.port)

    @property
    def reachable_ports(self) -> tuple[int, ...]:
        """TCP ports that the firewall rule leaves open to everyone: those of ssh and `open_ports`, in order."""
        return tuple(sorted({*ssh_ports(self.ssh_options, [host.ssh for host in self.hosts]), *self.open_ports}))

    def host(self, name: str) -> Host:
        """The host of this name.

        Raises: ConfigError when there is none.
        """
        for host in self.hosts:
            if host.name == name:
                return host
        names = [host.name for host in self.hosts]
        raise ConfigError(
            f"{name!r} is not a host of the inventory, which has {', '.join(names)}{did_you_mean(close(name, names))}"
        )

    def container_of(self, host: Host) -> str:
        """The name of the container that is the host's node."""
        return f"{self.name}-{host.name}"


def read_inventory(path: Path) -> Inventory:
    """The inventory in a file.

    Raises: ConfigError with every problem, one per line, each with its file and line.
    """
    text = read_input_text(path, what=str(path), max_bytes=_MAX_BYTES, error=ConfigError)
    document = read_document(text, label=str(path), type=INVENTORY)
    problems = [*document.problems, *control_problems(document)]
    inventory: Inventory | None = None
    try:
        inventory = Inventory.model_validate(document.values)
    except ValidationError as error:
        problems += validation_problems(error, document, model=Inventory)
    else:
        problems += boolean_problems(document, model=inventory)
    if problems or inventory is None:
        raise ConfigError("\n".join(str(problem) for problem in unique(problems)))
    return inventory


def state_folder(name: str) -> Path:
    """Where this machine keeps the token of a cluster: `~/.rlvr/clusters/NAME`, or below `RLVR_STATE_DIR`."""
    return state_roots()[0] / "clusters" / name
