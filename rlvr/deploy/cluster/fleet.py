"""Starting, extending, draining, restarting and stopping the nodes of a cluster.

up       probe all hosts -> token and checks on those without a node -> head -> the other nodes -> all have joined
drain    Ray places nothing more on the node -> it is idle -> it is stopped
restart  one host after another: drained, stopped, started, joined
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rlvr.deploy.cluster.containers import Containers
from rlvr.deploy.cluster.host_processes import HostProcesses
from rlvr.deploy.cluster.inventory import Host, Inventory, Runtime
from rlvr.deploy.cluster.node import Facts, NodeRuntime, NodeState, is_head
from rlvr.deploy.cluster.node_commands import in_node, python_of
from rlvr.deploy.cluster.remote import Done, Remote, named, on_all
from rlvr.deploy.cluster.shared_token import forget_token, record_hosts, require_own_name, token_of
from rlvr.errors import ClusterError, ConfigError

_POLL_S = 2.0
_QUERY_S = 60.0
_GRACE_S = 30  # a node ends in a second or two; a run saves before, when it is asked to
JOIN_S = 300.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A node as Ray's head sees it. is_busy: work is placed on it."""

    node_id: str
    address: str
    cpus: float
    gpus: float
    is_head: bool
    is_draining: bool
    is_busy: bool


