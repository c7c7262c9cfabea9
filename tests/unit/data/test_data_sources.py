"""Sources: what is read, and that every fault names its place and its cure."""

import gzip
import json
import os
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlvr.config.recipe import DataConfig, DataSource, source_name
from rlvr.data.load import demonstrations, open_eval, open_train, summary
from rlvr.data.rows import FiniteRows
from rlvr.data.sources import FileReader, open_source
from rlvr.errors import ConfigError, DataError

SHARED = Path(os.environ.get("RLVR_SHARED", Path(__file__).parents[4] / "shared"))
ROWS = [{"prompt": f"q{i}", "reference": i, "level": i % 2} for i in range(4)]


def source(path: Path | str, **more: Any) -> DataSource:
    return DataSource(source=str(path), verifier="text_match", **more)


def rows_of(path: Path | str, **more: Any) -> FiniteRows:
    opened = open_source(source(path, **more), seed=0)
    assert isinstance(opened, FiniteRows)
    return opened


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_as(folder: Path, ending: str) -> Path:
    path = folder / f"data{ending}"
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
        return path
    lines = "lines" if ending.startswith(".jsonl") else "list"
    text = json.dumps(ROWS) if lines == "list" else "".join(json.dumps(r) + "\n" for r in ROWS)
    path.write_bytes(gzip.compress(text.encode()) if ending.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet"])
def test_each_format_yields_the_same_rows(tmp_path: Path, ending: str) -> None:
    rows = rows_of(write_as(tmp_path, ending)).rows
    assert [(r.row_id, r.question, r.reference, dict(r.tags)) for r in rows] == [
        (str(i), f"q{i}", i, {"level": i % 2}) for i in range(4)
    ]


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    write_lines(tmp_path / "b.jsonl", [{"prompt": "second", "reference": 1}])
    write_lines(tmp_path / "a.jsonl", [{"prompt": "first", "reference": 1}])
    assert [row.question for row in rows_of(tmp_path).rows] == ["first", "second"]


def test_a_folder_named_after_splits_never_mixes_them(tmp_path: Path) -> None:
    write_lines(tmp_path / "test.jsonl", [{"prompt": "held out", "reference": 1}])
    write_lines(tmp_path / "train.jsonl", [{"prompt": "seen", "reference": 1}])
    assert [row.question for row in rows_of(tmp_path).rows] == ["seen"]
    assert [row.question for row in rows_of(tmp_path, split="test").rows] == ["held out"]
    with pytest.raises(DataError, match="none for split='dev'"):
        rows_of(tmp_path, split="dev")


def test_columns_ids_pattern_and_limit(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "d.jsonl", [{"q": f"q{i}", "s": f"so #### {i}", "n": f"id-{i}", "meta": {"x": 1}} for i in range(3)]
    )
    mapped = {"prompt": "q", "reference": "s", "id": "n"}
    rows = rows_of(path, columns=mapped, reference_pattern=r"#### (\S+)", limit=2).rows
    assert [(r.row_id, r.reference, dict(r.tags)) for r in rows] == [
        ("id-0", "0", {"n": "id-0"}),
        ("id-1", "1", {"n": "id-1"}),
    ]


def test_a_column_reaches_into_a_list_and_a_star_is_the_whole_row(tmp_path: Path) -> None:
    row = {"text": "q", "tests": ["a", "b"]}
    path = write_lines(tmp_path / "rows.jsonl", [row])
    found = rows_of(path, columns={"prompt": "text", "reference": "*", "shown": "tests.1"}).row(0)
    assert found.reference == row
    assert found.tags["shown"] == "b"


def test_a_dotted_column_reaches_into_an_object(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "d.jsonl", [{"prompt": "q", "rm": {"truth": [1, 2]}}])
    assert rows_of(path, columns={"reference": "rm.truth"}).rows[0].reference == [1, 2]


@pytest.mark.parametrize("reference", [0, False, {"tests": []}, ["a"], "x"])
def test_a_reference_may_be_any_json_value(tmp_path: Path, reference: Any) -> None:
    path = write_lines(tmp_path / "d.jsonl", [{"prompt": "q", "reference": reference}])
    assert rows_of(path).rows[0].reference == reference


def test_a_missing_file_is_answered_with_the_nearest_name(tmp_path: Path) -> None:
    write_lines(tmp_path / "train_data.jsonl", ROWS)
    with pytest.raises(DataError, match=r"does not exist.*Did you mean '.*train_data.jsonl'"):
        rows_of(tmp_path / "train_dat.jsonl")


def test_a_missing_column_lists_those_there_are(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "d.jsonl", [{"question": "q", "answer": "a"}])
    with pytest.raises(DataError, match=r"'prompt' \(columns.prompt\).*question, answer"):
        rows_of(path)


def test_all_bad_rows_come_in_one_message_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    good = json.dumps({"prompt": "q", "reference": "r"})
    bad = ["{not json", '{"prompt": "q", "reference": null}', '{"prompt": "q", "reference": " "}', "[1]"]
    path.write_text("\n".join([good, "", *bad]) + "\n")
    with pytest.raises(DataError) as caught:
        rows_of(path)
    message = str(caught.value)
    assert "4 of 5 rows cannot be used" in message
    for line, what in ((3, "not JSON"), (4, "empty"), (5, "empty"), (6, "found list")):
        assert f"d.jsonl:{line}: " in message
        assert what in message.split(f"d.jsonl:{line}: ")[1].splitlines()[0]


def test_a_reference_that_is_not_a_number_is_empty(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "d.jsonl", [{"prompt": "q", "reference": float("nan")}])
    with pytest.raises(DataError, match=r"'reference' \(columns\.reference\) is empty"):
        rows_of(path)


def test_at_most_ten_bad_rows_are_shown(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "d.jsonl", [{"prompt": "q", "reference": ""}] * 25)
    with pytest.raises(DataError, match="and 15 more") as caught:
        rows_of(path)
    assert str(caught.value).count("d.jsonl:") == 10


def test_a_pattern_that_finds_nothing_is_a_data_error(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "d.jsonl", [{"prompt": "q", "reference": "no mark"}])
    with pytest.raises(DataError, match=r"d.jsonl:1: reference_pattern=.*finds nothing"):
        rows_of(path, reference_pattern="#### (.*)")


@pytest.mark.parametrize(("pattern", "what"), [("(", "no regular expression"), ("x", "no group")])
def test_a_wrong_pattern_is_a_config_error(tmp_path: Path, pattern: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        rows_of(write_lines(tmp_path / "d.jsonl", ROWS), reference_pattern=pattern)


def test_ids_that_repeat_are_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "d.jsonl", [{"prompt": "q", "reference": "r", "id": 7}] * 2)
    with pytest.raises(DataError, match="'7' is already used"):
        rows_of(path, columns={"id": "id"})


@pytest.mark.parametrize(("name", "content"), [("e.jsonl", b""), ("e.json", b"[]")])
def test_an_empty_source_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="is empty"):
        rows_of(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.jsonl.gz", b"no gzip"), ("x.parquet", b"no parquet"), ("x.json", b"{"), ("x.jsonl", b"\xff\xfe")],
)
def test_the_error_names_a_file_whose_content_does_not_match_its_suffix(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        rows_of(tmp_path / name)


def test_an_ending_that_is_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("a,b")
    with pytest.raises(DataError, match=r"expected one of .jsonl"):
        rows_of(tmp_path / "x.txt")


def test_a_hub_name_without_datasets_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r'make setup.*pip install "rlvr\[hub\]"'):
        rows_of("someone/something")


def test_a_saved_data_set_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra `hub` is not installed")
    both = datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})
    both.save_to_disk(str(tmp_path / "saved"))
    assert [row.reference for row in rows_of(tmp_path / "saved").rows] == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"no split 'dev'; it has: train"):
        rows_of(tmp_path / "saved", split="dev")


