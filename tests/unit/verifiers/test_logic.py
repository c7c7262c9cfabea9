"""References, the solver and generated puzzles of `logic`; its verdicts are in tests/golden/verdicts/logic.jsonl."""

import itertools
import random
from typing import Any

import pytest

from rlvr.plugin import VerifierContext, completion_from_text
from rlvr.records import FinishReason, Status, Verdict
from rlvr_verifiers.puzzles.expressions import compile_rule
from rlvr_verifiers.puzzles.references import check_solvable, parse_puzzle
from rlvr_verifiers.puzzles.solver import TooHard, solve
from rlvr_verifiers.puzzles.verifier import LogicConfig, LogicVerifier
from tests.hardware import cpu_seconds

NAMES = ("Ann", "Bob", "Cid", "Dora", "Eve", "Finn")
PAIR = {"a": {"range": [1, 9]}, "b": {"range": [1, 9]}}


def build(**settings: Any) -> LogicVerifier:
    return LogicVerifier(LogicConfig(**settings), VerifierContext())


def verify(reference: Any, text: str, *, is_cut: bool = False) -> Verdict:
    completion = completion_from_text(text, prompt_id="p")
    if is_cut:
        object.__setattr__(completion, "finish_reason", FinishReason.LENGTH)
    return build()._verify(reference, completion)


