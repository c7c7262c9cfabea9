"""`unsafe`: plain processes with resource limits, for machines where nothing else works and nothing is at stake."""

import logging
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from rlvr.errors import SandboxUnavailable
from rlvr.protocols import Capability, Limits
from rlvr_sandboxes.bounds import MOST_SLOTS
from rlvr_sandboxes.outside.link import Link
from rlvr_sandboxes.outside.supervised_box import SupervisedBox, supervisor_source

_LOG = logging.getLogger(__name__)
_SECRET_ENDINGS = ("_KEY", "_TOKEN", "_PASSWORD", "_CREDENTIALS")
_RUNS_BETWEEN_WARNINGS = 1000


class UnsafeConfig(BaseModel):
    """The settings of `unsafe`. i_understand_unsafe: must be true; it says that programs run with your rights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    i_understand_unsafe: bool = False
    slots: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=MOST_SLOTS)


class UnsafeSandbox(SupervisedBox):
    """Stops nothing: a program can read and write your files, use the network and signal your processes.

    It still keeps the answers out of the program's process, limits time, memory of a process, output and files, ends
    what a run leaves behind, and gives it an empty environment. It refuses to start as root, and where the environment
    holds secrets (names that end in _KEY or _TOKEN, or hold SECRET).
    """

    name: ClassVar[str] = "unsafe"
    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.SESSION})
    Config: ClassVar[type[BaseModel]] = UnsafeConfig

    def __init__(self, config: UnsafeConfig) -> None:
        super().__init__(config.slots)
        self.config = config
        self._source = ""
        self._num_runs = 0

    async def start(self) -> None:
        """Checks that it may run. Raises SandboxUnavailable otherwise."""
        if self._source:
            return
        problem = refusal(self.config, environment=os.environ, is_root=os.geteuid() == 0)
        if problem:
            raise SandboxUnavailable(f"sandbox 'unsafe' refuses to start: {problem}")
        self._source = supervisor_source()

    async def self_test(self) -> tuple[str, ...]:
        """What is not safe: everything."""
        return ("programs run with your user's rights; use the namespaces or landlock backend instead",)

    def _link(self, program: Sequence[str], files: Mapping[str, bytes], limits: Limits, *, is_session: bool) -> Link:
        if self._num_runs % _RUNS_BETWEEN_WARNINGS == 0:
            _LOG.warning("model-written code runs UNSAFE, with your user's rights on this machine")
        self._num_runs += 1
        return Link(
            [sys.executable, "-I", "-S", "-c", self._source],
            program=program,
            files=files,
            limits=limits,
            is_session=is_session,
            folder=tempfile.gettempdir(),
            environment={"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        )


def refusal(config: UnsafeConfig, *, environment: Mapping[str, str], is_root: bool) -> str:
    """Why `unsafe` must not start; empty when it may.

    >>> refusal(UnsafeConfig(i_understand_unsafe=True), environment={"HF_TOKEN": "x"}, is_root=False)
    'the environment holds secrets that a program could use (HF_TOKEN); unset them'
    >>> refusal(UnsafeConfig(i_understand_unsafe=True), environment={"PATH": "/bin"}, is_root=False)
    ''
    """
    if not config.i_understand_unsafe:
        return (
            "model-written code would run with your user's rights; if nothing on this machine is at stake, "
            "set sandbox.settings.i_understand_unsafe=true"
        )
    if is_root:
        return "it runs as root; use an ordinary user, or the namespaces backend"
    secrets = sorted(
        name
        for name, value in environment.items()
        if value and (name.upper().endswith(_SECRET_ENDINGS) or "SECRET" in name.upper())
    )
    if secrets:
        return f"the environment holds secrets that a program could use ({', '.join(secrets)}); unset them"
    return ""
