"""What a plugin author or a laptop imports stays free of torch, ray and vllm; each in a process of
its own.
"""

import os
import subprocess
import sys

import pytest

MODULES = [
    "rlvr.records",
    "rlvr.protocols",
    "rlvr.plugin",
    "rlvr.contracts",
    "rlvr.registry",
    "rlvr.config.recipe",
    "rlvr.reward",
    "rlvr.verification.service",
    "rlvr.verification.worker_main",
    "rlvr.audit.examine",
    "rlvr.imports.importing",
    "rlvr.commands.cluster.app",
    "rlvr.commands.verify_file",
    "rlvr_verifiers.text_match",
    "rlvr_verifiers.countdown",
    "rlvr_verifiers.math_answer",
    "rlvr_sandboxes.selection",
    "rlvr_sandboxes.remote",
    "rlvr_sandboxes.docker",
    "rlvr_sandboxes.unsafe",
    "rlvr.commands.sandbox_report",
    "rlvr_verifiers.code_answer",
    "rlvr_verifiers.llm_judge.verifier",
    "rlvr_verifiers.multiple_choice.verifier",
    "rlvr_verifiers.puzzles.verifier",
    "rlvr_verifiers.json_answer.verifier",
    "rlvr_verifiers.sql_answer.verifier",
    "rlvr_verifiers.proof_answer.verifier",
    "rlvr_verifiers.lean_answer.verifier",
    "rlvr_verifiers.text_format.verifier",
    "rlvr_verifiers.reward_model.verifier",
]


@pytest.mark.parametrize("module", MODULES)
def test_importing_it_leaves_the_heavy_libraries_out(module: str) -> None:
    program = (
        f"import sys, {module}\n"
        "heavy = {'torch', 'ray', 'vllm', 'transformers', 'sympy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
