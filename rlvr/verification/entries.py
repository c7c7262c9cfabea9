"""How a service builds the verifier of a check: here, and in workers too; or in jailed workers alone."""

from dataclasses import dataclass
from typing import cast

from rlvr.errors import PLUGIN_FAULTS, PluginError
from rlvr.plugin import VerifierContext
from rlvr.protocols import Execution, SupportsMaxOpen, Verifier
from rlvr.records import Check
from rlvr.registry import PluginSource, build_verifier
from rlvr.verification.jailed.jail import execution_of, spec_of
from rlvr.verification.jailed.verifier import jailed_verifier, require_possible
from rlvr.verification.pool import VerifierPool
from rlvr.verification.pools import Pools, SandboxHolder
from rlvr.verification.shared import Places
from rlvr.verification.wire import label_of

_MAX_OPEN = 1024  # concurrent items of an ASYNC verifier that sets no limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A verifier, built once for each (plugin, settings, execution); a `JailedVerifier` represents a jailed one."""

    source: PluginSource
    verifier: Verifier
    execution: Execution
    label: str
    pool: VerifierPool
    pool_key: str
    places: Places


def build_entry(
    check: Check, source: PluginSource, *, pools: Pools, sandbox: SandboxHolder, deadline_s: float
) -> Entry:
    """The entry of a check's verifier. Builds it here; waits for a worker instead if it is jailed.

    Raises: PluginError, SandboxError.
    """
    execution = execution_of(check, source)
    if execution is Execution.JAILED:
        return _jailed_entry(check, source, pools)
    context = VerifierContext(
        deadline_s=deadline_s, sandbox=sandbox.for_programs() if execution is Execution.SANDBOXED else None
    )
    try:
        verifier = build_verifier(source, check.settings, context)
    except PluginError:
        raise
    except PLUGIN_FAULTS as error:
        raise PluginError(f"verifier {source.name!r} failed to build: {type(error).__name__}: {error}") from error
    require_possible(source.name, Execution(verifier.execution), execution)
    most_open = verifier.max_open if isinstance(verifier, SupportsMaxOpen) else _MAX_OPEN
    if most_open < 1:
        raise PluginError(f"verifier {source.name!r}: max_open={most_open} must be at least 1")
    pool = pools.pool(None)
    return Entry(
        source=source,
        verifier=verifier,
        execution=execution,
        label=label_of(verifier),
        pool=pool,
        pool_key=pool.register(source, check.settings),
        places=Places(most_open),
    )


def _jailed_entry(check: Check, source: PluginSource, pools: Pools) -> Entry:
    pool = pools.pool(spec_of(check, source))
    pool_key = pool.register(source, check.settings)
    built = pool.build(pool_key).result()
    if not built.passed:
        raise PluginError(f"verifier {source.name!r}: {built.reason}")
    verifier = cast(Verifier, jailed_verifier(source.name, built.verifier, built.details))  # names of its own
    return Entry(
        source=source,
        verifier=verifier,
        execution=Execution.JAILED,
        label=built.verifier,
        pool=pool,
        pool_key=pool_key,
        places=Places(_MAX_OPEN),
    )
