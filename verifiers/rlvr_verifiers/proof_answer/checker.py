"""Whether a derivation derives a theorem: scopes of subproofs, premises, rules, and the last line."""

from dataclasses import dataclass

from rlvr_verifiers.proof_answer.derivation import Line
from rlvr_verifiers.proof_answer.formulas import Formula, show
from rlvr_verifiers.proof_answer.rule_names import CLASSICAL_ONLY, DERIVED, Rule
from rlvr_verifiers.proof_answer.rules import Step, Subproof, problem_of
from rlvr_verifiers.proof_answer.theorem import Logic, Theorem


class Invalid(ValueError):  # noqa: N818 - a verdict, not a fault
    """A derivation that was read and derives something else, or nothing."""


@dataclass(slots=True)
class _Open:
    """A subproof. path: the subproofs around it. last: its last line so far, including lines of inner subproofs."""

    first: int
    path: tuple[int, ...]
    last: int


def check_derivation(lines: list[Line], theorem: Theorem, *, logic: Logic, max_depth: int, derived_rules: bool) -> None:
    """Raises Invalid, with the line and the reason, unless the lines derive exactly the theorem."""
    _Checker(theorem, theorem.logic or logic, max_depth, derived_rules).check(lines)


class _Checker:
    def __init__(self, theorem: Theorem, logic: Logic, max_depth: int, derived_rules: bool) -> None:
        self.theorem = theorem
        self.is_classical = logic is Logic.CLASSICAL
        self.max_depth = max_depth
        self.derived_rules = derived_rules
        self.formulas: list[Formula] = []
        self.paths: list[tuple[int, ...]] = []  # of each line, the first lines of the subproofs that it is in
        self.subproofs: dict[int, _Open] = {}  # by their first line

    def check(self, lines: list[Line]) -> None:
        path: tuple[int, ...] = ()
        for line in lines:
            try:
                path = self._path(line, path)
                self._check_rule(line, path)
            except Invalid as error:
                raise Invalid(f"line {line.number}: {error}") from error
            self.formulas.append(line.formula)
            self.paths.append(path)
            for first in path:
                self.subproofs[first].last = line.number
        if path:
            raise Invalid(f"the assumption of line {path[-1]} is still open at the end")
        if lines[-1].formula != self.theorem.conclusion:
            raise Invalid(f"the last line is {show(lines[-1].formula)}, wanted {show(self.theorem.conclusion)}")

    def _path(self, line: Line, path: tuple[int, ...]) -> tuple[int, ...]:
        """The subproofs of a line, given those of the line before."""
        if line.depth > self.max_depth:
            raise Invalid(f"subproofs nest deeper than {self.max_depth}")
        if line.rule is not Rule.ASSUMPTION or (line.depth == 0 and line.formula in self.theorem.premises):
            if line.depth > len(path):
                raise Invalid("a subproof begins with an assumption")
            return path[: line.depth]
        if line.depth == 0:
            raise Invalid(
                f"{show(line.formula)} is no premise; an assumption begins a subproof, with a bar or indented"
            )
        if line.depth > len(path) + 1:
            raise Invalid("the line is two subproofs deeper than the line before")
        around = path[: line.depth - 1]
        self.subproofs[line.number] = _Open(line.number, around, line.number)
        return (*around, line.number)

    def _check_rule(self, line: Line, path: tuple[int, ...]) -> None:
        if line.rule in (Rule.PREMISE, Rule.ASSUMPTION):
            if line.citations:
                raise Invalid(f"a line by {line.rule.value} cites nothing")
            if line.rule is Rule.PREMISE and line.formula not in self.theorem.premises:
                raise Invalid(f"{show(line.formula)} is not a premise of the theorem")
            return
        if line.rule in CLASSICAL_ONLY and not self.is_classical:
            raise Invalid(f"the rule {line.rule.value} is classical, and the logic is intuitionistic")
        if line.rule in DERIVED and not self.derived_rules:
            raise Invalid(f"the rule {line.rule.value} is derived, and only the basic rules are allowed")
        cited = [self._cited(first, last, path) for first, last in line.citations]
        formulas = tuple(item for item in cited if not isinstance(item, Subproof))
        subproofs = tuple(item for item in cited if isinstance(item, Subproof))
        problem = problem_of(line.rule, Step(line.formula, formulas, subproofs, self.is_classical))
        if problem:
            raise Invalid(problem)

    def _cited(self, first: int, last: int | None, path: tuple[int, ...]) -> "Formula | Subproof":
        """The formula of an accessible line, or a closed subproof."""
        number = len(self.formulas) + 1
        for end in (first, last):
            if end is not None and not 1 <= end < number:
                raise Invalid(f"it cites line {end}, which is not above it")
        found = self.subproofs.get(first)
        is_closed = found is not None and first not in path
        if last is None and not (is_closed and found is not None and found.last == first):
            inside = self.paths[first - 1]
            if path[: len(inside)] != inside:
                raise Invalid(f"it cites line {first}, which is in a closed subproof")
            return self.formulas[first - 1]
        last = first if last is None else last
        if found is None or not is_closed or found.last != last:
            raise Invalid(f"{first}-{last} is not a closed subproof from its first to its last line")
        if path[: len(found.path)] != found.path:
            raise Invalid(f"the subproof {first}-{last} is in a closed subproof")
        if self.paths[last - 1] != (*found.path, first):
            raise Invalid(f"the subproof {first}-{last} ends within another one, so that it has no conclusion")
        return Subproof(self.formulas[first - 1], self.formulas[last - 1])
