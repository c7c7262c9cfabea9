"""What the audit found in the scorers of reasoning-gym: the table in `known_flaws.yaml`."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from rlvr.errors import PluginError

_FILE = Path(__file__).with_name("known_flaws.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFlaws:
    """The table.

    version: of the package that was audited. exploitable: why a policy can earn a reward without solving the task, or
    run code, by task. remarks: other peculiarities, by task.
    """

    version: str
    exploitable: Mapping[str, str]
    remarks: Mapping[str, str]


@functools.cache
def known_flaws() -> KnownFlaws:
    """The table, read once."""
    table = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return KnownFlaws(version=table["version"], exploitable=table["exploitable"], remarks=table["remarks"])


def require_sound(tasks: Iterable[str], *, allow_exploitable: bool) -> None:
    """Refuses tasks whose scorer can be exploited, unless that is allowed.

    Raises: PluginError with the reason for each.
    """
    flaws = known_flaws()
    found = [f"{task}: {flaws.exploitable[task]}" for task in tasks if task in flaws.exploitable]
    if found and not allow_exploitable:
        raise PluginError(
            f"the scorer of reasoning-gym {flaws.version} can be exploited, so a policy would learn to do that: "
            f"{'; '.join(found)}. Use another task, or set allow_exploitable=true in the settings of the source and of "
            "the verifier"
        )


def version_problem(installed: str) -> str:
    """A warning about a version of the package that was not audited; "" if it is the audited one.

    >>> version_problem(known_flaws().version)
    ''
    """
    audited = known_flaws().version
    if installed == audited:
        return ""
    return (
        f"reasoning-gym {installed} is installed, and its scorers were audited in version {audited}: flaws of this "
        "version are not known; `rlvr audit reasoning_gym:TASK` looks for them"
    )
