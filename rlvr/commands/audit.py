"""`rlvr audit`: attacks a verifier on rows of a file or on a recipe's own data; and the short form in `rlvr check`."""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.audit.examine import AuditRequest, audit
from rlvr.audit.records import AuditReport
from rlvr.audit.report import finding_lines, table_rows, verdict_line
from rlvr.audit.rows import CHECK, Row, cases_beside, read_cases, read_rows
from rlvr.audit.workers import AuditWorkers
from rlvr.config.recipe import Recipe
from rlvr.data.load import SourceOpener, open_train
from rlvr.data.order import PromptSource
from rlvr.errors import ConfigError
from rlvr.records import Check, Role
from rlvr.registry import VERIFIERS, find, short_name
from rlvr.run.launch.preflight import OpenedData
from rlvr.run.record.console import Console
from rlvr.verification.jailed.jail import execution_of, jailed_check
from rlvr.verification.trial import load_tried

_MAX_ROWS = 500  # of each source of a recipe
_SHORT_ROWS = 4
_SHORT_S = 1.0  # for the attacks of all verifiers of a recipe in `rlvr check`
_SHORT_DEADLINE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditChoice:
    """What the command line asks for.

    verifier: "" with a recipe means all of its verifiers. partial_credit: None if not given.
    is_jailed, python: as in `jailed_check`; with a recipe only to have all of its verifiers jailed.
    """

    verifier: str
    settings: Mapping[str, Any]
    data: Path | None
    recipe: Recipe | None
    cases: Path | None
    num_rows: int
    partial_credit: float | None
    deadline_s: float
    time_limit_s: float
    sandbox: tuple[str, Mapping[str, Any]]
    is_jailed: bool = False
    python: str = ""


def audit_choice(choice: AuditChoice, *, tell: Callable[[str], None] = lambda _: None) -> Iterator[AuditReport]:
    """The report of each verifier that the call names.

    Raises: ConfigError for a wrong call; DataError for rows and cases; PluginError; SandboxError.
    """
    for check, rows in _audited(choice):
        if not check.is_jailed:
            load_tried(find(VERIFIERS, check.verifier))
        cases_file = choice.cases or cases_beside(_file_of(check))
        cases = read_cases(cases_file, check, short_name(check.verifier)) if cases_file is not None else []
        if not rows:
            rows = [case.row for case in cases if case.must_pass]
        if not rows:
            raise ConfigError(
                f"rlvr audit {check.verifier} needs rows: --data FILE (JSON Lines with prompt, reference and, if "
                "known, completion) or --recipe RECIPE"
            )
        yield audit(
            AuditRequest(
                check=check,
                rows=rows,
                cases=cases,
                num_rows=choice.num_rows,
                partial_credit=choice.partial_credit,
                deadline_s=choice.deadline_s,
                time_limit_s=choice.time_limit_s,
                sandbox=choice.sandbox,
                tell=tell,
            )
        )


def show(report: AuditReport, console: Console) -> None:
    """Prints a report for people: a table, the findings with examples, and a last line."""
    console.table(f"audit of {report.label}", table_rows(report))
    for line, is_heading in finding_lines(report):
        (console.warning if is_heading else console.note)(line)
    for text in report.notes:
        console.note(text)
    (console.note if report.is_sound else console.warning)(verdict_line(report))


