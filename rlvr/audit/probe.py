"""The audited verifier as a worker runs it: `prejudge` runs there too, and a hook reports text that is executed."""

import contextlib
import inspect
import os
import sys
from pathlib import Path
from types import CodeType
from typing import Any, ClassVar, cast

from pydantic import BaseModel, ConfigDict

from rlvr.audit.canary import EVENTS_FILE, TOKEN
from rlvr.plugin import VerifierContext
from rlvr.protocols import Execution, SupportsParseReference, SupportsPrejudge, SupportsWarmUp
from rlvr.records import Completion, Json, Prompt, Verdict
from rlvr.registry import VERIFIERS, PluginSource, build_verifier

_MAX_DEPTH = 8  # of nested code objects


class ProbeConfig(BaseModel):
    """plugin: a `PluginSource` as JSON. settings: of that verifier. folder: where executed tokens are written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plugin: dict[str, str]
    settings: dict[str, Any]
    folder: str


class ProbedVerifier:
    """Gives the verdicts that a run would give, all in the worker."""

    name: str = "probe"
    version: str = "1"
    execution: Execution = Execution.PROCESS
    Config: ClassVar[type[BaseModel]] = ProbeConfig

    def __init__(self, config: ProbeConfig, context: VerifierContext) -> None:
        self._verifier = build_verifier(PluginSource(**config.plugin), config.settings, context)
        self._inner: object = self._verifier
        self.name, self.version = self._verifier.name, self._verifier.version
        self.execution = self._verifier.execution
        self.partial_credit = float(getattr(self._verifier, "partial_credit", 0.0))
        self.is_graded = bool(getattr(self._verifier, "is_graded", False))
        self._hook = _Hook(Path(config.folder))

    def warm_up(self) -> None:
        """Warms the verifier up."""
        if isinstance(self._inner, SupportsWarmUp):
            self._inner.warm_up()

    def parse_reference(self, reference: Json) -> None:
        """Raises ValueError when the verifier refuses the reference."""
        if isinstance(self._inner, SupportsParseReference):
            self._inner.parse_reference(reference)

    def verify(self, prompt: Prompt, completion: Completion) -> Any:
        """The verdict of `prejudge`, or else of `verify`; a coroutine if the verifier is asynchronous."""
        self._hook.is_on = True
        try:
            settled = None
            if isinstance(self._inner, SupportsPrejudge):
                settled = self._inner.prejudge(prompt.reference, completion)
            answer: Any = self._verifier.verify(prompt, completion) if settled is None else settled
        finally:
            self._hook.is_on = False
        return self._later(answer) if inspect.isawaitable(answer) else answer

    async def _later(self, answer: Any) -> Verdict:
        self._hook.is_on = True
        try:
            return await answer
        finally:
            self._hook.is_on = False


class _Hook:
    """Writes the tokens in code that is about to run, and in names of modules that are imported, to a file."""

    def __init__(self, folder: Path) -> None:
        self.is_on = False
        self._file = os.open(folder / EVENTS_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with contextlib.suppress(PermissionError):  # made by another jail, which has opened it
            os.fchmod(self._file, 0o666)  # jails have users of their own
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.is_on or event not in ("exec", "import"):
            return
        first = arguments[0] if arguments else None
        if event == "exec" and isinstance(first, CodeType):
            self._note(_tokens(first), "it was run as Python")
        elif event == "import" and isinstance(first, str):
            self._note(set(TOKEN.findall(first)), "it was imported as a module")

    def _note(self, tokens: set[str], what: str) -> None:
        for token in tokens:
            os.write(self._file, f"{token} {what}\n".encode())


def _tokens(code: CodeType, depth: int = 0) -> set[str]:
    """The tokens in the names and constants of code, nested code included."""
    found: set[str] = set()
    for item in (*code.co_names, *code.co_varnames, *cast("tuple[object, ...]", code.co_consts)):
        if isinstance(item, str):
            found.update(TOKEN.findall(item))
        elif isinstance(item, CodeType) and depth < _MAX_DEPTH:
            found |= _tokens(item, depth + 1)
    return found


def probe_source() -> PluginSource:
    """The plugin that workers build."""
    return PluginSource(group=VERIFIERS, name="audit", target=f"{__name__}:{ProbedVerifier.__name__}")
