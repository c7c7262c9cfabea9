"""A backtracking solver for small constraint problems, which gives up after a bounded number of steps.

>>> from rlvr_verifiers.puzzles.expressions import compile_rule
>>> domains = {"a": (1, 2, 3), "b": (1, 2, 3)}
>>> solve(domains, [compile_rule(["==", ["+", "a", "b"], 5], domains), compile_rule(["<", "a", "b"], domains)], 2)
[{'a': 2, 'b': 3}]
"""

from collections.abc import Sequence

from rlvr_verifiers.puzzles.expressions import Domains, Rule, Value

MAX_STEPS = 200_000  # checked constraints; about half a second


class TooHard(ValueError):  # noqa: N818 - it says what the problem is
    """The solver gave up."""


def solve(
    domains: Domains, rules: Sequence[Rule], num_wanted: int, *, max_steps: int = MAX_STEPS
) -> list[dict[str, Value]]:
    """The first solutions, at most `num_wanted`; fewer mean that there are no more.

    Raises: TooHard after `max_steps` checked constraints.
    """
    order = _order(domains, rules)
    position = {name: index for index, name in enumerate(order)}
    ready: list[list[Rule]] = [[] for _ in range(len(order) + 1)]
    for rule in rules:
        last = max((position[name] for name in rule.variables), default=-1)
        ready[last + 1].append(rule)  # checked as soon as its last variable has a value
    found: list[dict[str, Value]] = []
    values: dict[str, Value] = {}
    tried = [0] * len(order)
    num_steps, level = 0, 0
    if not all(rule.holds(values) for rule in ready[0]):
        return []
    while level >= 0:
        if level == len(order):
            found.append(dict(values))
            if len(found) >= num_wanted:
                return found
            level -= 1
            continue
        name = order[level]
        if tried[level] == len(domains[name]):
            tried[level] = 0
            values.pop(name, None)
            level -= 1
            continue
        values[name] = domains[name][tried[level]]
        tried[level] += 1
        num_steps += 1 + len(ready[level + 1])
        if num_steps > max_steps:
            raise TooHard(f"no decision after {max_steps:,} steps of the solver")
        if all(rule.holds(values) for rule in ready[level + 1]):
            level += 1
    return found


def _order(domains: Domains, rules: Sequence[Rule]) -> list[str]:
    """The variables in the order in which constraints can be checked soonest."""
    left = dict.fromkeys(domains)
    order: list[str] = []
    open_rules = [set(rule.variables) for rule in rules]
    while left:
        weights = {name: (0.0, -len(domains[name])) for name in left}
        for variables in open_rules:
            for name in variables:
                weight, size = weights[name]
                weights[name] = (weight + 4.0 ** -len(variables), size)
        best = max(left, key=lambda name: weights[name])
        order.append(best)
        del left[best]
        open_rules = [rest for variables in open_rules if (rest := variables - {best})]
    return order
