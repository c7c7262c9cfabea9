"""`rlvr audit`: exit codes, the table, the JSON record, the author's cases, and the short form in `rlvr check`."""

import json
from pathlib import Path

import pytest

from rlvr import cli
from rlvr.commands.audit import short_audits
from rlvr.config.load import load_recipe
from rlvr.run.launch.preflight import opened

CHECKS = """from rlvr.plugin import verifier
from rlvr.protocols import Execution


@verifier(version="1")
def exact(text: str, reference: str) -> bool:
    return text.strip() == reference


@verifier(version="1")
def ends_with(text: str, reference: str) -> bool:
    return text.strip().endswith(reference)


@verifier(version="1", partial_credit=0.3)
def declared(text: str, reference: str) -> float:
    return 1.0 if text.strip() == reference else 0.3


@verifier(version="1")
def undeclared(text: str, reference: str) -> float:
    return 1.0 if text.strip() == reference else 0.3


@verifier(version="1", execution=Execution.ASYNC)
async def contained(text: str, reference: str) -> bool:
    return reference in text
"""
ROWS = [{"prompt": f"{n} + 1?", "reference": str(n + 1)} for n in (11, 26, 40)]
FEW = ["--rows", "2", "--deadline-s", "2"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with verifiers and rows."""
    (tmp_path / "my_checks.py").write_text(CHECKS)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rlvr(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of a command."""
    monkeypatch.setattr("sys.argv", ["rlvr", *arguments])
    return cli._exit_code()


def test_a_sound_verifier_gives_exit_code_0_and_a_record(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = rlvr(monkeypatch, "audit", "my_checks.py:exact", "--data", "rows.jsonl", "--json", *FEW)
    found = json.loads(capsys.readouterr().out)
    assert code == 0
    assert found["format"] == 1
    assert found["is_sound"] is True
    assert found["findings"] == []
    assert found["gold"] == {"accepted": 3, "tried": 3, "form": "the answer alone"}
    assert found["determinism"]["differing"] == 0
    assert found["pairs"]["skipped"] == 0
    assert {attack["kind"] for attack in found["attacks"]} >= {"empty", "constants", "mutated gold", "hedges"}


def test_an_exploit_gives_exit_code_1_and_an_example(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = rlvr(monkeypatch, "audit", "my_checks.py:ends_with", "--data", "rows.jsonl", *FEW)
    output = capsys.readouterr().out
    assert code == 1
    assert "FOUND exploit: mutated gold: 100 % of 2 rows pass" in output
    assert "completion '112'" in output
    assert "ends_with@1: 1 finding" in output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["my_checks.py:exact"], "needs rows: --data FILE"),
        ([], "needs a verifier, or --recipe RECIPE"),
        (["exakt", "--data", "rows.jsonl"], "verifier 'exakt' is not installed"),
        (["my_checks.py:gone", "--data", "rows.jsonl"], "its plugins are: exact"),
        (["my_checks.py:exact", "--data", "gone.jsonl"], "file 'gone.jsonl' does not exist"),
        (["my_checks.py:exact", "--data", "bare.jsonl"], "bare.jsonl:1: the row has no reference"),
        (["my_checks.py:exact", "--data", "text.jsonl"], "text.jsonl:1: not JSON"),
        (["my_checks.py:exact", "--data", "empty.jsonl"], "has no rows"),
        (["my_checks.py:exact", "--data", "rows.jsonl", "--cases", "rows.jsonl"], "rows.jsonl:1: must=None"),
        (["my_checks.py:exact", "--data", "rows.jsonl", "--recipe", "tiny"], "not from both"),
        (["my_checks.py:exact", "--recipe", "tiny"], "does not use verifier 'my_checks.py:exact'; it uses"),
        (["my_checks.py:exact", "--recipe", "gone"], "gone"),
        (["my_checks.py:exact", "speed=1", "--data", "rows.jsonl", *FEW], "speed: Extra inputs"),
        (["math", "--data", "latex.jsonl", *FEW], "latex.jsonl:1: the verifier cannot use the reference"),
        (["my_checks.py:exact", "--rows", "x"], "Invalid value for '--rows'"),
    ],
)
def test_a_wrong_call_gives_exit_code_2_and_says_what_to_do(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
) -> None:
    (folder / "bare.jsonl").write_text('{"prompt": "1 + 1?", "answer": "2"}\n')
    (folder / "text.jsonl").write_text("1 + 1 = 2\n")
    (folder / "empty.jsonl").write_text("\n")
    (folder / "latex.jsonl").write_text('{"reference": "\\\\frac{1}{"}\n')
    assert rlvr(monkeypatch, "audit", *arguments) == 2
    output = capsys.readouterr()
    assert expected in output.err
    assert output.out == ""
    assert "Traceback" not in output.err


