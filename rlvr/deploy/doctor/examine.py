"""Asks all hosts at once, and says what is wrong.

    clock, Docker or Podman (on the host itself) -> report -> serve on all hosts, meanwhile reach -> clean

A host that does not answer in one round is left out of the next ones, and is a finding.
"""

import json
import os
import secrets
import select
import shlex
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any, TypeVar, cast

from rlvr.deploy.cluster.containers import Containers
from rlvr.deploy.cluster.inventory import Host, Inventory, Runtime
from rlvr.deploy.cluster.node import Facts as Node
from rlvr.deploy.cluster.node import NodeState
from rlvr.deploy.cluster.node_commands import in_node, python_of
from rlvr.deploy.cluster.remote import Remote
from rlvr.deploy.doctor.between import Answers, Clock, cluster_findings
from rlvr.deploy.doctor.machine import Finding, Needs, host_findings, shown
from rlvr.errors import ClusterError

_ROUND_S, _ASK_S = 120.0, 30.0
_CLOCK_READINGS = 3
_MODULE = "rlvr.deploy.doctor.probe"
T = TypeVar("T")


class Examination:
    """One examination of a cluster; `findings` and `table` are filled by `run`."""

    def __init__(self, inventory: Inventory, needs: Needs | None = None, *, remote: Remote | None = None) -> None:
        self._inventory = inventory
        self._needs = needs or Needs()
        self._remote = remote or Remote(inventory.ssh_options)
        self._nonce = secrets.token_hex(6)
        self._silent: dict[str, Finding] = {}
        self._nodes: dict[str, Node] = {}
        self.answers = Answers()

    def run(self) -> list[Finding]:
        """Every finding, in the order of the inventory's hosts."""
        answers, inventory = self.answers, self._inventory
        answers.clocks = self._all(self._clock)
        if inventory.runtime is not Runtime.HOST:
            answers.engines = self._all(self._engine)
            answers.images = self._all(self._image)
            self._nodes = self._all(Containers(inventory, self._remote).probe)
        answers.facts = self._all(self._report)
        try:
            if answers.facts:
                self._meet()
        finally:
            self._all(self._clean)
        needs = self._needs.for_devices(has_gpus=any(facts["gpus"] for facts in answers.facts.values()))
        found = [
            finding
            for host in inventory.hosts
            if host.name in answers.facts
            for finding in host_findings(host, answers.facts[host.name], inventory=inventory, needs=needs)
        ]
        found += cluster_findings(answers, inventory=inventory, needs=needs)
        # A missing program or image explains why there are no facts.
        explained = {name for name in answers.engines if not answers.images.get(name)}
        found += [finding for name, finding in self._silent.items() if name not in explained]
        order = {host.name: place for place, host in enumerate(inventory.hosts)}
        return sorted(found, key=lambda finding: order.get(finding.host, len(order)))

    @property
    def table(self) -> list[tuple[str, ...]]:
        """One row for each host that answered: name, address, versions, devices, memory, clock."""
        rows: list[tuple[str, ...]] = [("host", "address", "rlvr", "python", "GPUs", "driver", "/dev/shm", "clock")]
        for host in self._inventory.hosts:
            facts, clock = self.answers.facts.get(host.name), self.answers.clocks.get(host.name)
            if facts is None:
                rows.append((host.name, host.address, "no answer", "", "", "", "", ""))
                continue
            mark, gpus = facts["fingerprint"], facts["gpus"]
            rows.append(
                (
                    host.name,
                    host.address,
                    mark["sources of rlvr"][:8],
                    mark["python"],
                    f"{len(gpus)} x {gpus[0]['name']}" if gpus else "0",
                    gpus[0]["driver"] if gpus else "",
                    shown(facts["shm"]["size"]),
                    "" if clock is None else f"{clock.ahead_s:+.2f} s",
                )
            )
        return rows

    def _all(self, ask: Callable[[Host], T]) -> dict[str, T]:
        """The answers of all hosts that still answer, asked at once. One that fails is silent from then on."""

        def attempt(host: Host) -> T | ClusterError:
            try:
                return ask(host)
            except ClusterError as error:
                return error

        hosts = [host for host in self._inventory.hosts if host.name not in self._silent]
        with ThreadPoolExecutor(max(1, min(64, len(hosts)))) as pool:
            results = dict(zip([host.name for host in hosts], pool.map(attempt, hosts), strict=True))
        for name, result in results.items():
            if isinstance(result, ClusterError):
                self._silent[name] = Finding(name, str(result), self._advice(self._inventory.host(name), str(result)))
        return {name: result for name, result in results.items() if not isinstance(result, ClusterError)}

    def _advice(self, host: Host, problem: str) -> str:
        """What to do about a host that gave no answer."""
        inventory = self._inventory
        is_host = inventory.runtime is Runtime.HOST
        if "cannot be reached by ssh" in problem:
            return f"make `{self._by_hand(host, ['true'])}` work without a password"
        if is_host and (python_of(inventory) in problem or "No module named 'rlvr'" in problem):
            return f"install rlvr[ray] into {inventory.venv} there"
        if is_host:
            words = [f"{inventory.venv}/bin/rlvr", "doctor"]
        else:
            words = [inventory.runtime.value, "run", "--rm", inventory.image, "doctor"]
        return (
            f"run `{self._by_hand(host, words)}`, which checks the installation there; `rlvr cluster status` shows "
            "whether its node runs"
        )

    def _by_hand(self, host: Host, words: Sequence[str]) -> str:
        """The command with which a user runs these words on a host."""
        here = ["ssh", *self._inventory.ssh_options, host.ssh] if host.ssh else []
        return shlex.join([*here, *words])

    def _clock(self, host: Host) -> Clock:
        readings: list[Clock] = []
        for _ in range(_CLOCK_READINGS):
            begun = time.time()
            done = self._remote.run(host, ["date", "+%s.%N"], deadline_s=_ASK_S)
            ended = time.time()
            try:
                there = float(done.stdout)
            except ValueError as error:
                raise ClusterError(f"host {host.name}: `date +%s.%N` prints {done.stdout.strip()!r}") from error
            readings.append(Clock(there - (begun + ended) / 2, (ended - begun) / 2))
        return min(readings, key=lambda reading: reading.error_s)

    def _engine(self, host: Host) -> str:
        program = self._inventory.runtime.value
        done = self._remote.run(host, [program, "version", "--format", "{{.Client.Version}}"], deadline_s=_ASK_S)
        works = self._remote.run(host, [program, "ps", "-q"], deadline_s=_ASK_S)
        return "" if done.code or works.code else done.stdout.strip()

    def _image(self, host: Host) -> str:
        words = [self._inventory.runtime.value, "image", "inspect", "-f", "{{.Id}}", self._inventory.image]
        done = self._remote.run(host, words, deadline_s=_ASK_S)
        return "" if done.code else done.stdout.strip()

    def _report(self, host: Host) -> dict[str, Any]:
        return self._ask(host, "report")

    def _clean(self, host: Host) -> dict[str, Any]:
        return self._ask(host, "clean")

    def _meet(self) -> None:
        """Rounds `serve` and `reach`: the listeners of all hosts are open while each connects to all."""
        with ExitStack() as stack:

            def serve(host: Host) -> dict[str, Any]:
                request = json.dumps(self._request(host))
                words = self._words(host, ["env", f"RLVR_PROBE={request}", python_of(self._inventory), "-m", _MODULE])
                process = self._remote.stream(host, [*words, "serve"])
                assert process.stdout is not None  # `stream` opens it
                stack.callback(process.wait)
                stack.callback(process.kill)
                stack.callback(process.stdout.close)
                return _first_answer(process.stdout.fileno())

            self.answers.served = self._all(serve)
            self.answers.reached = self._all(lambda host: self._ask(host, "reach"))

    def _ports(self, host: Host) -> list[int]:
        """The ports that are tried: all fixed ones, and both ends of the ranges."""
        ports = self._inventory.ports
        named = [ports.node_manager, ports.object_manager, ports.agent_http, ports.agent_grpc, ports.runtime_env_agent]
        named += [ports.ray_metrics, ports.metrics, ports.rendezvous[0], ports.rendezvous[-1]]
        named += [ports.workers[0], ports.workers[-1]]
        return [ports.first, *named] if host.name == self._inventory.head.name else named

    def _request(self, host: Host) -> dict[str, Any]:
        needs = self._needs
        others = [other for other in self._inventory.hosts if other.name in self.answers.served]
        return {
            "host": host.name,
            "address": host.address,
            "shared": self._inventory.shared,
            "nonce": self._nonce,
            "ports": self._ports(host),
            "others": [{"name": o.name, "address": o.address, "ports": self._ports(o)} for o in others],
            "modules": list(needs.modules),
            "with_vllm": needs.has_vllm,
            "model": needs.model,
        }

    def _words(self, host: Host, words: Sequence[str]) -> list[str]:
        """In the node if it runs; else in a container of the image, or in the virtual environment."""
        node = self._nodes.get(host.name)
        if node is None or node.state is NodeState.RUNNING:
            return in_node(self._inventory, host, words)
        return Containers(self._inventory, self._remote).once(host, node, words)

    def _ask(self, host: Host, name: str) -> dict[str, Any]:
        words = self._words(host, [python_of(self._inventory), "-m", _MODULE, name])
        request = json.dumps(self._request(host)).encode()
        done = self._remote.run(host, words, stdin=request, deadline_s=_ROUND_S)
        if done.code:
            raise ClusterError(f"its probe failed: {done.reason}")
        answer = _answer_in(done.stdout.splitlines())
        if answer is None:
            raise _no_answer(done.stdout)
        return answer


def _first_answer(descriptor: int) -> dict[str, Any]:
    """The answer of a probe that goes on running. What ssh and the shell print before it is skipped.

    Raises: ClusterError when the output ends without an answer, or there is none within `_ROUND_S`.
    """
    until = time.monotonic() + _ROUND_S
    text = b""
    while select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
        part = os.read(descriptor, 1 << 16)
        if not part:
            raise _no_answer(text.decode(errors="replace"))
        text += part
        whole = text.rpartition(b"\n")[0]
        if (answer := _answer_in(whole.decode(errors="replace").splitlines())) is not None:
            return answer
    raise ClusterError(f"its probe did not answer within {_ROUND_S:g} s")


def _answer_in(lines: Sequence[str]) -> dict[str, Any] | None:
    """The last of the lines that is a JSON object."""
    for line in reversed(lines):
        with suppress(ValueError):
            if isinstance(found := json.loads(line), dict):
                return cast(dict[str, Any], found)
    return None


def _no_answer(text: str) -> ClusterError:
    return ClusterError(f"its probe printed {text.strip()[-200:]!r} instead of an answer")
