"""The sandbox report of `rlvr sandboxes` and `rlvr doctor`. Backend-independent: probes are an optional method.

A sandbox class may have `probes() -> tuple of objects with name, is_ok, detail, fix, is_required`.
"""

import asyncio
import inspect
from dataclasses import dataclass
from typing import Any

from rlvr.errors import PluginError, SandboxError
from rlvr.registry import SANDBOXES, build_sandbox, find, list_plugins, load, setting_rows
from rlvr.verification.trial import load_tried

Row = tuple[str, str, str]
AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxDescription:
    """text: the class's docstring. rows: facts, settings, probes, self-test. is_usable: the self-test passed."""

    text: str
    rows: list[Row]
    is_usable: bool


def listing_rows() -> list[Row]:
    """(name, whether it can work here, what it does not stop) for every installed sandbox; nothing is started."""
    rows: list[Row] = []
    for entry in list_plugins(SANDBOXES):
        try:
            loaded = load(find(SANDBOXES, entry.name))
        except PluginError as error:
            rows.append((entry.name, "fails to load", str(error)))
            continue
        probes = probes_of(loaded)
        missing = [probe.name for probe in probes if probe.is_required and not probe.is_ok]
        if entry.name == AUTO or not probes:
            state = "chooses" if entry.name == AUTO else "needs settings"
        else:
            state = f"lacks {', '.join(missing)}" if missing else "ready"
        first_line = (inspect.getdoc(loaded) or "").partition("\n")[0]
        rows.append((entry.name, state, first_line))
    return rows


def probe_rows() -> list[Row]:
    """(what was checked, what was found, the fix) over all sandboxes, without duplicates."""
    seen: dict[Row, None] = {}
    for entry in list_plugins(SANDBOXES):
        if entry.name == AUTO:
            continue  # its probes are those of the others
        try:
            loaded = load(find(SANDBOXES, entry.name))
        except PluginError:
            continue  # the listing reports it
        for probe in probes_of(loaded):
            seen[(probe.name, f"{mark_of(probe)} {probe.detail}", probe.fix)] = None
    return list(seen)


def describe(name: str) -> SandboxDescription:
    """The description of one sandbox, which is started with its default settings, tested and closed.

    Raises: PluginError when it is not installed.
    """
    loaded = load_tried(find(SANDBOXES, name))
    capabilities = ", ".join(sorted(loaded.capabilities)) or "runs only"
    rows: list[Row] = [("can", capabilities, "")]
    rows += setting_rows(loaded.Config)
    rows += [(p.name, f"{mark_of(p)} {p.detail}", p.fix) for p in probes_of(loaded)]
    if any(field.is_required() for field in loaded.Config.model_fields.values()):
        rows.append(("self-test", "-- not run", "it needs settings; a run tests it when it starts"))
        return SandboxDescription(text=inspect.getdoc(loaded) or "", rows=rows, is_usable=True)
    problems, chosen = self_test(name)
    rows += [("self-test", "-- fails", problem) for problem in problems]
    if not problems:
        rows.append(("self-test", f"ok passed{f' by {chosen}' if chosen else ''}", ""))
    return SandboxDescription(text=inspect.getdoc(loaded) or "", rows=rows, is_usable=not problems)


def self_test(name: str) -> tuple[tuple[str, ...], str]:
    """(problems of a sandbox here, backend that `auto` chose); the sandbox is started and closed."""

    async def test() -> tuple[tuple[str, ...], str]:
        sandbox = build_sandbox(name, {})
        try:
            problems = await sandbox.self_test()
            return problems, str(getattr(sandbox, "chosen", ""))
        except SandboxError as error:
            return (str(error),), ""
        finally:
            await sandbox.close()

    return asyncio.run(test())


def probes_of(loaded: Any) -> tuple[Any, ...]:
    """The probes of a sandbox class; empty if it has none."""
    probes = getattr(loaded, "probes", None)
    return () if probes is None else tuple(probes())


def mark_of(probe: Any) -> str:
    """`ok`, `--` for a missing requirement, or `..` for a missing optional feature."""
    if probe.is_ok:
        return "ok"
    return "--" if probe.is_required else ".."