def puzzle_of(constraints: list[Any], variables: Any = PAIR, **fields: Any) -> dict[str, Any]:
    return {"variables": variables, "constraints": constraints, **fields}


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (None, "not of the form"),
        ("Ann is a knight", "not of the form"),
        ({}, "not of the form"),
        ({"roles": {}}, "not an object of names"),
        ({"roles": {"Ann": "spy"}}, "neither 'knight' nor 'knave'"),
        ({"roles": {"Ann": "knight", "ann": "knave"}}, "differ only in case"),
        ({"names": ["Ann"], "solution": [True, False]}, "not one truth value for each"),
        ({"people": ["Ann"], "statements": {"Ann": ["knave", "Ann"]}}, "no solution"),
        ({"people": ["Ann", "Bob"], "statements": {"Ann": ["knave", "Bob"]}}, "several solutions"),
        ({"people": ["Ann"], "statements": {"Ann": ["knave", "Bob"]}}, "none of the people"),
        ({"people": ["Ann"], "statements": {"Bob": ["knave", "Ann"]}}, "not .name of a person, statement."),
        ({"people": ["Ann"], "statements": "Ann: I lie"}, "not an object or a list"),
        (puzzle_of([["<", "a", "a"]]), "no solution"),
        (puzzle_of([["<", "a", "c"]]), "neither a variable"),
        (puzzle_of([["<", "a", 1.5]]), "neither a variable"),
        (puzzle_of([["foo", "a", "b"]]), "no operator 'foo'"),
        (puzzle_of([["<", "a"]]), "no operator '<' for 1 parts"),
        (puzzle_of(["a"]), "is a number and not a constraint"),
        (puzzle_of([["and", "a", "b"]]), "a number where a truth value is needed"),
        (puzzle_of([["==", "a", ["<", "a", "b"]]]), "compares a number with a truth value"),
        (puzzle_of([["==", ["mod", "a", 0], 1]]), "modulus"),
        (puzzle_of([["==", "a", 10**13]]), "larger than"),
        (puzzle_of([["exactly", "two", ["<", "a", "b"]]]), "write .'exactly', n"),
        (puzzle_of([], {"a": []}), "not a list of 1 to"),
        (puzzle_of([], {"a": [1, "1"]}), "equal or differ only in case"),
        (puzzle_of([], {"a": [1.5]}), "not a text, a whole number"),
        (puzzle_of([], {"a": {"range": [3, 1]}}), "has no values"),
        (puzzle_of([], {}), "not an object of names"),
        (puzzle_of([], unique=True), "several solutions: 'a' may be 1 or 2|several solutions"),
        (puzzle_of([["<", "a", "b"]], solution={"a": 2, "b": 1}), "solution breaks"),
        (puzzle_of([["<", "a", "b"]], solution={"a": 2}), "does not give each variable"),
        (puzzle_of([["<", "a", "b"]], solution={"a": 2, "b": 99}), "not in its domain"),
        (puzzle_of([], constraint=[]), "unknown keys: constraint"),
    ],
)
def test_a_reference_without_an_answer_is_refused_at_load(reference: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build().parse_reference(reference)


def test_a_nested_constraint_is_refused_and_not_a_crash() -> None:
    deep: Any = "a"
    for _ in range(200):
        deep = ["+", deep, 1]
    with pytest.raises(ValueError, match="nested deeper"):
        build().parse_reference(puzzle_of([["==", deep, 1]]))


@pytest.mark.parametrize(
    ("expression", "a", "b", "holds"),
    [
        (["and", ["<", "a", 3], [">", "b", 3]], 2, 4, True),
        (["and", ["<", "a", 3], [">", "b", 3]], 2, 3, False),
        (["or", ["<", "a", 3], [">", "b", 3]], 4, 3, False),
        (["not", ["<=", "a", 3]], 3, 1, False),
        (["implies", ["==", "a", 1], ["==", "b", 1]], 2, 5, True),
        (["implies", ["==", "a", 1], ["==", "b", 1]], 1, 5, False),
        (["->", ["==", "a", 1], ["==", "b", 1]], 1, 1, True),
        (["iff", ["==", "a", 1], ["==", "b", 1]], 2, 5, True),
        (["xor", ["==", "a", 1], ["==", "b", 1]], 1, 5, True),
        (["exactly", 1, ["==", "a", 1], ["==", "b", 1]], 1, 1, False),
        (["at_least", 1, ["==", "a", 1], ["==", "b", 1]], 1, 1, True),
        (["at_most", 1, ["==", "a", 1], ["==", "b", 1]], 1, 1, False),
        (["==", ["-", "a", "b"], 3], 5, 2, True),
        (["==", ["*", "a", "b", 2], 20], 5, 2, True),
        (["==", ["abs", ["-", "a", "b"]], 3], 2, 5, True),
        (["==", ["mod", "a", 3], 2], 5, 1, True),
        (["all_different", "a", "b"], 2, 2, False),
        (["in", "a", 1, 3, "b"], 2, 2, True),
        (["in", "a", 1, 3], 2, 2, False),
        ([">=", "a", "b"], 2, 2, True),
    ],
)
def test_each_operator_means_what_the_page_says(expression: Any, a: int, b: int, holds: bool) -> None:
    rule = compile_rule(expression, {"a": range(1, 10), "b": range(1, 10)})
    assert rule.holds({"a": a, "b": b}) is holds


def statement(rng: random.Random, people: list[str]) -> list[Any]:
    first, second = rng.sample(people, 2)
    kinds = [
        ["knight", first],
        ["knave", first],
        ["and", ["knight", first], ["knave", second]],
        ["or", ["knave", first], ["knight", second]],
        ["iff", ["knight", first], ["knave", second]],
        ["implies", ["knight", first], ["knight", second]],
        ["exactly", 2, *(["knight", name] for name in people)],
    ]
    return rng.choice(kinds)


def generated(count: int, seed: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(reference, its only solution) of puzzles with three to five people."""
    rng = random.Random(seed)
    puzzles: list[tuple[dict[str, Any], dict[str, Any]]] = []
    while len(puzzles) < count:
        people = rng.sample(NAMES, rng.randint(3, 5))
        reference = {"people": people, "statements": {name: statement(rng, people) for name in people}}
        puzzle = parse_puzzle(reference)
        found = solve(puzzle.domains, puzzle.rules, 2)
        if len(found) == 1:
            puzzles.append((reference, found[0]))
    return puzzles


def test_only_the_solution_of_a_generated_puzzle_passes() -> None:
    forms = ["{} is a {}", "{}: {}", "{} = {}"]
    for number, (reference, solution) in enumerate(generated(300, seed=7)):
        build().parse_reference(reference)
        num_passed = 0
        for values in itertools.product((True, False), repeat=len(solution)):
            assignment = dict(zip(solution, values, strict=True))
            said = (forms[number % 3].format(n, "knight" if role else "knave") for n, role in assignment.items())
            verdict = verify(reference, f"<answer>{', '.join(said)}</answer>")
            assert verdict.passed is (assignment == solution), (reference, assignment, verdict.reason)
            num_passed += verdict.passed
        assert num_passed == 1


def test_the_solver_finds_what_trying_everything_finds() -> None:
    rng = random.Random(3)
    domains = {name: tuple(range(1, 5)) for name in "abcd"}
    for _ in range(60):
        constraints = [
            [rng.choice(["<", "!=", "==", ">="]), rng.choice("abcd"), ["+", rng.choice("abcd"), rng.randint(-2, 2)]]
            for _ in range(4)
        ]
        rules = [compile_rule(constraint, domains) for constraint in constraints]
        every = [dict(zip(domains, values, strict=True)) for values in itertools.product(*domains.values())]
        expected = [values for values in every if all(rule.holds(values) for rule in rules)]
        found = solve(domains, rules, 1000)
        key = lambda values: sorted(values.items())  # noqa: E731
        assert sorted(found, key=key) == sorted(expected, key=key)


def test_the_solver_gives_up_in_bounded_time() -> None:
    variables = {f"v{n}": {"range": [1, 30]} for n in range(31)}
    reference = puzzle_of([["!=", a, b] for a, b in itertools.combinations(variables, 2)], variables)
    start = cpu_seconds()
    with pytest.raises(ValueError, match="no decision after 200,000 steps"):
        check_solvable(parse_puzzle(reference))
    assert cpu_seconds() - start < 3.0
    with pytest.raises(TooHard):
        solve({"a": range(100)}, [compile_rule(["<", "a", 0], {"a": range(100)})], 1, max_steps=10)


def test_a_solution_in_the_reference_replaces_the_search() -> None:
    variables = {f"v{n}": {"range": [1, 60]} for n in range(60)}
    constraints = [["all_different", *variables], *(["!=", ["+", name, 1], "v0"] for name in variables)]
    solution = {name: number for number, name in enumerate(variables, start=1)}
    check_solvable(parse_puzzle(puzzle_of(constraints, variables, solution=solution)))


def test_the_last_paragraph_of_a_truncated_completion_does_not_count() -> None:
    reference = {"roles": {"Ann": "knight"}}
    assert verify(reference, "Ann is a knight").passed
    assert verify(reference, "Ann is a knight", is_cut=True).status is Status.UNPARSED


@pytest.mark.parametrize(
    "piece",
    ["Ann is a knight, ", "Ann and ", "{", '{"a":', "a = 1\n", "```\n", "Answer: ", "<answer>", " ", "1" * 5000, "Ann"],
)
@pytest.mark.parametrize("reference", [{"roles": {"Ann": "knave", "Bob": "knave"}}, puzzle_of([["<", "a", "b"]])])
def test_a_verdict_on_a_hostile_text_takes_little_time(reference: Any, piece: str) -> None:
    start = cpu_seconds()
    for length in (19_000, 10_000_000):
        assert not verify(reference, piece * (length // len(piece))).passed
    assert cpu_seconds() - start < 2.0
