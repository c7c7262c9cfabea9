"""References: what is read out of them, and what is refused at load."""

import base64
import json
import pickle
import re
import zlib
from typing import Any

import pytest

from rlvr_verifiers.codecheck.references.references import (
    FunctionReference,
    StdioReference,
    Style,
    defines,
    read_reference,
    with_prompt,
)

HUMANEVAL = {
    "task_id": "HumanEval/x",
    "entry_point": "g",
    "prompt": "import math\nfrom typing import List\n\ndef helper(x):\n    return x + 1\n\ndef g(x):\n    '''doc'''\n",
    "canonical_solution": "    return helper(x)\n",
    "test": "def check(candidate):\n    assert candidate(1) == helper(1)\n",
}


def function(value: Any) -> FunctionReference:
    found = read_reference(value)
    assert isinstance(found, FunctionReference)
    return found


def stdio(value: Any) -> StdioReference:
    found = read_reference(value)
    assert isinstance(found, StdioReference)
    return found


def test_a_list_of_asserts_is_a_reference_and_names_its_entry_point() -> None:
    found = function(["assert f([Pair(1)], 2) == 3", "assert set(f([Pair(2)], 2)) == {3}"])
    assert found.entry_point == "f"
    assert found.names == ("Pair", "f")
    assert found.literal_asserts == ()
    assert function(["assert sum(1, 2) == 3"]).entry_point == "sum"


def test_asserts_over_literals_are_read_once_for_all() -> None:
    found = function({"kind": "function", "entry_point": "f", "asserts": ["assert f(1) == 2"], "setup": "import math"})
    assert len(found.literal_asserts) == 1
    assert function(["assert f(1) == 2", "assert f(2) == [f(1)]"]).literal_asserts == ()
    assert function({"asserts": ["assert f(1) == 2"], "setup": "x = 1"}).literal_asserts == ()


def test_a_module_that_the_tests_use_is_the_real_one_and_not_the_programs() -> None:
    found = function(["assert f((1,)) == sys.getsizeof((1,))", "assert np.allclose(f((1, 2)), [1])"])
    assert found.modules == {"np": "numpy", "sys": "sys"}
    assert found.names == ("f",)


def test_a_helper_of_the_prompt_that_the_tests_use_is_theirs() -> None:
    found = function(HUMANEVAL)
    assert found.style is Style.CHECK
    assert found.names == ("g",)
    assert "def helper" in found.setup
    assert "def g" not in found.setup


def test_a_body_continues_the_prompt_and_a_whole_program_gets_its_imports_and_helpers() -> None:
    found = function(HUMANEVAL)
    spaces: dict[str, Any] = {}
    exec(with_prompt("    return helper(x)\n", found), spaces)
    assert spaces["g"](1) == 2
    spaces = {}
    exec(with_prompt("def g(x: List) -> int:\n    return helper(x) + math.floor(0.5)\n", found), spaces)
    assert spaces["g"](1) == 2
    assert "doc" not in with_prompt("g = lambda x: 1", found)


def test_a_prompt_that_ends_within_its_function_still_provides_the_text_before_it() -> None:
    found = function({**HUMANEVAL, "prompt": "import math\ndef g(x):\n", "test": "def check(candidate):\n    pass\n"})
    assert with_prompt("def g(x): return 1", found).startswith("import math\n")


@pytest.mark.parametrize(
    ("code", "is_defined"),
    [
        ("def f(x): pass", True), ("async def f(): pass", True), ("class f:\n    pass", True), ("f = lambda: 1", True),
        ("f: int = 3", True), ("from a import f", True), ("import a as f", True), ("    def f(): pass", False),
        ("f(1)", False), ("f == 1", False), ("def ff(): pass", False), ("x = f", False),
    ],
)  # fmt: skip
def test_whether_a_program_defines_a_name(code: str, is_defined: bool) -> None:
    assert defines("import os\n" + code, "f") is is_defined


def test_stdio_references_in_their_forms() -> None:
    long = stdio({"kind": "stdio", "tests": [{"stdin": "1\n", "stdout": "2\n"}], "limits": {"wall_s": 2}})
    short = stdio([{"stdin": "1\n", "stdout": "2\n"}])
    assert long.tests == short.tests
    assert long.limits == {"wall_s": 2.0}
    assert stdio({"tests": [{"stdout": "2"}], "checker": {"type": "float"}}).tolerance is not None


