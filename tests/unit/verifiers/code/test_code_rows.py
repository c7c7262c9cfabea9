"""Rows of data sets: what is read out of them, what is refused, what a program finds around it."""

import json
import logging
from typing import Any

import pytest

from rlvr.plugin import VerifierContext
from rlvr_verifiers.code_answer import CodeConfig, CodeVerifier
from rlvr_verifiers.codecheck.references.references import FunctionReference, program_of, read_reference
from rlvr_verifiers.codecheck.references.surroundings import with_usual_imports


def asserts_of(row: Any) -> tuple[str, ...]:
    found = read_reference(row)
    assert isinstance(found, FunctionReference)
    return found.tests


def pairs(inputs: Any, outputs: Any) -> dict[str, Any]:
    return {"fn_name": "f", "inputs": inputs, "outputs": outputs}


def test_call_rows_are_read_over_all_rows() -> None:
    assert asserts_of(pairs(["[1]\n[2]"], ["[1, 2]"])) == ("assert f([1], [2]) == [1, 2]",)
    assert asserts_of(pairs([[1], [2]], [[1], [1, 2]]))[0] == "assert f(1) == [1]"
    assert asserts_of(pairs([[1]], [[1]])) == ("assert f(1) in (1, [1])",)
    assert asserts_of(pairs([["1"]], ["1"])) == ("assert f('1') == '1'",)


REFUSED = [
    ("words as arguments", pairs(["one two"], ["1"]), r"inputs\[0\]"),
    ("a number as arguments", pairs([1], [1]), "lists of arguments"),
    ("a result that is no value", pairs(["1"], ["so be it"]), r"outputs\[0\]"),
    (
        "mock.patch",
        {"entry_point": "f", "test": "from unittest.mock import patch\nfrom solution import f\n"
         "def test_a():\n    with patch('random.random'):\n        assert f() == 1\n"},
        "patch",
    ),
    (
        "a captured output",
        {"entry_point": "f", "test": "import io, contextlib\nfrom solution import f\ndef test_a():\n"
         "    with contextlib.redirect_stdout(io.StringIO()):\n        f()\n"},
        "redirect_stdout",
    ),
    (
        "a replaced stream",
        {"entry_point": "f", "asserts": ["import sys\nsys.stdin = open('a')\nassert f() == 1"]},
        "sys.stdin",
    ),
    (
        "a fixture that is not there",
        {"entry_point": "f", "test": "import pytest\nfrom solution import f\ndef test_a(tmp_path):\n"
         "    with pytest.raises(ValueError):\n        f(tmp_path)\n"},
        "tmp_path",
    ),
    (
        "more of pytest",
        {"entry_point": "f", "test": "import pytest\nfrom solution import f\ndef test_a():\n"
         "    with pytest.warns(UserWarning):\n        f()\n"},
        "pytest.warns",
    ),
    (
        "an object of the tests",
        {"entry_point": "f", "setup": "class Node:\n    pass\n", "asserts": ["assert f(Node()) == 1"]},
        "their own class Node",
    ),
    ("an unknown white space", {"tests": [{"stdout": "1"}], "white_space": "none"}, "white_space"),
    ("a number among outputs", {"tests": [{"stdout": ["1", 2]}]}, r"tests\[0\]"),
    ("no accepted output", {"tests": [{"stdout": []}]}, r"tests\[0\]"),
    ("a wrong checker", {"tests": [{"stdin": ""}], "checker": {"type": "program", "code": "x ="}}, "not parse"),
    ("a checker without code", {"tests": [{"stdin": ""}], "checker": {"type": "program"}}, "checker is"),
]  # fmt: skip


@pytest.mark.parametrize(("why", "row", "message"), REFUSED, ids=[r[0] for r in REFUSED])
def test_untestable_rows_are_refused_at_load(why: str, row: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_reference(row)


def test_an_expected_output_above_the_limit_is_refused_at_load() -> None:
    verifier = CodeVerifier(CodeConfig(), VerifierContext())
    long = {"tests": [{"stdin": "", "stdout": "1" * 2000}], "limits": {"output_bytes": 1000}}
    with pytest.raises(ValueError, match="output_bytes=1000"):
        verifier.parse_reference(long)


def test_a_statement_that_allows_several_answers_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    row = {"inputs": ["1"], "outputs": ["2"], "problem": "If there are many answers, print any of them."}
    verifier = CodeVerifier(CodeConfig(), VerifierContext())
    with caplog.at_level(logging.WARNING):
        verifier.parse_reference({**row, "problem": "Print the sum."})
        assert not caplog.records
        verifier.parse_reference(row)
        verifier.parse_reference(row)
    assert len(caplog.records) == 1


def test_only_missing_names_are_imported() -> None:
    code = "from math import *\ndef f(a: List[int]):\n    return gcd(*a), deque(a)\n"
    found = with_usual_imports(code)
    assert "from typing import List" in found
    assert "from collections import deque" in found
    assert with_usual_imports("def f(:") == "def f(:"
    assert "import" not in with_usual_imports("x = 1").replace("__import__", "")


def test_rows_that_bring_their_own_imports_get_none() -> None:
    code = "def f(a: List[int]): ...\n"
    assert program_of(code, read_reference(["assert f(1) == 2"])) == code
    humaneval = {"entry_point": "f", "prompt": "", "test": "def check(candidate): ..."}
    assert program_of(code, read_reference(humaneval)) == code
    apps = {"input_output": json.dumps(pairs([[1]], [2]))}
    assert "import List" in program_of(code, read_reference(apps))
