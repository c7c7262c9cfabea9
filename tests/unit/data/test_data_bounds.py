"""Data files that unpack to any size, never end a line, or hold what is no value: one message, in bounded memory."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlvr.commands.verify_file import verify_file
from rlvr.config.recipe import DataSource
from rlvr.data import bounded
from rlvr.data.rows import FiniteRows
from rlvr.data.sources import open_source
from rlvr.errors import ConfigError, DataError

ROW = b'{"prompt": "1:", "reference": "1"}\n'


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows_of(name: str, content: bytes = b"", *, limit: int = 0) -> int:
    if content:
        Path(name).write_bytes(content)
    config = DataSource(source=name, verifier="text_match", limit=limit)
    rows = open_source(config, seed=0)
    assert isinstance(rows, FiniteRows)
    return rows.num_rows or 0


def fault(name: str, content: bytes = b"") -> str:
    with pytest.raises(DataError) as caught:
        rows_of(name, content)
    return str(caught.value)


def test_a_line_that_does_not_end_is_refused_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "MAX_LINE_BYTES", 100_000)
    long = b'{"prompt": "' + b"1" * 200_000 + b'", "reference": "1"}\n'
    assert "a.jsonl: a line of more than 0 MiB; a row is one line" in fault("a.jsonl", ROW + long)
    assert rows_of("b.jsonl", b'{"prompt": "' + b"1" * 90_000 + b'", "reference": "1"}\n') == 1
    assert rows_of("c.jsonl", ROW * 10_000) == 10_000


def test_a_small_file_that_fills_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "RATIO_FROM_BYTES", 1 << 20)
    bomb = gzip.compress(ROW * 200_000)
    assert "bytes of it unpack to more than" in fault("bomb.jsonl.gz", bomb)
    assert rows_of("bomb.jsonl.gz", limit=5) == 5
    spaces = gzip.compress(b"[" + b" " * 5_000_000 + b"]")
    assert "bytes of it unpack to more than" in fault("bomb.json.gz", spaces)
    table = pa.table({"prompt": ["1" * 2000] * 20_000, "reference": ["1"] * 20_000})
    pq.write_table(table, "bomb.parquet", compression="zstd")
    assert os.path.getsize("bomb.parquet") < 100_000
    assert "bomb.parquet: " in (message := fault("bomb.parquet"))
    assert "unpack to more than" in message


def test_a_data_set_beyond_the_machines_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "most_bytes", lambda: 1 << 20)
    monkeypatch.setattr(bounded, "MAX_JSON_BYTES", 1 << 20)
    assert "data is held in memory: set limit" in fault("a.jsonl", ROW * 50_000)
    assert "a .json file is read whole" in fault("a.json", b"[" + b" " * (2 << 20) + b"]")
    pq.write_table(pa.table({"prompt": [str(i) for i in range(200_000)]}), "a.parquet")
    assert "data is held in memory: set limit" in fault("a.parquet")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b'{"prompt": "1", "reference": ' + b"[" * 5000 + b"]" * 5000 + b"}", "deeper than 100"),
        (b'{"prompt": "1", "reference": ' + b"[" * 200 + b"]" * 200 + b"}", "deeper than 100"),
        (b'{"prompt": "1", "reference": ' + b"9" * 5000 + b"}", "more than 4,300 digits"),
        (b'{"prompt": "\\ud800", "reference": "1"}', "'\\ud800' is half of a surrogate pair"),
        (b'{"prompt": "1", "reference": "1", "x": "\\uDFFF"}', "half of a surrogate pair"),
        (b'{"prompt": "1", "reference": NaN}', "(columns.reference) is empty"),
        (b'{"prompt": "1", "reference": 1e999}', "(columns.reference) holds inf"),
        (b'{"prompt": "1", "reference": [Infinity]}', "is not a JSON value"),
        (b'{"prompt": "1", "reference": "1"', "not JSON (Expecting ',' delimiter, column 33)"),
    ],
)  # fmt: skip
def test_a_row_that_is_no_value_is_named_by_its_line(row: bytes, message: str) -> None:
    found = fault("a.jsonl", ROW + row + b"\n")
    assert "1 of 2 rows cannot be used" in found
    assert "a.jsonl:2: " in found
    assert message in found


def test_sound_data_that_looks_suspicious_is_read() -> None:
    pair = json.dumps({"prompt": "\U0001f600 [{[{", "reference": 1.5, "x": float("nan")})
    assert rows_of("a.jsonl", b"\xef\xbb\xbf" + pair.encode() + b"\r\n") == 1
    wide = b'{"prompt": "1", "reference": [' + b", ".join([b"[1]"] * 500) + b"]}\n"
    assert rows_of("b.jsonl", wide) == 1


def _fifo(name: str) -> None:
    os.mkfifo(name)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("pipe.jsonl", _fifo, "is a named pipe"),
        ("zero.jsonl", lambda name: os.symlink("/dev/zero", name), "is a device"),
        ("loop.jsonl", lambda name: os.symlink(name, name), "Too many levels of symbolic links"),
        ("link.jsonl", lambda name: os.symlink("gone", name), "is a broken link"),
        ("a" * 5000 + ".jsonl", lambda _: None, "File name too long"),
        ("a\0b.jsonl", lambda _: None, "a name with a null character"),
        ("~no_such_user_here/a.jsonl", lambda _: None, "ome directory"),
    ],
)
def test_the_error_says_what_a_source_is_if_not_a_file(name: str, make: Callable[[str], None], message: str) -> None:
    make(name)
    found = fault(name)
    assert message in found
    assert len(found) < 400


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("ending", ["parquet", "jsonl.gz", "json.gz"])
def test_a_truncated_file_is_reported(ending: str, keep: float) -> None:
    if ending == "parquet":
        pq.write_table(pa.table({"prompt": ["1"] * 99, "reference": ["1"] * 99}), "whole.parquet")
        data = Path("whole.parquet").read_bytes()
    else:
        data = gzip.compress(os.urandom(5000).hex().encode())
    assert "cannot read" in fault(f"torn.{ending}", data[: int(len(data) * keep)])


def test_verify_reads_no_endless_line_and_does_not_overwrite_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "MAX_LINE_BYTES", 100_000)
    row = b'{"id": 1, "completion": "\\\\boxed{2}", "reference": "2"}\n'
    Path("in.jsonl").write_bytes(row + b"1" * 300_000)
    report = verify_file("math", "in.jsonl", "out.jsonl", {}, workers=1, deadline_s=60.0)
    assert (report.num_rows, report.num_malformed) == (2, 1)
    assert "a line of more than" in Path("out.jsonl").read_text()
    with pytest.raises(ConfigError, match=r"are one file, 'in\.jsonl': its rows would be lost"):
        verify_file("math", "in.jsonl", "in.jsonl", {}, workers=1, deadline_s=60.0)
    os.mkfifo("pipe")
    with pytest.raises(DataError, match="input file 'pipe' is a named pipe"):
        verify_file("math", "pipe", "out.jsonl", {}, workers=1, deadline_s=60.0)
