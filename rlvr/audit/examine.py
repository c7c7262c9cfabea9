"""Audits one verifier on rows of data.

gold answers -> attacks, canaries, format changes, the author's cases -> long texts -> repeats -> findings
"""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlvr.audit.answers import accepted_texts, gold_texts, is_same
from rlvr.audit.attacks import Attack, Target, attacks_on, wrong_answers
from rlvr.audit.canary import Canary, payloads, payloads_in
from rlvr.audit.findings import Evidence, findings_of, outcomes_of
from rlvr.audit.forms import BARE, BOX, FORMS, TAG, format_changes
from rlvr.audit.gold import Gold, find_golds
from rlvr.audit.records import AuditReport, Outcome
from rlvr.audit.rows import Case, Row
from rlvr.audit.session import Asked, Session, evenly
from rlvr.audit.workers import Answers, AuditWorkers, Item, Service, WarmWorker
from rlvr.errors import DataError
from rlvr.protocols import Execution
from rlvr.records import Check
from rlvr.registry import VERIFIERS, find
from rlvr.verification.jailed.jail import execution_of
from rlvr.verification.trial import load_tried

MOST_GOLD_ROWS = 500
_ASSERTED = re.compile(r"assert\s+(?:not\s+)?(\w+)\(")
_NO_GOLD = (
    "note: no right answer is known for {} rows, because their references are objects and no usual form passes; "
    "give a completion in each row"
)
_FEW_ROWS = 8  # with fewer, distinct references give nothing to chance
_NUM_FORMAT_ROWS = 8
_SHORT_ROWS = 2  # for each attack of a short audit
_NUM_CANARY_ROWS = 2
_MAX_GOLDS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRequest:
    """What to audit.

    check: the verifier and its settings; references are those of `rows`.
    num_rows: rows that are attacked, evenly spaced.
    partial_credit: the score that a wrong answer may earn by design; None: what the verifier declares, or 0.
    time_limit_s: after which no further completion is tried, except the attacks on the first row.
    sandbox: for verifiers that run programs.
    is_short: no second worker, no repeats, no long texts; for `rlvr check`.
    """

    check: Check
    rows: Sequence[Row]
    cases: Sequence[Case] = ()
    num_rows: int = 24
    partial_credit: float | None = None
    deadline_s: float = 5.0
    time_limit_s: float = 60.0
    sandbox: tuple[str, Mapping[str, Any]] = ("auto", {})
    is_short: bool = False
    tell: Callable[[str], None] = field(default=lambda _: None)


def audit(request: AuditRequest, *, workers: AuditWorkers | None = None) -> AuditReport:
    """Attacks a verifier, and returns what was found.

    Args: workers: shared by several audits; they keep the deadline with which they were made.

    Raises: PluginError when the verifier cannot be built; DataError when it refuses a reference; SandboxError when its
    sandbox does not start.
    """
    start = time.perf_counter()
    source = find(VERIFIERS, request.check.verifier)
    execution = execution_of(request.check, source)
    own = workers or AuditWorkers(deadline_s=request.deadline_s, sandbox=request.sandbox)
    service: Service | None = None
    try:
        first: Answers
        second: Answers | None = None
        if execution.is_pooled:
            seeds = (0,) if request.is_short else (0, 1)
            is_jailed = execution is Execution.JAILED
            opened = [own.worker(source, request.check, hash_seed=seed, is_jailed=is_jailed) for seed in seeds]
            cold_start_s = max(worker.wait() for worker in opened)
            first, second = opened[0], opened[1] if len(opened) > 1 else None
            declared, is_graded = opened[0].partial_credit, opened[0].is_graded
        else:
            loaded = load_tried(source)
            declared = float(getattr(loaded, "partial_credit", 0.0))
            is_graded = bool(getattr(loaded, "is_graded", False))
            first = service = Service(request.check, deadline_s=request.deadline_s, sandbox=request.sandbox)
            cold_start_s = service.start_s
        partial_credit = declared if request.partial_credit is None else request.partial_credit
        _require_references(first, request.rows)
        session = Session(first=first, second=second, time_limit_s=request.time_limit_s, tell=request.tell)
        evidence = _attack(request, session, own.canary)
        if not request.is_short:
            request.tell("the same pairs again")
            evidence.differing, evidence.num_repeated = session.repeat()
        evidence.executed = {t: how for t, how in own.canary.executed().items() if t in evidence.payloads}
    finally:
        if service is not None:
            service.close()
        if workers is None:
            own.close()
    outcomes = outcomes_of(evidence, partial_credit, is_graded=is_graded)
    return _report(request, session, evidence, outcomes, partial_credit, cold_start_s, time.perf_counter() - start)


