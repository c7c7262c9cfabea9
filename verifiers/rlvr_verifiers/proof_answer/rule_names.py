"""The rules and their spellings: `&I`, `∧-intro`, `and introduction`, `MP`, ...

>>> RULES["->e"], RULES["modus ponens"], RULES["∧-intro"]
(<Rule.IMPLIES_E: 'implies_e'>, <Rule.IMPLIES_E: 'implies_e'>, <Rule.AND_I: 'and_i'>)
"""

from enum import StrEnum
from typing import Final

from rlvr_verifiers.proof_answer.formulas import AND, IFF, IMPLIES, NOT, OR, SYMBOLS


class Rule(StrEnum):
    """A rule of natural deduction."""

    PREMISE = "premise"
    ASSUMPTION = "assumption"
    REPEAT = "repeat"
    AND_I = "and_i"
    AND_E = "and_e"
    OR_I = "or_i"
    OR_E = "or_e"
    IMPLIES_I = "implies_i"
    IMPLIES_E = "implies_e"
    NOT_I = "not_i"
    NOT_E = "not_e"
    IFF_I = "iff_i"
    IFF_E = "iff_e"
    BOT_E = "bot_e"
    TOP_I = "top_i"
    MODUS_TOLLENS = "modus_tollens"
    DISJUNCTIVE_SYLLOGISM = "disjunctive_syllogism"
    HYPOTHETICAL_SYLLOGISM = "hypothetical_syllogism"
    DOUBLE_NEGATION_I = "double_negation_i"
    DOUBLE_NEGATION_E = "double_negation_e"
    EXCLUDED_MIDDLE = "excluded_middle"
    CONTRADICTION = "contradiction"


CLASSICAL_ONLY: Final = frozenset({Rule.DOUBLE_NEGATION_E, Rule.EXCLUDED_MIDDLE})
DERIVED: Final = frozenset(
    {Rule.MODUS_TOLLENS, Rule.DISJUNCTIVE_SYLLOGISM, Rule.HYPOTHETICAL_SYLLOGISM, Rule.DOUBLE_NEGATION_I}
)

_WORDS: dict[str, tuple[str, ...]] = {
    AND: ("conjunction", "conj"),
    OR: ("disjunction", "disj", "v"),
    IMPLIES: ("implication", "conditional", "imp", "arrow", "if"),
    IFF: ("biconditional", "equivalence", "bicond"),
    NOT: ("negation", "neg"),
    "bot": ("bottom", "bot", "falsity", "absurdity", "contradiction"),
    "top": ("top", "truth"),
}
_JOINS = ("", "-", " ", "_", ".")
_INTRODUCTIONS = ("i", "in", "int", "intro", "introduction")
_ELIMINATIONS = ("e", "el", "elim", "elimination")
_BY_CONNECTIVE: dict[str, tuple[Rule | None, Rule | None]] = {
    AND: (Rule.AND_I, Rule.AND_E),
    OR: (Rule.OR_I, Rule.OR_E),
    IMPLIES: (Rule.IMPLIES_I, Rule.IMPLIES_E),
    IFF: (Rule.IFF_I, Rule.IFF_E),
    NOT: (Rule.NOT_I, Rule.NOT_E),
    "bot": (Rule.NOT_E, Rule.BOT_E),
    "top": (Rule.TOP_I, None),
}
_NAMES: dict[Rule, tuple[str, ...]] = {
    Rule.PREMISE: ("premise", "premiss", "prem", "pr", "given"),
    Rule.ASSUMPTION: ("assumption", "assume", "assumed", "ass", "as", "hypothesis", "hyp", "suppose", "supposition"),
    Rule.REPEAT: ("r", "reit", "reiteration", "reiterate", "repeat", "copy"),
    Rule.AND_I: ("conjunction", "conj", "adjunction", "adj"),
    Rule.AND_E: ("simplification", "simp", "∧e1", "∧e2", "∧e₁", "∧e₂", "&e1", "&e2", "and.left", "and.right"),
    Rule.OR_I: ("addition", "add", "∨i1", "∨i2", "∨i₁", "∨i₂", "or.inl", "or.inr"),
    Rule.OR_E: ("proof by cases", "case analysis", "by cases", "cases", "pbc"),
    Rule.IMPLIES_I: ("conditional proof", "cp", "deduction theorem"),
    Rule.IMPLIES_E: ("modus ponens", "mp", "detachment"),
    Rule.BOT_E: ("explosion", "ex falso quodlibet", "ex falso", "efq", "x", "false.elim"),
    Rule.MODUS_TOLLENS: ("modus tollens", "mt"),
    Rule.DISJUNCTIVE_SYLLOGISM: ("disjunctive syllogism", "ds", "modus tollendo ponens", "mtp"),
    Rule.HYPOTHETICAL_SYLLOGISM: ("hypothetical syllogism", "hs", "chain rule"),
    Rule.DOUBLE_NEGATION_I: ("dni", "dn-i", "dn-intro", "double negation introduction", "¬¬i", "~~i"),
    Rule.DOUBLE_NEGATION_E: ("dne", "dn-e", "dn-elim", "double negation elimination", "double negation", "dn",
                             "¬¬e", "~~e"),
    Rule.EXCLUDED_MIDDLE: ("excluded middle", "law of excluded middle", "lem", "tnd", "tertium non datur", "em"),
    Rule.CONTRADICTION: ("raa", "reductio ad absurdum", "reductio", "proof by contradiction", "by contradiction",
                         "indirect proof", "ip"),
}  # fmt: skip


def _spellings() -> dict[str, Rule]:
    found: dict[str, Rule] = {}
    for connective, (introduction, elimination) in _BY_CONNECTIVE.items():
        for symbol in (*SYMBOLS[connective], *_WORDS[connective]):
            for rule, endings in ((introduction, _INTRODUCTIONS), (elimination, _ELIMINATIONS)):
                if rule is not None:
                    found |= {f"{symbol}{join}{ending}": rule for join in _JOINS for ending in endings}
    for rule, names in _NAMES.items():
        found |= dict.fromkeys(names, rule)
    return found


RULES: Final[dict[str, Rule]] = _spellings()
"""A spelling in lower case -> its rule."""
LONGEST: Final = max(map(len, RULES))
