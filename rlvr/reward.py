"""Turns verdicts into a reward. Pure: records and numbers in, a record out.

reward = sum over REWARD checks of weight * score        0 when a GATE check does not pass

A SKIPPED check counts neither way: a REWARD check adds nothing and takes nothing, a GATE does not veto.
"""

import math
from collections.abc import Mapping

from rlvr.config.recipe import Truncated
from rlvr.records import Completion, FinishReason, Role, Rollout, Status, Verdict


def score(
    verdicts: Mapping[str, Verdict],
    finish_reason: FinishReason,
    *,
    weights: Mapping[str, float],
    roles: Mapping[str, Role],
    unparsed_score: float,
    truncated: Truncated,
) -> tuple[float | None, dict[str, float]]:
    """The reward, and the part of each REWARD check; the parts sum to the reward.

    In this order: a REWARD or GATE check with ERROR leaves the completion unjudged (None, no parts), and so do REWARD
    checks that are all SKIPPED; a completion cut off (LENGTH or ABORT) earns 0 under `Truncated.ZERO` (under MASK it is
    judged like any other, see `leaves_loss`); a GATE that does not PASS makes it 0; SHADOW never counts.

    Args:
        verdicts: by check name; a verdict for every REWARD and GATE check of `roles`.
        weights: of each REWARD check.
        unparsed_score: in [0, 1]; what an UNPARSED verdict scores, before its weight.

    Raises: ValueError when a check has no role, no weight or no verdict.

    >>> good = Verdict(status=Status.PASS, score=1.0, reason="equal", verifier="m@1", seconds=0.0)
    >>> checks = {"weights": {"math": 0.5}, "roles": {"math": Role.REWARD}}
    >>> settings = {"unparsed_score": 0.0, "truncated": Truncated.ZERO}
    >>> score({"math": good}, FinishReason.STOP, **checks, **settings)
    (0.5, {'math': 0.5})
    """
    _check_names(verdicts, weights, roles)
    counted = [name for name, verdict in verdicts.items() if verdict.status is not Status.SKIPPED]
    paying = [name for name in counted if roles[name] is Role.REWARD]
    gates = [name for name in counted if roles[name] is Role.GATE]
    if any(verdicts[name].status is Status.ERROR for name in (*paying, *gates)):
        return None, {}
    if not paying and any(roles[name] is Role.REWARD for name in verdicts):
        return None, {}
    is_cut = finish_reason is not FinishReason.STOP and truncated is Truncated.ZERO
    if is_cut or not all(verdicts[name].passed for name in gates):
        return 0.0, dict.fromkeys(paying, 0.0)
    parts: dict[str, float] = {}
    for name in paying:
        verdict = verdicts[name]
        value = unparsed_score if verdict.status is Status.UNPARSED else verdict.score
        assert value is not None  # only ERROR and SKIPPED have no score
        parts[name] = weights[name] * value
    return math.fsum(parts.values()), parts


def make_rollout(
    completion: Completion,
    verdicts: Mapping[str, Verdict],
    *,
    weights: Mapping[str, float],
    roles: Mapping[str, Role],
    unparsed_score: float,
    truncated: Truncated,
) -> Rollout:
    """The completion with its verdicts and its reward; see `score`."""
    reward, parts = score(
        verdicts,
        completion.finish_reason,
        weights=weights,
        roles=roles,
        unparsed_score=unparsed_score,
        truncated=truncated,
    )
    return Rollout(completion=completion, verdicts=verdicts, reward=reward, reward_parts=parts)


def leaves_loss(completion: Completion, *, truncated: Truncated) -> bool:
    """Whether a judged completion counts only in the baseline: it was cut off under `Truncated.MASK`."""
    return truncated is Truncated.MASK and completion.finish_reason is not FinishReason.STOP


def _check_names(verdicts: Mapping[str, Verdict], weights: Mapping[str, float], roles: Mapping[str, Role]) -> None:
    problems = [f"verdict {name!r} has no role" for name in verdicts if name not in roles]
    for name, role in roles.items():
        if role is not Role.SHADOW and name not in verdicts:
            problems.append(f"check {name!r} ({role}) has no verdict")
        if role is Role.REWARD and name not in weights:
            problems.append(f"check {name!r} has no weight")
    if problems:
        raise ValueError("; ".join(problems))