def test_two_training_sources_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "d.jsonl", ROWS)
    with pytest.raises(ConfigError, match="share the name 'd'"):
        open_train(DataConfig(train=[source(path), source(path)]), seed=0)


def test_evaluation_takes_the_first_rows_and_counts_the_long_ones(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "d.jsonl", ROWS)
    config = DataConfig(train=[source(path)], eval=[source(path, name="held")])
    evals = open_eval(config, 2, seed=5, is_too_long=lambda p: p.messages[0].content == "q0")
    assert [p.prompt_id for p in evals["held"]] == ["held/1", "held/2"]
    assert evals.num_too_long == {"held": 1}
    stream = open_train(config, seed=0)
    assert summary(stream, evals) == [("d", "train", "4", "0"), ("held", "eval", "2", "1")]


def test_evaluation_on_sums_has_150_different_problems() -> None:
    held = source("generator:sums", split="test")
    config = DataConfig(train=[source("generator:sums")], eval=[held])
    prompts = open_eval(config, 150, seed=0)["sums"]
    pairs = {tuple(sorted((p.tags["a"], p.tags["b"]))) for p in prompts}
    assert len(prompts) == len(pairs) == 150


def test_demonstrations_belong_to_their_prompts() -> None:
    train = [source("generator:sort_digits", template="plain", settings={"sloppy_rate": 0.0})]
    pairs = demonstrations(train, seed=0)
    for _ in range(20):
        prompt, answer = next(pairs)
        assert answer == prompt.reference == "".join(sorted(prompt.text.removesuffix(":")))


