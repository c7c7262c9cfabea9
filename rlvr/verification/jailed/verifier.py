"""What the parent holds of a jailed verifier, whose code it never imports: its label and the facts that it needs."""

from collections.abc import Mapping
from typing import Any, ClassVar, cast

from pydantic import BaseModel

from rlvr.errors import PluginError
from rlvr.plugin import EmptyConfig
from rlvr.protocols import Execution
from rlvr.records import Completion, Json, Prompt, Verdict

_WHY_NOT = {
    Execution.ASYNC: "it asks a service, and a jail has no network",
    Execution.SANDBOXED: "it hands programs to a sandbox itself, which runs in the parent",
}


class JailedVerifier:
    """Represents a verifier that only jailed workers hold; `jailed_verifier` gives it the name and version."""

    name: ClassVar[str] = ""
    version: ClassVar[str] = ""
    execution: ClassVar[Execution] = Execution.JAILED
    Config: ClassVar[type[BaseModel]] = EmptyConfig

    def __init__(self, *, partial_credit: float) -> None:
        self.partial_credit = partial_credit

    def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
        """Never called: the pool verifies."""
        raise PluginError(f"{self.name}: a jailed verifier runs in the pool alone")


class _ParsingJailedVerifier(JailedVerifier):
    """One with `parse_reference`, which the pool calls."""

    def parse_reference(self, reference: Json) -> None:
        """Never called: the pool parses."""
        raise PluginError(f"{self.name}: a jailed verifier runs in the pool alone")


def jailed_verifier(name: str, label: str, facts: Mapping[str, Any]) -> JailedVerifier:
    """The verifier that a jailed worker has built. facts: from `wire.facts_of`.

    Raises: PluginError when it cannot run in a jail.
    """
    require_possible(name, Execution(facts["execution"]), Execution.JAILED)
    kind = _ParsingJailedVerifier if facts["parses_references"] else JailedVerifier
    own_name, _, version = label.rpartition("@")
    named = type(kind.__name__, (kind,), {"name": own_name, "version": version})
    return cast("type[JailedVerifier]", named)(partial_credit=float(facts["partial_credit"]))


def require_possible(name: str, declared: Execution, chosen: Execution) -> None:
    """Raises PluginError when a verifier that declares one execution cannot run by the chosen one."""
    if declared in _WHY_NOT and chosen is not declared:
        raise PluginError(
            f"verifier {name!r} cannot run with execution {chosen.value!r}: {_WHY_NOT[declared]}; remove `execution` "
            "from its check"
        )