@pytest.mark.slow
def test_declared_partial_credit_is_subtracted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["--data", "rows.jsonl", "--json", *FEW]
    assert rlvr(monkeypatch, "audit", "my_checks.py:declared", *call) == 0
    assert rlvr(monkeypatch, "audit", "my_checks.py:undeclared", *call) == 1
    assert rlvr(monkeypatch, "audit", "my_checks.py:undeclared", "--partial-credit", "0.3", *call) == 0
    assert capsys.readouterr().err == ""


def test_the_authors_cases_are_found_beside_the_verifier(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [
        {"reference": "12", "completion": "12", "must": "pass"},
        {"reference": "12", "completion": "twelve", "must": "pass"},
        {"reference": "12", "completion": " 12 ", "must": "fail"},
        {"reference": "12", "completion": "12", "must": "fail", "verifier": "ends_with"},
    ]
    (folder / "my_checks.audit.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    code = rlvr(monkeypatch, "audit", "my_checks.py:exact", "--json", *FEW)
    found = json.loads(capsys.readouterr().out)
    assert code == 1
    assert found["cases"] == 3
    assert [finding["what"] for finding in found["findings"]] == [
        "1 completions that must pass do not",
        "1 completions that must fail pass",
    ]


def test_an_asynchronous_verifier_is_audited(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rlvr(monkeypatch, "audit", "my_checks.py:contained", "--data", "rows.jsonl", "--json", *FEW) == 1
    found = json.loads(capsys.readouterr().out)
    assert {finding["problem"] for finding in found["findings"]} == {"exploit"}


def test_a_recipe_is_audited_on_its_own_data_in_short(folder: Path) -> None:
    (folder / "mine.yaml").write_text(
        "name: mine\nmodel: {tiny: {}}\nrun: {steps: 1, trackers: []}\n"
        "data: {train: [{source: rows.jsonl, template: plain, verifier: 'my_checks.py:ends_with'}]}\n"
    )
    recipe = load_recipe("mine.yaml", []).recipe
    with opened(recipe) as (_, data):
        rows, warnings = short_audits(recipe, data)
    assert [row[0] for row in rows] == ["audit my_checks.py:ends_with"]
    assert "exploit: mutated gold" in warnings[0]
    assert "`rlvr audit my_checks.py:ends_with --recipe mine`" in warnings[0]


def test_a_verifier_that_a_column_chooses_is_audited_on_its_rows(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row | {"kind": kind} for row, kind in zip(ROWS, ("plain", "other", "other"), strict=True)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mine.yaml").write_text(
        "name: mine\nmodel: {tiny: {}}\nrun: {steps: 1, trackers: []}\n"
        "data:\n  train:\n    - source: rows.jsonl\n      template: plain\n      verifier_column: kind\n"
        "      checks:\n        a: {verifier: 'my_checks.py:exact', when: plain}\n"
        "        b: {verifier: 'my_checks.py:declared', when: other}\n"
    )
    assert rlvr(monkeypatch, "audit", "--recipe", "mine.yaml", "--json", *FEW) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    tried = [(report["verifier"].partition(":")[2], report["gold"]["tried"]) for report in found]
    assert tried == [("exact", 1), ("declared", 2)]
