"""Starts programs in a sandbox: the candidate's, and the two trusted ones that accompany it."""

import ast
import importlib.resources
from collections.abc import Mapping, Sequence
from typing import cast

from rlvr.errors import PluginError
from rlvr.protocols import Capability, Limits, Program, RunResult, Sandbox, SandboxSession, SupportsPreload

CANDIDATE, TESTS = "rlvr_code_candidate", "rlvr_code_tests"
_SOURCES = {CANDIDATE: "candidate_shim.py", TESTS: "test_runner.py"}
_MAIN = "main.py"
_INSIDE = "rlvr_verifiers.codecheck.inside."


class Boxes:
    """Starts programs in one sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.checkers: dict[bytes, bytes] = {}  # compiled checkers of references, by source
        self.can_talk = Capability.SESSION in sandbox.capabilities
        self._sources = {name: bundle(file) for name, file in _SOURCES.items()}
        self._is_preloaded = Capability.PRELOAD in sandbox.capabilities
        if self._is_preloaded:
            cast(SupportsPreload, sandbox).preload(self._sources)

    async def run(self, code: bytes, stdin: bytes, limits: Limits) -> RunResult:
        """Runs a Python program to its end."""
        return await self.sandbox.run(("python", _MAIN), {_MAIN: code}, stdin, limits)

    async def execute(self, argv: Sequence[str], files: Mapping[str, bytes], stdin: bytes, limits: Limits) -> RunResult:
        """Runs any other program to its end."""
        return await self.sandbox.run(argv, files, stdin, limits)

    async def open_candidate(self, code: bytes, limits: Limits) -> SandboxSession:
        """The candidate behind its shim, alone."""
        program = self._candidate(code, limits)
        return await self.sandbox.open_session(program.argv, program.files, program.limits)

    async def open_both(
        self, code: bytes, limits: Limits, test_limits: Limits
    ) -> tuple[SandboxSession, SandboxSession]:
        """The candidate behind its shim, and the tests in a second box."""
        tests = self._trusted(TESTS, {}, test_limits)
        opened = await self.sandbox.open_sessions([self._candidate(code, limits), tests])
        return opened[0], opened[1]

    def require_sessions(self) -> None:
        """Raises PluginError if the sandbox has no sessions."""
        if not self.can_talk:
            raise PluginError(
                f"sandbox {self.sandbox.name!r} has no sessions, which tests of a function need; it can verify "
                "references of kind stdio. Use a backend with the capability `session` (rlvr sandboxes)"
            )

    def _candidate(self, code: bytes, limits: Limits) -> Program:
        return self._trusted(CANDIDATE, {_MAIN: code}, limits)

    def _trusted(self, name: str, files: Mapping[str, bytes], limits: Limits) -> Program:
        if self._is_preloaded:
            return Program(argv=("preloaded", name), files=files, limits=limits)
        file = f"{name}.py"
        shipped = {**files, file: self._sources[name].encode()}
        return Program(argv=("python", file), files=shipped, limits=limits)


def bundle(file: str) -> str:
    """The source of one of the programs for the boxes: one text, with what it imports from `inside` put before it.

    Raises: ValueError for an import from elsewhere in this package, which must not reach a box.
    """
    folder = importlib.resources.files(_INSIDE.removesuffix("."))
    parts: dict[str, str] = {}

    def add(name: str) -> None:
        if name in parts:
            return
        source = (folder / name).read_text(encoding="utf-8")
        lines = source.splitlines(keepends=True)
        for node in ast.parse(source).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rlvr_verifiers."):
                module = node.module or ""
                if not module.startswith(_INSIDE):
                    raise ValueError(f"{name} imports {module}, but only modules of {_INSIDE}* may reach a sandbox")
                add(f"{module.removeprefix(_INSIDE)}.py")
                for number in range(node.lineno - 1, node.end_lineno or node.lineno):
                    lines[number] = "\n"
        parts[name] = "".join(lines)

    add(file)
    return "\n\n".join(parts.values())
