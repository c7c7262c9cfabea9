"""`lean` with a stand-in for Lean: refused texts, the files that Lean gets, and what is made of its answers."""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from rlvr.errors import PluginError, SandboxError, VerifierError
from rlvr.plugin import VerifierContext, completion_from_text
from rlvr.protocols import Limits, RunResult, Sandbox
from rlvr.records import Check, Prompt, Status, Verdict
from rlvr_sandboxes.outside.boxes import BoxConfig
from rlvr_sandboxes.selection import AutoSandbox
from rlvr_verifiers.lean_answer.answers import axiom_problem
from rlvr_verifiers.lean_answer.guard import UnclosedComment, problem_of, without_comments
from rlvr_verifiers.lean_answer.statement import read_statement
from rlvr_verifiers.lean_answer.verifier import LeanConfig, LeanVerifier

HERE = Path(__file__).parent
TABLE = HERE.parents[2] / "golden" / "verdicts" / "lean.jsonl"
STATEMENT = "theorem Foo.two (n : Nat) : n + 0 = n"
ROWS = [json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines()]
REFERENCE = {"statement": f"{STATEMENT} := by sorry", "header": "import Mathlib\nopen Nat"}


class Folder:
    """A sandbox that is only a folder; the stand-in needs no protection. result: returned instead of a run."""

    def __init__(self, **changes: Any) -> None:
        self.changes = changes
        self.files: dict[str, str] = {}

    async def run(self, program: Sequence[str], files: Mapping[str, bytes], stdin: bytes, limits: Limits) -> RunResult:
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                Path(folder, name).write_bytes(content)
            start = time.perf_counter()
            timed_out = False
            try:
                command = [sys.executable, *program[1:]]
                done = subprocess.run(command, cwd=folder, input=stdin, capture_output=True, timeout=limits.wall_s)
                code, stdout, stderr = done.returncode, done.stdout, done.stderr
            except subprocess.TimeoutExpired as error:
                code, stdout, stderr, timed_out = -9, error.stdout or b"", b"", True
            self.files = {path.name: path.read_text() for path in Path(folder).glob("*.lean")}
            facts: dict[str, Any] = {"exit_code": code, "stdout": stdout, "stderr": stderr, "timed_out": timed_out}
            return RunResult(**{**facts, "seconds": time.perf_counter() - start, **self.changes})


@pytest.fixture
def lean(tmp_path: Path) -> str:
    program = tmp_path / "lean"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {HERE / "fake_lean.py"} "$@"\n')
    program.chmod(0o755)
    return str(program)


def verify(text: str, lean: str, *, reference: Any = REFERENCE, box: Folder | None = None, **settings: Any) -> Verdict:
    context = VerifierContext(sandbox=cast(Sandbox, box or Folder()))
    built = LeanVerifier(LeanConfig(lean=lean, **settings), context)
    check = Check(name="main", verifier="lean", reference=reference)
    prompt = Prompt(prompt_id="p", text="?", checks=(check,), source="test")
    completion = completion_from_text(text, prompt_id="p")
    quick = built.prejudge(reference, completion)
    return quick if quick is not None else asyncio.run(built.verify(prompt, completion))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["why"][:50])
def test_a_verdict_is_as_the_table_says(row: dict[str, Any], lean: str) -> None:
    found = verify(row["completion"], lean, reference=row["reference"])
    assert found.status == row["status"], found.reason
    if row["status"] == "fail":
        if row["why"].startswith("never reaches Lean"):
            assert problem_of(without_comments(row["completion"])), found.reason
        else:
            assert row["why"] in found.reason


@pytest.mark.parametrize(
    "proof",
    [
        ":= by\n  rcases h with ⟨x, hx⟩ | h\n  · exact ⟨x, by simpa using hx⟩\n  · simp_all [Nat.add_comm, ← h]",
        ":= by\n  nlinarith [sq_nonneg (a - b), mul_pos ha hb] -- end of the proof, we open nothing",
        "| 0 => rfl\n  | n + 1 => by rw [two n]",
        ":= by\n  /- a comment\n  /- nested, theorem -/ -/\n  induction n\n  | zero => rfl\n  | succ n ih => omega",
        ":= fun h => h.elim (fun x => x.1) fun y => (y.isOpen.end).trans (#[1, 2].size_pos)",
        ":= by\n  calc a = b := by ring\n    _ = c := by norm_num [f.prefix_eq]\n  where aux : True := trivial",
        ":= by\n  have h' : ∀ x ∈ s, f x = 0 := by intro x hx; exact?\n  simpa [Finset.sum_eq_zero h'] using this",
        ":= by decide +kernel",
    ],
)  # fmt: skip
def test_usual_proofs_are_not_refused(proof: str) -> None:
    assert problem_of(without_comments(proof)) == ""


