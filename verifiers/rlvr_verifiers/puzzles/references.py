"""References of `logic`, as variables with domains and constraints. A puzzle that no answer fits is refused.

>>> check_solvable(parse_puzzle({"people": ["Ann", "Bob"], "statements": {"Bob": ["knave", "Bob"]}}))
Traceback (most recent call last):
ValueError: the puzzle has no solution
>>> check_solvable(parse_puzzle({"roles": {"Ann": "knight", "Bob": "knave"}}))
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from rlvr.records import Json
from rlvr_verifiers.puzzles.expressions import MAX_NUMBER, Assignment, Rule, Value, compile_rule, value_key
from rlvr_verifiers.puzzles.solver import TooHard, solve

MAX_VARIABLES = 100
MAX_VALUES = 1_000
MAX_RULES = 1_000
MAX_NAME_CHARS = 100
_KNIGHT = {"knight", "telling-truth", "truth"}
_KNAVE = {"knave", "lying", "liar"}
_FORMS = (
    '{"roles": {"Ann": "knight", ...}}, {"people": [...], "statements": {...}} or '
    '{"variables": {"a": [1, 2], ...}, "constraints": [...]}'
)


@dataclass(frozen=True, slots=True)
class Puzzle:
    """A puzzle.

    domains: the values of each variable; of a person, True (a knight) and False (a knave).
    texts: each rule as it was written, for messages.
    is_unique: the puzzle must have exactly one solution.
    witness: a solution that the reference gives; it need not be found.
    """

    domains: dict[str, tuple[Value, ...]]
    rules: tuple[Rule, ...]
    texts: tuple[str, ...]
    has_people: bool
    is_unique: bool
    witness: Assignment | None = None

    def broken(self, values: Assignment) -> str:
        """The first constraint that an assignment of all variables breaks; "" if it satisfies all."""
        for rule, text in zip(self.rules, self.texts, strict=True):
            if not rule.holds(values):
                return text
        return ""


def parse_puzzle(reference: Json) -> Puzzle:
    """The puzzle of a reference, without solving it. Raises ValueError."""
    if not isinstance(reference, dict):
        raise ValueError(f"{reference!r:.200} is not of the form {_FORMS}")
    fields = cast("dict[str, Json]", reference)
    if "roles" in fields:
        return _from_roles(fields)
    if "statements" in fields:
        return _from_statements(fields)
    if "solution" in fields and "names" in fields:
        names, solution = _names(fields["names"]), fields["solution"]
        if not isinstance(solution, list) or len(cast("list[Json]", solution)) != len(names):
            raise ValueError(f"solution={solution!r:.200} is not one truth value for each of {len(names)} names")
        return _from_roles({"roles": dict(zip(names, cast("list[Json]", solution), strict=True))})
    if "variables" in fields:
        return _from_constraints(fields)
    raise ValueError(f"{reference!r:.200} is not of the form {_FORMS}")


def check_solvable(puzzle: Puzzle) -> None:
    """Raises ValueError if the puzzle has no solution, or several where it must have one."""
    if puzzle.witness is not None:
        broken = puzzle.broken(puzzle.witness)
        if broken:
            raise ValueError(f"the reference's solution breaks {broken}")
        if not puzzle.is_unique:
            return
    try:
        found = solve(puzzle.domains, puzzle.rules, 2 if puzzle.is_unique else 1)
    except TooHard as error:
        hint = "" if puzzle.is_unique else "; give a `solution` in the reference, which is then checked instead"
        raise ValueError(f"{error}{hint}") from error
    if not found:
        raise ValueError("the puzzle has no solution")
    if len(found) > 1 and puzzle.is_unique:
        one, other = found
        name = next(name for name in one if one[name] != other[name])
        raise ValueError(f"the puzzle has several solutions: {name!r} may be {one[name]!r} or {other[name]!r}")


def _from_roles(fields: dict[str, Json]) -> Puzzle:
    roles = fields["roles"]
    if not isinstance(roles, dict) or not roles:
        raise ValueError(f"roles={roles!r:.200} is not an object of names and roles")
    named = cast("dict[str, Json]", roles)
    names = _names(list(named))
    values = {name: _role(named[name], name) for name in names}
    rules = tuple(Rule(frozenset({name}), _is(name, value)) for name, value in values.items())
    texts = tuple(f"that {name} is a {'knight' if value else 'knave'}" for name, value in values.items())
    return Puzzle(dict.fromkeys(names, (True, False)), rules, texts, has_people=True, is_unique=True)


def _is(name: str, value: bool) -> Callable[[Assignment], bool]:
    return lambda values: values[name] is value


def _role(role: Json, name: str) -> bool:
    if isinstance(role, bool):
        return role
    text = role.strip().lower() if isinstance(role, str) else ""
    if text not in _KNIGHT | _KNAVE:
        raise ValueError(f"the role {role!r:.100} of {name!r} is neither 'knight' nor 'knave'")
    return text in _KNIGHT


def _from_statements(fields: dict[str, Json]) -> Puzzle:
    given = fields["statements"]
    names = _names(fields.get("people", fields.get("names", list(given) if isinstance(given, dict) else None)))
    if isinstance(given, dict):
        said = [[name, statement] for name, statement in cast("dict[str, Json]", given).items()]
    elif isinstance(given, list):
        said = cast("list[Json]", given)
    else:
        raise ValueError(f"statements={given!r:.200} is not an object or a list of [name, statement]")
    if len(said) > MAX_RULES:
        raise ValueError(f"there are more than {MAX_RULES} statements")
    domains: dict[str, tuple[Value, ...]] = dict.fromkeys(names, (True, False))
    rules: list[Rule] = []
    texts: list[str] = []
    for item in said:
        pair = cast("list[Json]", item) if isinstance(item, list) else []
        if len(pair) != 2 or pair[0] not in names:
            raise ValueError(f"{item!r:.200} is not [name of a person, statement]")
        rules.append(compile_rule(["iff", pair[0], _of_people(pair[1], names, 0)], domains))
        texts.append(f"what {pair[0]} says")
    return Puzzle(domains, tuple(rules), tuple(texts), has_people=True, is_unique=True)


def _of_people(statement: Json, names: Sequence[str], depth: int) -> Json:
    """A statement with ["knight", name] and ["knave", name] replaced by the person's variable."""
    if not isinstance(statement, (list, tuple)) or depth > MAX_NAME_CHARS:
        return statement
    items = list(cast("Sequence[Json]", statement))
    if len(items) == 2 and isinstance(items[0], str) and items[0] in _KNIGHT | _KNAVE:
        name = items[1]
        if isinstance(name, int) and not isinstance(name, bool) and 0 <= name < len(names):
            name = names[name]
        if name not in names:
            raise ValueError(f"{statement!r:.200}: {items[1]!r:.100} is none of the people")
        return name if items[0] in _KNIGHT else ["not", name]
    return [_of_people(item, names, depth + 1) for item in items]


