"""An audit's report as rows of a table and as JSON."""

from collections.abc import Iterator, Sequence

from rlvr.audit.attacks import Kind
from rlvr.audit.records import AuditReport, Outcome
from rlvr.records import Json

JSON_FORMAT = 1
_MAX_LISTED = 5
Row = tuple[str, str, str]


def table_rows(report: AuditReport) -> list[Row]:
    """(quantity, value, remark) of the table."""
    sampled = "" if report.num_rows == report.num_rows_given else f"of {report.num_rows_given:,} in the data"
    rows: list[Row] = [
        ("rows", f"{report.num_rows:,}", sampled),
        ("gold accepted", f"{report.num_gold_passed} of {report.num_gold}", f"as {report.gold_form}"),
    ]
    for kind in Kind:
        found = [outcome for outcome in report.outcomes if outcome.kind == kind]
        if found:
            rows.append((f"  {kind}", *_worst(found)))
    rows += [
        ("policy text executed", f"{report.num_executed} of {report.num_payloads} payloads", ""),
        ("repeated verdicts differ", f"{report.num_differing} of {report.num_repeated}", "other order and hash seed"),
        ("crashes, hangs", f"{report.num_crashes}, {report.num_hangs}", f"of {report.num_pairs:,} completions"),
    ]  # fmt: skip
    if report.num_raised:
        rows.append(("adapted scorer raised", f"{report.num_raised:,}", "counted as unreadable answers"))
    if report.num_cases:
        rows.append(("author's cases", str(report.num_cases), ""))
    fragile = [f"{name} {kept}/{tried}" for name, (kept, tried) in report.fragility.items() if kept < tried]
    rows.append(("format changes kept", _kept(report), "lost with: " + ", ".join(fragile) if fragile else ""))
    rows += [
        ("cold start", f"{report.cold_start_s:.2f} s", "a new worker until the verifier is built"),
        ("one verdict", f"{1000 * report.verdict_s:.2f} ms", "mean, without long texts"),
        ("audited in", f"{report.seconds:.1f} s", _skipped(report)),
    ]  # fmt: skip
    return rows


def finding_lines(report: AuditReport) -> Iterator[tuple[str, bool]]:
    """(line, whether it is a finding's heading) for people: each finding with its examples."""
    for finding in report.findings:
        yield f"FOUND {finding.problem}: {finding.what}", True
        for example in finding.examples:
            yield f"  {example.place}  reference {example.reference!r}", False
            yield f"    completion {example.completion!r}", False
            score = "no score" if example.score is None else f"score {example.score:g}"
            yield f"    {example.status}, {score}: {example.reason}", False


def verdict_line(report: AuditReport) -> str:
    """The last line: sound or not."""
    if report.is_sound:
        return f"{report.label}: nothing found"
    return f"{report.label}: {len(report.findings)} finding{'s' if len(report.findings) > 1 else ''}"


def as_json(report: AuditReport) -> dict[str, Json]:
    """The report as one JSON object; `format` changes when a field changes its meaning."""
    return {
        "format": JSON_FORMAT,
        "verifier": report.verifier,
        "label": report.label,
        "is_sound": report.is_sound,
        "findings": [
            {"problem": f.problem.name.lower(), "what": f.what, "examples": [e.as_json() for e in f.examples]}
            for f in report.findings
        ],
        "rows": {"attacked": report.num_rows, "given": report.num_rows_given, "chance": report.chance},
        "gold": {"accepted": report.num_gold_passed, "tried": report.num_gold, "form": report.gold_form},
        "partial_credit": report.partial_credit,
        "attacks": [
            {
                "kind": o.kind,
                "name": o.name,
                "rows": o.num_rows,
                "mean": round(o.mean, 4),
                "full_rate": round(o.full_rate, 4),
                "chance": round(o.chance, 4),
                "is_counted": o.is_counted,
                "is_exploit": o.is_counted and o.is_exploit,
                "examples": [e.as_json() for e in o.examples],
            }
            for o in report.outcomes
        ],
        "formats": {name: {"kept": kept, "tried": tried} for name, (kept, tried) in report.fragility.items()},
        "execution": {"payloads": report.num_payloads, "executed": report.num_executed},
        "determinism": {"repeated": report.num_repeated, "differing": report.num_differing},
        "cases": report.num_cases,
        "pairs": {"verified": report.num_pairs, "skipped": report.num_skipped},
        "crashes": report.num_crashes,
        "hangs": report.num_hangs,
        "raised": report.num_raised,
        "cold_start_s": round(report.cold_start_s, 3),
        "verdict_s": round(report.verdict_s, 6),
        "seconds": round(report.seconds, 2),
        "notes": list(report.notes),
    }


def _worst(found: Sequence[Outcome]) -> tuple[str, str]:
    """The kind's share of rows that passed and mean score, of its worst attack, and which that is."""
    worst = max(found, key=lambda o: (o.full_rate - o.chance, o.mean - o.chance))
    exploits = [o for o in found if o.is_counted and o.is_exploit]
    value = f"{100 * worst.full_rate:.0f} % pass, mean {worst.mean:.2f}"
    if exploits:
        more = f", and {len(exploits) - 1} more" if len(exploits) > 1 else ""
        return value, f"EXPLOIT: {worst.name}{more}"
    if worst.full_rate or worst.mean:
        return value, f"{'' if worst.is_counted else 'reported, not counted: '}{worst.name}"
    return value, f"{len(found)} attacks"


def _kept(report: AuditReport) -> str:
    kept = sum(kept for kept, _ in report.fragility.values())
    tried = sum(tried for _, tried in report.fragility.values())
    return f"{kept} of {tried}" if tried else "none tried"


def _skipped(report: AuditReport) -> str:
    return f"{report.num_skipped:,} completions were left out; raise --time-limit-s" if report.num_skipped else ""