def short_audits(recipe: Recipe, data: OpenedData) -> tuple[list[tuple[str, str, str]], list[str]]:
    """(rows of a table, warnings) of a short audit of each verifier of a recipe on its own data.

    Verifiers that need a service or a sandbox are left out, and so is the check for two verdicts on one pair.
    """
    audited = [
        (check, rows)
        for check, rows in _of_sources(data.stream.sources, most_rows=_SHORT_ROWS)
        if execution_of(check).is_pooled
    ]
    rows_shown: list[tuple[str, str, str]] = []
    warnings: list[str] = []
    workers = AuditWorkers(
        deadline_s=min(_SHORT_DEADLINE_S, recipe.reward.verifier_deadline_s),
        sandbox=(recipe.sandbox.backend, recipe.sandbox.settings),
    )
    try:
        for check, rows in audited:
            limit_s = _SHORT_S / len(audited)
            request = AuditRequest(check=check, rows=rows, num_rows=_SHORT_ROWS, time_limit_s=limit_s, is_short=True)
            report = audit(request, workers=workers)
            count = len(report.findings)
            found = f"{count} finding{'' if count == 1 else 's'}" if count else "nothing found"
            rows_shown.append(
                (f"audit {check.verifier}", found, f"{report.num_pairs:,} attacks on {report.num_rows} rows")
            )
            if report.findings:
                first = report.findings[0]
                warnings.append(
                    f"verifier {check.verifier}: {first.problem}: {first.what}; `rlvr audit {check.verifier} --recipe "
                    f"{recipe.name}` shows all"
                )
    finally:
        workers.close()
    return rows_shown, warnings


def _audited(choice: AuditChoice) -> Iterator[tuple[Check, list[Row]]]:
    """Each verifier with its settings, and its rows. Raises ConfigError, DataError."""
    if choice.recipe is None:
        if not choice.verifier:
            raise ConfigError("rlvr audit needs a verifier, or --recipe RECIPE for all verifiers of a recipe")
        check = Check(name=CHECK, verifier=choice.verifier, settings=dict(choice.settings))
        check = jailed_check(check, is_jailed=choice.is_jailed, python=choice.python)
        find(VERIFIERS, choice.verifier)
        yield check, read_rows(choice.data, check) if choice.data is not None else []
        return
    if choice.data is not None:
        raise ConfigError("rlvr audit takes its rows from --data FILE or from --recipe RECIPE, not from both")
    if choice.settings:
        raise ConfigError(
            f"with --recipe the settings are those of the recipe; {', '.join(choice.settings)} cannot be given as well"
        )
    opener = SourceOpener(choice.recipe.data, seed=choice.recipe.seed)
    sources = open_train(choice.recipe.data, seed=choice.recipe.seed, opener=opener).sources
    found = list(_of_sources(sources, most_rows=_MAX_ROWS))
    names = list(dict.fromkeys(check.verifier for check, _ in found))
    if choice.verifier and choice.verifier not in names:
        raise ConfigError(
            f"recipe {choice.recipe.name!r} does not use verifier {choice.verifier!r}; it uses {', '.join(names)}"
        )
    for check, rows in found:
        if choice.verifier in ("", check.verifier):
            yield jailed_check(check, is_jailed=choice.is_jailed, python=choice.python), rows


def _of_sources(sources: Sequence[PromptSource], *, most_rows: int) -> Iterator[tuple[Check, list[Row]]]:
    """Each distinct verifier with its settings, and the rows of the first source that uses it; shadows left out."""
    seen: set[tuple[str, str]] = set()
    for source in sources:
        count = most_rows if source.num_rows is None else min(most_rows, source.num_rows)
        prompts = [source.prompt(index) for index in range(count)]
        for check in {check.name: check for prompt in prompts for check in prompt.checks}.values():
            key = (check.verifier, repr((check.settings, check.execution, check.python, check.readable)))
            if check.role is Role.SHADOW or key in seen:
                continue
            seen.add(key)
            judged = [(i, p) for i, p in enumerate(prompts) if check.name in {c.name for c in p.checks}]
            rows = [Row(prompt=p.for_check(check.name), place=source.place(i)) for i, p in judged]
            yield check, rows


def _file_of(check: Check) -> str:
    """The path of the file that defines a verifier; "" if there is none, or if looking it up could import its code."""
    source = find(VERIFIERS, check.verifier)
    if source.source:
        return check.verifier.removeprefix(f"{source.scheme}:").rpartition(":")[0]
    if source.scheme or check.is_jailed:
        return ""
    spec = importlib.util.find_spec(source.target.rpartition(":")[0])
    return (spec.origin or "") if spec is not None else ""