def _from_constraints(fields: dict[str, Json]) -> Puzzle:
    unknown = set(fields) - {"variables", "constraints", "unique", "solution"}
    if unknown:
        raise ValueError(f"the reference has unknown keys: {', '.join(sorted(unknown))}")
    variables, constraints = fields["variables"], fields.get("constraints", [])
    if not isinstance(variables, dict) or not variables:
        raise ValueError(f"variables={variables!r:.200} is not an object of names and values")
    named = cast("dict[str, Json]", variables)
    domains = {name: _domain(named[name], name) for name in _names(list(named))}
    if not isinstance(constraints, list) or len(cast("list[Json]", constraints)) > MAX_RULES:
        raise ValueError(f"constraints={constraints!r:.200} is not a list of at most {MAX_RULES} constraints")
    listed = cast("list[Json]", constraints)
    unique = fields.get("unique", False)
    if not isinstance(unique, bool):
        raise ValueError(f"unique={unique!r:.100} is not true or false")
    rules = tuple(compile_rule(constraint, domains) for constraint in listed)
    witness = fields.get("solution")
    if witness is not None:
        witness = _witness(witness, domains)
    texts = tuple(f"{constraint!r:.200}" for constraint in listed)
    return Puzzle(domains, rules, texts, has_people=False, is_unique=unique, witness=witness)


def _witness(solution: Json, domains: dict[str, tuple[Value, ...]]) -> dict[str, Value]:
    if not isinstance(solution, dict) or set(cast("dict[str, Json]", solution)) != set(domains):
        raise ValueError(f"solution={solution!r:.200} does not give each variable a value")
    values = cast("dict[str, Value]", solution)
    for name, value in values.items():
        if isinstance(value, (list, dict)) or value_key(value) not in set(map(value_key, domains[name])):
            raise ValueError(f"the solution's value {value!r:.100} of {name!r} is not in its domain")
    return values


def _domain(values: Json, name: str) -> tuple[Value, ...]:
    """The values of a variable: a list, or {"range": [first, last]}."""
    if isinstance(values, dict) and set(cast("dict[str, Json]", values)) == {"range"}:
        ends = cast("dict[str, Json]", values)["range"]
        is_pair = isinstance(ends, list) and len(cast("list[Json]", ends)) == 2
        if not is_pair or not all(
            isinstance(end, int) and not isinstance(end, bool) for end in cast("list[Json]", ends)
        ):
            raise ValueError(f"the range {ends!r:.100} of {name!r} is not [first, last]")
        first, last = cast("list[int]", ends)
        if not 0 <= last - first < MAX_VALUES or max(abs(first), abs(last)) > MAX_NUMBER:
            raise ValueError(f"the range {ends!r:.100} of {name!r} has no values or more than {MAX_VALUES}")
        return tuple(range(first, last + 1))
    if not isinstance(values, list) or not 0 < len(cast("list[Json]", values)) <= MAX_VALUES:
        raise ValueError(f"the values {values!r:.200} of {name!r} are not a list of 1 to {MAX_VALUES}")
    items = cast("list[Value]", values)
    for value in items:
        if not isinstance(value, (str, int)) or (isinstance(value, int) and abs(value) > MAX_NUMBER):
            raise ValueError(f"the value {value!r:.100} of {name!r} is not a text, a whole number, true or false")
    texts = [str(value).strip().casefold() for value in items]
    if len(set(texts)) < len(texts):
        raise ValueError(f"two values of {name!r} are equal or differ only in case")
    return tuple(items)


def _names(names: Json) -> list[str]:
    """Distinct names. Raises ValueError."""
    items = cast("list[Json]", names) if isinstance(names, list) else []
    if not 0 < len(items) <= MAX_VARIABLES:
        raise ValueError(f"{names!r:.200} is not a list of 1 to {MAX_VARIABLES} names")
    for item in items:
        if not isinstance(item, str) or not item.strip() or item != item.strip() or len(item) > MAX_NAME_CHARS:
            raise ValueError(f"{item!r:.100} is not a name")
    texts = cast("list[str]", items)
    if len({text.casefold() for text in texts}) < len(texts):
        raise ValueError(f"two of the names {texts!r:.200} are equal or differ only in case")
    return texts
