"""The contract over every registered verifier, its truth table, and the page that teaches how to
write one.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rlvr.contracts import check_verifier
from rlvr.plugin import EmptyConfig, VerifierContext, completion_from_text, verdict, verifier
from rlvr.protocols import Execution
from rlvr.records import Check, Completion, Prompt, Status, Verdict
from rlvr.registry import VERIFIERS, build_verifier, find, list_plugins, load

ROOT = Path(__file__).parents[2]
TABLES = ROOT / "tests" / "golden" / "verdicts"
CODE_BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def read_table(name: str) -> list[dict[str, Any]]:
    lines = (TABLES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# one that needs a sandbox or a server faces its cases in a test of its own
OWN = [
    entry.name
    for entry in list_plugins(VERIFIERS)
    if entry.distribution == "rlvr" and load(find(VERIFIERS, entry.name)).execution is Execution.PROCESS
]
ROWS = [
    pytest.param(name, row, id=f"{name}-{index}-{row['why'][:40]}")
    for name in OWN
    for index, row in enumerate(read_table(name))
]


@pytest.mark.parametrize("name", OWN)
def test_a_registered_verifier_keeps_the_contract(name: str) -> None:
    rows = [row for row in read_table(name) if not {"settings", "prompt", "tags"} & set(row)]
    problems = check_verifier(
        load(find(VERIFIERS, name)),
        passing=[(row["reference"], row["completion"]) for row in rows if row["status"] == "pass"],
        failing=[(row["reference"], row["completion"]) for row in rows if row["status"] != "pass"],
    )
    assert problems == []


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_a_verdict_is_as_the_truth_table_says(name: str, row: dict[str, Any]) -> None:
    built = build_verifier(find(VERIFIERS, name), row.get("settings", {}), VerifierContext())
    check = Check(name="main", verifier=name, reference=row["reference"])
    prompt = Prompt(
        prompt_id="p", text=row.get("prompt", "?"), checks=(check,), source="table", tags=row.get("tags", {})
    )
    start = time.perf_counter()
    verdict = built.verify(prompt, completion_from_text(row["completion"], prompt_id="p"))
    assert verdict.status == row["status"], verdict.reason
    assert time.perf_counter() - start < 5.0


def test_the_contract_finds_what_a_bad_verifier_does() -> None:
    calls: list[str] = []

    @verifier(version="1")
    def moody(text: str, reference: str) -> bool:
        calls.append(text)
        print("hello")  # noqa: T201 - the fault under test
        if "\x00" in text:
            raise RuntimeError("no NUL please")
        return len(calls) % 2 == 1

    problems = "\n".join(check_verifier(moody, passing=[("4", "4")], failing=[("4", "5")]))
    assert "two runs gave different verdicts" in problems
    assert "must not PASS" in problems
    assert "a NUL character: raised RuntimeError" in problems
    assert "prints to standard output: 'hello" in problems


@pytest.mark.parametrize("is_async", [False, True])
def test_the_contract_ends_at_a_text_that_hangs_the_verifier(is_async: bool) -> None:
    released = threading.Event()

    @verifier(version="1")
    def hangs(text: str, reference: str) -> bool:
        return text == reference or (not text and not released.wait(60))

    @verifier(version="1")
    async def waits(text: str, reference: str) -> bool:
        if not text:
            await asyncio.sleep(60)
        return text == reference

    problems = check_verifier(waits if is_async else hangs, passing=[("4", "4")], failing=[("4", "5")], deadline_s=0.2)
    released.set()
    assert [problem.partition(";")[0] for problem in problems] == ["an empty text: no answer within 0.2 s"]


def test_the_contract_holds_inside_a_running_event_loop() -> None:
    @verifier(version="1")
    async def equal(text: str, reference: str) -> bool:
        await asyncio.sleep(0)
        return text == reference

    async def notebook() -> list[str]:
        return check_verifier(equal, passing=[("4", "4")], failing=[("4", "5")])

    assert asyncio.run(notebook()) == []


@pytest.mark.parametrize("place", ["Config", "__init__", "warm_up", "close"])
@pytest.mark.parametrize("does", ["hangs", "raises"])
def test_the_contract_ends_where_building_or_closing_a_verifier_fails(place: str, does: str) -> None:
    released = threading.Event()

    def fail(*_: object) -> None:
        if does == "raises":
            raise RuntimeError("no licence")
        released.wait(60)

    class Settings(EmptyConfig):
        def __init__(self) -> None:
            super().__init__()
            if place == "Config":
                fail()

    class Fails:
        name, version, execution, Config = "fails", "1", Execution.PROCESS, Settings

        def __init__(self, config: Settings, context: VerifierContext) -> None:
            if place == "__init__":
                fail()

        def warm_up(self) -> None:
            if place == "warm_up":
                fail()

        def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
            return verdict(self, Status.PASS if completion.text == prompt.reference else Status.FAIL, "compared")

        def close(self) -> None:
            if place == "close":
                fail()

    problems = check_verifier(Fails, passing=[("4", "4")], failing=[("4", "5")], deadline_s=0.1)
    released.set()
    assert problems
    expected = "raised RuntimeError: no licence" if does == "raises" else "within 0.1 s"
    assert all(expected in problem for problem in problems)


def test_a_function_may_refuse_references() -> None:
    def one_line(reference: object) -> None:
        if "\n" in str(reference):
            raise ValueError("it has two lines")

    @verifier(version="1", parse_reference=one_line)
    def equal(text: str, reference: str) -> bool:
        return text == reference

    assert check_verifier(equal, passing=[("4", "4")], failing=[("4", "5")]) == []
    (problem,) = check_verifier(equal, passing=[("4\n", "4\n")], failing=[("4", "5")])
    assert "raised ValueError: it has two lines" in problem


def test_the_contract_names_missing_members() -> None:
    class Nothing:
        name = "nothing"

    problems = "\n".join(check_verifier(Nothing, passing=[], failing=[]))
    for member in ("version", "execution", "Config", "verify"):
        assert member in problems


def test_the_page_on_writing_verifiers_runs(tmp_path: Path) -> None:
    page = (ROOT / "verifiers" / "README.md").read_text(encoding="utf-8")
    blocks = CODE_BLOCK.findall(page)
    python = [body for kind, body in blocks if kind == "python"]
    console = [line[2:] for kind, body in blocks if kind == "console" for line in body.splitlines()]
    assert len(python) == 3
    assert len(python[0].splitlines()) < 30
    path = os.pathsep.join([str(tmp_path), *(entry for entry in sys.path if entry)])
    environment = os.environ | {"PYTHONPATH": path}

    def run(*command: str) -> None:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr

    (tmp_path / "my_checks.py").write_text(python[0], encoding="utf-8")
    for body in python:
        run(sys.executable, "-c", body)
    if not (ROOT / "rlvr" / "cli.py").is_file():
        pytest.skip("the command line is not there yet")
    for line in console:
        run("bash", "-c", line.replace("rlvr verify", f"{sys.executable} -m rlvr.cli verify"))
    row = json.loads((tmp_path / "verdicts.jsonl").read_text(encoding="utf-8"))
    assert (row["id"], row["status"], row["verifier"]) == (1, "PASS", "ends_with@1")
