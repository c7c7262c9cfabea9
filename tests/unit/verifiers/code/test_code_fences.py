"""Which block of a completion is the program."""

import time

import pytest

from rlvr_verifiers.codecheck.answer.fences import find_program
from rlvr_verifiers.codecheck.references.references import defines
from rlvr_verifiers.thinking import Thinking

CASES = [
    ("the last of two", "```python\na\n```\nno:\n```python\nb\n```", "b\n"),
    ("a tagged one before an untagged one", "```py\na\n```\nprints\n```\n1\n```", "a\n"),
    ("an untagged one", "so\n```\na\n```\n", "a\n"),
    ("another language is not the program", "```python\na\n```\n```bash\nrun\n```", "a\n"),
    ("tildes", "~~~python3\na\n~~~", "a\n"),
    ("a longer fence holds a shorter one", "````python\n```\na\n```\n````", "```\na\n```\n"),
    ("an indented fence in a list", "1. so\n   ```python\n   def f():\n       pass\n   ```", "def f():\n    pass\n"),
    ("the body's own indentation stays", "```python\n    return 1\n```", "    return 1\n"),
    ("a fence after words", "Here it is: ```python\na\n```", "a\n"),
    ("an open block when no other", "```python\na\nb", "a\nb\n"),
    ("a closed one rather than an open one", "```python\na\n```\n```python\nb", "a\n"),
    ("only what follows the thinking", "<think>```python\na\n```</think>\n```python\nb\n```", "b\n"),
    ("a title after the language", "```python title=x.py\na\n```", "a\n"),
    ("upper case and windows lines", "```Python\r\na\r\n```\r\n", "a\n"),
]


@pytest.mark.parametrize(("why", "text", "code"), CASES, ids=[c[0] for c in CASES])
def test_the_program_is(why: str, text: str, code: str) -> None:
    program, problem = find_program(text, ["python"])
    assert program is not None, problem
    assert program.code == code


NONE = [
    ("no fence", "def f(): pass", "no fenced code block"),
    ("another language", "```rust\nfn\n```", "there are blocks in rust"),
    ("an empty block", "```python\n\n```", "is empty"),
    ("only in the thinking", "<think>\n```python\na\n```\n</think> done", "no fenced code block"),
]


@pytest.mark.parametrize(("why", "text", "problem"), NONE, ids=[c[0] for c in NONE])
def test_without_a_program_the_reason_is_given(why: str, text: str, problem: str) -> None:
    program, found = find_program(text, ["python"])
    assert program is None
    assert problem in found


THINKING = [
    ("<think>\n```python\na\n```", Thinking(), ""),
    ("```python\na\n```", Thinking(starts_thinking=True), ""),
    ("```python\na\n```</think>```python\nb\n```", Thinking(starts_thinking=True), "b\n"),
    ("[THINK]```python\na\n```[/THINK]", Thinking(think_tags=(("[THINK]", "[/THINK]"),)), ""),
    ("<think>\n```python\na\n```", Thinking(think_tags=()), "a\n"),
]


@pytest.mark.parametrize(("text", "thinking", "code"), THINKING)
def test_the_settings_say_what_is_thinking(text: str, thinking: Thinking, code: str) -> None:
    program, _ = find_program(text, ["python"], thinking=thinking)
    assert (program.code if program else "") == code


def test_a_long_hostile_text_takes_no_time() -> None:
    start = time.process_time()
    for text in (
        "a" * 200_000,
        "`" * 200_000,
        "```" + "a" * 200_000 + "`",
        "`` " * 70_000,
        " " * 200_000 + "x",
        "```\n" * 50_000,
    ):
        find_program(text, ["python"])
        defines(text, "name")
        defines("from " + "import " * 30_000, "name")
    assert time.process_time() - start < 2.0


def test_the_tag_says_the_language_and_no_tag_means_the_first() -> None:
    found = find_program("```c++\nint main(){}\n```", ["python", "cpp"])[0]
    assert found is not None
    assert found.language == "cpp"
    found = find_program("```\nx\n```", ["cpp", "python"])[0]
    assert found is not None
    assert found.language == "cpp"


TAGGED = [
    ("python3.11", True),
    ("{.python}", True),
    ("ipython", True),
    ("Py3", True),
    ("pythonic", False),
    ("pyx", False),
]


@pytest.mark.parametrize(("tag", "is_python"), TAGGED)
def test_a_tag_means_python_in_its_versions(tag: str, is_python: bool) -> None:
    assert (find_program(f"```{tag}\nx\n```", ["python"])[0] is not None) is is_python


def test_the_block_that_defines_the_entry_point_is_the_program() -> None:
    text = "```python\ndef f(x):\n    return x\n```\n```python\nfrom solution import f\nf(1)\n```"
    found = find_program(text, ["python"], names=["f"])[0]
    assert found is not None
    assert found.code == "def f(x):\n    return x\n"
    assert find_program(text, ["python"], names=["g"])[0] is not None


def test_a_fence_in_a_docstring_is_not_the_end() -> None:
    code = "def f():\n    '''\n    ```\n    x\n    ```\n    '''\n    return 1\n"
    found = find_program(f"```python\n{code}```\n", ["python"])[0]
    assert found is not None
    assert found.code == code
