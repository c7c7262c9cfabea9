"""Starts and stops the log of a process and the publication of its numbers for the node's endpoint.

driver     observed_run(...): facts in the environment -> log file; numbers -> folder <- endpoint (a child process)
actor      begin_process("engine-1", node=...)           -> log file; numbers -> folder <- endpoint (an actor)
rank       begin_process("learner-2")                    -> the same; its parent has set the node
"""

import logging
import os
import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from rlvr.processes.environment import environment_restored
from rlvr.telemetry import logs
from rlvr.telemetry.facts import VARIABLE, RunFacts, facts_here
from rlvr.telemetry.folder import NumbersFolder
from rlvr.telemetry.meters import Meters, Sample
from rlvr.telemetry.places import log_file, log_folder, mark_run_dir
from rlvr.telemetry.redaction import Redactor

logger = logging.getLogger(__name__)
METERS = Meters()  # of this process
DRIVER = "driver"
ON_CONSOLE = {"is_on_console": True}  # extra of records that the console has shown in its own way
EVERY_S = 2.0
_role = ""
_until_exit = ExitStack()  # holds what lasts as long as an actor or a rank


def role_here() -> str:
    """The role of this process in its run; "" if it has none."""
    return _role


@contextmanager
def observed_run(
    *, run_dir: Path, recipe: str, metrics_port: int = 0, secret_names: tuple[str, ...] = ()
) -> Iterator[RunFacts]:
    """Context in which this process is the driver of a run that writes logs.

    Args:
        secret_names: environment variables whose values must not appear in logs, whatever their name says.
    """
    facts = RunFacts(
        run=run_dir.absolute().name,
        recipe=recipe,
        run_id=secrets.token_hex(6),
        run_dir=str(run_dir.resolve()),
        metrics_port=metrics_port,
        secret_names=secret_names,
    )
    with ExitStack() as stack:
        stack.enter_context(environment_restored(VARIABLE, logs.NODE))
        os.environ[VARIABLE] = facts.to_text()
        logs.restart_steps()
        METERS.clear()
        stack.callback(METERS.clear)
        try:
            mark_run_dir(facts)
        except OSError as error:
            logger.warning("%s: %s; this run's logs are written elsewhere", facts.run_dir, error)
        stack.enter_context(_logging(facts, DRIVER))
        yield facts


def begin_process(role: str, *, node: str = "") -> None:
    """Makes this process, an actor or a rank of a run, write its log and publish its numbers until it ends.

    Does nothing in a process that belongs to no run. Args: node: this node's address; "": what the parent has set.
    """
    facts = facts_here()
    if facts is None:
        return
    if node:
        os.environ[logs.NODE] = node
    _until_exit.enter_context(_logging(facts, role))
    here = os.environ.get(logs.NODE, "")
    if facts.metrics_port and here:
        Publisher(facts, role, here).start()


@contextmanager
def published(node: str) -> Iterator[NumbersFolder]:
    """Context in which the driver's numbers are in the folder of its node, which ends with the context.

    Raises: OSError when the folder cannot be created.
    """
    facts = facts_here()
    assert facts is not None
    os.environ[logs.NODE] = node
    folder = NumbersFolder(facts.run_id, node)
    folder.make()
    publisher = Publisher(facts, DRIVER, node)
    publisher.start()
    try:
        yield folder
    finally:
        publisher.close()
        folder.remove()


class Publisher:
    """A thread that writes this process's numbers into the folder of its node every `EVERY_S`."""

    def __init__(self, facts: RunFacts, role: str, node: str) -> None:
        self._facts = facts
        self._role = role
        self._folder = NumbersFolder(facts.run_id, node)
        self._stop = threading.Event()
        self._process = psutil.Process()
        self._thread = threading.Thread(target=self._run, name="rlvr-publisher", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, and with it the process's series."""
        self._stop.set()
        self._thread.join()
        self._folder.forget(self._role)

    def publish(self) -> None:
        """Writes the numbers, if the node has an endpoint. Raises OSError."""
        if not self._folder.path.is_dir():
            return
        memory, times = self._process.memory_info(), self._process.cpu_times()
        METERS.set("process_resident_memory_bytes", memory.rss, role=self._role)
        METERS.set("process_cpu_seconds_total", times.user + times.system, role=self._role)
        run = (("recipe", self._facts.recipe), ("run", self._facts.run))
        samples = [Sample(s.family, tuple(sorted((*s.labels, *run))), s.value) for s in METERS.read()]
        self._folder.write(self._role, samples)

    def _run(self) -> None:
        has_warned = False
        while True:
            try:
                self.publish()
            except OSError as error:
                if not has_warned:
                    has_warned = True
                    logger.warning("the metrics of this process cannot be written: %s", error)
            if self._stop.wait(EVERY_S):
                return


@contextmanager
def _logging(facts: RunFacts, role: str) -> Iterator[None]:
    """Context in which records go to a file as JSON, and warnings to standard error as lines."""
    global _role
    _role = role
    root, ours = logging.getLogger(), logging.getLogger("rlvr")
    redact = Redactor(facts.secret_names)
    lines = logging.StreamHandler(sys.stderr)
    lines.setLevel(logging.WARNING)
    lines.addFilter(lambda record: not hasattr(record, "is_on_console"))
    lines.setFormatter(logs.LineFormatter(run=facts.run, role=role, redact=redact))
    handlers: list[logging.Handler] = [lines]
    try:
        file = logs.FileHandler(log_file(log_folder(facts), role))
        file.setFormatter(logs.JsonFormatter(run=facts.run, role=role, redact=redact))
        handlers.append(file)
    except OSError as error:
        logger.warning("this process writes no log file: %s", error)
    replaced = [h for h in root.handlers if type(h) is logging.StreamHandler]  # the one of `configure_logging`
    level = ours.level
    for old in replaced:
        root.removeHandler(old)
    for handler in handlers:
        root.addHandler(handler)
    ours.setLevel(logging.INFO)
    logger.info("process %d begins as %s of run %s", os.getpid(), role, facts.run)
    try:
        yield
    finally:
        ours.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
        for old in replaced:
            root.addHandler(old)