REFUSED = [
    ("no tests", {"kind": "stdio", "tests": []}, "at least one"),
    ("a test without an output", [{"stdin": "1"}], "tests[0] needs"),
    ("an unknown kind", {"kind": "shell", "tests": []}, "kind='shell'"),
    ("no asserts", {"kind": "function", "entry_point": "f", "asserts": []}, "at least one"),
    ("neither asserts nor test", {"kind": "function", "entry_point": "f"}, "exactly one"),
    ("asserts that do not parse", ["assert f(1) =="], "does not parse"),
    ("no test uses the entry point", {"entry_point": "f", "asserts": ["assert 1 == 1"]}, "entry point 'f'"),
    ("no common function", ["assert f(1) == 1", "assert g(1) == 1"], "do not all call one function"),
    ("a foreign module", {"asserts": ["assert f(1) == 1"], "setup": "import torch"}, "'torch'"),
    ("an alias of a foreign module", ["assert pd.isna(f(1))"], "'pandas'"),
    (
        "a class of the program as a base",
        {"entry_point": "A", "asserts": ["class B(A):\n    pass", "assert B()"]},
        "derive",
    ),
    ("the program's source", ["import inspect\nassert inspect.getsource(f)"], "getsource"),
    ("a name from nowhere", ["assert f(root) == 1"], "'root'"),
    ("an unknown key", {"asserts": ["assert f(1)"], "entry": "f"}, "unknown keys entry"),
    ("an unknown limit", {"asserts": ["assert f(1)"], "limits": {"time_s": 2}}, "limits.time_s"),
    ("a limit of zero", {"asserts": ["assert f(1)"], "limits": {"wall_s": 0}}, "above 0"),
    ("an unknown checker", {"asserts": ["assert f(1)"], "checker": {"type": "judge"}}, "checker="),
    ("a number", 5, "is a int"),
    ("text that is not JSON", "assert f(1)", "not JSON"),
]


@pytest.mark.parametrize(("why", "value", "message"), REFUSED, ids=[row[0] for row in REFUSED])
def test_an_untestable_reference_is_refused(why: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_reference(value)


def test_rows_of_known_data_sets_are_references() -> None:
    mbpp = {"task_id": 1, "text": "?", "test_list": ["assert f(n) == 1"], "test_setup_code": "n = 1\r\n"}
    assert function(mbpp).setup == "n = 1\n"
    sanitized = {"test_list": json.dumps(["assert f(1) == 1"]), "test_imports": ["import math"]}
    assert function(sanitized).setup == "import math"
    pairs = stdio({"inputs": ["1\n"], "outputs": ["2\n"], "id": 0, "problem": "?"})
    assert (pairs.tests[0].stdin, pairs.tests[0].stdout) == (b"1\n", "2\n")
    apps = {"input_output": json.dumps({"fn_name": "f", "inputs": [[1, [2]]], "outputs": [[3]]})}
    assert function(apps).tests == ("assert f(1, [2]) in (3, [3])",)
    method = {**apps, "starter_code": "class Solution:\n    def f(self, x): ..."}
    assert function(method).tests == ("assert Solution().f(1, [2]) in (3, [3])",)
    assert len(function(method).literal_asserts) == 1
    deep = {"public_tests": {"input": ["1"], "output": ["2"]}, "generated_tests": {"input": ["3"], "output": ["4"]}}
    assert len(stdio(deep).tests) == 2


def test_packed_tests_are_read_without_running_their_pickle() -> None:
    tests = json.dumps([{"input": "1\n", "output": "2\n", "testtype": "stdin"}])
    packed = base64.b64encode(zlib.compress(pickle.dumps(tests))).decode()
    row = {"public_test_cases": "[]", "private_test_cases": packed, "metadata": "{}"}
    assert stdio(row).tests[0].stdout == "2\n"

    class Hostile:
        def __reduce__(self) -> Any:
            return (exec, ("raise SystemExit('the pickle ran')",))

    row["private_test_cases"] = base64.b64encode(zlib.compress(pickle.dumps(Hostile()))).decode()
    with pytest.raises(ValueError, match="cannot be unpacked"):
        read_reference(row)


def test_functional_tests_of_live_code_bench() -> None:
    tests = [{"input": '[1, 2]\n"a"', "output": "3", "testtype": "functional"}]
    row = {
        "public_test_cases": json.dumps(tests),
        "metadata": '{"func_name": "run"}',
        "starter_code": "class Solution:",
    }
    assert function(row).tests == ("assert Solution().run([1, 2], 'a') == 3",)
