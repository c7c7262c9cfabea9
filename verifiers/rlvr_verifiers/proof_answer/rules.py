"""The rules of natural deduction: whether a formula follows from what a line cites."""

from collections.abc import Callable
from dataclasses import dataclass

from rlvr_verifiers.proof_answer.formulas import AND, BOT, IFF, IMPLIES, OR, TOP, Formula, negation, part, show
from rlvr_verifiers.proof_answer.rule_names import Rule


@dataclass(frozen=True, slots=True)
class Subproof:
    """What a closed subproof shows: its conclusion follows from its assumption."""

    assumption: Formula
    conclusion: Formula


@dataclass(frozen=True, slots=True)
class Step:
    """A formula and what its rule cites, in the order of the citations. is_classical: whether ¬¬A gives A."""

    formula: Formula
    lines: tuple[Formula, ...]
    subproofs: tuple[Subproof, ...]
    is_classical: bool

    @property
    def counts(self) -> tuple[int, int]:
        """The number of cited lines and of cited subproofs."""
        return len(self.lines), len(self.subproofs)


def problem_of(rule: Rule, step: Step) -> str:
    """Why the step is not an instance of the rule; "" if it is one."""
    counts, check = _CHECKS[rule]
    if step.counts not in counts:
        wanted = " or ".join(_count(*count) for count in counts)
        return f"the rule {rule.value} cites {wanted}, and this line cites {_count(*step.counts)}"
    if check(step):
        return ""
    cited = [show(line) for line in step.lines]
    cited += [f"{show(proof.assumption)} ... {show(proof.conclusion)}" for proof in step.subproofs]
    return f"{show(step.formula)} does not follow by {rule.value} from {'; '.join(cited) or 'nothing'}"


def _count(lines: int, subproofs: int) -> str:
    found = [f"{lines} line{'s' * (lines != 1)}"] * bool(lines)
    found += [f"{subproofs} subproof{'s' * (subproofs != 1)}"] * bool(subproofs)
    return " and ".join(found) or "nothing"


def _is(formula: Formula, kind: str) -> bool:
    return formula[0] == kind


def _sides(formula: Formula) -> tuple[Formula, Formula]:
    return part(formula, 1), part(formula, 2)


def _orders(step: Step) -> tuple[tuple[Formula, Formula], tuple[Formula, Formula]]:
    first, second = step.lines
    return (first, second), (second, first)


def _and_i(step: Step) -> bool:
    return _is(step.formula, AND) and _sides(step.formula) in _orders(step)


def _and_e(step: Step) -> bool:
    return _is(step.lines[0], AND) and step.formula in _sides(step.lines[0])


def _or_i(step: Step) -> bool:
    return _is(step.formula, OR) and step.lines[0] in _sides(step.formula)


def _or_e(step: Step) -> bool:
    """From A ∨ B, with a subproof or an implication from each side to the formula."""
    ways = {(proof.assumption, proof.conclusion) for proof in step.subproofs}
    ways |= {_sides(line) for line in step.lines if _is(line, IMPLIES)}
    return any(
        _is(line, OR) and all((side, step.formula) in ways for side in _sides(line)) for line in step.lines
    )  # fmt: skip


def _implies_i(step: Step) -> bool:
    proof = step.subproofs[0]
    return step.formula == (IMPLIES, proof.assumption, proof.conclusion)


def _implies_e(step: Step) -> bool:
    return any(major == (IMPLIES, minor, step.formula) for major, minor in _orders(step))


def _not_i(step: Step) -> bool:
    proof = step.subproofs[0]
    return proof.conclusion == BOT and step.formula == negation(proof.assumption)


def _not_e(step: Step) -> bool:
    """⊥ from A and ¬A; some textbooks also call ¬¬A to A the elimination of a negation."""
    if len(step.lines) == 1:
        return step.is_classical and step.lines[0] == negation(negation(step.formula))
    return step.formula == BOT and any(major == negation(minor) for major, minor in _orders(step))


