"""Checks references with their verifiers, in the pool, so that a hostile one cannot hang the run's process."""

import json
from collections.abc import Sequence

from rlvr.errors import PLUGIN_FAULTS
from rlvr.protocols import SupportsParseReference, Verifier
from rlvr.records import Json, Status, Verdict
from rlvr.verification.pool import VerifierPool

_BATCH = 64


def problems_in_pool(pool: VerifierPool, key: str, references: Sequence[str], *, batch: int = _BATCH) -> dict[str, str]:
    """Why a verifier of the pool cannot use each reference; waits for the workers.

    Args:
        references: distinct, each as JSON.
        batch: number of references that share one deadline; a lost batch is parsed one by one.
    """
    batches = [references[i : i + batch] for i in range(0, len(references), batch)]
    answers = [pool.parse(key, [json.loads(item) for item in part]) for part in batches]
    problems: dict[str, str] = {}
    for part, answer in zip(batches, answers, strict=True):
        verdict = answer.result()
        if verdict.passed:
            continue
        if "problems" in verdict.details:
            problems |= {part[int(i)]: why for i, why in verdict.details["problems"].items()}
        elif len(part) > 1 and verdict.status is Status.FAIL:
            problems |= problems_in_pool(pool, key, part, batch=1)
        else:
            problems |= dict.fromkeys(part, _lost(verdict, pool.deadline_s))
    return problems


def problem_here(verifier: Verifier, reference: Json) -> str:
    """Why a verifier in this process cannot use a reference; "" if it can, or has no `parse_reference`."""
    if not isinstance(verifier, SupportsParseReference):
        return ""
    try:
        verifier.parse_reference(reference)
    except ValueError as error:
        return str(error)
    except PLUGIN_FAULTS as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _lost(verdict: Verdict, deadline_s: float) -> str:
    cause = verdict.details.get("cause")
    if cause == "timeout":
        return f"parsing it takes longer than {deadline_s:g} s"
    if cause == "crash":
        return f"parsing it ended its worker ({verdict.details['ending']})"
    return verdict.reason