def _require_references(answers: Answers, rows: Sequence[Row]) -> None:
    """Raises DataError when the verifier refuses a reference."""
    by_text = {json.dumps(row.prompt.reference): row for row in rows}
    problems = answers.reference_problems({text: row.prompt.reference for text, row in by_text.items()})
    for text, why in problems.items():
        raise DataError(
            f"{by_text[text].place}: the verifier cannot use the reference {text:.200}: {why}; correct or remove "
            f"the row{f' ({len(problems)} rows are affected)' if len(problems) > 1 else ''}"
        )


def _attack(request: AuditRequest, session: Session, canary: Canary) -> Evidence:
    rows = request.rows
    kept = (
        rows
        if len(rows) <= MOST_GOLD_ROWS and not request.is_short
        else [rows[i] for i in evenly(len(rows), MOST_GOLD_ROWS)]
    )
    attacked = [rows[i] for i in evenly(len(rows), request.num_rows)]
    tried = attacked if request.is_short or not isinstance(session.first, WarmWorker) else _with(kept, attacked)
    request.tell("gold answers")
    golds = find_golds(tried, session.verify)
    by_row = {id(gold.row): gold for gold in golds}
    chosen = [by_row[id(row)] for row in attacked]
    form = _usual_form(golds)
    evidence = Evidence(golds=golds, chance=_chance(rows), num_attacked=len(attacked), form=form)
    if session.num_hangs:
        return evidence  # every further answer would hang as well
    planned = list(_planned(chosen, golds, short=request.is_short))
    first = [(gold, attack) for gold, attack in planned if not attack.may_hang]
    alone = [(gold, attack) for gold, attack in planned if attack.may_hang]
    for plan, what in ((first, "attacks"), (alone, "long texts")):
        if what == "long texts" and session.num_hangs:
            session.num_skipped += len(plan)
            break
        if what == "attacks":
            _cases(request.cases, session, evidence)
            _canaries(chosen, session, canary, evidence)
        else:
            _formats(chosen, session, evidence)
        items = [Item(prompt=g.row.prompt, text=a.text, is_alone=a.may_hang) for g, a in plan]
        of_first_row = sum(gold is chosen[0] for gold, _ in plan) if what == "attacks" else 0
        answers = session.verify(items, what=what, share=0.6, at_least=of_first_row)
        for (_, attack), item, verdict in zip(plan, items, answers, strict=True):
            if verdict is not None:
                evidence.attacked.append((attack, Asked(item=item, verdict=verdict)))
    return evidence


def _with(rows: Sequence[Row], further: Sequence[Row]) -> list[Row]:
    known = {id(row) for row in rows}
    return [*rows, *(row for row in further if id(row) not in known)]


def _planned(chosen: Sequence[Gold], golds: Sequence[Gold], *, short: bool) -> Iterator[tuple[Gold, Attack]]:
    """The attacks on each row, row by row, so that a time limit leaves out rows and not kinds of attacks."""
    texts = list(dict.fromkeys(gold.gold for gold in golds[:_MAX_GOLDS] if gold.gold))
    counts: Counter[tuple[str, str]] = Counter()

    def is_wanted(attack: Attack) -> bool:
        if short and attack.may_hang:
            return False
        return counts[attack.kind, attack.name] < (min(attack.max_rows, _SHORT_ROWS) if short else attack.max_rows)

    fallback = next((gold.form for gold in golds if gold.form is not None and gold.passed), None)
    for number, gold in enumerate(chosen):
        reference = gold.row.prompt.reference
        accepted = accepted_texts(reference)
        others = texts[number + 1 :] + texts[: number + 1]
        target = Target(
            row=gold.row,
            gold=gold.gold or next(iter(gold_texts(reference)), "") if not isinstance(reference, dict) else gold.gold,
            form=gold.form or fallback,
            wrongs=wrong_answers(gold.gold, accepted, others),
            golds=texts,
            other_completions=_other_completions(gold, [*chosen[number + 1 :], *chosen[:number]]),
        )
        for attack in attacks_on(target, is_wanted=is_wanted):
            counts[attack.kind, attack.name] += 1
            yield gold, attack


def _other_completions(gold: Gold, others: Sequence[Gold]) -> list[str]:
    """A right completion of another row with another reference, if the rows have completions."""
    if gold.row.completion is None:
        return []
    reference = gold.row.prompt.reference
    for other in others:
        is_other = other.row.prompt.reference != reference and other.row.completion is not None
        if is_other and other.completion != gold.completion and not (gold.gold and is_same(gold.gold, [other.gold])):
            return [other.completion]
    return []


