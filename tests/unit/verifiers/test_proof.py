"""References, rules and bounds of `proof`; its verdicts are in tests/golden/verdicts/proof.jsonl."""

import itertools
import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlvr.plugin import VerifierContext, completion_from_text
from rlvr.records import Check, Prompt, Status, Verdict
from rlvr_verifiers.proof_answer.checker import Invalid, check_derivation
from rlvr_verifiers.proof_answer.derivation import Line, read_lines, split_body
from rlvr_verifiers.proof_answer.formulas import BOT, Formula, Unreadable, parse_formula, show
from rlvr_verifiers.proof_answer.rule_names import CLASSICAL_ONLY, Rule
from rlvr_verifiers.proof_answer.rules import Step, Subproof
from rlvr_verifiers.proof_answer.rules import problem_of as problem
from rlvr_verifiers.proof_answer.theorem import Logic, read_theorem
from rlvr_verifiers.proof_answer.validity import MAX_ATOMS, counterexample, is_intuitionistic
from rlvr_verifiers.proof_answer.verifier import ProofConfig, ProofVerifier
from tests.hardware import cpu_seconds

AUDITED = Path(__file__).parents[2] / "golden" / "audit" / "proof.jsonl"


def build(**settings: Any) -> ProofVerifier:
    return ProofVerifier(ProofConfig(**settings), VerifierContext())


def verify(reference: Any, text: str, **settings: Any) -> Verdict:
    check = Check(name="main", verifier="proof", reference=reference)
    prompt = Prompt(prompt_id="p", text="?", checks=(check,), source="test")
    return build(**settings).verify(prompt, completion_from_text(text, prompt_id="p"))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (None, "is not of the form"),
        (["p"], "is not of the form"),
        ({"premises": ["p"]}, "is not of the form"),
        ({"conclusion": "p", "goal": "p"}, "is not of the form"),
        ({"conclusion": 1}, "is not of the form"),
        ({"conclusion": "p", "premises": "p"}, "is not of the form"),
        ({"conclusion": "p", "premises": [1]}, "must be texts"),
        ({"conclusion": "p", "logic": "fuzzy"}, "is none of classical, intuitionistic"),
        ("", "there is no formula"),
        ("p |- ", "there is no formula"),
        ("p |- q |- r", "several turnstiles"),
        ("p -> |- q", "a formula ends too early"),
        ("p -> q |- q", "p → q ⊢ q is not valid: it is false with p false, q false"),
        ("p | q |- p & q", "is not valid: it is false with p"),
        ("|- " + " | ".join(f"a{n}" for n in range(MAX_ATOMS + 1)), "has 17 atoms, and at most 16"),
        ("|- " + "~" * 100 + "p", "nests deeper than 60"),
        ("|- " + "p & " * 400 + "p", "more than 300 symbols"),
        ("|- " + "(p)" * 2_000, "more than 5000 characters"),
        ({"conclusion": "p | ~p", "logic": "intuitionistic"}, "valid only classically"),
        ({"conclusion": "((p -> q) -> p) -> p", "logic": "intuitionistic"}, "valid only classically"),
    ],
)
def test_a_reference_that_cannot_be_used_is_refused_at_load(reference: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build().parse_reference(reference)


def test_a_valid_theorem_is_accepted_at_load() -> None:
    for reference in ("p, ~p |- q", "|- ((p -> q) -> p) -> p", {"premises": [], "conclusion": "true"}):
        build().parse_reference(reference)
    build(logic="intuitionistic").parse_reference("|- ~~(p | ~p)")
    build(logic="intuitionistic").parse_reference({"conclusion": "p | ~p", "logic": "classical"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("|- ~~(p | ~p)", True),
        ("|- ~~(((p -> q) -> p) -> p)", True),
        ("~~~p |- ~p", True),
        ("p -> q |- ~q -> ~p", True),
        ("~p | ~q |- ~(p & q)", True),
        ("(p & q) -> r |- p -> q -> r", True),
        ("(p | q) -> r |- (p -> r) & (q -> r)", True),
        ("p <-> q |- ~p <-> ~q", True),
        ("|- ((p | ~p) -> ~q) -> ~q", True),
        ("~~p |- p", False),
        ("~(p & q) |- ~p | ~q", False),
        ("~q -> ~p |- p -> q", False),
        ("|- (p -> q) | (q -> p)", False),
        ("p -> q | r |- (p -> q) | (p -> r)", False),
        ("~~(p | q) |- ~~p | ~~q", False),
    ],
)
def test_intuitionistic_provability(text: str, expected: bool) -> None:
    theorem = read_theorem(text)
    assert counterexample(theorem.premises, theorem.conclusion) is None
    assert is_intuitionistic(theorem.premises, theorem.conclusion) is expected


def random_formula(rng: random.Random, depth: int) -> Formula:
    if depth == 0 or rng.random() < 0.25:
        return rng.choice([("atom", "p"), ("atom", "q"), ("atom", "r"), BOT])
    kind = rng.choice(["not", "and", "or", "implies", "implies", "iff"])
    if kind == "not":
        return ("not", random_formula(rng, depth - 1))
    return (kind, random_formula(rng, depth - 1), random_formula(rng, depth - 1))


def test_a_formula_is_read_as_it_is_shown() -> None:
    rng = random.Random(1)
    for _ in range(500):
        formula = random_formula(rng, 5)
        assert parse_formula(show(formula)) == formula


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("p & q | r -> s <-> t", "((((p & q) | r) -> s) <-> t)"),
        ("p -> q -> r", "p -> (q -> r)"),
        ("p & q & r", "(p & q) & r"),
        ("~p & q", "(~p) & q"),
        ("p v v v q", "(p or v) or q"),
        (r"$\lnot p \lor \bot$", "(not p) or false"),
        ("[p /\\ q] ==> ⊤", "(p && q) implies True"),
    ],
)
def test_precedence_and_spellings(text: str, expected: str) -> None:
    assert parse_formula(text) == parse_formula(expected)


