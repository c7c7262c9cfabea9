"""`lean`: whether a proof proves a Lean 4 theorem, decided by an installed Lean in the sandbox."""

import importlib.resources
import json
import os
import secrets
import shutil
import subprocess
from typing import ClassVar

from pydantic import BaseModel, Field

from rlvr.errors import PluginError, SandboxError, VerifierError
from rlvr.plugin import VerifierContext, verdict
from rlvr.protocols import Execution, Limits, RunResult
from rlvr.records import Completion, Json, Prompt, Status, Verdict
from rlvr_verifiers.blocks import Source, block_text
from rlvr_verifiers.lean_answer.answers import axiom_problem, read_steps
from rlvr_verifiers.lean_answer.guard import UnclosedComment, problem_of
from rlvr_verifiers.lean_answer.statement import OtherStatement, Statement, read_statement
from rlvr_verifiers.thinking import NEVER_CLOSED, ThinkingConfig

_SHOWN_CHARS = 2_000
_MAIN = "main.py"
_INSTALL = (
    "install Lean 4 (https://lean-lang.org/install), set `lean` to the program of the toolchain itself "
    "(`lean --print-prefix` shows its folder), and let the sandbox show that folder (sandbox.settings.folders)"
)


class LeanConfig(ThinkingConfig):
    """Where Lean is, and what a proof may use."""

    lean: str = Field(default="lean", min_length=1, description="the program `lean`: a path, or a name that is on PATH")
    lean_path: tuple[str, ...] = Field(
        default=(), description="folders with compiled libraries, such as `.lake/build/lib/lean` of each package"
    )
    imports: tuple[str, ...] = Field(default=(), description="modules that every statement may use, such as `Mathlib`")
    source: Source = Field(
        default=Source.AUTO, description="`block`: the last `lean` block; `whole`: the whole text; `auto`: any"
    )
    native_decide: bool = Field(default=False, description="allow proofs that trust Lean's compiler")
    timeout_s: float = Field(default=120.0, gt=0, le=3600, description="seconds for statement, proof and check")
    memory_mb: int = Field(default=8192, ge=256, description="memory of Lean")
    max_chars: int = Field(default=20_000, ge=1, description="characters of a proof")


