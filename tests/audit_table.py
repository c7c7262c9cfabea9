"""Prints the table of verifiers/README.md: the audit of every built-in verifier.

`llm_judge` asks a scripted judge that compares the last lines, and `reward_model` holds a model made by hand, so their
lines are about the verifiers and not about any model.

python -m tests.audit_table [NAME...]
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlvr.audit.attacks import Kind
from rlvr.audit.examine import AuditRequest, audit
from rlvr.audit.records import AuditReport
from rlvr.audit.report import finding_lines
from rlvr.audit.rows import CHECK, Row, read_rows
from rlvr.records import Check, Prompt
from tests.unit.rollout.loopback_server import loopback
from tests.unit.verifiers.judges import toy_reward_model
from tests.unit.verifiers.judges.scripted_judge import rule_judge
from tests.unit.verifiers.test_audit_data import DATA, SETTINGS
from tests.unit.verifiers.test_audit_data import NAMES as RECORDED

Given = tuple[str, Any, str | None]  # question, reference, completion

MATH = [
    "42", "-7", "1000000", r"\frac{1}{2}", r"\frac{22}{7}", "0.125", r"\sqrt{5}", r"3\sqrt{2}", r"\pi", r"2\pi",
    "x+3", "x^2+1", "2x-5", "(1,2)", "[0,5)", r"\{1,3\}", "12", "99", r"-\frac{3}{4}", "17", "e^2", r"\frac{x}{3}",
    "365", "5!",
]  # fmt: skip
CITIES = [
    "Paris", "New York City", "Oslo", "Buenos Aires", "Ouagadougou", "Rio de Janeiro", "Cairo", "Lima", "Quito",
    "Ulaanbaatar", "Addis Ababa", "Rome", "Vienna", "Prague", "Lisbon", "Athens", "Havana", "Nairobi", "Canberra",
    "Ottawa", "Dublin", "Madrid", "Warsaw", "Helsinki",
]  # fmt: skip
LETTERS = "ABCDDBACCABDABDCBCADDACB"


def countdown() -> Iterator[Given]:
    """Tasks with one of their solutions."""
    for n in range(24):
        a, b, c = 3 + n, 50 + 2 * n, 7 + n % 5
        yield (
            f"Make {a * c + b} from {a}, {b}, {c}.",
            {"numbers": [a, b, c], "target": a * c + b},
            f"I multiply first.\n<answer>{a} * {c} + {b}</answer>",
        )


def programs() -> Iterator[Given]:
    """Functions with two tests each, and a right program."""
    for n in range(24):
        tests = [f"assert shift(1) == {n + 3}", f"assert shift(-10) == {n - 8}"]
        reference = {"kind": "function", "entry_point": "shift", "asserts": tests}
        program = f"```python\ndef shift(x):\n    return x + {n + 2}\n```"
        yield f"Write a function shift(x) that returns x + {n + 2}.", reference, program


def plain(references: str | list[str], form: str = "") -> list[Given]:
    """Rows of text references; with a form also completions."""
    return [(f"Question {n}?", r, form.format(r) if form else None) for n, r in enumerate(references)]


AUDITED: dict[str, tuple[str, dict[str, Any], list[Given]]] = {
    "math": ("math", {}, plain(MATH)),
    "countdown": ("countdown", {}, list(countdown())),
    "text_match": ("text_match", {}, plain(CITIES)),
    "text_match, `mode: choice`": ("text_match", {"mode": "choice"}, plain(LETTERS)),
    "text_match, `mode: regex`": (
        "text_match",
        {"mode": "regex", "pattern": r"Answer: (.+)"},
        plain(CITIES, "So.\nAnswer: {}"),
    ),
    "code": ("code", {}, list(programs())),
    "llm_judge, a scripted judge": ("llm_judge", {}, plain(CITIES)),
    "reward_model, a model made by hand": (
        "reward_model",
        {"threads": 1},
        plain(CITIES, "First I look at the map, then I am sure, because it is near, so it is {}"),
    ),
}


def report_on(name: str, *, partial_credit: float | None = None) -> AuditReport:
    """The audit of one built-in verifier, on the rows of tests/golden/audit/ if there are some.

    Args: partial_credit: as in `AuditRequest`.
    """
    if name in RECORDED:
        check = Check(name=CHECK, verifier=name, settings=SETTINGS.get(name, {}))
        return audit(AuditRequest(check=check, rows=read_rows(DATA / f"{name}.jsonl", check)))
    verifier, settings, given = AUDITED[name]
    if verifier == "llm_judge":
        with loopback(answer_to=rule_judge) as server:
            return _report(verifier, {**settings, "url": server.url}, given, partial_credit)
    if verifier == "reward_model":
        with tempfile.TemporaryDirectory() as folder:
            toy_reward_model.save(Path(folder))
            return _report(verifier, {**settings, "path": folder}, given, partial_credit)
    return _report(verifier, settings, given, partial_credit)


def _report(verifier: str, settings: dict[str, Any], given: list[Given], partial_credit: float | None) -> AuditReport:
    check = Check(name=CHECK, verifier=verifier, settings=settings)
    rows = [
        Row(
            prompt=Prompt(
                prompt_id=f"row {number}",
                checks=(Check(name=CHECK, verifier=verifier, settings=settings, reference=reference),),
                source="audit",
                text=question,
            ),
            completion=completion,
            place=f"row {number}",
        )
        for number, (question, reference, completion) in enumerate(given, start=1)
    ]
    return audit(AuditRequest(check=check, rows=rows, partial_credit=partial_credit))


def line(name: str, report: AuditReport) -> str:
    """One line of the table."""
    exploits = [o for o in report.outcomes if o.is_counted and o.is_exploit]
    lookalikes = [o for o in report.outcomes if o.kind == Kind.LOOK_ALIKE and o.full_rate]
    return (
        f"| {name} | {report.num_gold_passed} of {report.num_gold} | {len(exploits)} of {len(report.outcomes)} | "
        f"{report.num_executed} of {report.num_payloads} | {report.num_differing} of {report.num_repeated:,} | "
        f"{report.num_crashes}, {report.num_hangs} | {', '.join(o.name for o in lookalikes) or 'none'} | "
        f"{report.num_pairs:,} in {report.seconds:.0f} s, {1000 * report.verdict_s:.2g} ms each |"
    )


def main() -> None:
    """Prints the table, and the findings below."""
    names = (*AUDITED, *RECORDED)
    reports = {name: report_on(name) for name in names if name in sys.argv[1:] or not sys.argv[1:]}
    lines = [
        "| verifier | gold accepted | exploits | text executed | verdicts differ | crashes, hangs "
        "| look-alikes that pass | completions, time |",
        "|---|---|---|---|---|---|---|---|",
        *(line(name, report) for name, report in reports.items()),
        *(text for report in reports.values() for text, _ in finding_lines(report)),
    ]
    sys.stdout.write("".join(f"{text}\n" for text in lines))


if __name__ == "__main__":
    main()
