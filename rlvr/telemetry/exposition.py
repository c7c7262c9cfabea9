"""The text format of Prometheus, version 0.0.4."""

import math
from collections.abc import Iterable

from rlvr.telemetry.meters import Sample

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(samples: Iterable[Sample]) -> str:
    """The samples as text, grouped by family; of several values of one series the last is shown.

    >>> from rlvr.telemetry.families import FAMILIES
    >>> print(exposition([Sample(FAMILIES["rlvr_node_cpus"], (("run", "a"),), 4.0)]), end="")
    # HELP rlvr_node_cpus logical processors
    # TYPE rlvr_node_cpus gauge
    rlvr_node_cpus{run="a"} 4
    """
    families: dict[str, dict[tuple[tuple[str, str], ...], Sample]] = {}
    for sample in samples:
        families.setdefault(sample.family.name, {})[sample.labels] = sample
    lines: list[str] = []
    for name, members in families.items():
        family = next(iter(members.values())).family
        lines.append(f"# HELP {name} {_escaped(family.help, quotes=False)}")
        lines.append(f"# TYPE {name} {family.kind}")
        for sample in members.values():
            labels = ",".join(f'{label}="{_escaped(value)}"' for label, value in sample.labels)
            lines.append(f"{name}{{{labels}}} {_number(sample.value)}" if labels else f"{name} {_number(sample.value)}")
    return "".join(line + "\n" for line in lines)


def _escaped(text: str, *, quotes: bool = True) -> str:
    shown = text.encode("utf-8", "replace").decode().replace("\\", r"\\").replace("\n", r"\n")
    return shown.replace('"', r"\"") if quotes else shown


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
