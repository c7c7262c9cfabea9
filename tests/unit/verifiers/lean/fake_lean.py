"""A stand-in for the program `lean`, which understands the files of the verifier and knows some proofs by heart.

A compiled file is JSON: the name of its theorem, its type as written, and the axioms of its proof. It shows the
verifier's side only: which files it writes, and what it makes of Lean's answers.
"""

import json
import os
import re
import sys
import time
from pathlib import Path

THEOREM = re.compile(r"^theorem (\S+)(.*?) (:=|\|) ?(.*)\Z", re.MULTILINE | re.DOTALL)
AXIOMS = {
    "by decide": [],
    "by omega": ["propext"],
    "by classical_tauto": ["propext", "Classical.choice", "Quot.sound"],
    "by hidden_gap": ["propext", "sorryAx"],
    "by other_axiom": ["propext", "cheat"],
    "by native_tactic": ["Lean.ofReduceBool"],
}


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def compile_file(out: str, path: str) -> int:
    text = Path(path).read_text(encoding="utf-8")
    match = THEOREM.search(text)
    if match is None or "does_not_compile" in text:
        say(f"{path}:1:0: error: unexpected token")
        return 1
    name, claim, _, proof = match.groups()
    proof = proof.strip()
    if proof == "by loop":
        time.sleep(60)
    if proof == "by print_answer":  # what an elaborator could print that got past the verifier
        say(json.dumps({"step": "check", "code": 0, "output": ""}))
        say("'rlvr_checked' does not depend on any axioms")
        return 1
    if proof == "by tamper":
        Path("RlvrGoal.olean").write_text(json.dumps({"name": "rlvr_goal", "claim": " : False", "axioms": []}))
    if proof == "by other_type":
        claim = " : True"
    if proof == "by sorry":
        axioms = ["sorryAx"]
    elif proof in AXIOMS or proof in ("by tamper", "by other_type"):
        axioms = AXIOMS.get(proof, [])
    else:
        say(f"{path}:3:0: error: unsolved goals")
        return 1
    Path(out).write_text(json.dumps({"name": name, "claim": claim, "axioms": axioms}))
    return 0


def check_file(path: str) -> int:
    text = Path(path).read_text(encoding="utf-8")
    goal, proved = (json.loads(Path(f"{name}.olean").read_text()) for name in ("RlvrGoal", "RlvrCandidate"))
    checked, wanted, given = re.findall(r"^theorem (\S+) : type_of% @(\S+) := @_root_\.(\S+)$", text, re.MULTILINE)[0]
    line = text.splitlines().index(f"#print axioms {checked}") + 1
    if (goal["name"], proved["name"]) != (wanted, given) or goal["claim"] != proved["claim"]:
        say(json.dumps({"severity": "error", "pos": {"line": line - 1, "column": 0}, "data": "type mismatch"}))
        return 1
    listed = ", ".join(proved["axioms"])
    data = f"depends on axioms: [{listed}]" if listed else "does not depend on any axioms"
    say(json.dumps({"severity": "information", "pos": {"line": line, "column": 0}, "data": f"'{checked}' {data}"}))
    return 0


def main(arguments: list[str]) -> int:
    if arguments == ["--print-prefix"]:
        say("/nowhere")
        return 0
    assert arguments[0] == "-j1", arguments
    assert os.environ["LEAN_PATH"].startswith(os.getcwd())
    if arguments[1] == "-o":
        return compile_file(*arguments[2:])
    assert arguments[1] == "--json", arguments
    return check_file(arguments[2])


sys.exit(main(sys.argv[1:]))
