"""What every process of a run knows about it: an environment variable that children and Ray's workers inherit."""

import json
import os
from dataclasses import asdict, dataclass
from functools import cache

VARIABLE = "RLVR_RUN_FACTS"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """Names and places of a run; nothing secret, because Ray shows environments.

    run: the name of its directory. run_id: random, a new one for every start. run_dir: absolute, on the driver's
    node. metrics_port: 0 if nothing is served. secret_names: further environment variables that hold secrets.
    """

    run: str
    recipe: str
    run_id: str
    run_dir: str
    metrics_port: int = 0
    secret_names: tuple[str, ...] = ()

    def to_text(self) -> str:
        """For the environment variable."""
        return json.dumps(asdict(self))


def facts_here() -> RunFacts | None:
    """The facts of the run that this process belongs to; None if it belongs to none."""
    return _parsed(os.environ.get(VARIABLE, ""))


@cache
def _parsed(text: str) -> RunFacts | None:
    if not text:
        return None
    values = json.loads(text)
    return RunFacts(**{**values, "secret_names": tuple(values["secret_names"])})
