"""References, limits and comparison of `sql`; its verdicts are in tests/golden/verdicts/sql.jsonl."""

import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.plugin import VerifierContext, completion_from_text
from rlvr.records import Check, FinishReason, Prompt, Status, Verdict
from rlvr_verifiers.sql_answer.comparison import has_order, same_rows
from rlvr_verifiers.sql_answer.database import QueryFailed, QueryLimits, build_image, run_query
from rlvr_verifiers.sql_answer.verifier import SqlConfig, SqlVerifier
from tests.hardware import cpu_seconds

SCRIPT = "CREATE TABLE t (a INTEGER, b TEXT); INSERT INTO t VALUES (1, 'x'), (2, 'y'), (3, NULL);"
GOLD = {"schema": SCRIPT, "query": "SELECT a FROM t"}
IMAGE = build_image(SCRIPT)


def build(**settings: Any) -> SqlVerifier:
    return SqlVerifier(SqlConfig(**settings), VerifierContext())


def verify(text: str, reference: Any = GOLD, *, is_cut: bool = False, **settings: Any) -> Verdict:
    completion = completion_from_text(text, prompt_id="p")
    if is_cut:
        object.__setattr__(completion, "finish_reason", FinishReason.LENGTH)
    check = Check(name="main", verifier="sql", reference=reference)
    return build(**settings).verify(Prompt(prompt_id="p", text="?", checks=(check,), source="test"), completion)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (None, "is not of the form"),
        ("SELECT 1", "is not of the form"),
        ({"schema": SCRIPT}, "is not of the form"),
        (GOLD | {"hidden": []}, "is not of the form"),
        (GOLD | {"query": 1}, "must be texts"),
        (GOLD | {"also": [1]}, "must be texts"),
        (GOLD | {"also": [SCRIPT] * 10}, "there are 11 databases"),
        (GOLD | {"schema": "CREATE TABEL t (a)"}, "the script of the database fails"),
        (GOLD | {"schema": "ATTACH '/tmp/x.db' AS x"}, "the script of the database fails: not authorized"),
        (GOLD | {"query": "SELECT c FROM t"}, "the gold query fails: the query cannot be run: no such column"),
        (GOLD | {"query": "DELETE FROM t"}, "the gold query fails: the query does more than read"),
        (GOLD | {"query": "SELECT a FROM t ORDER BY random()"}, "the gold query fails"),
        (GOLD | {"query": "SELECT a FROM t; SELECT 1"}, "the gold query fails"),
        (GOLD | {"also": ["CREATE TABLE u (a)"]}, "the gold query fails: the query cannot be run: no such table"),
        (GOLD | {"query": "SELECT a FROM t WHERE a > 9"}, "returns no rows on any database"),
    ],
)
def test_a_reference_that_cannot_be_used_is_refused_at_load(reference: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build().parse_reference(reference)


def test_one_database_with_rows_is_enough() -> None:
    build().parse_reference(GOLD | {"schema": "CREATE TABLE t (a INTEGER)", "also": [SCRIPT]})


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO t VALUES (9, 'z')",
        "UPDATE t SET a = 9",
        "DELETE FROM t",
        "DROP TABLE t",
        "CREATE TABLE u (a)",
        "CREATE TEMP TABLE u (a)",
        "ALTER TABLE t RENAME TO u",
        "ATTACH ':memory:' AS x",
        "PRAGMA user_version = 3",
        "PRAGMA hard_heap_limit = 0",
        "VACUUM",
        "ANALYZE",
        "SAVEPOINT s",
        "SELECT load_extension('x')",
        "WITH u AS (SELECT 1) DELETE FROM t",
    ],
)
def test_a_query_only_reads(query: str) -> None:
    with pytest.raises(QueryFailed, match="more than read"):
        run_query(IMAGE, query, QueryLimits())
    assert run_query(IMAGE, "SELECT count(*), sum(a) FROM t", QueryLimits()).rows == [(3, 6)]


def test_a_query_touches_no_file(tmp_path: Path) -> None:
    target = tmp_path / "made.db"
    for query in (f"ATTACH '{target}' AS x", f"VACUUM INTO '{target}'", f"SELECT writefile('{target}', 'x')"):
        with pytest.raises(QueryFailed):
            run_query(IMAGE, query, QueryLimits())
        with pytest.raises(ValueError, match="script of the database fails"):
            build_image(f"{SCRIPT}{query}")
    assert not target.exists()


