"""One metrics endpoint per node: an actor on each node except the driver's, also on nodes that join later.

NodeEndpoints (a thread of the driver) --- every `EVERY_S`: live nodes ---> what Ray has and gives, as numbers
                                       \\-- a node without an endpoint ----> NodeEndpoint, an actor there
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import exceptions as ray_errors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlvr.processes.watchdog import guard
from rlvr.run.ray.connect import end_actor, end_actors, head_is_gone
from rlvr.run.ray.nodes.hosts import live_hosts
from rlvr.telemetry.endpoint import Endpoint, bind_problem, served
from rlvr.telemetry.facts import RunFacts, facts_here
from rlvr.telemetry.folder import NumbersFolder
from rlvr.telemetry.process import METERS
from rlvr.telemetry.server import listening_socket

logger = logging.getLogger(__name__)
EVERY_S = 10.0
_START_S = 60.0
_END_S = 5.0
_SHOWN = ("CPU", "GPU", "memory", "object_store_memory")  # the others are names of nodes and of reservations


@contextmanager
def endpoints() -> Iterator[None]:
    """Context in which every node of the connected cluster has an endpoint, if the recipe asks for one."""
    facts = facts_here()
    if facts is None or not facts.metrics_port:
        yield
        return
    with served(ray.util.get_node_ip_address()):
        nodes = NodeEndpoints(facts)
        try:
            yield
        finally:
            nodes.close()


class NodeEndpoints:
    """A thread that looks for nodes without an endpoint, and counts what Ray has."""

    def __init__(self, facts: RunFacts) -> None:
        self._facts = facts
        self._here = ray.get_runtime_context().get_node_id()
        self._actors: dict[str, Any] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rlvr-endpoints", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread and the endpoints."""
        self._stop.set()
        self._thread.join(timeout=_END_S)
        end_actors(list(self._actors.values()))  # a copy: the thread may still add one

    def _run(self) -> None:
        while True:
            if head_is_gone():
                return
            try:
                self._look()
            except Exception as error:  # noqa: BLE001 - a head that does not answer must not cost the run anything here
                logger.debug("the cluster could not be looked at: %s", error)
            if self._stop.wait(EVERY_S):
                return

    def _look(self) -> None:
        hosts = live_hosts()
        leaving = {host.node for host in hosts if host.drained_by is not None}
        METERS.set("ray_nodes", len(hosts) - len(leaving), state="alive")
        METERS.set("ray_nodes", len(leaving), state="draining")
        capacity, available = ray.cluster_resources(), ray.available_resources()
        for name in _SHOWN:
            if name in capacity:
                METERS.set("ray_resource_capacity", capacity[name], resource=name.lower())
                METERS.set("ray_resource_available", available.get(name, 0.0), resource=name.lower())
        for node in leaving & self._actors.keys():  # Ray ends a drained node when no actor is on it
            end_actor(self._actors.pop(node))
        started = {
            host.address: self._begin(host.node)
            for host in hosts
            if host.node not in (self._here, *leaving, *self._actors)
        }
        for address, asked in started.items():
            self._report(address, asked)

    def _begin(self, node_id: str) -> Any:
        where = NodeAffinitySchedulingStrategy(node_id, soft=False)
        start: Any = NodeEndpoint
        actor = start.options(scheduling_strategy=where).remote(self._facts)
        self._actors[node_id] = actor
        return actor.problem.remote()

    def _report(self, address: str, asked: Any) -> None:
        try:
            problem = ray.get(asked, timeout=_START_S)
        except (ray_errors.RayError, ImportError) as error:
            problem = f"the metrics endpoint does not start: {str(error).strip().splitlines()[-1]}"
        if problem:
            logger.warning("node %s: %s; the run continues without metrics there", address, problem)


@ray.remote(num_cpus=0, max_restarts=-1)  # type: ignore # Ray's stub wants every option
class NodeEndpoint:
    """The endpoint of a node, in a process of its own."""

    def __init__(self, facts: RunFacts) -> None:
        node, self._problem = ray.util.get_node_ip_address(), ""
        try:
            folder = NumbersFolder(facts.run_id, node)
            folder.make()
            guard(folder.path)
            self._endpoint = Endpoint(folder, listening_socket(node, facts.metrics_port), run_dir=facts.run_dir)
        except OSError as error:
            self._problem = bind_problem(error, node=node, port=facts.metrics_port)

    def problem(self) -> str:
        """Why it does not serve; "" if it does."""
        return self._problem
