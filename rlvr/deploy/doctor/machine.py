"""Findings about each host alone: what it lacks for a node of this cluster, and for the recipe if one is given."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rlvr.deploy.cluster.inventory import Host, Inventory, Runtime
from rlvr.deploy.layout import counted

MIN_NOFILE = 16384  # Ray keeps several descriptors per worker and connection; its own warning begins at 4,096
MIN_SHM = 1 << 30  # Ray's object store has half of it
MIN_FREE = 10 << 30
FULL = 0.95  # of the disk with Ray's temporary folder: above it Ray stops writing there
_UNLIMITED = -1
_INTERFACES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault. host: the name of the host, or of several. fix: exactly what to do."""

    host: str
    what: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a recipe needs.

    shm: of each node's /dev/shm, and disk: for its checkpoints, in bytes; 0 where no recipe is given, or unknown.
    gpus: of all hosts together. model: an absolute path or a name of the hub, else "". env: of `cluster.env`.
    modules: those that define its plugins. on_gpus: the same for hosts with GPUs; None if they are the same.
    """

    shm: int = 0
    disk: int = 0
    gpus: int = 0
    model: str = ""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    modules: tuple[str, ...] = ()
    has_vllm: bool = True
    on_gpus: "Needs | None" = None

    def for_devices(self, *, has_gpus: bool) -> "Needs":
        """What it needs on hosts of this kind."""
        return self.on_gpus if has_gpus and self.on_gpus is not None else self


def host_findings(host: Host, facts: Mapping[str, Any], *, inventory: Inventory, needs: Needs) -> list[Finding]:
    """Everything that is wrong with one host, given what its probe reported."""
    return [
        Finding(host.name, what, fix)
        for part in (_address(host, facts), _gpus(host, facts), _memory(facts, inventory, needs),
                     _disks(facts, inventory, needs), _limits(host, facts, inventory), _interfaces(host, facts, needs))
        for what, fix in part
    ]  # fmt: skip


def _address(host: Host, facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not facts["has_address"]:
        found = ", ".join(
            f"{one} ({name})" for name, many in facts["addresses"].items() for one in many if name != "lo"
        )
        yield (
            f"none of its interfaces has {host.address}; it has {found or 'none but loopback'}",
            f"set `address` of {host.name} in the inventory to its address in the private network",
        )


def _gpus(host: Host, facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    count = len(facts["gpus"])
    if host.gpus != "auto" and host.gpus > count:
        yield (
            f"nvidia-smi shows {counted(count, 'GPU')}, the inventory has gpus: {host.gpus}",
            "install the driver and, for containers, NVIDIA's container toolkit; or correct `gpus`",
        )
    built = facts["torch_cuda"]
    if count and not built:
        yield "it has GPUs, and its torch is a CPU build", "use the image rlvr:gpu, or install a CUDA build of torch"


def _memory(facts: Mapping[str, Any], inventory: Inventory, needs: Needs) -> Iterator[tuple[str, str]]:
    wanted, size = max(needs.shm, MIN_SHM), facts["shm"]["size"]
    if size < wanted:
        gib = -(-wanted >> 30)
        fix = (
            f"run `mount -o remount,size={gib}g /dev/shm` there"
            if inventory.runtime is Runtime.HOST
            else f"set `shm: {gib}g` in the inventory, then `rlvr cluster restart`"
        )
        why = "the recipe's weights need" if needs.shm > MIN_SHM else "a node needs"
        yield f"/dev/shm has {shown(size)}, and {why} {shown(wanted)}", fix


def _disks(facts: Mapping[str, Any], inventory: Inventory, needs: Needs) -> Iterator[tuple[str, str]]:
    shared, tmp, hub = facts["shared"], facts["tmp"], facts["hub"]
    wanted = needs.disk or MIN_FREE
    if shared["problem"]:
        yield (
            f"the shared folder {inventory.shared} cannot be written by user {shared['user']}: {shared['problem']}",
            f"mount it there, and run `chown {shared['user']} {inventory.shared}` where it is served",
        )
    elif shared["free"] < wanted:
        why = "the recipe's checkpoints take about" if needs.disk else "checkpoints may need"
        yield (
            f"{shown(shared['free'])} are free in {inventory.shared}, and {why} {shown(wanted)}",
            "free some space, or lower run.keep_checkpoints",
        )
    if tmp["size"] and 1 - tmp["free"] / tmp["size"] > FULL:
        is_fixed = inventory.runtime is Runtime.HOST
        yield (
            f"the disk of {tmp['path']}, where Ray keeps its files, is more than {FULL:.0%} full",
            f"free some space{'' if is_fixed else ', or set RAY_TMPDIR in `env` of the inventory'}",
        )
    if not hub["is_writable"] and not hub["has_model"]:
        yield (
            f"the hub cache {hub['path']} cannot be written",
            f"set HF_HOME in `env` of the inventory to a folder such as {inventory.shared}/huggingface",
        )
    if hub["has_model"] is False:
        fix = f"copy the folder {needs.model} there" if needs.model.startswith("/") else (
            f"run `HF_HUB_CACHE={hub['path']} hf download {needs.model}` there, or once if the cache is shared"
        )  # fmt: skip
        yield f"the model {needs.model} is not in {hub['path']}", fix


def _limits(host: Host, facts: Mapping[str, Any], inventory: Inventory) -> Iterator[tuple[str, str]]:
    limits = facts["limits"]
    is_host = inventory.runtime is Runtime.HOST
    if limits["nofile"] != _UNLIMITED and limits["nofile"] < MIN_NOFILE:
        fix = "`LimitNOFILE=65536` or /etc/security/limits.conf" if is_host else "`--ulimit nofile=65536:65536`"
        yield (
            f"the limit of open files is {limits['nofile']:,}, below {MIN_NOFILE:,}",
            f"set {fix}; then restart the node",
        )
    if limits["memlock"] != _UNLIMITED and (facts["gpus"] or facts["has_infiniband"]):
        fix = "`LimitMEMLOCK=infinity` or /etc/security/limits.conf" if is_host else "`--ulimit memlock=-1`"
        yield (
            f"locked memory is limited to {shown(limits['memlock'])}, and NCCL pins its buffers",
            f"set {fix}; then restart the node",
        )


def _interfaces(host: Host, facts: Mapping[str, Any], needs: Needs) -> Iterator[tuple[str, str]]:
    env = {**facts["env"], **needs.env}
    here = facts["addresses"]
    if not here:
        return
    for variable in _INTERFACES:
        if value := env.get(variable, ""):
            chosen = [name for name in here if _is_chosen(name, value)]
            listed = ", ".join(name for name in here if name != "lo") or "none"
            if not chosen:
                what = f"{variable}={value} names no interface; it has {listed}"
            elif not any(host.address in here[name] for name in chosen) and ":" not in host.address:
                what = f"{variable}={value} means {', '.join(chosen)}, which does not have {host.address}"
            else:
                continue
            right = next((name for name in here if host.address in here[name]), "the interface of the private network")
            yield what, f"set {variable}={right} in `env` of this host in the inventory, or remove it from cluster.env"


def _is_chosen(name: str, value: str) -> bool:
    """Whether NCCL would use an interface: prefixes, `=` for whole names, `^` for all but these.

    >>> [_is_chosen("eth0", value) for value in ("eth", "=eth", "=eth0,ib0", "^docker", "^=eth0", "ib")]
    [True, False, True, True, False, False]
    """
    is_other, is_exact = value.startswith("^"), value.lstrip("^").startswith("=")
    names = value.lstrip("^=").split(",")
    found = any(name == one if is_exact else name.startswith(one) for one in names)
    return found != is_other


def shown(size: int) -> str:
    """A number of bytes as text.

    >>> shown(64 << 20), shown(3 << 29)
    ('64 MiB', '1.5 GiB')
    """
    if size < 1 << 20:
        return f"{size / 2**10:.3g} KiB"
    return f"{size / 2**20:.3g} MiB" if size < 1 << 30 else f"{size / 2**30:,.1f} GiB"
