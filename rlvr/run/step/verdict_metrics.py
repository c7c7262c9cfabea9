"""Metrics of verifiers from their verdicts: how they were decided, how long it took, and what is suspicious.

A verifier contributes through `details`: `method` (how it decided), `problem` (why an answer could not be compared, or
not in the requested form) and `cross_check` ("agrees" or "disagrees": a second checker's result on some verdicts).
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence

from rlvr.records import Group, Status, Verdict

NUMERIC = "numeric"
AMBIGUOUS = "ambiguous"
UNREADABLE = "unreadable"


def verdict_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """`verifier/*` metrics over every verdict of the step, shadow checks included; {} without a verdict."""
    verdicts = [v for group in groups for r in group.rollouts for v in r.verdicts.values()]
    if not verdicts:
        return {}
    seconds = sorted(verdict.seconds for verdict in verdicts)
    metrics = {
        "verifier/pass_rate": _share(verdicts, Status.PASS),
        "verifier/fail_rate": _share(verdicts, Status.FAIL),
        "time/verify_p50_s": seconds[(len(seconds) - 1) // 2],
        "time/verify_p99_s": seconds[-(-99 * len(seconds) // 100) - 1],
    }
    methods = Counter(str(v.details["method"]) for v in verdicts if "method" in v.details)
    for method, count in sorted(methods.items()):
        metrics[f"verifier/method_{method}_rate"] = count / len(verdicts)
    passed = [v.details.get("method") for v in verdicts if v.passed and "method" in v.details]
    if passed:
        metrics["verifier/numeric_only_rate"] = passed.count(NUMERIC) / len(passed)
    checked = [v.details.get("cross_check") for v in verdicts]
    num_checked = checked.count("agrees") + checked.count("disagrees")
    if num_checked:
        metrics["verifier/cross_checked"] = float(num_checked)
        metrics["verifier/disagreement_rate"] = checked.count("disagrees") / num_checked
    by_check = [found for group in groups for found in _by_check(group)]
    if methods:
        suspected = sum(map(_is_suspected, by_check))
        metrics["verifier/suspected_false_negative_rate"] = suspected / len(by_check)
    return metrics


def check_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """`check/NAME/*` of each check, shadows and gates included; sources that share a check name are pooled.

    pass_rate, error_rate and unparsed_rate are shares of its verdicts; mean_score is over those with a score, nan if
    there is none.
    """
    by_name: dict[str, list[Verdict]] = {}
    for group in groups:
        for rollout in group.rollouts:
            for name, verdict in rollout.verdicts.items():
                by_name.setdefault(name, []).append(verdict)
    metrics: dict[str, float] = {}
    for name, verdicts in sorted(by_name.items()):
        scores = [verdict.score for verdict in verdicts if verdict.score is not None]
        metrics |= {
            f"check/{name}/pass_rate": _share(verdicts, Status.PASS),
            f"check/{name}/mean_score": statistics.fmean(scores) if scores else math.nan,
            f"check/{name}/error_rate": _share(verdicts, Status.ERROR),
            f"check/{name}/unparsed_rate": _share(verdicts, Status.UNPARSED),
        }
    return metrics


def has_no_readable_answer(verdict: Verdict) -> bool:
    """Whether no answer was found, or the marked answer cannot be read, as in `\\boxed{+++}`."""
    return verdict.status is Status.UNPARSED or (
        verdict.status is Status.FAIL and verdict.details.get("problem") == UNREADABLE
    )


def _share(verdicts: Sequence[Verdict], status: Status) -> float:
    return sum(verdict.status is status for verdict in verdicts) / len(verdicts)


def _by_check(group: Group) -> Iterator[list[Verdict]]:
    """The verdicts of each check of a group."""
    for check in group.prompt.checks:
        found = [r.verdicts[check.name] for r in group.rollouts if check.name in r.verdicts]
        if found:
            yield found


def _is_suspected(verdicts: Sequence[Verdict]) -> bool:
    """Whether none passed, and two completions agree on an answer that could not be compared in the requested form."""
    if any(verdict.passed for verdict in verdicts):
        return False
    answers = Counter(
        verdict.extracted.strip()
        for verdict in verdicts
        if verdict.extracted and verdict.details.get("problem", AMBIGUOUS) != AMBIGUOUS
    )
    return max(answers.values(), default=0) >= 2
