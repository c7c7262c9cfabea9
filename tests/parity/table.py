"""The table of `make parity`: every comparison, computed now."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.table import Table
from rich.text import Text

from tests.parity.case import Case, Claim, Difference
from tests.parity.cases import ALL_CASES

TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityRow:
    """One comparison with its result.

    value, gradient: the largest absolute difference; gradient is None where there is none (advantages, rewards).
    verdict: `equal`, `same gradient` or `differs on purpose`; reason: why, empty where equal.
    holds: the measurement confirms the claim: equal within TOLERANCE of the largest number compared (and of 1), or
        farther apart than that for a claimed difference.
    """

    peer: str
    algorithm: str
    settings: str
    value: float
    gradient: float | None
    verdict: str
    reason: str
    holds: bool

    def as_json(self) -> dict[str, str | float | bool | None]:
        """The fields; null for a difference that is not finite, which JSON cannot hold."""
        finite = {
            key: value if value is not None and math.isfinite(value) else None
            for key, value in (("value", self.value), ("gradient", self.gradient))
        }
        return asdict(self) | finite


def parity_rows(cases: Sequence[Case] | None = None) -> list[ParityRow]:
    """Runs the comparisons, all of them by default; seeded, so that the same build gives the same numbers.

    >>> rows = parity_rows()
    >>> all(row.holds for row in rows)
    True
    """
    rows: list[ParityRow] = []
    for case in ALL_CASES if cases is None else cases:
        measured = case.measure()
        rows.append(
            ParityRow(
                peer=case.peer,
                algorithm=case.algorithm,
                settings=case.settings,
                value=measured.value,
                gradient=measured.gradient,
                verdict=case.claim.value,
                reason=case.reason,
                holds=_holds(case.claim, measured),
            )
        )
    return rows


def _holds(claim: Claim, measured: Difference) -> bool:
    same_value = measured.value <= TOLERANCE * min(1.0, measured.value_scale)
    gradient = 0.0 if measured.gradient is None else measured.gradient
    same_gradient = gradient <= TOLERANCE * min(1.0, measured.gradient_scale)
    by_claim = {
        Claim.EQUAL: same_value and same_gradient,
        Claim.SAME_GRADIENT: same_gradient and not same_value,
        Claim.DIFFERS: not (same_value and same_gradient),
    }
    return by_claim[claim]


def parity_table(rows: Sequence[ParityRow]) -> Table:
    """The rows, for a terminal of 100 columns; a reason is printed under its settings."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("peer", style="cyan", no_wrap=True)
    table.add_column("what", no_wrap=True)
    table.add_column("settings", width=42)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("gradient", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    previous = ""
    for row in rows:
        settings = Text(row.settings)
        if row.reason:
            settings.append(f"\n{row.reason}", style="dim")
        table.add_row(
            row.peer if row.peer != previous else "",
            row.algorithm,
            settings,
            _number(row.value),
            "" if row.gradient is None else _number(row.gradient),
            row.verdict if row.holds else f"NOT {row.verdict}",
            style="" if row.holds else "bold red",
        )
        previous = row.peer
    return table


def summary(rows: Sequence[ParityRow]) -> str:
    """One sentence.

    >>> row = ParityRow(peer="TRL", algorithm="DAPO", settings="", value=0.0, gradient=0.0, verdict="equal", reason="",
    ...                 holds=True)
    >>> summary([row])
    '1 comparison with 1 peer: 1 equal, 0 same gradient, 0 differs on purpose; 0 fail'
    """
    counts = ", ".join(
        f"{sum(row.verdict == claim.value and row.holds for row in rows)} {claim.value}" for claim in Claim
    )
    peers = len({row.peer for row in rows})
    failed = sum(not row.holds for row in rows)
    return f"{_counted(len(rows), 'comparison')} with {_counted(peers, 'peer')}: {counts}; {failed} fail"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _number(value: float) -> str:
    return "0" if value == 0.0 else f"{value:.0e}"