@pytest.mark.parametrize("text", ["p q", "p &", "& p", "(p", "p)", "p - q", "p, q", "", "()", "p <-> q <-> r"])
def test_what_is_no_formula_is_refused(text: str) -> None:
    with pytest.raises(Unreadable):
        parse_formula(text)


@pytest.mark.parametrize(
    ("body", "rule", "cited"),
    [
        ("p & q &E1 3", Rule.AND_E, ["3"]),
        ("p &E 1", Rule.AND_E, ["1"]),
        ("p MP1,2", Rule.IMPLIES_E, ["1", "2"]),
        ("p ∧E₂ 12", Rule.AND_E, ["12"]),
        ("p1 -> p2 →I 3–5", Rule.IMPLIES_I, ["3", "5"]),
        ("p and q, and introduction, from lines 1 and 2", Rule.AND_I, ["1", "2"]),
        ("_|_ (~E 1, 2)", Rule.NOT_E, ["1", "2"]),
        ("p -- Ex Falso 4", Rule.BOT_E, ["4"]),
        ("p by cases 1, 2-3, 4-5", Rule.OR_E, ["1", "2", "3", "4", "5"]),
        ("p premise.", Rule.PREMISE, []),
    ],
)
def test_a_line_is_split_into_formula_rule_and_citations(body: str, rule: Rule, cited: list[str]) -> None:
    formula, found, citations = split_body(body)
    parse_formula(formula)
    assert found is rule
    assert re.findall("[0-9]+", citations) == cited


SMALL = ("p", "q", "~p", "~~p", "false", "p -> q", "p & q", "p | q", "p <-> q", "q -> p", "p | ~p", "p -> p", "~q")
SMALLER = ("p", "q", "p | q", "p <-> q", "false")
COUNTS = [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 1)]


@pytest.mark.parametrize("is_classical", [True, False])
def test_every_step_that_a_rule_accepts_is_sound(is_classical: bool) -> None:
    """All steps over a few formulas: what is cited implies the formula, and each rule accepts something."""
    skipped = {Rule.PREMISE, Rule.ASSUMPTION} | (set[Rule]() if is_classical else CLASSICAL_ONLY)
    accepted = Counter[Rule]()
    for num_lines, num_subproofs in COUNTS:
        size = num_lines + 2 * num_subproofs
        pool = [parse_formula(text) for text in (SMALL if size < 3 else SMALLER)]
        rules = [rule for rule in Rule if rule not in skipped and takes(rule, num_lines, num_subproofs)]
        for formula, *cited in itertools.product(pool, repeat=size + 1) if rules else ():
            pairs = list(zip(cited[num_lines::2], cited[num_lines + 1 :: 2], strict=True))
            step = Step(formula, tuple(cited[:num_lines]), tuple(Subproof(*pair) for pair in pairs), is_classical)
            for rule in rules:
                if problem(rule, step):
                    continue
                accepted[rule] += 1
                given = (*step.lines, *(("implies", *pair) for pair in pairs))
                assert counterexample(given, formula) is None, (rule, step)
                assert is_classical or is_intuitionistic(given, formula), (rule, step)
    assert set(accepted) == set(Rule) - skipped - {Rule.TOP_I}