def test_native_decide_can_be_allowed(lean: str) -> None:
    assert problem_of("by native_decide", native_decide=True) == ""
    assert verify("by native_tactic", lean, native_decide=True).passed


def test_comments_are_removed_as_lean_reads_them() -> None:
    assert without_comments("a -- b /- c\nd /- e -- f\n/- g -/ h -/ i") == "a  \nd   i"
    assert without_comments("x/-a-/-/-b-/y") == "x - y"
    for text in ("a /- b", "a /- /- -/", "/--"):
        with pytest.raises(UnclosedComment):
            without_comments(text)


def test_lean_gets_the_reference_and_a_check_without_the_completion(lean: str) -> None:
    box = Folder()
    assert verify("by decide -- comment", lean, box=box, imports=("Aesop",)).passed
    top = "import Aesop\nimport Mathlib\n\nopen Nat\n\n"
    assert box.files["RlvrGoal.lean"] == f"{top}theorem rlvr_goal (n : Nat) : n + 0 = n := by sorry\n"
    assert box.files["RlvrCandidate.lean"] == f"{top}{STATEMENT} := by decide\n"
    first, second = box.files["RlvrCheck.lean"].strip().splitlines()[-2:]
    marker = second.removeprefix("#print axioms rlvr_checked_")
    assert len(marker) == 32
    assert first == f"theorem rlvr_checked_{marker} : type_of% @rlvr_goal := @_root_.Foo.two"


def test_the_marker_of_the_check_differs_from_run_to_run(lean: str) -> None:
    boxes = [Folder(), Folder()]
    for box in boxes:
        verify("by decide", lean, box=box)
    assert boxes[0].files["RlvrCheck.lean"] != boxes[1].files["RlvrCheck.lean"]


@pytest.mark.parametrize(
    "output",
    [
        "",
        "not JSON",
        "{not JSON}",
        '{"severity": "information", "pos": {"line": 5}, "data": "\'rlvr_checked_y\' does not depend on any axioms"}',
        '{"severity": "information", "pos": {"line": 4}, "data": "\'rlvr_checked_x\' does not depend on any axioms"}',
        '{"severity": "information", "pos": {"line": 5}, "data": "\'rlvr_checked_x\' depends on axioms: [sorryAx]"}',
        '{"severity": "information", "pos": {"line": 5}, "data": "\'rlvr_checked_x\' depends on axioms: [] [x]"}',
        '{"severity": "information", "pos": {"line": 5}, "data": "\'rlvr_checked_x\' does not depend on any axioms"}\n'
        '{"severity": "error", "pos": {"line": 1}, "data": "object file is corrupt"}',
        '{"severity": "information", "pos": {"line": 5}, "data": "\'rlvr_checked_x\' does not depend on any axioms"}\n'
        '{"severity": "information", "pos": {"line": 5}, "data": "\'rlvr_checked_x\' does not depend on any axioms"}',
    ],
)
def test_a_check_that_lean_did_not_confirm_is_a_problem(output: str) -> None:
    assert axiom_problem(output, marker="x", line=5, native_decide=False)


def test_a_list_of_axioms_may_be_broken_into_lines() -> None:
    data = "'rlvr_checked_x' depends on axioms: [propext,\\n Classical.choice,\\n Quot.sound]"
    output = f'{{"severity": "information", "pos": {{"line": 5}}, "data": "{data}"}}'
    assert axiom_problem(output, marker="x", line=5, native_decide=False) == ""


