"""Findings about hosts compared with the head, and about their connections, clocks and shared folder."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rlvr.deploy.cluster.inventory import Inventory, Runtime
from rlvr.deploy.doctor.machine import Finding, Needs
from rlvr.run.ray.nodes.handshake import differences

CLOCK_S = 2.0  # more than this apart is a finding; the error of the measurement is added
_MOST_PORTS = 6


@dataclass(frozen=True, slots=True)
class Clock:
    """A host's clock minus this machine's, in seconds, and how far that may be off: half of the round trip."""

    ahead_s: float
    error_s: float


@dataclass(slots=True)
class Answers:
    """What was found out, by host name. A host that did not answer a question is missing there.

    engines: version of Docker or Podman, or "". images: id of the image, or "". served: from round `serve`;
    reached: from round `reach`.
    """

    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    clocks: dict[str, Clock] = field(default_factory=dict)
    engines: dict[str, str] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    served: dict[str, dict[str, Any]] = field(default_factory=dict)
    reached: dict[str, dict[str, Any]] = field(default_factory=dict)


def cluster_findings(answers: Answers, *, inventory: Inventory, needs: Needs) -> list[Finding]:
    """Everything that is wrong between the hosts."""
    return [
        *_versions(answers, inventory),
        *_drivers(answers),
        *_images(answers, inventory),
        *_clocks(answers, inventory),
        *_ports(answers, inventory),
        *_storage(answers, inventory),
        *_capacity(answers, needs),
    ]


def _versions(answers: Answers, inventory: Inventory) -> Iterable[Finding]:
    head = inventory.head.name
    if head not in answers.facts:
        return
    mine = answers.facts[head]["fingerprint"]
    for name, facts in answers.facts.items():
        lines = [line.removeprefix(f"{name}: ") for line in differences(name, mine, facts["fingerprint"])]
        for line in lines if name != head else []:
            if inventory.runtime is Runtime.HOST:
                fix = f"install the head's release and packages into {inventory.venv} there"
            else:
                fix = f"load the head's image there, then `rlvr cluster restart {name}`"
            yield Finding(name, line.replace("the driver has", f"{head} has"), fix)


def _drivers(answers: Answers) -> Iterable[Finding]:
    """Hosts whose GPU driver, or kind of GPU, is not that of most."""
    for key, what, fix in (
        ("driver", "the NVIDIA driver", "install the same driver everywhere"),
        (
            "name",
            "the GPU",
            "learners and engines are planned for equal GPUs; leave this host out, or plan with its size",
        ),
    ):
        of_host = {name: facts["gpus"][0][key] for name, facts in answers.facts.items() if facts["gpus"]}
        usual = Counter(of_host.values()).most_common(1)
        for name, value in of_host.items():
            if value != usual[0][0]:
                yield Finding(name, f"{what} is {value}, most hosts have {usual[0][0]}", fix)


def _images(answers: Answers, inventory: Inventory) -> Iterable[Finding]:
    if inventory.runtime is Runtime.HOST:
        return
    program, image, head = inventory.runtime.value, inventory.image, inventory.head.name
    mine = answers.images.get(head, "")
    for name, version in answers.engines.items():
        if not version:
            yield Finding(name, f"{program} does not work there", f"install {program}, and let the ssh user use it")
        elif not answers.images.get(name):
            yield Finding(name, f"there is no image {image}", f"`{program} save {image} | ssh HOST {program} load`")
        elif answers.images[name] != mine and mine:
            yield Finding(
                name,
                f"{image} is {_short(answers.images[name])}, {head} has {_short(mine)}",
                f"`{program} save {image} | ssh HOST {program} load` from {head}, then `rlvr cluster restart {name}`",
            )


def _short(image: str) -> str:
    return image.removeprefix("sha256:")[:12]


def _clocks(answers: Answers, inventory: Inventory) -> Iterable[Finding]:
    head = answers.clocks.get(inventory.head.name)
    for name, clock in answers.clocks.items():
        if head is None or name == inventory.head.name:
            continue
        apart, error = clock.ahead_s - head.ahead_s, clock.error_s + head.error_s
        if abs(apart) > CLOCK_S + error:
            way = "ahead of" if apart > 0 else "behind"
            yield Finding(
                name,
                f"its clock is {abs(apart):.1f} s {way} that of {inventory.head.name} (measured to {error:.2f} s, "
                f"allowed {CLOCK_S:g} s)",
                "synchronise the clocks: `timedatectl set-ntp true`, or chrony",
            )


def _ports(answers: Answers, inventory: Inventory) -> Iterable[Finding]:
    ports = inventory.ports
    is_up = ports.first in answers.served.get(inventory.head.name, {}).get("busy", [])
    for name, served in answers.served.items():
        has_node = is_up and ports.node_manager in served["busy"]
        if served["busy"] and not has_node:
            yield Finding(
                name,
                f"another program listens on {_listed(served['busy'])}, which the cluster needs",
                "stop it (`ss -ltnp` shows it), or set another `port` in the inventory",
            )
        elif is_up and not has_node:
            yield Finding(name, "the cluster is up, but has no node here", "run `rlvr cluster up`")
    blocked: dict[tuple[str, str, str], list[int]] = {}
    for name, reached in answers.reached.items():
        for other, port, why in reached["ports"]:
            if port in answers.served[other]["busy"] or port in answers.served[other]["open"]:
                blocked.setdefault((name, other, why), []).append(port)
    for (name, other, why), closed in blocked.items():
        yield Finding(
            name,
            f"it cannot reach {other} ({inventory.host(other).address}) on {_listed(closed)}: {why}",
            f"open TCP {ports.range_text} to the hosts of the cluster in the firewall of {other}, and check the route",
        )


def _listed(ports: list[int]) -> str:
    more = f" and {len(ports) - _MOST_PORTS} more" if len(ports) > _MOST_PORTS else ""
    return f"port{'' if len(ports) == 1 else 's'} {', '.join(map(str, ports[:_MOST_PORTS]))}{more}"


def _storage(answers: Answers, inventory: Inventory) -> Iterable[Finding]:
    shared = inventory.shared
    broken = {name for name, facts in answers.facts.items() if facts["shared"]["problem"]}
    for name, reached in answers.reached.items():
        unseen = [other for other in reached["unseen"] if other not in broken]
        if unseen and name not in broken:
            yield Finding(
                name,
                f"files that {', '.join(unseen)} wrote in {shared} are not visible there",
                f"mount the same file system at {shared} on all hosts",
            )
        if reached["unlocked"]:
            yield Finding(
                name,
                f"locks that {', '.join(reached['unlocked'])} holds in {shared} do not hold here",
                "mount it with locks (NFS: without `nolock` and `local_lock`)",
            )
    for name, served in answers.served.items():
        if served["lock"] and name not in broken:
            yield Finding(name, f"files in {shared} cannot be locked: {served['lock']}", "mount it with locks")


def _capacity(answers: Answers, needs: Needs) -> Iterable[Finding]:
    there = sum(len(facts["gpus"]) for facts in answers.facts.values())
    if needs.gpus > there:
        yield Finding(
            "all",
            f"the recipe takes {needs.gpus} GPUs, and the hosts have {there}",
            "add hosts, or lower cluster.engines or cluster.learners",
        )
