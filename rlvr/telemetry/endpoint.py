"""The endpoint of a node: serves the numbers of the run's processes there, and the node's own.

On the driver's node it is a child process, so that a scrape takes nothing from the driver's interpreter:

    python -m rlvr.telemetry.endpoint FOLDER RUN_DIR SOCKET_NUMBER
"""

import errno
import logging
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlvr.processes.child import Child, start_module
from rlvr.processes.watchdog import forget, guard
from rlvr.telemetry.exposition import exposition
from rlvr.telemetry.facts import RunFacts, facts_here
from rlvr.telemetry.folder import NumbersFolder
from rlvr.telemetry.meters import Meters
from rlvr.telemetry.node import NodeNumbers
from rlvr.telemetry.process import published
from rlvr.telemetry.server import MetricsServer, listening_socket

logger = logging.getLogger(__name__)


class Endpoint:
    """Serves the folder of a node until it is closed."""

    def __init__(self, folder: NumbersFolder, listening: socket.socket, *, run_dir: str) -> None:
        self._folder = folder
        self._node = Meters()
        self._node.watch("node", NodeNumbers(run_dir))
        self._server = MetricsServer(listening, self._text)

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return self._server.port

    def close(self) -> None:
        """Ends it."""
        self._server.close()

    def _text(self) -> str:
        return exposition([*self._folder.read(), *self._node.read()])


@contextmanager
def served(node: str) -> Iterator[None]:
    """Context in which the driver's node has an endpoint, if the recipe asks for one.

    If the port is in use, the run continues without an endpoint. Args: node: the address to listen on.
    """
    facts = facts_here()
    if facts is None or not facts.metrics_port:
        yield
        return
    try:
        listening = listening_socket(node, facts.metrics_port)
    except OSError as error:
        logger.warning(
            "%s", bind_problem(error, node=node, port=facts.metrics_port) + "; the run continues without metrics there"
        )
        yield
        return
    with listening, _published(node) as folder:
        child = None if folder is None else _started(folder, listening, facts)
        listening.close()  # the child has its own
        try:
            yield
        finally:
            if child is not None:
                child.kill()
                child.close_pipes()


@contextmanager
def _published(node: str) -> Iterator[NumbersFolder | None]:
    """Context in which the driver publishes its numbers; None if there is no folder for them."""
    try:
        context = published(node)
        folder = context.__enter__()
    except OSError as error:
        logger.warning("no folder for metrics can be created: %s; the run continues without them", error)
        yield None
        return
    guard(folder.path)
    try:
        yield folder
    finally:
        context.__exit__(None, None, None)
        forget(folder.path)


def _started(folder: NumbersFolder, listening: socket.socket, facts: RunFacts) -> Child | None:
    number = listening.fileno()
    try:
        return Child(
            start_module(
                "rlvr.telemetry.endpoint",
                str(folder.path),
                facts.run_dir,
                str(number),
                environment={},
                inherited=[number],
            )
        )
    except OSError as error:
        logger.warning("the metrics endpoint does not start: %s; the run continues without it", error)
        return None


def bind_problem(error: OSError, *, node: str, port: int) -> str:
    """Why an endpoint cannot listen, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {node} is in use, probably by the metrics of another run: give each run its own "
            "run.metrics_port"
        )
    return f"metrics cannot be served on {node}, port {port} (run.metrics_port): {error.strerror or error}"


def main() -> None:
    """Serves until the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose last numbers are still shown
    path, run_dir, number = sys.argv[1:4]
    Endpoint(NumbersFolder.at(Path(path)), socket.socket(fileno=int(number)), run_dir=run_dir)
    threading.Event().wait()


if __name__ == "__main__":
    main()
