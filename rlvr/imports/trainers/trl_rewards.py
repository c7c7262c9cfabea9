"""TRL's reward functions as checks, by the names that the adapter `trl:` takes."""

import ast
import re
from typing import Any, cast

from pydantic import JsonValue

from rlvr.imports.conversion import Conversion
from rlvr.imports.trainers.parts import NO_REWARD, SCORE_RANGE, Check, is_short, put_checks

_BUILT_IN = ("accuracy_reward", "reasoning_accuracy_reward", "think_format_reward")  # of `trl grpo`, by short name
_NEEDS_SOLUTION = ("accuracy_reward", "reasoning_accuracy_reward")  # the reference is the column of this name
_OVERLONG = "get_soft_overlong_punishment"
_OVERLONG_ARGUMENTS: dict[str, JsonValue] = {"max_completion_len": 1280, "soft_punish_cache": 256}  # of `trl grpo`
_NAME = re.compile(r"[\w./-]+(:\w+)?")


def rewards(c: Conversion) -> None:
    """reward_funcs with reward_weights, as checks of every source."""
    value = c.value("reward_funcs")
    names = [str(name) for name in cast(list[object], value if isinstance(value, list) else [value] if value else [])]
    weights = _weights(c, len(names))
    checks: list[Check] = []
    left: list[str] = []
    for name, weight in zip(names, weights, strict=True):
        function, arguments = _called(name)
        if function == "" or weight < 0:
            why = "is not a function by name" if not function else "has a negative weight, and rlvr's are not"
            left.append(f"{name} {why}")
            c.ask(f"{name} {why}: write a function for it in a file of its own and add it as a check")
        elif function.rpartition(".")[2] == _OVERLONG:
            _add_overlong(c, checks, arguments or _OVERLONG_ARGUMENTS, weight)
        else:
            short = re.split(r"[.:]", function)[-1]
            full = f"trl.rewards.{function}" if function in _BUILT_IN else function
            checks.append(Check(short, f"trl:{full}", weight, arguments))
            if not full.startswith("trl.rewards."):
                c.ask(SCORE_RANGE.format(name=short))
    if not any(_is_check(name) for name in names):
        c.ask("set data.train.0.verifier: the file names no reward function that could be read")
    checks = checks or [Check("check", NO_REWARD)]
    _put(c, checks)
    ours = "data.train.verifier" if is_short(checks) else "data.train.checks"
    if left:
        text = f"{'; '.join(left)}; the recipe has the other functions"
        c.differently("reward_funcs", ours=ours, text=text, is_default=False)
    c.exactly("reward_funcs", "reward_weights", ours=ours)
    if c.value("reward_model_name_or_path"):
        c.leave("reward_model_name_or_path", text="add a check with verifier: reward_model")
    c.exactly("reward_model_name_or_path", ours="data.train.checks")


def _weights(c: Conversion, number: int) -> list[float]:
    value = c.value("reward_weights")
    if not isinstance(value, list):
        return [1.0] * number
    given = [weight for weight in cast(list[object], value) if isinstance(weight, int | float)]
    if len(given) != number or len(given) != len(value):
        c.leave("reward_weights", text=f"there are {len(given)} numbers for {number} reward functions")
        return [1.0] * number
    return [float(weight) for weight in given]


def _is_check(name: str) -> bool:
    return _called(name)[0] not in ("", _OVERLONG)


def _called(name: str) -> tuple[str, dict[str, JsonValue]]:
    """The function and its arguments: `module.factory(a=1)` is a factory, `module.function` has none.

    ("", {}) for anything else, such as arguments by position.
    """
    if _NAME.fullmatch(name):
        return name, {}
    try:
        node = ast.parse(name, mode="eval").body
        if not isinstance(node, ast.Call) or node.args:
            return "", {}
        values: dict[str, Any] = {str(word.arg): ast.literal_eval(word.value) for word in node.keywords if word.arg}
    except (SyntaxError, ValueError, TypeError, RecursionError):
        return "", {}
    return (ast.unparse(node.func), values) if len(values) == len(node.keywords) else ("", {})


def _add_overlong(c: Conversion, checks: list[Check], arguments: dict[str, JsonValue], weight: float) -> None:
    """The soft overlong punishment: rlvr's own where the limits agree, else TRL's function as a check.

    The function's scores, -1 to 0, become 0 to 1, which adds a constant to every reward.
    """
    buffer = arguments.get("soft_punish_cache")
    if arguments.get("max_completion_len") == c.value("max_completion_length") and isinstance(buffer, int):
        c.put("reward.overlong_buffer_tokens", buffer, "reward_funcs")
        c.put("reward.overlong_penalty", weight, "reward_funcs")
        return
    checks.append(Check("overlong", f"trl:trl.rewards.{_OVERLONG}", weight, arguments, scores=(-1.0, 0.0)))


def _put(c: Conversion, checks: list[Check]) -> None:
    sections = cast(dict[str, list[object]], c.values["data"])
    needs_solution = any(check.name in _NEEDS_SOLUTION for check in checks)
    for part in ("train", "eval"):
        for index in range(len(sections.get(part, []))):
            source = f"data.{part}.{index}"
            if not needs_solution:
                c.put(f"{source}.columns.reference", "*", "reward_funcs", how="the whole row")
            put_checks(c, source, checks, "reward_funcs", "reward_weights")
    if not needs_solution:
        c.ask(
            "columns.reference is the whole row, and every column is passed under its name; name the column of the "
            "right answer for `rlvr audit`"
        )