def _chance(rows: Sequence[Row]) -> float:
    """The share of the commonest reference."""
    counts = Counter(json.dumps(row.prompt.reference, sort_keys=True).strip().casefold() for row in rows)
    most = counts.most_common(1)[0][1]
    return most / len(rows) if most > 1 or len(rows) >= _FEW_ROWS else 0.0


def _usual_form(golds: Sequence[Gold]) -> str:
    given = sum(gold.row.completion is not None for gold in golds)
    names = Counter(gold.form.name for gold in golds if gold.passed and gold.form is not None)
    if given == len(golds):
        return "the data's completions"
    return names.most_common(1)[0][0] if names else "no usual form"


def _canaries(chosen: Sequence[Gold], session: Session, canary: Canary, evidence: Evidence) -> None:
    """Completions that leave a mark when they are executed."""
    for gold in chosen[:_NUM_CANARY_ROWS]:
        own = tuple(dict.fromkeys((gold.form or BARE, BARE, BOX, TAG)))
        for payload in (*payloads(_entry_point(gold)), *payloads_in(gold.gold)):
            is_everywhere = payload.is_python and gold is chosen[0]
            for form in dict.fromkeys((*own, *FORMS)) if is_everywhere else own:
                path = canary.new_path()
                item = Item(prompt=gold.row.prompt, text=form.fill(payload.write(path)))
                evidence.payloads[path.name] = (payload.name, form.name, item)
    session.verify([item for _, _, item in evidence.payloads.values()], what="code", share=0.3)


def _entry_point(gold: Gold) -> str:
    """The name of the function that the reference's tests call, as far as it can be seen."""
    reference = gold.row.prompt.reference
    if isinstance(reference, dict):
        for key in ("entry_point", "fn_name", "function", "name"):
            if isinstance(reference.get(key), str) and reference[key].isidentifier():
                return reference[key]
    found = _ASSERTED.search(str(reference))
    return found.group(1) if found else "solution"


def _formats(chosen: Sequence[Gold], session: Session, evidence: Evidence) -> None:
    """Right answers in a slightly changed format."""
    usable = [gold for gold in chosen if gold.passed and gold.form is not None and gold.gold][:_NUM_FORMAT_ROWS]
    planned: list[tuple[str, Item]] = []
    for gold in usable:
        assert gold.form is not None
        for name, text in format_changes(gold.gold, gold.form):
            planned.append((name, Item(prompt=gold.row.prompt, text=text)))
    for (name, _), verdict in zip(planned, session.verify([item for _, item in planned], share=0.2), strict=True):
        if verdict is not None:
            kept, tried = evidence.formats.get(name, (0, 0))
            evidence.formats[name] = (kept + verdict.passed, tried + 1)


def _cases(cases: Sequence[Case], session: Session, evidence: Evidence) -> None:
    items = [Item(prompt=case.row.prompt, text=case.text) for case in cases]
    for case, item, verdict in zip(cases, items, session.verify(items), strict=True):
        if verdict is not None:
            evidence.cases.append((case, Asked(item=item, verdict=verdict)))


def _report(
    request: AuditRequest,
    session: Session,
    evidence: Evidence,
    outcomes: Sequence[Outcome],
    partial_credit: float,
    cold_start_s: float,
    seconds: float,
) -> AuditReport:
    tried = evidence.known_golds
    num_unknown = sum(gold.verdict is not None for gold in evidence.golds) - len(tried)
    return AuditReport(
        verifier=request.check.verifier,
        label=next((asked.verdict.verifier for asked in session.asked), request.check.verifier),
        num_rows=evidence.num_attacked,
        num_rows_given=len(request.rows),
        num_gold=len(tried),
        num_gold_passed=sum(gold.passed for gold in tried),
        gold_form=evidence.form,
        chance=evidence.chance,
        partial_credit=partial_credit,
        outcomes=tuple(outcomes),
        fragility=evidence.formats,
        findings=tuple(findings_of(evidence, session, outcomes)),
        num_pairs=len(session.asked),
        num_repeated=evidence.num_repeated,
        num_skipped=session.num_skipped,
        num_cases=len(evidence.cases),
        num_payloads=len(evidence.payloads),
        num_executed=len(evidence.executed),
        num_differing=len(evidence.differing),
        num_crashes=len(session.errors()) + len(session.lost("crash")),
        num_hangs=len(session.lost("timeout")),
        num_raised=sum("raised" in asked.verdict.details for asked in session.asked),
        cold_start_s=cold_start_s,
        verdict_s=session.mean_s(),
        seconds=seconds,
        notes=(_NO_GOLD.format(num_unknown),) if num_unknown else (),
    )
