"""The contract of a sandbox: programs run normally, and nothing escapes, stays behind or is passed on."""

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from rlvr.contracts.box import Box, children_of_this_process
from rlvr.contracts.box_isolation import ISOLATION_CHECKS
from rlvr.contracts.box_limits import LIMIT_CHECKS
from rlvr.contracts.box_runs import RUN_CHECKS
from rlvr.contracts.box_sessions import PRELOAD_CHECKS, SESSION_CHECKS
from rlvr.errors import SandboxError
from rlvr.protocols import Capability, Sandbox

CHECK_DEADLINE_S = 90.0
_METHODS = ("start", "run", "self_test", "close")
_SESSION_METHODS = ("open_session", "open_sessions")


def check_sandbox(sandbox: type[Any], *, settings: Mapping[str, Any] | None = None, num_rounds: int = 8) -> list[str]:
    """The ways in which a sandbox breaks its contract, one sentence each; empty when there are none.

    Args:
        sandbox: a class as `rlvr.protocols.Sandbox` describes it.
        settings: of the sandbox, as in a recipe.
        num_rounds: repetitions of checks that nothing passes from one run to another; at least twice the
            number of slots, so that every slot is used.

    It starts the sandbox here, runs small hostile programs in it for about half a minute, kills processes of it (only
    descendants of this process that were not there before), and closes it. If a fact cannot be observed from this
    machine (a remote service's processes), its check finds nothing.
    """
    problems = _shape_problems(sandbox)
    if problems:
        return problems
    try:
        config = sandbox.Config(**(settings or {}))
    except ValidationError as error:
        return [f"settings={settings!r} do not fit Config: {error}"]
    return asyncio.run(_check(sandbox(config), num_rounds=num_rounds))


def _shape_problems(sandbox: type[Any]) -> list[str]:
    """Missing members, before anything runs."""
    problems: list[str] = []
    name = getattr(sandbox, "name", None)
    if not isinstance(name, str) or not name or "@" in name:
        problems.append(f"name={name!r} must be a text that is not empty, without '@'")
    capabilities: Any = getattr(sandbox, "capabilities", None)
    if not isinstance(capabilities, frozenset) or not all(
        isinstance(item, Capability) for item in cast(frozenset[object], capabilities)
    ):
        problems.append(f"capabilities={capabilities!r} must be a frozenset of Capability")
        capabilities = frozenset[Capability]()
    config: Any = getattr(sandbox, "Config", None)
    if not (isinstance(config, type) and issubclass(config, BaseModel)):
        problems.append(f"Config={config!r} is no pydantic model")
    elif config.model_config.get("extra") != "forbid":
        problems.append('Config must have model_config = ConfigDict(extra="forbid", frozen=True)')
    wanted: list[str] = list(_METHODS)
    if Capability.SESSION in capabilities:
        wanted += _SESSION_METHODS
    if Capability.PRELOAD in capabilities:
        wanted.append("preload")
    problems += [f"there is no method {method}" for method in wanted if not callable(getattr(sandbox, method, None))]
    if not (sandbox.__doc__ or "").strip():
        problems.append("the class has no docstring; its first line says what it does not stop")
    return problems


async def _check(sandbox: Sandbox, *, num_rounds: int) -> list[str]:
    before = children_of_this_process()
    try:
        await asyncio.wait_for(sandbox.start(), CHECK_DEADLINE_S)
    except TimeoutError:
        return [f"start hangs: no answer in {CHECK_DEADLINE_S:g} s"]
    except SandboxError as error:
        return [f"start failed: {error}"]
    box = Box(sandbox, children_before=before, num_rounds=num_rounds)
    checks = [*RUN_CHECKS, *LIMIT_CHECKS, *ISOLATION_CHECKS]
    if Capability.SESSION in sandbox.capabilities:
        checks += SESSION_CHECKS
    if Capability.PRELOAD in sandbox.capabilities:
        checks += PRELOAD_CHECKS
    problems: list[str] = []
    try:
        for title, check in checks:
            try:
                found = await asyncio.wait_for(check(box), CHECK_DEADLINE_S)
            except TimeoutError:
                found = [f"hangs: no answer in {CHECK_DEADLINE_S:g} s"]
            except Exception as error:  # noqa: BLE001 - a backend may raise anything; reported to its author
                found = [f"raised {type(error).__name__}: {error}"]
            problems += [f"{title}: {problem}" for problem in found]
    finally:
        problems += await _close_problems(sandbox, box)
    return problems


async def _close_problems(sandbox: Sandbox, box: Box) -> list[str]:
    try:
        await asyncio.wait_for(sandbox.close(), CHECK_DEADLINE_S)
    except TimeoutError:
        return [f"close hangs: not done in {CHECK_DEADLINE_S:g} s"]
    left = await box.children_left()
    return [f"close leaves {len(left)} processes behind: {sorted(left)}"] if left else []
