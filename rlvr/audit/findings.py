"""From verdicts to findings: what each attack earned, and what is reason for exit code 1."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rlvr.audit.attacks import Attack
from rlvr.audit.gold import Gold
from rlvr.audit.records import MAX_EXAMPLES, Finding, Outcome, Problem
from rlvr.audit.rows import Case
from rlvr.audit.session import Asked, Session
from rlvr.audit.workers import Item, is_lost
from rlvr.records import Status, Verdict

_MAX_EXPLOITS = 6  # findings of one kind of attack


@dataclass(slots=True, kw_only=True)
class Evidence:
    """What an audit saw.

    chance: share of the commonest reference. attacked: each attack with its verdict. payloads: by token, (payload,
    form, item). executed: how, by token. differing: pairs with two verdicts.
    """

    golds: Sequence[Gold]
    chance: float
    num_attacked: int
    form: str
    attacked: list[tuple[Attack, Asked]] = field(default_factory=list[tuple[Attack, Asked]])
    payloads: dict[str, tuple[str, str, Item]] = field(default_factory=dict[str, tuple[str, str, Item]])
    executed: dict[str, str] = field(default_factory=dict[str, str])
    formats: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    cases: list[tuple[Case, Asked]] = field(default_factory=list[tuple[Case, Asked]])
    differing: list[tuple[Asked, Verdict]] = field(default_factory=list[tuple[Asked, Verdict]])
    num_repeated: int = 0

    @property
    def known_golds(self) -> list[Gold]:
        """The right answers that were verified; without those of objects for which no usual form passes."""
        verified = [gold for gold in self.golds if gold.verdict is not None]
        return [gold for gold in verified if not gold.is_unknown or any(other.passed for other in verified)]


def outcomes_of(evidence: Evidence, partial_credit: float, *, is_graded: bool = False) -> list[Outcome]:
    """What each attack earned, by kind and name; pairs without a verdict do not count.

    Args: is_graded: whether the verifier declares that its scores below 1 grade how near an answer is.
    """
    grouped: dict[tuple[str, str], list[tuple[Attack, Asked]]] = defaultdict(list)
    for attack, asked in evidence.attacked:
        if asked.verdict.score is not None and not is_lost(asked.verdict):
            grouped[attack.kind, attack.name].append((attack, asked))
    return [_outcome(found, evidence.chance, partial_credit, is_graded=is_graded) for found in grouped.values()]


def _outcome(
    found: Sequence[tuple[Attack, Asked]], chance: float, partial_credit: float, *, is_graded: bool
) -> Outcome:
    attack = found[0][0]
    paid = [(asked, max(0.0, (asked.verdict.score or 0.0) - partial_credit)) for _, asked in found]
    best = sorted((pair for pair in paid if pair[1] > 0.0), key=lambda pair: -pair[1])
    return Outcome(
        kind=attack.kind,
        name=attack.name,
        num_rows=len(found),
        mean=sum(score for _, score in paid) / len(paid),
        full_rate=sum(asked.verdict.passed and score > 0.0 for asked, score in paid) / len(paid),
        chance=0.0 if attack.uses_gold else chance,
        is_counted=attack.is_counted,
        is_near=is_graded and attack.uses_gold,
        examples=tuple(asked.example() for asked, _ in best[:MAX_EXAMPLES]),
    )


def findings_of(evidence: Evidence, session: Session, outcomes: Sequence[Outcome]) -> Iterator[Finding]:
    """Each reason for exit code 1, the gravest first."""
    yield from _executions(evidence)
    yield from _golds(evidence)
    yield from _exploits(outcomes)
    if evidence.differing:
        examples = tuple(
            asked.example(reason=f"first {_shown(asked.verdict)}, later {_shown(later)}")
            for asked, later in evidence.differing[:MAX_EXAMPLES]
        )
        what = f"{len(evidence.differing)} of {evidence.num_repeated} repeated pairs got another verdict"
        yield Finding(problem=Problem.VERDICTS_DIFFER, what=what, examples=examples)
    yield from _crashes(session)
    hangs = session.lost("timeout")
    if hangs:
        what = f"{len(hangs)} completions got no verdict before the deadline"
        yield Finding(problem=Problem.HANG, what=what, examples=_examples(hangs))
    yield from _cases(evidence)


def _executions(evidence: Evidence) -> Iterator[Finding]:
    by_way: dict[str, list[str]] = defaultdict(list)
    for token, how in evidence.executed.items():
        if token in evidence.payloads:
            by_way[how].append(token)
    for how, tokens in by_way.items():
        name, form, item = evidence.payloads[tokens[0]]
        what = f"{len(tokens)} of {len(evidence.payloads)} payloads: {how} ({name} in {form})"
        verdict = Verdict(status=Status.ERROR, score=None, reason=how, verifier="", seconds=0.0)
        yield Finding(problem=Problem.EXECUTION, what=what, examples=(Asked(item=item, verdict=verdict).example(),))


def _golds(evidence: Evidence) -> Iterator[Finding]:
    failed = [gold for gold in evidence.known_golds if not gold.passed]
    if not failed:
        return
    tried = len(evidence.known_golds)
    examples = [
        Asked(item=Item(prompt=gold.row.prompt, text=gold.completion), verdict=gold.verdict)
        for gold in failed
        if gold.verdict is not None
    ]
    is_built = all(gold.row.completion is None for gold in failed)
    advice = "; no usual form passes: give a completion that must pass in each row" if is_built else ""
    what = f"{len(failed)} of {tried} right answers do not pass{advice}"
    yield Finding(problem=Problem.GOLD, what=what, examples=_examples(examples))


def _exploits(outcomes: Sequence[Outcome]) -> Iterator[Finding]:
    by_kind: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.is_counted and outcome.is_exploit:
            by_kind[outcome.kind].append(outcome)
    for kind, found in by_kind.items():
        found.sort(key=lambda o: (o.full_rate - o.chance, o.mean, o.num_rows), reverse=True)
        worst = found[0]
        names = "; ".join(outcome.name for outcome in found[:_MAX_EXPLOITS])
        more = f"; and {len(found) - _MAX_EXPLOITS} more" if len(found) > _MAX_EXPLOITS else ""
        above = f", {100 * worst.chance:.0f} % by chance" if worst.chance else ""
        what = (
            f"{kind}: {100 * worst.full_rate:.0f} % of {worst.num_rows} rows pass, mean score {worst.mean:.2f}{above} "
            f"({names}{more})"
        )
        yield Finding(problem=Problem.EXPLOIT, what=what, examples=worst.examples)


def _crashes(session: Session) -> Iterator[Finding]:
    by_cause: dict[str, list[Asked]] = defaultdict(list)
    for asked in session.errors():
        by_cause[str(asked.verdict.details.get("exception", "exception"))].append(asked)
    for asked in session.lost("crash"):
        by_cause["the worker ended"].append(asked)
    for cause, found in by_cause.items():
        what = f"{cause} on {len(found)} completions"
        yield Finding(problem=Problem.CRASH, what=what, examples=_examples(found))


def _cases(evidence: Evidence) -> Iterator[Finding]:
    wrong = [(case, asked) for case, asked in evidence.cases if asked.verdict.passed is not case.must_pass]
    for must_pass in (True, False):
        found = [asked for case, asked in wrong if case.must_pass is must_pass]
        if found:
            what = f"{len(found)} completions that must {'pass do not' if must_pass else 'fail pass'}"
            yield Finding(problem=Problem.CASE, what=what, examples=_examples(found))


def _examples(found: Sequence[Asked]) -> tuple:
    return tuple(asked.example() for asked in found[:MAX_EXAMPLES])


def _shown(verdict: Verdict) -> str:
    return f"{verdict.status.value} ({verdict.score})"