@dataclass(frozen=True, slots=True)
class Fleet:
    """The nodes of an inventory.

    say: shows a line of progress. idle_s: how long `down` waits for work to end, which Ray reports late.
    """

    inventory: Inventory
    say: Say
    remote: Remote = field(default_factory=Remote)
    join_s: float = JOIN_S
    idle_s: float = 15.0

    @property
    def runtime(self) -> NodeRuntime:
        """What runs the nodes."""
        kind = HostProcesses if self.inventory.runtime is Runtime.HOST else Containers
        return kind(self.inventory, self.remote)

    def up(self, hosts: Sequence[Host] | None = None) -> None:
        """Starts the nodes that do not run, of all hosts or of these, and waits until they have joined.

        Raises: ClusterError. Before "starting", nothing has been started; later, what runs is left running, and another
        call continues from there.
        """
        inventory, runtime = self.inventory, self.runtime
        require_own_name(inventory)
        wanted = list(inventory.hosts if hosts is None else hosts)
        asked = wanted if inventory.head in wanted else [inventory.head, *wanted]
        facts = dict(zip([host.name for host in asked], on_all(asked, runtime.probe), strict=True))
        ended = [host for host in wanted if facts[host.name].state is NodeState.ENDED]
        if ended:  # processes of Ray that outlived their node would hold its ports
            self.say(f"removing what is left of the node of {', '.join(host.name for host in ended)}")
            on_all(ended, lambda host: runtime.stop(host, grace_s=_GRACE_S))
            facts |= zip([host.name for host in ended], on_all(ended, runtime.probe), strict=True)
        if inventory.head not in wanted and facts[inventory.head.name].state.is_down:
            raise ClusterError(f"{named(inventory.head)}: the head does not run; start it with `rlvr cluster up`")
        token = token_of(inventory.name)
        mark = fingerprint(token)
        problems = [*_problems(inventory, asked, facts, mark), *_image_problems(inventory, asked, facts)]
        if problems:
            raise ClusterError("\n".join([*problems, "nothing was started"]))
        missing = [host for host in wanted if facts[host.name].state is not NodeState.RUNNING]
        try:
            on_all(missing, lambda host: runtime.prepare(host, token))
        except ClusterError as error:
            raise ClusterError(f"{error}\nnothing was started") from error
        record_hosts(inventory)
        if missing:
            self.say(f"starting {', '.join(host.name for host in missing)}")
        try:
            first = [host for host in missing if is_head(inventory, host)]
            for group in (first, [host for host in missing if host not in first]):
                on_all(group, lambda host: runtime.start(host, facts[host.name], fingerprint=mark))
            self.wait_joined(wanted)
        except ClusterError as error:
            raise ClusterError(
                f"{error}\nwhat was started is left running: `rlvr cluster up` starts what is missing, and "
                "`rlvr cluster down` stops everything"
            ) from error

    def members(self) -> list[Member]:
        """The nodes that have joined, as the head sees them.

        Raises: ClusterError when the head does not answer.
        """
        done = self._ask("list")
        try:
            return [Member(**entry) for entry in done.json_line()]
        except TypeError as error:
            raise ClusterError(
                f"the head answered {done.stdout[:200]!r} instead of a list of nodes; does it run this release of rlvr?"
            ) from error

    def wait_joined(self, hosts: Sequence[Host], *, not_these: Sequence[str] = ()) -> list[Member]:
        """Waits until all have joined; returns all members. Args: not_these: node ids that ended, or will.

        Raises: ClusterError with the last line of the log of each that has not.
        """
        ends = time.monotonic() + self.join_s
        while True:
            try:
                found = [member for member in self.members() if member.node_id not in not_these]
                reason = ""
            except ClusterError as error:
                found, reason = [], str(error)
            here = {member.address for member in found}
            missing = [host for host in hosts if host.address not in here]
            if not missing:
                return found
            ended = [host for host in missing if self._has_ended(host)]
            if ended or time.monotonic() >= ends:
                lines = [self._why_missing(host, is_ended=host in ended) for host in ended or missing]
                raise ClusterError("\n".join(filter(None, [*lines, reason])))
            time.sleep(_POLL_S)

    def _has_ended(self, host: Host) -> bool:
        """Whether the node ended; False where the host does not answer, which may be slow while its node starts."""
        try:
            return self.runtime.probe(host).state.is_down
        except ClusterError:
            return False

    def _why_missing(self, host: Host, *, is_ended: bool) -> str:
        what = "the node ended" if is_ended else f"the node has not joined within {self.join_s:g} s"
        lines = [line for line in self.runtime.log(host).stdout.splitlines() if line.strip()]
        own = [line for line in lines if line.startswith("rlvr: ")]
        return f"{named(host)}: {what}; its log ends with: {(own or lines or ['nothing'])[-1].strip()}"

    def drain(self, host: Host, *, limit_s: float, is_forced: bool = False) -> None:
        """Takes a host out of the cluster: Ray places nothing more there, and the node is stopped when it is idle.

        Raises: ConfigError for the head; ClusterError when work is still placed there after `limit_s`, unless forced.
        """
        if is_head(self.inventory, host):
            raise ConfigError(
                f"{host.name} is the head, and the run's driver is on it: it cannot be drained; stop the cluster with "
                "`rlvr cluster down`"
            )
        require_own_name(self.inventory)
        if not self._is_drained(host, limit_s=limit_s) and not is_forced:
            raise ClusterError(
                f"{named(host)} still has work of a run after {limit_s:g} s. It is draining: nothing more is placed "
                "there. Repeat the command to wait longer, or stop the node with --force"
            )
        self.runtime.stop(host, grace_s=_GRACE_S)
        self.say(f"{host.name} has left")

    def _is_drained(self, host: Host, *, limit_s: float) -> bool:
        """Asks Ray to drain the node, and waits until it is idle; True also if it is not a member."""
        ends = time.monotonic() + limit_s
        if not self._ask("drain", host.address).json_line():
            return True
        self.say(f"draining {host.name}")
        while any(member.is_busy for member in self.members() if member.address == host.address):
            if time.monotonic() >= ends:
                return False
            time.sleep(_POLL_S)
        return True

    def restart(self, hosts: Sequence[Host], *, drain_s: float) -> None:
        """Restarts one host after another; each has rejoined before the next is stopped.

        Args: drain_s: how long a run may take to move its work off a host before it is stopped.

        Raises: ClusterError when a host does not come back; later hosts are not touched.
        """
        require_own_name(self.inventory)
        for host in hosts:
            before = [member.node_id for member in self.members() if member.address == host.address]
            if is_head(self.inventory, host):
                self.say(f"restarting {host.name}, the head: all nodes join again")
            elif before:
                self._is_drained(host, limit_s=drain_s)
            self.runtime.stop(host, grace_s=_GRACE_S)
            self.up([host])
            self.wait_joined(self.inventory.hosts if is_head(self.inventory, host) else [host], not_these=before)
            self.say(f"{host.name} has rejoined")

    def down(self, *, is_forced: bool = False) -> None:
        """Stops all nodes, the head last, and removes the token here and there.

        Raises: ClusterError unless it is forced when a run uses the cluster, or the head cannot say whether one does;
            also when a host refuses, after the others were stopped.
        """
        require_own_name(self.inventory)
        ends = time.monotonic() + self.idle_s
        while not is_forced and (busy := self._busy_hosts()):
            if time.monotonic() < ends:
                time.sleep(_POLL_S)
                continue
            raise ClusterError(
                f"a run uses the cluster ({', '.join(busy)}); stop the run first, or stop everything with --force"
            )
        hosts = self.inventory.hosts
        problems = [*on_all(hosts[1:], self._problem_of_stop), *on_all(hosts[:1], self._problem_of_stop)]
        stopped = [host.name for host, problem in zip([*hosts[1:], *hosts[:1]], problems, strict=True) if not problem]
        if any(problems):
            rest = f"the other hosts were stopped ({', '.join(stopped)})" if stopped else "no host was stopped"
            raise ClusterError("\n".join([*filter(None, problems), rest]))
        forget_token(self.inventory.name)
        self.say(f"stopped {', '.join(host.name for host in hosts)}")

    def _problem_of_stop(self, host: Host) -> str:
        """Stops the host's node; returns why that failed, "" if it did not."""
        try:
            self.runtime.stop(host, grace_s=_GRACE_S)
        except ClusterError as error:
            return str(error)
        return ""

    def _busy_hosts(self) -> list[str]:
        """The hosts on which work of a run is placed; none if the head does not run.

        Raises: ClusterError when the head runs but does not answer, or its host cannot be reached.
        """
        try:
            busy = {member.address for member in self.members() if member.is_busy}
        except ClusterError as error:
            if self._has_ended(self.inventory.head):
                return []
            raise ClusterError(
                f"cannot tell whether a run uses the cluster: {error}\nnothing was stopped; repeat the command, or "
                "stop everything with --force, for example when the head is lost for good"
            ) from error
        return [host.name for host in self.inventory.hosts if host.address in busy]

    def _ask(self, *words: str) -> Done:
        head = self.inventory.head
        command, *rest = words
        program = [
            python_of(self.inventory),
            "-m",
            "rlvr.run.ray.nodes.members",
            command,
            self.inventory.head_address,
            *rest,
        ]
        done = self.remote.run(head, in_node(self.inventory, head, program), deadline_s=_QUERY_S)
        if done.code:
            is_down = self.runtime.probe(head).state.is_down
            why = "does not run; start it with `rlvr cluster up`" if is_down else f"does not answer: {done.reason}"
            raise ClusterError(f"{named(head)}: the head {why}")
        return done


