"""Schemas, patterns and hostile JSON of `json_schema`; its verdicts are in tests/golden/verdicts/json_schema.jsonl."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rlvr.plugin import VerifierContext, completion_from_text
from rlvr.records import Check, Prompt, Status, Verdict
from rlvr_verifiers.json_answer.patterns import Budget, OutOfBudget, compile_pattern
from rlvr_verifiers.json_answer.schemas import parse_schema
from rlvr_verifiers.json_answer.verifier import JsonSchemaConfig, JsonSchemaVerifier
from tests.hardware import cpu_seconds

TABLE = Path(__file__).parents[2] / "golden" / "verdicts" / "json_schema.jsonl"


def build(**settings: Any) -> JsonSchemaVerifier:
    return JsonSchemaVerifier(JsonSchemaConfig(**settings), VerifierContext())


def verify(text: str, schema: Any, **settings: Any) -> Verdict:
    check = Check(name="main", verifier="json_schema", reference={"schema": schema})
    prompt = Prompt(prompt_id="p", text="?", checks=(check,), source="test")
    return build(**settings).verify(prompt, completion_from_text(text, prompt_id="p"))


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (None, "is not a schema"),
        ([], "is not a schema"),
        ({"type": "text"}, "none of object, array"),
        ({"type": []}, "none of object, array"),
        ({"contentEncoding": "base64"}, "'contentEncoding' is not supported; supported are"),
        ({"$dynamicRef": "#x"}, "not supported"),
        ({"unevaluatedProperties": False}, "not supported"),
        ({"$ref": "https://example.com/x.json"}, "nothing is fetched"),
        ({"$ref": "file:///etc/passwd"}, "nothing is fetched"),
        ({"$ref": "other.json#/$defs/x"}, "nothing is fetched"),
        ({"$ref": "#name"}, "anchors are not supported"),
        ({"$ref": "#/$defs/x"}, "names nothing"),
        ({"$ref": "#"}, "without end"),
        (
            {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
            "without end",
        ),
        ({"properties": []}, "not an object of schemas"),
        ({"properties": {"a": 1}}, "where a schema belongs"),
        ({"allOf": {}}, "not a list of schemas"),
        ({"anyOf": []}, "not a list of schemas"),
        ({"enum": []}, "not a list of values"),
        ({"required": "a"}, "not a list of names"),
        ({"minLength": -1}, "not a whole number"),
        ({"minimum": "1"}, "not a number"),
        ({"minimum": True}, "not a number"),
        ({"multipleOf": 0}, "not a number above 0"),
        ({"format": "regex"}, "format: 'regex' is not supported"),
        ({"pattern": "(a"}, "never closed"),
        ({"pattern": "a)"}, "never opened"),
        ({"pattern": "(?=a)"}, "look-around"),
        ({"pattern": "(a)\\1"}, "not supported"),
        ({"pattern": "\\p{L}"}, "not supported"),
        ({"pattern": "[z-a]"}, "out of order"),
        ({"pattern": "*"}, "nothing to repeat"),
        ({"pattern": "(a{1000}){1000}"}, "too large"),
        ({"pattern": "((){999}){999}"}, "too large"),
        ({"pattern": 1}, "not a text"),
        ({"patternProperties": {"[": True}}, "never closed"),
    ],
)
def test_a_schema_that_is_not_supported_is_refused_at_load(schema: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build().parse_reference({"schema": schema})


def test_a_deep_schema_is_refused_and_not_a_crash() -> None:
    schema: Any = {"type": "null"}
    for _ in range(500):
        schema = {"not": schema}
    with pytest.raises(ValueError, match="nested deeper than 64"):
        build().parse_reference({"schema": schema})


def test_an_expected_value_must_follow_its_schema() -> None:
    with pytest.raises(ValueError, match=r"does not follow the schema: \$: not of type object"):
        build().parse_reference({"schema": {"type": "object"}, "value": 1})
    build(compare="none").parse_reference({"schema": {"type": "object"}, "value": 1})


@pytest.mark.parametrize("reference", [None, 1, {"value": 1}, {"schema": True, "values": 1}, {"type": "object"}])
def test_a_reference_of_another_form_is_refused(reference: Any) -> None:
    with pytest.raises(ValueError, match="is not of the form"):
        build().parse_reference(reference)


def test_a_schema_in_the_settings_is_checked_before_the_run() -> None:
    with pytest.raises(ValidationError, match="not supported"):
        JsonSchemaConfig(schema={"typ": "object"})


def test_a_verdict_names_the_place() -> None:
    schema = {"properties": {"a": {"items": {"properties": {"b": {"maximum": 1}}}}}}
    assert verify('{"a": [{}, {"b": 2}]}', schema).reason == "$.a[1].b: above 1"


def test_valid_and_invalid_values_are_those_of_another_implementation() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    rows = [json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines()]
    schemas = [row["reference"]["schema"] for row in rows if row["reference"] and "schema" in row["reference"]]
    schemas = [schema for schema in schemas if "(a" not in json.dumps(schema) and "$defs/x" not in json.dumps(schema)]
    values: list[Any] = [None, True, 0, 1, 2.0, 0.3, 5, 200, "", "ab", "AB12", [], [1], [1, 1.0], [1, True], ["a", 1],
                         [5, 5], {}, {"a": 1}, {"a": 1, "b": 2}, {"x1": 1}, {"x1": "1"}, {"next": {}}, {"abc": [1]},
                         {"name": "Ann", "age": 3}, {"name": "Ann", "age": 3.5}]  # fmt: skip
    num_valid = 0
    for schema in schemas:
        if isinstance(schema, dict) and "format" in schema:
            continue  # only an annotation there
        other = jsonschema.Draft202012Validator(schema)
        ours = parse_schema(schema)
        for value in values:
            is_valid = other.is_valid(value)
            if schema == {"multipleOf": 0.1}:
                continue  # in binary fractions there
            assert (ours.problem(value) == "") is is_valid, (schema, value, ours.problem(value))
            num_valid += is_valid
    assert num_valid > 500


PATTERNS = st.recursive(
    st.sampled_from(["a", "b", "ab", ".", "[ab]", "[^a]", "\\d", "\\w", "\\s", "a?", "b*", "^", "$", "\\b"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}", "*?"])).map(
            lambda p: f"({p[0]}){p[1]}"
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(pattern=PATTERNS, text=st.text(alphabet="ab1 _", max_size=8))
def test_a_pattern_matches_what_python_matches(pattern: str, text: str) -> None:
    expected = re.search(pattern.replace("$", "\\Z"), text, re.ASCII) is not None
    assert compile_pattern(pattern).search(text, Budget(100_000)) is expected


@pytest.mark.parametrize(
    "pattern", ["^(a+)+$", "^(a|aa)+$", "^(a|a?)+$", "(a*)*b$", "^(([a-z])+.)+[A-Z]([a-z])+$", "^a{0,50}a{50}$"]
)
def test_a_pattern_cannot_backtrack(pattern: str) -> None:
    start = cpu_seconds()
    assert not compile_pattern(pattern).search("a" * 20_000 + "!", Budget(5_000_000))
    assert cpu_seconds() - start < 2.0
    with pytest.raises(OutOfBudget):
        compile_pattern(pattern).search("a" * 20_000, Budget(1_000))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10_000_000,
        '"' + "a" * 10_000_000 + '"',
        "```json\n" * 1_000_000,
        "```" * 3_000_000,
        "[" + "1," * 45_000 + "1]",
        "{" + ",".join(f'"k{n}": {n}' for n in range(8_000)) + ', "k7999": 1}',
        "1" * 100_000,
        "1e" + "9" * 90_000,
        '{"a":' * 20_000,
        '"' + "\\u0000" * 16_000 + '"',
        '"' + "a" * 99_000 + '"',
    ],
)
def test_a_verdict_on_hostile_json_takes_little_time(text: str) -> None:
    schema = {
        "anyOf": [
            {"pattern": "^(a+)+$", "type": "integer"},
            {"uniqueItems": True, "pattern": "^(a*)*b$", "minItems": 10**6},
        ]
    }
    start = cpu_seconds()
    assert verify(text, schema).status in (Status.FAIL, Status.UNPARSED, Status.PASS)
    assert cpu_seconds() - start < 3.0
