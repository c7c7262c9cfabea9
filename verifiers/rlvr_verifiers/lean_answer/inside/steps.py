"""Runs Lean three times in a sandbox: on the statement, on the proof, and on a check without a word of the proof.

Reads a JSON object from stdin: lean (argv), lean_path, check (text). Writes a JSON line to stdout after each step:
step, code (exit code) and output. The file of the check is written after the proof's process and its children ended.
"""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from typing import Any

_MAX_OUTPUT = 200_000


def main() -> None:
    order = json.loads(sys.stdin.buffer.read())
    environment = {**os.environ, "LEAN_PATH": os.pathsep.join([os.getcwd(), *order["lean_path"]])}
    if run(order, environment, "goal", ["-o", "RlvrGoal.olean", "RlvrGoal.lean"]):
        return
    before = digest("RlvrGoal.olean")
    if run(order, environment, "candidate", ["-o", "RlvrCandidate.olean", "RlvrCandidate.lean"]):
        return
    if digest("RlvrGoal.olean") != before:
        report("tampered", 1, "the compiled statement changed while the proof was compiled")
        return
    with open("RlvrCheck.lean", "w", encoding="utf-8") as file:
        file.write(order["check"])
    run(order, environment, "check", ["--json", "RlvrCheck.lean"])


def run(order: dict[str, Any], environment: dict[str, str], step: str, arguments: list[str]) -> int:
    try:
        process = subprocess.Popen(
            [*order["lean"], *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        report("missing", 127, str(error))
        return 127
    output = process.communicate()[0]
    with contextlib.suppress(ProcessLookupError):  # nothing of the step is left
        os.killpg(process.pid, signal.SIGKILL)
    report(step, process.returncode, output[:_MAX_OUTPUT].decode("utf-8", "replace"))
    return process.returncode


def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def report(step: str, code: int, output: str) -> None:
    sys.stdout.write(json.dumps({"step": step, "code": code, "output": output}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
