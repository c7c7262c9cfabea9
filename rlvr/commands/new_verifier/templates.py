"""The texts of a new verifier. `@NAME@` is its name."""

import json

VERIFIER = '''"""The verifier `@NAME@`: change it, test it, audit it, train with it."""

import re

from rlvr.plugin import verdict, verifier
from rlvr.records import Status, Verdict

_ANSWER = re.compile(r"answer:(.+)", re.IGNORECASE)


def check_reference(reference: object) -> None:
    """Called with every reference of the data before a run; raises ValueError on one that nothing can equal."""
    if not isinstance(reference, str) or not reference.strip() or "\\n" in reference.strip():
        raise ValueError("a reference is one line of text")


@verifier(version="1", parse_reference=check_reference)
def @NAME@(text: str, reference: str, *, ignore_case: bool = False) -> bool | Verdict:
    """The last line of the completion is `Answer: ` and the reference.

    Keyword-only parameters are settings: `verifier_settings: {ignore_case: true}` in a recipe. Return a bool, a score
    in [0, 1], or a verdict with a reason. An exception means that nothing is known about the completion; a wrong answer
    is False. Change `version` with the meaning.
    """
    lines = text.strip().splitlines() or [""]
    found = _ANSWER.fullmatch(lines[-1].strip())
    if found is None:
        return verdict(@NAME@, Status.UNPARSED, "the last line is not `Answer: ...`")
    answer, gold = found.group(1).strip(), reference.strip()
    return answer.casefold() == gold.casefold() if ignore_case else answer == gold
'''

TEST = '''"""The contract and the cases of the verifier `@NAME@`."""

import json
from pathlib import Path

import pytest
from rlvr.contracts import check_verifier

from @MODULE@ import @NAME@, check_reference

FILE = @FILE@
CASES = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def cases(must: str) -> list[tuple[str, str]]:
    return [(case["reference"], case["completion"]) for case in CASES if case["must"] == must]


def test_it_keeps_the_contract_and_judges_its_cases() -> None:
    assert check_verifier(@NAME@, passing=cases("pass"), failing=cases("fail")) == []


def test_case_counts_unless_it_is_ignored() -> None:
    assert not @NAME@("Answer: PARIS", "Paris")
    assert @NAME@("Answer: PARIS", "Paris", ignore_case=True)


def test_a_reference_that_nothing_can_equal_is_refused() -> None:
    with pytest.raises(ValueError, match="one line"):
        check_reference(" ")
'''

_QUESTION = "End with a line `Answer: ...`."
_CASES = [
    ("What is 17 + 25?", "42", "17 + 25 is 42.\nAnswer: 42", "pass"),
    ("What is the capital of France?", "Paris", "Answer: Paris\n", "pass"),
    ("What is 9 * 9?", "81", "answer:   81", "pass"),
    ("Which word comes last, pear or fig?", "pear", "Alphabetically, pear.\n\nAnswer: pear", "pass"),
    ("Is 7 a prime number?", "yes", "Only 1 and 7 divide 7.\nAnswer: yes", "pass"),
    ("What is 17 + 25?", "42", "Answer: 43", "fail"),
    ("What is 17 + 25?", "42", "Answer: 42\nWait, that is wrong.\nAnswer: 41", "fail"),
    ("What is the capital of France?", "Paris", "Answer: Paris or Lyon", "fail"),
    ("What is 9 * 9?", "81", "It is 81.", "fail"),
    ("Is 7 a prime number?", "yes", "", "fail"),
]

CASES = "".join(
    json.dumps({"prompt": f"{prompt} {_QUESTION}", "reference": reference, "completion": text, "must": must}) + "\n"
    for prompt, reference, text, must in _CASES
)

PYPROJECT = """[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "@DISTRIBUTION@"
version = "0.1.0"
description = "The verifier @NAME@ for rlvr"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["rlvr"]

[project.entry-points."rlvr.verifiers"]
@NAME@ = "@NAME@.verifier:@NAME@"

[tool.hatch.build.targets.wheel]
packages = ["src/@NAME@"]

[tool.pytest.ini_options]
pythonpath = ["src"]
"""

INIT = '"""The verifier `@NAME@`, found by rlvr through the entry point in pyproject.toml."""\n'

README = """# @NAME@

A verifier for [rlvr](https://pypi.org/project/rlvr/): the last line of a completion is `Answer: ` and the reference.

| | |
|---|---|
| reference | one line of text |
| settings | `ignore_case` (false) |
| passes | the text after `Answer:` in the last line equals the reference |
| unparsed | the last line has another form |

In a recipe, once the package is installed (`pip install .`):

```yaml
data:
  train:
    - source: rows.jsonl
      prompt_format: "{prompt} End with a line `Answer: ...`."
      verifier: @NAME@
      verifier_settings: {ignore_case: true}
```

`src/@NAME@/verifier.audit.jsonl` has cases with the verdict that each must get. `pytest` tests them with rlvr's
contract for verifiers, and `rlvr audit @NAME@` attacks the verifier with completions that solve nothing.
"""
