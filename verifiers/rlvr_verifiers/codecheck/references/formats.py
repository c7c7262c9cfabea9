"""Rows of known data sets as references: HumanEval, MBPP, APPS, CodeContests, LiveCodeBench.

`as_reference` takes a whole row or the one column that holds its tests, so that a recipe can point at it:

    HumanEval       the row, or {"test", "entry_point", "prompt"}
    MBPP            the row, or its `test_list` (the entry point is read from the asserts)
    APPS, TACO      `input_output`: {"inputs", "outputs"} with stdin and stdout, or with "fn_name" arguments and results
                    (also as a text of one JSON value a line); so are the pairs of PRIME and Eurus
    CodeContests    {"inputs", "outputs"}, or the row's `public_tests`, `private_tests` and `generated_tests`
    LiveCodeBench   the row with `public_test_cases`, `private_test_cases` and `metadata`
"""

import ast
import base64
import binascii
import json
import pickletools
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from rlvr.records import Json

_MAX_UNPACKED_BYTES = 256 << 20


def as_reference(value: Json) -> Json:
    """The reference that a row or a column means; what is in rlvr's own form comes back as it is.

    Raises: ValueError that says what is missing.

    >>> as_reference(["assert f(1) == 2"])
    {'kind': 'function', 'asserts': ['assert f(1) == 2']}
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"the reference is text, but not JSON: {error}") from error
    if isinstance(value, list):
        items = cast("list[Json]", value)
        if items and all(isinstance(item, str) for item in items):
            return {"kind": "function", "asserts": items}
        return {"kind": "stdio", "tests": items}
    if not isinstance(value, dict):
        raise ValueError(f"the reference is a {type(value).__name__}; it must be an object or a list")
    row = cast("dict[str, Json]", value)
    for key, convert in _ROWS.items():
        if key in row:
            kept = ("checker", "limits", "white_space")
            return {**convert(row), **{k: row[k] for k in kept if k in row}}
    return row


def from_mbpp(row: Mapping[str, Json]) -> dict[str, Json]:
    """A row of MBPP, full or sanitized."""
    tests = row["test_list"]
    tests = json.loads(tests) if isinstance(tests, str) else tests
    setup: list[Any] = [row.get("test_setup_code") or "", *(row.get("test_imports") or ())]
    found: dict[str, Json] = {"kind": "function", "asserts": tests}
    found["setup"] = "\n".join(part.replace("\r\n", "\n") for part in setup if part)
    if row.get("entry_point"):
        found["entry_point"] = row["entry_point"]
    return found


def from_pairs(row: Mapping[str, Json]) -> dict[str, Json]:
    """`inputs` and `outputs` side by side; with `fn_name`, the arguments and the result of a call."""
    inputs, outputs = row["inputs"], row["outputs"]
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):  # pyright: ignore[reportUnknownArgumentType]  # of any value
        raise ValueError("inputs and outputs must be lists of one length")
    pairs = list(zip(cast("list[Json]", inputs), cast("list[Json]", outputs), strict=True))
    name = row.get("fn_name")
    if not name:
        tests = _stdio((_text(given), _text(wanted)) for given, wanted in pairs)
        return {**tests, "usual_imports": True, "white_space": "words"}
    starter = str(row.get("starter_code") or "")
    return _calls(str(name), _read_calls(pairs), is_method="class Solution" in starter)


def _read_calls(pairs: Sequence[tuple[Json, Json]]) -> list[tuple[list[Json], list[Json]]]:
    """(arguments, accepted results) of each row, in the one way that fits all rows.

    A text of arguments is one JSON value a line, and then so is the result. Where every result is a list of one, it
    may be the result itself, or boxed, as in APPS: both are accepted.

    Raises: ValueError when rows cannot be read.
    """
    are_texts = {isinstance(given, str) for given, _ in pairs}
    if len(are_texts) > 1 or not all(isinstance(given, (str, list)) for given, _ in pairs):
        raise ValueError("with fn_name, inputs are lists of arguments, or texts of one a line")
    if are_texts == {True}:
        pairs = [(_values(str(given), index), _result(wanted, index)) for index, (given, wanted) in enumerate(pairs)]
        return [(given, [wanted]) for given, wanted in pairs]
    is_boxed = all(_is_boxed(wanted) for _, wanted in pairs)
    return [
        (
            [_with_int_keys(item) for item in given],
            [_with_int_keys(v) for v in ([wanted[0], wanted] if is_boxed else [wanted])],
        )
        for given, wanted in pairs
    ]


def _values(text: str, index: int) -> list[Json]:
    """The values of a text, one a line; a text that is one list over several lines counts as one."""
    lines = [line for line in text.split("\n") if line.strip()]
    try:
        return [_value(line) for line in lines]
    except ValueError:
        try:
            return [_value(text)]
        except ValueError as error:
            raise ValueError(
                f"inputs[{index}]={text[:60]!r} is neither a list of arguments nor a text with one JSON value a line"
            ) from error


def _result(wanted: Json, index: int) -> Json:
    if not isinstance(wanted, str):
        return wanted
    try:
        return _value(wanted)
    except ValueError as error:
        raise ValueError(f"outputs[{index}]={wanted[:60]!r} is no JSON value") from error


def _value(text: str) -> Json:
    """A value in JSON, or as Python writes it. Raises ValueError."""
    try:
        return json.loads(text)
    except ValueError:
        try:
            return ast.literal_eval(text.strip())
        except (SyntaxError, MemoryError, RecursionError) as error:
            raise ValueError("no value") from error


def _with_int_keys(value: Json) -> Json:
    """JSON has no keys but texts; those that are whole numbers were numbers."""
    if not isinstance(value, dict) or not value:
        return cast("Json", value)
    row = cast("dict[str, Json]", value)
    if not all(key.lstrip("-").isdecimal() and key.isascii() for key in row):
        return cast("Json", value)
    return cast("Json", {int(key): item for key, item in row.items()})


def from_apps(row: Mapping[str, Json]) -> dict[str, Json]:
    """A row of APPS or TACO."""
    tests = row["input_output"]
    inner = json.loads(tests) if isinstance(tests, str) else tests
    return from_pairs({**inner, "starter_code": row.get("starter_code", "")})


def from_code_contests(row: Mapping[str, Json]) -> dict[str, Json]:
    """A row of CodeContests: all of its public, private and generated tests."""
    pairs: list[tuple[str, str]] = []
    for part in ("public_tests", "private_tests", "generated_tests"):
        tests: Json = row.get(part) or {"input": [], "output": []}
        pairs += zip(tests["input"], tests["output"], strict=True)
    return {**_stdio(pairs), "usual_imports": True}


def from_live_code_bench(row: Mapping[str, Json]) -> dict[str, Json]:
    """A row of LiveCodeBench; its private tests are unpacked without running the pickle that they are in."""
    tests = _case_list(row["public_test_cases"]) + _case_list(row.get("private_test_cases") or "[]")
    metadata = row.get("metadata") or "{}"
    metadata = json.loads(metadata) if isinstance(metadata, str) else metadata
    if not any(test.get("testtype") == "functional" for test in tests):
        stdio = _stdio((test["input"], test["output"]) for test in tests)
        return {**stdio, "usual_imports": True, "white_space": "words"}
    name = str(metadata.get("func_name") or "")
    if not name:
        raise ValueError("functional tests, but metadata has no func_name")
    calls = [(_values(test["input"], index), [_result(test["output"], index)]) for index, test in enumerate(tests)]
    starter = str(row.get("starter_code") or "class Solution")
    return _calls(name, calls, is_method="class Solution" in starter)


def _stdio(pairs: Iterable[tuple[str, str]]) -> dict[str, Json]:
    tests = [{"stdin": given, "stdout": wanted} for given, wanted in pairs]
    return {"kind": "stdio", "tests": tests}


def _calls(name: str, calls: Sequence[tuple[list[Any], list[Any]]], *, is_method: bool) -> dict[str, Json]:
    """Asserts over calls whose arguments and results came as JSON: it has one kind of sequence."""
    target = f"Solution().{name}" if is_method else name
    asserts = [
        f"assert {target}({', '.join(map(repr, arguments))}) "
        + (f"== {accepted[0]!r}" if len(accepted) == 1 else f"in {tuple(accepted)!r}")
        for arguments, accepted in calls
    ]
    return {
        "kind": "function",
        "entry_point": "Solution" if is_method else name,
        "asserts": asserts,
        "function_name": name,
        "usual_imports": True,
        "is_json": True,
    }


def _is_boxed(value: Json) -> bool:
    """APPS wraps each result of a call in a list of one."""
    return isinstance(value, list) and len(cast("list[Json]", value)) == 1


def _text(value: Json) -> str:
    if isinstance(value, list):
        return "\n".join(map(str, cast("list[Json]", value)))
    return str(value)


def _case_list(packed: Json) -> list[dict[str, Any]]:
    """Test cases as a list, a JSON text, or base64 of zlib of a pickled JSON text."""
    if isinstance(packed, list):
        return cast("list[dict[str, Any]]", packed)
    try:
        return json.loads(packed)
    except ValueError:
        pass  # the packed form
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(packed), _MAX_UNPACKED_BYTES)
        texts = [arg for _, arg, _ in pickletools.genops(data) if isinstance(arg, str)]
        return json.loads(max(texts, key=len))
    except (ValueError, zlib.error, binascii.Error) as error:
        raise ValueError(f"private_test_cases cannot be unpacked: {error}") from error


_ROWS = {
    "test_list": from_mbpp,
    "input_output": from_apps,
    "public_test_cases": from_live_code_bench,
    "public_tests": from_code_contests,
    "inputs": from_pairs,
}
