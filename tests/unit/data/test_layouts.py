"""Rows as TRL and verl have them: messages or text, columns of any kind, a reference within an object."""

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlvr.config.recipe import DataSource
from rlvr.data.sources import Row, open_source
from rlvr.data.templates import build_prompt, check_formats
from rlvr.errors import ConfigError, DataError

# a row of verl's examples/data_preprocess/gsm8k.py
VERL_ROW = {
    "data_source": "openai/gsm8k",
    "prompt": [{"role": "user", "content": "2 + 2? Let's think step by step and output the answer after ####."}],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "4"},
    "extra_info": {"split": "train", "index": 0, "answer": "2 + 2 = 4 #### 4", "hint": None},
}
TRL_ROW = {"prompt": "2 + 2?", "solution": "4", "tests": ["a", "b"], "info": {"hard": True}, "level": None}


def source(path: Path, rows: list[dict[str, Any]], **more: Any) -> DataSource:
    pq.write_table(pa.Table.from_pylist(rows), path / "rows.parquet")
    return DataSource(source=str(path / "rows.parquet"), verifier="text_match", **more)


def first_row(config: DataSource) -> Row:
    return open_source(config, seed=0).row(0)


def test_a_row_of_verl_keeps_everything_but_prompt_and_gold(tmp_path: Path) -> None:
    row = first_row(source(tmp_path, [VERL_ROW], layout="verl"))
    assert (row.question, row.reference) == (VERL_ROW["prompt"], "4")
    assert row.tags == {key: VERL_ROW[key] for key in ("data_source", "ability", "extra_info")}


def test_a_row_of_trl_keeps_lists_objects_and_nulls(tmp_path: Path) -> None:
    row = first_row(source(tmp_path, [TRL_ROW], layout="trl"))
    assert (row.question, row.reference) == ("2 + 2?", "4")
    assert row.tags == {"tests": ["a", "b"], "info": {"hard": True}, "level": None}
    plain = first_row(source(tmp_path, [TRL_ROW], columns={"reference": "solution"}))
    assert plain.tags == {}


def test_the_columns_of_a_layout_can_be_changed_and_are_stored(tmp_path: Path) -> None:
    config = source(tmp_path, [{**TRL_ROW, "answer": "four"}], layout="trl", columns={"reference": "answer"})
    assert config.columns == {"prompt": "prompt", "reference": "answer"}
    assert DataSource(**config.model_dump()) == config
    row = first_row(config)
    assert (row.reference, row.tags["solution"]) == ("four", "4")


def test_a_conversation_stays_one_and_text_without_template_stays_text(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    config = source(tmp_path, [{**TRL_ROW, "prompt": chat}], layout="trl")
    assert [(m.role, m.content) for m in build_prompt(config, first_row(config)).messages] == [
        ("system", "Be brief."),
        ("user", "2 + 2?"),
    ]
    plain = source(tmp_path, [TRL_ROW], layout="trl", template="plain")
    assert build_prompt(plain, first_row(plain)).text == "2 + 2?"


def test_the_gold_cannot_be_shown_to_the_policy(tmp_path: Path) -> None:
    config = source(tmp_path, [TRL_ROW], layout="trl", prompt_format="{prompt} {solution}")
    with pytest.raises(ConfigError, match="the policy must not see it"):
        check_formats(config, open_source(config, seed=0))


def test_a_column_that_is_no_json_names_the_remedy(tmp_path: Path) -> None:
    dated = {**TRL_ROW, "when": datetime.datetime(2026, 1, 1)}
    with pytest.raises(DataError, match=r"columns\.when is not a JSON value.*layout: plain keeps only"):
        first_row(source(tmp_path, [dated], layout="trl"))
