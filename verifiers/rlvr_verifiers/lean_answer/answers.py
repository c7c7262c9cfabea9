"""What Lean said in the sandbox, as the state of a proof."""

import json
import re
from typing import Any, cast

from rlvr_verifiers.lean_answer.statement import CHECKED

STANDARD_AXIOMS = frozenset({"propext", "Classical.choice", "Quot.sound"})
NATIVE_AXIOMS = frozenset({"Lean.ofReduceBool", "Lean.ofReduceNat", "Lean.trustCompiler"})
_AXIOMS = re.compile(r"'(\S+)' (?:does not depend on any axioms|depends on axioms:\s*\[([^\]]*)\])\s*")


def read_steps(stdout: bytes) -> dict[str, tuple[int, str]]:
    """(exit code, output) of each step that ended."""
    steps: dict[str, tuple[int, str]] = {}
    for line in stdout.decode("utf-8", "replace").splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue  # a line that was cut
        steps[found["step"]] = (found["code"], found["output"])
    return steps


def axiom_problem(output: str, *, marker: str, line: int, native_decide: bool) -> str:
    """Why the check does not confirm the proof; "" if it does.

    Args:
        output: the messages of `lean --json` on the file of the check.
        marker: the random word in the name of the checked theorem.
        line: the line of `#print axioms`.
    """
    messages: list[dict[str, Any]] = []
    for text in output.splitlines():
        if not text.startswith("{"):
            continue
        try:
            messages.append(cast(dict[str, Any], json.loads(text)))
        except ValueError:
            return "Lean's answer could not be read"
    errors = [message for message in messages if message.get("severity") == "error"]
    if errors:
        return f"the proved theorem is not the theorem of the reference: {str(errors[0].get('data'))[:200]}"
    here = [message for message in messages if message.get("pos", {}).get("line") == line]
    match = _AXIOMS.fullmatch(str(here[0].get("data"))) if len(here) == 1 else None
    if match is None or match[1] != f"{CHECKED}_{marker}":
        return "Lean did not list the axioms of the proof"
    allowed = STANDARD_AXIOMS | (NATIVE_AXIOMS if native_decide else frozenset[str]())
    used = [name.strip() for name in (match[2] or "").split(",") if name.strip()]
    others = [name for name in used if name not in allowed]
    if "sorryAx" in others:
        return "the proof is incomplete (sorryAx)"
    return f"the proof uses the axioms {', '.join(others)}" if others else ""