def fingerprint(token: str) -> str:
    """A mark by which a node's token is compared with another; the token cannot be found from it."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]


def _problems(inventory: Inventory, hosts: Sequence[Host], facts: Mapping[str, Facts], mark: str) -> list[str]:
    """What keeps a node from being started on a host, or a running one from being used."""
    found: list[str] = []
    for host in hosts:
        fact = facts[host.name]
        if fact.state is NodeState.RUNNING:
            if fact.token != mark:
                found.append(
                    f"{named(host)}: a node of cluster {inventory.name!r} runs there with another token; copy the "
                    "token of the machine that started it, or stop that node with `rlvr cluster down` there"
                )
            continue
        if fact.problem:
            found.append(f"{named(host)}: {fact.problem}")
        if fact.addresses and host.address not in fact.addresses:
            own = [text for text in fact.addresses if not text.startswith(("127.", "::1", "fe80:"))]
            found.append(f"{named(host)} does not have the address {host.address}; it has {', '.join(own) or 'none'}")
        if fact.busy_ports:
            found.append(
                f"{named(host)}: another program listens on port {', '.join(map(str, fact.busy_ports))}, which the "
                f"cluster needs ({inventory.ports.range_text}); stop it, or set another `port` in the inventory"
            )
    return found


def _image_problems(inventory: Inventory, hosts: Sequence[Host], facts: Mapping[str, Facts]) -> list[str]:
    """A line when the image is not the same on all hosts."""
    if inventory.runtime is Runtime.HOST:
        return []
    ids: dict[str, list[str]] = {}
    for host in hosts:
        if facts[host.name].image:
            ids.setdefault(facts[host.name].image, []).append(host.name)
    if len(ids) < 2:
        return []
    listed = "; ".join(f"{', '.join(names)}: {image.removeprefix('sha256:')[:12]}" for image, names in ids.items())
    program = inventory.runtime.value
    return [
        f"the image {inventory.image} is not the same on all hosts ({listed}); copy one to the others with "
        f"`{program} save {inventory.image} | ssh HOST {program} load`"
    ]
