"""`auto`: the strongest backend that works on this machine, or a refusal that says why and how to fix it."""

import logging
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import BaseModel

from rlvr.errors import SandboxError, SandboxUnavailable
from rlvr.jails import JailedProcess, WorkerRequest
from rlvr.protocols import Capability, Limits, Program, RunResult, SandboxSession
from rlvr_sandboxes.landlock import LandlockSandbox
from rlvr_sandboxes.namespaces import NamespacesSandbox
from rlvr_sandboxes.outside.boxes import BoxConfig, BoxedSandbox
from rlvr_sandboxes.outside.probes import Probe

_LOG = logging.getLogger(__name__)
_BACKENDS: tuple[type[BoxedSandbox], ...] = (NamespacesSandbox, LandlockSandbox)


class AutoSandbox:
    """Stops what its backend stops: `namespaces` where that passes its self-test, else `landlock`, else it refuses.

    The settings are those of both backends. It never falls back to running programs without a box.
    """

    name: ClassVar[str] = "auto"
    capabilities: ClassVar[frozenset[Capability]] = frozenset[Capability].intersection(
        *(backend.capabilities for backend in _BACKENDS)
    )
    Config: ClassVar[type[BaseModel]] = BoxConfig

    def __init__(self, config: BoxConfig) -> None:
        self.config = config
        self._backends = [backend(config) for backend in _BACKENDS]
        self._chosen: BoxedSandbox | None = None

    @classmethod
    def probes(cls) -> tuple[Probe, ...]:
        """What each backend needs of the machine; a name begins with its backend's."""
        return tuple(
            Probe(
                name=f"{backend.name}: {probe.name}",
                is_ok=probe.is_ok,
                detail=probe.detail,
                fix=probe.fix,
                is_required=probe.is_required,
            )
            for backend in _BACKENDS
            for probe in backend.probes()
        )

    @property
    def chosen(self) -> str:
        """The backend in use; empty before the start."""
        return self._chosen.name if self._chosen else ""

    async def start(self) -> None:
        """Starts the first backend that works. Raises SandboxUnavailable with each one's reason and fix."""
        if self._chosen is not None:
            await self._chosen.start()
            return
        reasons: list[str] = []
        for backend in self._backends:
            try:
                await backend.start()
            except SandboxError as error:
                reasons.append(str(error))
                _LOG.debug("%s", error)
                continue
            if self._chosen is None:
                self._chosen = backend
            if reasons:
                _LOG.warning("sandbox %r is used, because %s", backend.name, "; ".join(reasons))
            return
        raise SandboxUnavailable(
            "no isolation works on this machine, and programs of a model are not run without it.\n  "
            + "\n  ".join(reasons)
            + "\n`rlvr sandboxes` shows each requirement. Elsewhere: sandbox.backend=remote (a SandboxFusion or "
            "piston service) or docker. Only where nothing is at stake: sandbox.backend=unsafe and "
            "sandbox.settings.i_understand_unsafe=true"
        )

    async def run(self, program: Sequence[str], files: Mapping[str, bytes], stdin: bytes, limits: Limits) -> RunResult:
        """Runs a program to its end; see rlvr.protocols.Sandbox."""
        return await (await self._backend()).run(program, files, stdin, limits)

    async def open_session(self, program: Sequence[str], files: Mapping[str, bytes], limits: Limits) -> SandboxSession:
        """Starts a program to talk with; see rlvr.protocols.Sandbox."""
        return await (await self._backend()).open_session(program, files, limits)

    async def open_sessions(self, programs: Sequence[Program]) -> list[SandboxSession]:
        """Starts programs that live at the same time; see rlvr.protocols.Sandbox."""
        return [*await (await self._backend()).open_sessions(programs)]

    def start_worker(self, request: WorkerRequest) -> JailedProcess:
        """Starts a jailed worker in the chosen backend, after `start`; see rlvr.jails.SupportsWorkers."""
        if self._chosen is None:
            raise SandboxError("sandbox 'auto' has chosen no backend yet; await its `start` first")
        return self._chosen.start_worker(request)

    def preload(self, sources: Mapping[str, str]) -> None:
        """Trusted Python sources by name; see rlvr.protocols.Sandbox."""
        for backend in self._backends:
            backend.preload(sources)

    async def self_test(self) -> tuple[str, ...]:
        """What is not safe about the chosen backend; why none can be chosen, where none can."""
        try:
            backend = await self._backend()
        except SandboxUnavailable as error:
            return (str(error),)
        return await backend.self_test()

    async def close(self) -> None:
        """Ends every box."""
        for backend in self._backends:
            await backend.close()

    async def _backend(self) -> BoxedSandbox:
        if self._chosen is None:
            await self.start()
        assert self._chosen is not None
        return self._chosen
