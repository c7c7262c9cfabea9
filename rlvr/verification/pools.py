"""The worker pools of a service, plain and jailed, and the sandbox that holds the jailed ones."""

import threading
from collections.abc import Mapping
from typing import Any

from rlvr.jails import SupportsWorkers
from rlvr.protocols import Sandbox
from rlvr.registry import SANDBOXES, build_sandbox, find
from rlvr.verification.jailed.jail import Jail, JailSpec, require_workers
from rlvr.verification.pool import VerifierPool
from rlvr.verification.readiness import complete
from rlvr.verification.trial import load_tried

_DEFAULT_SANDBOX: tuple[str, Mapping[str, Any]] = ("auto", {})  # for jailed workers, if none is chosen


class SandboxHolder:
    """At most one sandbox, built and started when it is first needed. Safe to use from any thread.

    Args: choice: its name and settings; None: SANDBOXED verifiers get none, and jailed workers the default.
    """

    def __init__(self, choice: tuple[str, Mapping[str, Any]] | None) -> None:
        self._choice = choice
        self._sandbox: Sandbox | None = None
        self._has_started = False
        self._lock = threading.RLock()

    def for_programs(self) -> Sandbox | None:
        """The sandbox for SANDBOXED verifiers, which may not be started yet. Raises PluginError."""
        return None if self._choice is None else self._built(self._choice)

    @property
    def backend(self) -> str:
        """The name of the sandbox, of `auto` that of the backend that it has chosen; "" before it is built."""
        if self._sandbox is None:
            return ""
        return str(getattr(self._sandbox, "chosen", "")) or self._sandbox.name

    def for_workers(self) -> SupportsWorkers:
        """The sandbox for jailed workers, started; waits for that. Raises PluginError, SandboxError."""
        with self._lock:
            choice = self._choice or _DEFAULT_SANDBOX
            workers = require_workers(self._built(choice), choice[0])
            self.start()
            return workers

    def start(self) -> None:
        """Starts the sandbox if there is one, once; waits for that. Raises SandboxError."""
        with self._lock:
            if self._sandbox is not None and not self._has_started:
                complete(self._sandbox.start())
                self._has_started = True

    def close(self) -> None:
        """Ends it. May be called twice."""
        with self._lock:
            sandbox, self._sandbox = self._sandbox, None
            self._has_started = False
        if sandbox is not None:
            complete(sandbox.close())

    def _built(self, choice: tuple[str, Mapping[str, Any]]) -> Sandbox:
        with self._lock:
            if self._sandbox is None:
                load_tried(find(SANDBOXES, choice[0]))
                self._sandbox = build_sandbox(*choice)
            return self._sandbox


class Pools:
    """One pool of plain workers, and one for each kind of jail; each starts its workers when they are needed."""

    def __init__(self, workers: int, deadline_s: float, sandbox: SandboxHolder) -> None:
        self._workers = workers
        self._deadline_s = deadline_s
        self._sandbox = sandbox
        self._pools: dict[JailSpec | None, VerifierPool] = {None: VerifierPool(workers, deadline_s)}

    def pool(self, spec: JailSpec | None) -> VerifierPool:
        """The pool of plain workers (None), or of workers in this kind of jail."""
        if spec not in self._pools:
            jail = None if spec is None else Jail(sandbox=self._sandbox.for_workers, spec=spec)
            self._pools[spec] = VerifierPool(self._workers, self._deadline_s, jail=jail)
        return self._pools[spec]

    def close(self) -> None:
        """Ends the workers; open items become ERROR."""
        for pool in self._pools.values():
            pool.close()