ENDLESS = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) "
SLOW = [
    f"{ENDLESS}SELECT n FROM r",
    f"{ENDLESS}SELECT max(n) FROM r",
    f"{ENDLESS}SELECT n, hex(zeroblob(90000)) FROM r ORDER BY 2, 1",
    f"{ENDLESS}SELECT group_concat(hex(zeroblob(90000))) FROM r",
    f"{ENDLESS}SELECT DISTINCT printf('%099999d', n) FROM r",
    f"{ENDLESS}SELECT count(*) FROM r WHERE replace(hex(zeroblob(90000)), '0', 'x') = n",
    f"{ENDLESS}SELECT count(*) FROM r WHERE instr(hex(zeroblob(90000)), hex(zeroblob(45000)) || 'b')",
    "SELECT count(*) FROM " + ", ".join(f"t t{n}" for n in range(40)),
    "SELECT replace(hex(zeroblob(3000)), '00', 'a') LIKE '%a%a%a%a%a%a%a%a%a%b' FROM t",
    "SELECT replace(hex(zeroblob(3000)), '00', 'a') GLOB '*a*a*a*a*a*a*a*a*a*b' FROM t",
    "SELECT " + " + ".join(["1"] * 3_000),
    "SELECT " + "(" * 3_000 + "1" + ")" * 3_000,
    "SELECT " + " UNION SELECT ".join(["a FROM t"] * 300),
    "SELECT a FROM t WHERE a IN (" + ",".join(["1"] * 4_000) + ")",
]


@pytest.mark.parametrize("query", SLOW)
def test_a_hostile_query_ends_soon(query: str) -> None:
    start = cpu_seconds()
    assert not verify(query, GOLD | {"also": [SCRIPT]}).passed
    assert cpu_seconds() - start < 4.0


def test_the_steps_and_rows_of_a_query_are_settings() -> None:
    query = "SELECT x.a FROM t x, t y, t z, t u, t v, t w, t p, t q"
    reference = GOLD | {"query": query}
    assert verify(query, reference).passed
    assert "more than 10,000 steps" in verify(query, reference, max_steps=10_000).reason
    with pytest.raises(ValueError, match="more than 100 rows"):
        build(max_rows=100).parse_reference(reference)


def test_a_cut_query_without_a_block_does_not_count() -> None:
    assert verify("SELECT a FROM t").passed
    assert verify("SELECT a FROM t", is_cut=True).status is Status.UNPARSED
    assert verify("```sql\nSELECT a FROM t\n```\nThis", is_cut=True).passed


HOSTILE_TEXTS = ["```sql\n" * 1_000_000, "-- " * 3_000_000, "/*" * 4_900, "(" * 9_000, "SELECT '\ud800'"]


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_a_verdict_on_a_hostile_text_takes_little_time(text: str) -> None:
    start = cpu_seconds()
    assert not verify(text).passed
    assert cpu_seconds() - start < 2.0


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT a FROM t ORDER BY a", True),
        ("SELECT a FROM t order\n by a LIMIT 1", True),
        ("SELECT a FROM t", False),
        ("SELECT (SELECT a FROM t ORDER BY a) FROM t", False),
        ("SELECT 'ORDER BY' FROM t -- ORDER BY a", False),
        ("SELECT row_number() OVER (ORDER BY a) FROM t", False),
        ("SELECT ')' FROM t /* ( */ ORDER BY 1", True),
        ('SELECT "order by" FROM t', False),
    ],
)
def test_an_order_of_the_whole_query_is_found(query: str, expected: bool) -> None:
    assert has_order(query) is expected


def test_rows_within_the_tolerance_are_paired_although_they_sort_differently() -> None:
    rows = [(1.0000004999, 2), (1.0000005001, 1)]
    gold = [(1.0000005001, 2), (1.0000004999, 1)]
    assert same_rows(rows, gold, ordered=False, tolerance=1e-6)
    assert not same_rows(rows, gold, ordered=False, tolerance=0.0)


WORDS = st.text(alphabet="aAb%_[]*?^-", max_size=6)


@settings(max_examples=400, derandomize=True, database=None, deadline=None)
@given(pattern=WORDS, text=st.text(alphabet="aAb%]", max_size=8))
def test_wildcards_match_what_sqlite_matches(pattern: str, text: str) -> None:
    connection = sqlite3.connect(":memory:")
    for operator in ("LIKE", "GLOB"):
        if operator == "GLOB" and "[" in pattern:
            continue  # malformed classes are matched differently; well-formed ones are tested below
        (expected,) = connection.execute(f"SELECT ? {operator} ?", (text, pattern)).fetchone()
        query = f"SELECT '{text}' {operator} '{pattern}'"
        assert run_query(IMAGE, query, QueryLimits()).rows == [(expected,)], query
    connection.close()


@pytest.mark.parametrize(
    "condition",
    ["'b' GLOB '[abc]'", "'b' GLOB '[^abc]'", "'7' GLOB '[0-9]'", "'x7' GLOB '[a-z][0-9]'", "']' GLOB '[]]'",
     "NULL LIKE 'a'",
     "'5%' LIKE '5!%' ESCAPE '!'", "'50' LIKE '5!%' ESCAPE '!'", "12 LIKE '1_'", "'\u00c4' LIKE '\u00e4'"],
)  # fmt: skip
def test_wildcards_of_each_kind_are_those_of_sqlite(condition: str) -> None:
    connection = sqlite3.connect(":memory:")
    expected = connection.execute(f"SELECT {condition}").fetchall()
    connection.close()
    assert run_query(IMAGE, f"SELECT {condition}", QueryLimits()).rows == expected