def _iff_i(step: Step) -> bool:
    if not _is(step.formula, IFF):
        return False
    left, right = _sides(step.formula)
    ways = {(proof.assumption, proof.conclusion) for proof in step.subproofs}
    ways |= {_sides(line) for line in step.lines if _is(line, IMPLIES)}
    return {(left, right), (right, left)} <= ways


def _iff_e(step: Step) -> bool:
    """The other side from A ↔ B and one side, or one of the implications from A ↔ B alone."""
    if len(step.lines) == 1:
        if not _is(step.lines[0], IFF):
            return False
        left, right = _sides(step.lines[0])
        return step.formula in ((IMPLIES, left, right), (IMPLIES, right, left))
    return any(major in ((IFF, minor, step.formula), (IFF, step.formula, minor)) for major, minor in _orders(step))


def _modus_tollens(step: Step) -> bool:
    return any(
        _is(major, IMPLIES)
        and minor == negation(_sides(major)[1])
        and step.formula == negation(_sides(major)[0])
        for major, minor in _orders(step)
    )  # fmt: skip


def _disjunctive_syllogism(step: Step) -> bool:
    for major, minor in _orders(step):
        if _is(major, OR):
            left, right = _sides(major)
            if (minor == negation(left) and step.formula == right) or (
                minor == negation(right) and step.formula == left
            ):
                return True
    return False


def _hypothetical_syllogism(step: Step) -> bool:
    return any(
        _is(first, IMPLIES)
        and _is(second, IMPLIES)
        and _sides(first)[1] == _sides(second)[0]
        and step.formula == (IMPLIES, _sides(first)[0], _sides(second)[1])
        for first, second in _orders(step)
    )


def _excluded_middle(step: Step) -> bool:
    if not _is(step.formula, OR):
        return False
    left, right = _sides(step.formula)
    return right == negation(left) or left == negation(right)


def _contradiction(step: Step) -> bool:
    """A from a subproof of ⊥ from ¬A; ¬A from one of ⊥ from A is the introduction of a negation."""
    proof = step.subproofs[0]
    by_classical_rule = step.is_classical and proof.assumption == negation(step.formula)
    return proof.conclusion == BOT and (by_classical_rule or step.formula == negation(proof.assumption))


_LINE, _PAIR, _SUBPROOF, _NOTHING = (1, 0), (2, 0), (0, 1), (0, 0)
_CHECKS: dict[Rule, tuple[tuple[tuple[int, int], ...], Callable[[Step], bool]]] = {
    Rule.REPEAT: ((_LINE,), lambda step: step.formula == step.lines[0]),
    Rule.AND_I: ((_PAIR,), _and_i),
    Rule.AND_E: ((_LINE,), _and_e),
    Rule.OR_I: ((_LINE,), _or_i),
    Rule.OR_E: (((1, 2), (3, 0), (2, 1)), _or_e),
    Rule.IMPLIES_I: ((_SUBPROOF,), _implies_i),
    Rule.IMPLIES_E: ((_PAIR,), _implies_e),
    Rule.NOT_I: ((_SUBPROOF,), _not_i),
    Rule.NOT_E: ((_PAIR, _LINE), _not_e),
    Rule.IFF_I: (((0, 2), (1, 1), _PAIR), _iff_i),
    Rule.IFF_E: ((_PAIR, _LINE), _iff_e),
    Rule.BOT_E: ((_LINE,), lambda step: step.lines[0] == BOT),
    Rule.TOP_I: ((_NOTHING,), lambda step: step.formula == TOP),
    Rule.MODUS_TOLLENS: ((_PAIR,), _modus_tollens),
    Rule.DISJUNCTIVE_SYLLOGISM: ((_PAIR,), _disjunctive_syllogism),
    Rule.HYPOTHETICAL_SYLLOGISM: ((_PAIR,), _hypothetical_syllogism),
    Rule.DOUBLE_NEGATION_I: ((_LINE,), lambda step: step.formula == negation(negation(step.lines[0]))),
    Rule.DOUBLE_NEGATION_E: ((_LINE,), lambda step: step.lines[0] == negation(negation(step.formula))),
    Rule.EXCLUDED_MIDDLE: ((_NOTHING,), _excluded_middle),
    Rule.CONTRADICTION: ((_SUBPROOF,), _contradiction),
}
