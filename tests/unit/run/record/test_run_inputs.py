"""Digests of data and verifiers: equal for equal content, another for any change that could be learned from."""

import json
from pathlib import Path

import pytest

from rlvr.config.load import load_recipe
from rlvr.errors import ConfigError
from rlvr.run.record.inputs import input_digests, require_same_inputs

ROWS = [{"prompt": f"What is {i}+1?", "reference": str(i + 1), "level": i} for i in range(4)]
CHECK = """from rlvr.plugin import verifier

@verifier(version="{version}")
def lottery(text: str, reference: object) -> float:
    return float(len(text) % {number} == 0)
"""


@pytest.fixture
def digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with data and a verifier of its own."""
    monkeypatch.chdir(tmp_path)
    write_rows(ROWS)
    Path("checks.py").write_text(CHECK.format(version="1", number=2))
    return tmp_path


def write_rows(rows: list[dict[str, object]], name: str = "rows.jsonl") -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def found(source: str = "rows.jsonl", verifier: str = "checks.py:lottery") -> dict[str, str]:
    changes = [
        f"data.train.0.source={source}",
        "data.train.0.settings={}",
        f"data.train.0.verifier={verifier}",
        "data.train.0.verifier_settings={}",
        "data.eval=[]",
        "cold_start.steps=0",
    ]
    return input_digests(load_recipe("tiny", changes).recipe)


def test_the_same_rows_in_another_order_of_columns_are_the_same_data(digests: Path) -> None:
    before = found()
    assert list(before) == ["data.train.0 (rows.jsonl)", "verifier checks.py:lottery"]
    write_rows([dict(reversed(row.items())) for row in ROWS])
    assert found() == before


@pytest.mark.parametrize("column", ["prompt", "reference", "level"])
def test_a_change_in_any_column_is_another_digest(digests: Path, column: str) -> None:
    before = found()
    write_rows([*ROWS[:3], {**ROWS[3], column: "7"}])
    (changed,) = require_same_inputs(before, found(), run="r", may_differ=True)
    assert changed == "data.train.0 (rows.jsonl)"


@pytest.mark.parametrize(("version", "number"), [("2", 2), ("1", 3)])
def test_another_version_or_another_text_of_a_verifier_is_refused(digests: Path, version: str, number: int) -> None:
    before = found()
    Path("checks.py").write_text(CHECK.format(version=version, number=number))
    with pytest.raises(ConfigError) as caught:
        require_same_inputs(before, found(), run="runs/x", may_differ=False)
    assert "runs/x cannot be resumed" in str(caught.value)
    assert f"verifier checks.py:lottery: {before['verifier checks.py:lottery']} -> version" in str(caught.value)


def test_a_module_is_identified_by_its_sources_and_an_installed_verifier_by_its_version(
    digests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(digests))
    Path("my_checks_for_inputs.py").write_text(CHECK.format(version="1", number=2))
    name = "my_checks_for_inputs:lottery"
    before = found(verifier=name)[f"verifier {name}"]
    assert found(verifier=name)[f"verifier {name}"] == before
    Path("my_checks_for_inputs.py").write_text(CHECK.format(version="1", number=3))
    assert found(verifier=name)[f"verifier {name}"] != before
    assert before.startswith("version 1, sha256 ")
    installed = found(verifier="text_match")["verifier text_match"]
    assert installed.startswith("version ")
    assert "sha256" not in installed


def test_an_input_that_an_older_run_did_not_note_is_no_difference() -> None:
    assert require_same_inputs({}, {"verifier a": "version 1"}, run="r", may_differ=False) == {}


def test_adapted_code_is_identified_by_its_file_its_package_or_its_sources(
    digests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(digests))
    for name in ("rewards.py", "my_rewards_for_inputs.py"):
        Path(name).write_text("def short(completions, **kwargs):\n    return [1.0] * len(completions)\n")
    names = ["trl:rewards.py:short", "trl:my_rewards_for_inputs.short", "trl:pydantic.main.create_model"]
    before = [found(verifier=name)[f"verifier {name}"] for name in names]
    assert "sha256" in before[0]
    assert "sha256" in before[1]
    assert ", pydantic 2" in before[2]
    for name in ("rewards.py", "my_rewards_for_inputs.py"):
        Path(name).write_text("def short(completions, **kwargs):\n    return [0.0] * len(completions)\n")
    after = [found(verifier=name)[f"verifier {name}"] for name in names]
    assert [old != new for old, new in zip(before, after, strict=True)] == [True, True, False]
