"""What `rlvr parity` claims, claim by claim, and the table that it prints."""

import io
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from rich.console import Console

from rlvr.config.sections.algorithm import AlgorithmConfig
from tests.parity.__main__ import main
from tests.parity.case import ADVANTAGE, SEED, AdvantageCase, Case, Claim, Difference, LossCase
from tests.parity.cases import ALL_CASES
from tests.parity.ours import our_advantages, our_loss
from tests.parity.rows import make_groups, make_rows
from tests.parity.table import ParityRow, parity_rows, parity_table, summary

WIDTH = 100
PEERS = {"TRL", "verl", "prime-rl", "SkyRL", "NeMo RL", "AReaL"}


def name_of(case: Case) -> str:
    return f"{case.peer} {case.algorithm} {case.settings}"


@pytest.mark.parametrize("case", ALL_CASES, ids=name_of)
def test_what_is_claimed_is_measured(case: Case) -> None:
    (row,) = parity_rows([case])
    assert row.holds, row
    assert (row.reason == "") == (case.claim is Claim.EQUAL)


def test_each_peer_is_compared_and_no_comparison_occurs_twice() -> None:
    assert {case.peer for case in ALL_CASES} == PEERS
    names = [name_of(case) for case in ALL_CASES]
    assert len(set(names)) == len(names)


LEAVES = [
    (case, path)
    for case in ALL_CASES
    if isinstance(case, LossCase)
    for path in (
        (key, leaf) if isinstance(value, Mapping) else (key,)
        for key, value in case.ours.items()
        for leaf in (value if isinstance(value, Mapping) else ("",))
    )
]


FAR = {"geometric_max": {"geometric_max": 1e9}, "clip_high": {"clip_high": 0.55}}


def without(settings: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The settings with one leaf at its default, or far away where the default would contradict the others."""
    if len(path) == 1:
        return {key: value for key, value in settings.items() if key != path[0]}
    inner = {key: value for key, value in settings[path[0]].items() if key != path[1]}
    return {**settings, path[0]: inner | FAR.get(path[1], {})}


@pytest.mark.parametrize(("case", "path"), LEAVES, ids=[f"{name_of(case)} {'.'.join(path)}" for case, path in LEAVES])
def test_each_setting_of_a_comparison_is_at_work_in_it(case: LossCase, path: tuple[str, ...]) -> None:
    rows = case.our_rows(case.rows(make_rows(SEED, case.spread)))
    if path[-1] == "kind":
        return  # without it the other leaves belong to another loss
    changed = AlgorithmConfig.model_validate(without(case.ours, path))
    if changed == case.config:
        return  # the comparison states a default
    one, other = our_loss(case.config, rows), our_loss(changed, rows)
    assert one.logprob_slopes_B_T != other.logprob_slopes_B_T or (one.entropy_slopes_B_T != other.entropy_slopes_B_T)


@pytest.mark.parametrize("case", [case for case in ALL_CASES if isinstance(case, AdvantageCase)], ids=name_of)
def test_each_comparison_of_advantages_has_signal_and_a_group_without(case: AdvantageCase) -> None:
    groups = make_groups(SEED, has_unjudged=case.has_unjudged)
    rows = our_advantages(ADVANTAGE.validate_python(case.ours), groups)
    values = [a for row in rows for a in row if a is not None]
    assert min(values) < -0.1 < 0.1 < max(values)
    assert any(a is None for row in rows for a in row) == case.has_unjudged


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed(Case):
    """A comparison with a known result."""

    difference: Difference

    def measure(self) -> Difference:
        return self.difference


def verdict(claim: Claim, *, value: float, gradient: float | None) -> ParityRow:
    measured = Difference(value=value, gradient=gradient, value_scale=1.0, gradient_scale=0.01)
    case = Fixed(peer="p", algorithm="a", settings="s", claim=claim, difference=measured)
    return parity_rows([case])[0]


@pytest.mark.parametrize(
    ("claim", "value", "gradient", "holds"),
    [
        (Claim.EQUAL, 9e-7, 9e-9, True),
        (Claim.EQUAL, 2e-6, 0.0, False),
        (Claim.EQUAL, 0.0, 2e-8, False),  # the largest slope is 0.01
        (Claim.EQUAL, 0.0, None, True),
        (Claim.SAME_GRADIENT, 0.5, 0.0, True),
        (Claim.SAME_GRADIENT, 0.5, 1e-3, False),
        (Claim.DIFFERS, 0.0, 1e-3, True),
        (Claim.DIFFERS, 0.0, 0.0, False),  # a difference that is gone must not stay in the table
        (Claim.EQUAL, float("inf"), 0.0, False),
    ],
)
def test_a_claim_fails_when_the_numbers_say_otherwise(
    claim: Claim, value: float, gradient: float | None, holds: bool
) -> None:
    assert verdict(claim, value=value, gradient=gradient).holds is holds


@pytest.fixture(scope="module")
def all_rows() -> list[ParityRow]:
    return parity_rows()


def test_the_table_is_readable_at_100_columns(all_rows: list[ParityRow]) -> None:
    out = io.StringIO()
    rows = [*all_rows, verdict(Claim.EQUAL, value=1.0, gradient=None)]
    Console(file=out, width=WIDTH, force_terminal=False).print(parity_table(rows))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert max(len(line) for line in lines) <= WIDTH
    assert not any("…" in line for line in lines)
    for case in ALL_CASES:
        start = f"{case.algorithm:<12} {case.settings:<42} "
        assert any(start in line for line in lines), start
    assert lines[-1].endswith("NOT equal")


def test_the_summary_counts_what_fails() -> None:
    rows = [
        verdict(Claim.EQUAL, value=0.0, gradient=0.0),
        verdict(Claim.EQUAL, value=1.0, gradient=0.0),
        verdict(Claim.DIFFERS, value=1.0, gradient=0.0),
    ]
    assert summary(rows) == ("3 comparisons with 1 peer: 1 equal, 0 same gradient, 1 differs on purpose; 1 fail")


def test_the_command_prints_the_same_rows_as_json(
    all_rows: list[ParityRow], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["parity", "--json"])
    assert main() == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == [row.as_json() for row in all_rows]
    assert {"peer", "algorithm", "settings", "value", "gradient", "verdict", "reason", "holds"} == (set(printed[0]))


OVERCLAIM = """
import sys
from dataclasses import replace
from tests.parity import table
from tests.parity.__main__ import main
from tests.parity.case import Claim
case = next(case for case in table.ALL_CASES if case.claim is Claim.DIFFERS)
table.ALL_CASES = (replace(case, claim=Claim.EQUAL),)
sys.argv = ["parity"]
sys.exit(main())
"""


def test_the_command_ends_with_1_when_a_claim_fails() -> None:
    done = subprocess.run([sys.executable, "-c", OVERCLAIM], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "0 equal" in done.stdout
    assert done.stdout.rstrip().endswith("1 fail")