def test_a_slow_proof_fails_and_a_slow_statement_is_an_error(lean: str) -> None:
    assert "more than 2 s" in verify("by loop", lean, timeout_s=2.0).reason
    with pytest.raises(VerifierError, match="the statement of the reference: it ran out of time"):
        verify("by decide", lean, box=Folder(stdout=b"", timed_out=True))
    with pytest.raises(SandboxError, match="too busy"):
        verify("by decide", lean, box=Folder(starved=True, timed_out=True))


def test_a_statement_that_does_not_compile_is_an_error(lean: str) -> None:
    with pytest.raises(VerifierError, match="could not compile the statement of the reference: it failed with"):
        verify("by decide", lean, reference="theorem t : does_not_compile = 1")


def test_without_lean_the_data_are_refused_with_the_fix() -> None:
    built = LeanVerifier(LeanConfig(lean="no-such-lean"), VerifierContext())
    with pytest.raises(ValueError, match="found no program 'no-such-lean'; install Lean 4"):
        built.parse_reference(REFERENCE)


def test_a_lean_that_the_sandbox_does_not_show_is_an_error_with_the_fix(lean: str) -> None:
    missing = b'{"step": "missing", "code": 127, "output": "No such file"}\n'
    with pytest.raises(PluginError, match=r"the sandbox cannot run .*sandbox\.settings\.folders"):
        verify("by decide", lean, box=Folder(stdout=missing))


def test_the_program_of_the_toolchain_is_preferred_to_that_of_elan(tmp_path: Path) -> None:
    own = tmp_path / "toolchain" / "bin" / "lean"
    own.parent.mkdir(parents=True)
    own.touch()
    proxy = tmp_path / "lean"
    proxy.write_text(f"#!/bin/sh\necho {tmp_path}/toolchain\n")
    proxy.chmod(0o755)
    assert LeanVerifier(LeanConfig(lean=str(proxy)), VerifierContext())._find_lean() == str(own)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (None, "is not of the form"),
        ({"header": "import Mathlib"}, "is not of the form"),
        ("n + 0 = n", "has no line that begins with `theorem NAME`"),
        ("theorem t := by simp", "states nothing|has no line"),
        ("theorem t : (sorry : Nat) = 1", "has `sorry` in its statement"),
        ("namespace Foo\ntheorem t : True", "`namespace` before the theorem"),
        ("axiom x : False\ntheorem t : True", "`axiom` before the theorem"),
        ("theorem t : True /- open", "a comment is never closed"),
        ({"statement": "theorem t : True", "header": 1}, "is not a text"),
        ("theorem t : " + "x" * 50_001, "more than 50000 characters"),
    ],
)
def test_a_reference_that_cannot_be_used_is_refused_at_load(reference: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_statement(reference)


@pytest.mark.parametrize(
    "text",
    [
        "theorem t.{u} (α : Type u) (x : α) : x = x := by\n  sorry",
        "import Mathlib\nopen Real\n\n/-- A doc comment: theorem x -/\nlemma t.{u} (α : Type u) (x : α) : x = x",
        "def f := 1\ntheorem first : f = 1 := rfl\ntheorem t.{u} (α : Type u) (x : α) : x = x",
    ],
)
def test_statements_of_data_sets_are_read(text: str) -> None:
    found = read_statement({"formal_statement": text})
    assert (found.name, found.levels, found.claim) == ("t", ".{u}", " (α : Type u) (x : α) : x = x")


def test_it_runs_in_the_real_sandbox_if_that_shows_the_folder_of_lean() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        program = Path(folder, "lean")
        program.write_text(f"#!/usr/bin/env python3\n{(HERE / 'fake_lean.py').read_text()}")
        program.chmod(0o755)
        verdicts: list[Verdict] = []

        async def judge() -> None:
            box = AutoSandbox(BoxConfig(folders=(folder,), slots=2))
            try:
                for text in ("by decide", "by wrong_tactic"):
                    built = LeanVerifier(LeanConfig(lean=str(program)), VerifierContext(sandbox=box))
                    check = Check(name="main", verifier="lean", reference=REFERENCE)
                    prompt = Prompt(prompt_id="p", text="?", checks=(check,), source="test")
                    verdicts.append(await built.verify(prompt, completion_from_text(text, prompt_id="p")))
            finally:
                await box.close()

        asyncio.run(judge())
        assert [found.status for found in verdicts] == [Status.PASS, Status.FAIL], verdicts