class LeanVerifier:
    """Compiles the reference's statement with the completion's proof, and has the result checked by name and type."""

    name: ClassVar[str] = "lean"
    version: ClassVar[str] = "1"
    execution: ClassVar[Execution] = Execution.SANDBOXED
    Config: ClassVar[type[BaseModel]] = LeanConfig

    def __init__(self, config: LeanConfig, context: VerifierContext) -> None:
        self.config = config
        self.context = context
        self._thinking = config.thinking
        self._program = ""
        self._driver = (importlib.resources.files("rlvr_verifiers.lean_answer.inside") / "steps.py").read_bytes()

    def parse_reference(self, reference: Json) -> None:
        """Raises ValueError for a text that states no theorem, and where Lean is not installed."""
        read_statement(reference)
        try:
            self._find_lean()
        except PluginError as error:
            raise ValueError(str(error)) from error

    def prejudge(self, reference: Json, completion: Completion) -> Verdict | None:
        """The verdict on a completion without a proof that Lean may see; None for all others."""
        found = self._proof(read_statement(reference), completion)
        return found if isinstance(found, Verdict) else None

    async def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
        """PASS if Lean accepts the proof and the check by name, type and axioms.

        Raises:
            PluginError: there is no Lean, or no sandbox.
            SandboxError: the sandbox failed, or the machine is too busy.
            VerifierError: the statement does not compile.
        """
        statement = read_statement(prompt.reference)
        proof = self._proof(statement, completion)
        if isinstance(proof, Verdict):
            return proof
        if self.context.sandbox is None:
            raise PluginError(
                "verifier 'lean' runs text of the policy, and this run has no sandbox; set sandbox.backend"
            )
        marker = secrets.token_hex(16)
        check, line = statement.check_file(marker)
        order = {"lean": [self._find_lean(), "-j1"], "lean_path": self.config.lean_path, "check": check}
        files = {
            _MAIN: self._driver,
            "RlvrGoal.lean": statement.goal_file(self.config.imports).encode(),
            "RlvrCandidate.lean": statement.candidate_file(self.config.imports, proof).encode("utf-8", "replace"),
        }
        limits = Limits(wall_s=self.config.timeout_s, memory_mb=self.config.memory_mb, output_bytes=2_000_000)
        result = await self.context.sandbox.run(("python", _MAIN), files, json.dumps(order).encode(), limits)
        reason = self._problem(result, marker=marker, line=line)
        status = Status.FAIL if reason else Status.PASS
        return verdict(self, status, reason or "Lean accepts the proof", extracted=proof[:_SHOWN_CHARS])

    def _proof(self, statement: Statement, completion: Completion) -> str | Verdict:
        """The proof, from `:=` on, or the verdict on a completion that has none."""
        text = self._thinking.answer_of(completion.text)
        if text is None:
            return verdict(self, Status.UNPARSED, NEVER_CLOSED)
        found = block_text(text.replace("```lean4", "```lean"), "lean", source=self.config.source)
        if not found:
            return verdict(self, Status.UNPARSED, "there is no closed `lean` block")
        shown = found[:_SHOWN_CHARS]
        if len(found) > self.config.max_chars:
            return verdict(self, Status.UNPARSED, f"the proof has more than {self.config.max_chars} characters")
        try:
            proof = statement.proof_in(found)
        except UnclosedComment as error:
            return verdict(self, Status.UNPARSED, str(error), extracted=shown)
        except OtherStatement as error:
            return verdict(self, Status.FAIL, str(error), extracted=shown)
        refused = problem_of(proof, native_decide=self.config.native_decide)
        return verdict(self, Status.FAIL, refused, extracted=shown) if refused else proof

    def _problem(self, result: RunResult, *, marker: str, line: int) -> str:
        """Why the run is not a PASS; "" if it is. Raises as `verify` does."""
        steps = read_steps(result.stdout)
        if "missing" in steps:
            raise PluginError(f"the sandbox cannot run {self._program}: {steps['missing'][1]}; {_INSTALL}")
        if result.starved:
            raise SandboxError("the machine is too busy for a verdict of Lean; use fewer slots or a larger timeout_s")
        code, output = steps.get("goal", (1, ""))
        if code:
            how = "ran out of time" if result.timed_out else f"failed with {output[:500] or result.stderr[:500]!r}"
            raise VerifierError(f"Lean could not compile the statement of the reference: it {how}")
        if result.timed_out or result.out_of_memory:
            limit = f"{self.config.timeout_s:g} s" if result.timed_out else f"{self.config.memory_mb} MB"
            return f"Lean needed more than {limit}"
        code, output = steps.get("candidate", (1, "Lean ended early"))
        if code:
            return f"Lean refuses the proof: {output.strip()[:500]}"
        if "tampered" in steps:
            return steps["tampered"][1]
        code, output = steps.get("check", (1, ""))
        problem = axiom_problem(output, marker=marker, line=line, native_decide=self.config.native_decide)
        return problem or ("Lean refuses the check" if code else "")

    def _find_lean(self) -> str:
        """The program of the toolchain: what is on PATH may be elan's, which needs a home that no sandbox has."""
        if not self._program:
            found = shutil.which(self.config.lean)
            if found is None:
                raise PluginError(f"verifier 'lean' found no program {self.config.lean!r}; {_INSTALL}")
            asked = subprocess.run([found, "--print-prefix"], capture_output=True, text=True, timeout=60, check=False)
            own = os.path.join(asked.stdout.strip(), "bin", "lean")
            self._program = own if asked.returncode == 0 and os.path.isfile(own) else os.path.abspath(found)
        return self._program
