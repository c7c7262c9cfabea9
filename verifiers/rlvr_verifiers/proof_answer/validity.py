"""Whether a theorem can be derived, by truth tables (classical) or by a terminating sequent calculus (intuitionistic).

The calculus is G4ip (Dyckhoff, "Contraction-free sequent calculi for intuitionistic logic", 1992): an implication on
the left is split by the form of its antecedent, so that every premise of a rule is smaller than its conclusion.
"""

from collections.abc import Iterable, Sequence

from rlvr_verifiers.proof_answer.formulas import AND, ATOM, BOT, IFF, IMPLIES, NOT, OR, TOP, Formula, atoms_of, part

MAX_ATOMS = 16
MAX_STEPS = 20_000
_MAX_SIZE = 400


class Undecided(Exception):  # noqa: N818 - an outcome, not a fault
    """The search was given up before it had an answer."""


def counterexample(premises: Sequence[Formula], conclusion: Formula) -> dict[str, bool] | None:
    """Truth values with which the premises are true and the conclusion false; None if the theorem is valid classically.

    Raises: ValueError for more than 16 atoms.
    """
    names = sorted(set[str]().union(*(atoms_of(formula) for formula in (*premises, conclusion))))
    if len(names) > MAX_ATOMS:
        raise ValueError(f"the theorem has {len(names)} atoms, and at most {MAX_ATOMS} can be checked")
    width = 1 << len(names)
    every = (1 << width) - 1
    columns: dict[str, int] = {}  # bit r of a column: the atom's value in row r of the truth table
    for index, name in enumerate(names):
        block = 1 << index
        pattern = ((1 << block) - 1) << block
        while block * 2 < width:
            pattern |= pattern << (block * 2)
            block *= 2
        columns[name] = pattern
    rows = every & ~_column(conclusion, columns, every)
    for premise in premises:
        rows &= _column(premise, columns, every)
    if not rows:
        return None
    row = (rows & -rows).bit_length() - 1
    return {name: bool(row >> index & 1) for index, name in enumerate(names)}


def _column(formula: Formula, columns: dict[str, int], every: int) -> int:
    kind = formula[0]
    if kind == ATOM:
        return columns[str(formula[1])]
    if formula == BOT:
        return 0
    if formula == TOP:
        return every
    left = _column(part(formula, 1), columns, every)
    if kind == NOT:
        return every & ~left
    right = _column(part(formula, 2), columns, every)
    if kind == AND:
        return left & right
    if kind == OR:
        return left | right
    return (every & ~left) | right if kind == IMPLIES else every & ~(left ^ right)


def is_intuitionistic(premises: Iterable[Formula], conclusion: Formula) -> bool:
    """Whether intuitionistic logic derives the conclusion from the premises.

    Raises: Undecided after 20,000 steps, or if the formulas grow too large.
    """
    return _Search().proves(frozenset(_plain(premise) for premise in premises), _plain(conclusion))


def _plain(formula: Formula) -> Formula:
    """The formula with and, or, implies and ⊥ only: ¬A is A → ⊥, A ↔ B is (A → B) ∧ (B → A), ⊤ is ⊥ → ⊥."""
    kind = formula[0]
    if kind == ATOM or formula == BOT:
        return formula
    if formula == TOP:
        return (IMPLIES, BOT, BOT)
    left = _plain(part(formula, 1))
    if kind == NOT:
        return (IMPLIES, left, BOT)
    right = _plain(part(formula, 2))
    if kind == IFF:
        return (AND, (IMPLIES, left, right), (IMPLIES, right, left))
    return (str(kind), left, right)


class _Search:
    def __init__(self) -> None:
        self.num_steps = 0
        self.known: dict[tuple[frozenset[Formula], Formula], bool] = {}

    def proves(self, left: frozenset[Formula], goal: Formula, depth: int = 0) -> bool:
        """Whether the sequent has a derivation."""
        if goal in left or BOT in left:
            return True
        key = (left, goal)
        if key not in self.known:
            self.num_steps += 1
            if self.num_steps > MAX_STEPS or depth > _MAX_SIZE:
                raise Undecided
            self.known[key] = self._decide(left, goal, depth + 1)
        return self.known[key]

    def _decide(self, left: frozenset[Formula], goal: Formula, depth: int) -> bool:
        for formula in left:  # rules that can always be applied, because they lose nothing
            rest = left - {formula}
            kind = formula[0]
            if kind == AND:
                return self.proves(rest | {part(formula, 1), part(formula, 2)}, goal, depth)
            if kind == OR:
                return all(self.proves(rest | {part(formula, side)}, goal, depth) for side in (1, 2))
            if kind == IMPLIES:
                simpler = _simpler(formula, left)
                if simpler is not None:
                    return self.proves(rest | simpler, goal, depth)
        if goal[0] == IMPLIES:
            return self.proves(left | {part(goal, 1)}, part(goal, 2), depth)
        if goal[0] == AND:
            return all(self.proves(left, part(goal, side), depth) for side in (1, 2))
        if goal[0] == OR and any(self.proves(left, part(goal, side), depth) for side in (1, 2)):
            return True
        return any(self._by_nested(formula, left, goal, depth) for formula in left if _is_nested(formula))

    def _by_nested(self, formula: Formula, left: frozenset[Formula], goal: Formula, depth: int) -> bool:
        """The rule for (A → B) → C on the left."""
        inner, last = part(formula, 1), part(formula, 2)
        rest = left - {formula}
        return self.proves(rest | {(IMPLIES, part(inner, 2), last)}, inner, depth) and self.proves(
            rest | {last}, goal, depth
        )


def _is_nested(formula: Formula) -> bool:
    return formula[0] == IMPLIES and part(formula, 1)[0] == IMPLIES


def _simpler(formula: Formula, left: frozenset[Formula]) -> set[Formula] | None:
    """What takes the place of an implication on the left if its antecedent is no implication; None if nothing may."""
    before, after = part(formula, 1), part(formula, 2)
    if before == BOT:
        return set()
    if before[0] == ATOM:
        return {after} if before in left else None
    if before[0] == AND:
        return {(IMPLIES, part(before, 1), (IMPLIES, part(before, 2), after))}
    if before[0] == OR:
        return {(IMPLIES, part(before, 1), after), (IMPLIES, part(before, 2), after)}
    return None
