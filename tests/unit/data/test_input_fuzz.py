"""Random recipes, overrides and data files: each loads or is refused by an error of ours, in bounded time and memory.

A few seconds of fixed cases in every run; `pytest -m fuzz` draws many new ones.
"""

import gzip
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlvr.config.document.paths import key_paths
from rlvr.config.load import list_recipes, load_recipe
from rlvr.config.recipe import DataSource, Recipe
from rlvr.data.sources import open_source
from rlvr.errors import RlvrError

QUICK = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LONG = settings(QUICK, max_examples=5000, derandomize=False)
SHIPPED = [info.path.read_text(encoding="utf-8") for info in list_recipes()]
KEYS = [key for key in key_paths(Recipe) if not key.endswith("source")]  # no look-up of a name

odd_text = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", "null", "nan", ".inf", "1e999", "-0", "9" * 400, "\ud800", "é\0", "<<", "*a", "&a", "!x",
         "[", "{a: ", "- ", "'", '"\\UFFFFFFFF"', "%YAML 9", "true", "0x", "²", "~", "a: b: c", "2020-01-01"]
    ),
)  # fmt: skip
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), odd_text)
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(odd_text, st.sampled_from(KEYS)), inner, max_size=4)
    ),
    max_leaves=20,
)
overrides = st.builds(
    lambda key, value: f"{key}={value}",
    st.one_of(st.sampled_from(KEYS).map(lambda k: k.replace(".N", ".0")), odd_text),
    st.one_of(odd_text, st.floats().map(str), trees.map(lambda tree: json.dumps(tree))),
)


def _both(strategy: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The check as a quick test, and as a long one that only `-m fuzz` runs."""

    def wrap(check: Callable[..., None]) -> Callable[..., None]:
        def quick(tmp_path: Path, case: Any) -> None:
            check(tmp_path, case)

        def long(tmp_path: Path, case: Any) -> None:
            check(tmp_path, case)

        name = check.__name__.removeprefix("check_")
        globals()[f"test_{name}"] = QUICK(given(case=strategy)(quick))
        globals()[f"test_many_{name}"] = pytest.mark.fuzz(LONG(given(case=strategy)(long)))
        return check

    return wrap


def require_message(error: RlvrError) -> None:
    assert 0 < len(str(error).strip()) < 100_000


def loads_or_refuses(path: Path, *given_overrides: str) -> None:
    try:
        loaded = load_recipe(str(path), given_overrides)
    except RlvrError as error:
        require_message(error)
        return
    text = loaded.to_yaml()
    path.write_text(text, encoding="utf-8")
    assert load_recipe(str(path)).recipe == loaded.recipe


@_both(st.binary(max_size=400))
def check_bytes_as_a_recipe(tmp_path: Path, case: bytes) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(case)
    loads_or_refuses(path)


@_both(trees)
def check_trees_as_a_recipe(tmp_path: Path, case: Any) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps(case), encoding="utf-8")
    loads_or_refuses(path)


@_both(st.tuples(st.integers(0, 2**32), st.lists(odd_text, min_size=1, max_size=3)))
def check_mutations_of_shipped_recipes(tmp_path: Path, case: tuple[int, list[str]]) -> None:
    seed, pieces = case
    rng = random.Random(seed)
    text = rng.choice(SHIPPED)
    for piece in pieces:
        start = rng.randrange(len(text))
        text = text[:start] + piece + text[start + rng.choice([0, 0, 1, 5, 40]) :]
    path = tmp_path / "r.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    loads_or_refuses(path)


@_both(st.lists(overrides, min_size=1, max_size=4))
def check_overrides(tmp_path: Path, case: list[str]) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(next(text for text in SHIPPED if "name: tiny\n" in text), encoding="utf-8")
    loads_or_refuses(path, *case)


def opens_or_refuses(path: Path) -> None:
    config = DataSource(source=str(path), verifier="text_match")
    try:
        rows = open_source(config, seed=0)
    except RlvrError as error:
        require_message(error)
        return
    for index in range(rows.num_rows or 0):
        row = rows.row(index)
        json.dumps([row.question, row.reference], ensure_ascii=False, allow_nan=False).encode()


rows_of_json = st.lists(
    st.one_of(
        trees,
        st.fixed_dictionaries({"prompt": trees, "reference": trees}),
        st.fixed_dictionaries({"prompt": st.text(min_size=1), "reference": scalars}),
    ),
    max_size=5,
)
endings = st.sampled_from([".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet"])


@_both(st.tuples(endings, st.binary(max_size=300)))
def check_bytes_as_data(tmp_path: Path, case: tuple[str, bytes]) -> None:
    path = tmp_path / f"data{case[0]}"
    path.write_bytes(case[1])
    opens_or_refuses(path)


@_both(st.tuples(endings, rows_of_json))
def check_json_as_data(tmp_path: Path, case: tuple[str, list[Any]]) -> None:
    ending, rows = case
    lines = "\n".join(json.dumps(row) for row in rows)
    data = (lines if ending.startswith(".jsonl") else json.dumps(rows)).encode()
    path = tmp_path / f"data{ending}"
    path.write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)
    opens_or_refuses(path)


def _sound(ending: str) -> bytes:
    rows = [{"prompt": f"{i}:", "reference": str(i), "n": float(i)} for i in range(30)]
    if ending == ".parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        return sink.getvalue()
    lines = "\n".join(map(json.dumps, rows))
    data = (lines if ending.startswith(".jsonl") else json.dumps(rows)).encode()
    return gzip.compress(data, mtime=0) if ending.endswith(".gz") else data


@_both(st.tuples(endings, st.integers(0, 2**32), st.booleans()))
def check_damaged_files_of_data(tmp_path: Path, case: tuple[str, int, bool]) -> None:
    ending, seed, is_cut = case
    rng = random.Random(seed)
    data = bytearray(_sound(ending))
    if is_cut:
        del data[rng.randrange(len(data)) :]
    for _ in range(rng.choice([0, 1, 3, 20])):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path = tmp_path / f"data{ending}"
    path.write_bytes(bytes(data))
    opens_or_refuses(path)