def takes(rule: Rule, num_lines: int, num_subproofs: int) -> bool:
    step = Step(BOT, (BOT,) * num_lines, (Subproof(BOT, BOT),) * num_subproofs, True)
    return "cites" not in problem(rule, step)


def test_random_lines_follow_from_the_assumptions_that_are_open() -> None:
    """Repetitions and implications with random citations: no line may use what a closed subproof assumed."""
    rng = random.Random(3)
    atoms = [parse_formula(text) for text in "pqr"]
    num_closed = 0
    for _ in range(60):
        lines: list[Line] = []
        open_ones: tuple[Formula, ...] = ()
        for _ in range(60):
            number, depth = len(lines) + 1, len(open_ones)
            first, last = sorted(rng.randint(1, max(1, number - 1)) for _ in range(2))
            rule = rng.choice([Rule.ASSUMPTION, Rule.REPEAT, Rule.IMPLIES_I]) if lines else Rule.ASSUMPTION
            if rule is Rule.ASSUMPTION:
                line = Line(number, rng.choice(atoms), rule, (), depth + rng.choice([0, 1]))
            elif rule is Rule.REPEAT:
                line = Line(
                    number, lines[first - 1].formula, rule, ((first, None),), max(0, depth - rng.choice([0, 1]))
                )
            else:
                formula = ("implies", lines[first - 1].formula, lines[last - 1].formula)
                line = Line(number, formula, rule, ((first, last),), max(0, depth - 1))
            try:
                check_derivation([*lines, line], read_theorem("false"), logic=Logic.CLASSICAL, max_depth=6,
                                 derived_rules=True)  # fmt: skip
            except Invalid as error:
                if str(error).startswith(f"line {number}:"):
                    continue  # a wrong step; an open assumption and another last line have other messages
            lines.append(line)
            open_ones = open_ones[: line.depth - (rule is Rule.ASSUMPTION)]
            open_ones += (line.formula,) * (rule is Rule.ASSUMPTION)
            num_closed += rule is Rule.IMPLIES_I
            assert counterexample(open_ones, line.formula) is None, lines
    assert num_closed > 50


def test_a_derivation_with_a_changed_line_fails() -> None:
    """A line of a recorded derivation gets another formula."""
    for row in map(json.loads, AUDITED.read_text(encoding="utf-8").splitlines()):
        text = row["completion"].split("```proof\n")[1].split("\n```")[0]
        lines, theorem = read_lines(text, max_lines=99), read_theorem(row["reference"])
        for index, line in enumerate(lines):
            for formula in {BOT, parse_formula("zz")} - {line.formula}:
                changed = [*lines[:index], Line(line.number, formula, line.rule, line.citations, line.depth)]
                with pytest.raises(Invalid):
                    check_derivation(
                        [*changed, *lines[index + 1 :]], theorem, logic=Logic.CLASSICAL, max_depth=9, derived_rules=True
                    )


@pytest.mark.parametrize(
    "text",
    [
        "1. " + "(" * 1900,
        "1. " + "~" * 1900 + "p premise",
        "1. " + "r " * 990,
        "1. p " + "1," * 990,
        "1. p " + "- " * 900 + "MP",
        "\n".join(f"{n}. p premise" for n in range(1, 190)),
        "\n".join("| " * 400 + f"{n}" for n in range(1, 40)),
        "|" * 20_000,
        "1" * 20_000,
        " " * 19_990 + "1. p",
        "```proof\n" * 2_000,
        "<answer>" * 2_000,
        "1. p İ premise",
        "1. p premise\n2. p R 999999999999999999999",
        "١. p premise",
    ],
)
def test_unusual_text_is_no_derivation_and_is_read_soon(text: str) -> None:
    start = cpu_seconds()
    assert verify("p -> q, p |- q", text).status in (Status.FAIL, Status.UNPARSED)
    assert cpu_seconds() - start < 1.0


def test_reasons_name_the_line() -> None:
    wrong = verify("p -> q, p |- q", "1. p -> q premise\n2. p premise\n3. q MP 1")
    assert (wrong.status, wrong.reason) == (
        Status.FAIL,
        "line 3: the rule implies_e cites 2 lines, and this line cites 1 line",
    )
    unread = verify("p -> q, p |- q", "1. p -> q premise\n2. p § premise")
    assert (unread.status, unread.reason) == (Status.UNPARSED, "line 2: the formula 'p §' has the unknown symbol '§'")