def test_demonstrations_of_a_source_without_them_are_a_config_error() -> None:
    with pytest.raises(ConfigError, match="no demonstrations"):
        demonstrations([source("generator:sums")], seed=0)


def test_gsm8k_opens_with_its_solutions_as_references() -> None:
    path = SHARED / "data" / "math" / "gsm8k_test.jsonl"
    if not path.exists():
        pytest.skip("no shared data; set RLVR_SHARED")
    mapped = {"prompt": "question", "reference": "solution"}
    rows = rows_of(path, columns=mapped, reference_pattern=r"#### (.+)").rows
    assert len(rows) == 1319
    assert all(row.reference.replace(",", "") == row.tags["answer"] for row in rows)


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv"])
def test_a_byte_order_mark_is_skipped(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"d{ending}"
    texts = {
        ".jsonl": '{"prompt": "q", "reference": "4"}\n',
        ".json": '[{"prompt": "q", "reference": "4"}]',
        ".csv": "prompt,reference\nq,4\n",
    }
    path.write_text(texts[ending], encoding="utf-8-sig")
    assert [(r.question, r.reference) for r in rows_of(path).rows] == [("q", "4")]


@pytest.mark.parametrize(("ending", "comma"), [(".csv", ","), (".tsv", "\t"), (".csv.gz", ",")])
def test_tables_are_read_with_quotes_and_empty_cells(tmp_path: Path, ending: str, comma: str) -> None:
    text = f'prompt{comma}reference{comma}hint\n"one{comma}\ntwo"{comma}4{comma}\nq{comma}5{comma}h\n'
    path = tmp_path / f"d{ending}"
    path.write_bytes(gzip.compress(text.encode()) if ending.endswith(".gz") else text.encode())
    rows = rows_of(path).rows
    assert [(r.question, r.reference, dict(r.tags)) for r in rows] == [
        (f"one{comma}\ntwo", "4", {}),
        ("q", "5", {"hint": "h"}),
    ]
    assert rows[1].where.endswith(":4")


def test_tables_next_to_other_data_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("prompt,reference\nnote,1\n")
    assert [row.question for row in rows_of(tmp_path).rows] == ["note"]
    write_lines(tmp_path / "rows.jsonl", [{"prompt": "q", "reference": 1}])
    assert [row.question for row in rows_of(tmp_path).rows] == ["q"]


def test_a_short_line_of_a_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("prompt,reference\nq\n")
    with pytest.raises(DataError, match=r"d\.csv:2: the line has 1 cells, and the first .* 2"):
        rows_of(path)


def hub_clone(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\n---\n")
    (folder / "dataset_infos.json").write_text('{"default": {}}')
    for split in ("train", "test"):
        rows = [{"prompt": split, "reference": 1}]
        pq.write_table(pa.Table.from_pylist(rows), folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def test_a_clone_of_a_hub_data_set_is_read(tmp_path: Path) -> None:
    folder = hub_clone(tmp_path / "clone")
    assert [row.question for row in rows_of(folder).rows] == ["train"]
    assert [row.question for row in rows_of(folder, split="test").rows] == ["test"]


def test_a_subset_is_a_folder_of_the_clone(tmp_path: Path) -> None:
    for subset in ("main", "other"):
        (tmp_path / subset).mkdir()
        write_lines(tmp_path / subset / "train.jsonl", [{"prompt": subset, "reference": 1}])
    assert [row.question for row in rows_of(tmp_path, subset="main").rows] == ["main"]
    with pytest.raises(DataError, match="Its folders with data are: main, other; set subset"):
        rows_of(tmp_path)


def test_a_pattern_reads_what_it_matches_and_never_mixes_splits(tmp_path: Path) -> None:
    data = hub_clone(tmp_path / "clone") / "data"
    assert [row.question for row in rows_of(f"{data}/*.parquet").rows] == ["train"]
    assert [row.question for row in rows_of(f"{data}/*.parquet", split="test").rows] == ["test"]
    assert [row.question for row in rows_of(f"{data}/test-*.parquet").rows] == ["test"]
    assert [row.question for row in rows_of(f"{tmp_path}/**/train*").rows] == ["train"]
    with pytest.raises(DataError, match=r"matches no file \(working directory:"):
        rows_of(f"{data}/dev-*.parquet")
    with pytest.raises(DataError, match="none for split='dev'"):
        rows_of(f"{data}/*.parquet", split="dev")
    assert source_name(source(f"{data}/train-*.parquet")) == "train"


def test_named_columns_are_kept_with_any_content(tmp_path: Path) -> None:
    row = {"prompt": "q", "reference": 1, "numbers": [1, 2], "more": {"level": 3}, "other": [4]}
    path = write_lines(tmp_path / "d.jsonl", [row])
    columns = {"numbers": "numbers", "level": "more.level", "all": "more"}
    assert dict(rows_of(path, columns=columns).rows[0].tags) == {"numbers": [1, 2], "level": 3, "all": {"level": 3}}


def test_a_repeated_row_is_evaluated_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt": f"q{i}", "reference": i} for i in range(12)]
    other = [{"prompt": "q0", "reference": "another"}]
    held = write_lines(tmp_path / "held.jsonl", [*rows, *rows, *other])
    config = DataConfig(train=[source(held)], eval=[source(held)])
    prompts = open_eval(config, 20, seed=0)["held"]
    assert [p.prompt_id for p in prompts] == [f"held/{i}" for i in (*range(12), 24)]
    assert "evaluation 'held': 12 rows repeat the prompt and the reference" in caplog.text


@pytest.mark.parametrize("limits", [(2, 3), (2, 0), (3, 2), (0, 2)])
def test_a_limit_of_one_source_cuts_no_other_that_the_reader_was_not_made_for(
    tmp_path: Path, limits: tuple[int, int]
) -> None:
    path = write_lines(tmp_path / "rows.jsonl", ROWS)
    first, second = (source(path, limit=limit) for limit in limits)
    reader = FileReader([first, source(path, limit=first.limit, columns={"prompt": "reference"})])
    for config in (first, second, first):
        assert reader.read(config).num_rows == (config.limit or len(ROWS))
