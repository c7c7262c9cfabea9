"""Reads a TRL script by its syntax tree: the arguments of GRPOConfig, GRPOTrainer, LoraConfig and load_dataset.

Nothing is imported or executed. A value is read if it is a literal, or a name that the script assigns once to one.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from rlvr.errors import ConfigError
from rlvr.imports.records import Given, Reading

_CONFIG, _TRAINER, _LORA = "GRPOConfig", "GRPOTrainer", "LoraConfig"
_LORA_KEYS = {
    "r": "lora_r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "use_rslora": "use_rslora",
    "target_modules": "lora_target_modules", "modules_to_save": "lora_modules_to_save", "use_dora": "use_dora",
    "target_parameters": "lora_target_parameters", "task_type": "lora_task_type",
}  # fmt: skip
_TRAINER_KEYS = {
    "model": "model_name_or_path", "reward_funcs": "reward_funcs", "train_dataset": "dataset_name",
    "eval_dataset": "eval_dataset", "peft_config": "use_peft",
}  # fmt: skip
_PASSED_BY_POSITION = ("model", "reward_funcs", "args", "train_dataset", "eval_dataset")


@dataclass(slots=True)
class _Script:
    """The script's parts. names: what each name is assigned to, if once. imports: the origin of imported names."""

    label: str
    names: dict[str, ast.expr] = field(default_factory=dict[str, ast.expr])
    imports: dict[str, str] = field(default_factory=dict[str, str])
    functions: set[str] = field(default_factory=set[str])
    is_guarded: bool = False
    keys: dict[str, Given] = field(default_factory=dict[str, Given])
    notes: list[str] = field(default_factory=list[str])


def read_script(text: str, *, label: str) -> Reading:
    """The keys of a script that trains with GRPOTrainer.

    Raises: ConfigError when it is not Python, or never calls GRPOConfig.

    >>> script = "from trl import GRPOConfig\\nargs = GRPOConfig(learning_rate=1e-5)"
    >>> read_script(script, label="train.py").keys["learning_rate"].value
    1e-05
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ConfigError(f"{label} is not Python: {error}") from error
    script = _Script(label=label)
    _survey(script, tree)
    calls = {name: list(_calls(tree, name)) for name in (_CONFIG, _TRAINER, _LORA)}
    if not calls[_CONFIG] and not calls[_TRAINER]:
        raise ConfigError(f"{label} calls neither GRPOConfig nor GRPOTrainer; import reads a script of TRL only")
    for name, found in calls.items():
        if len(found) > 1:
            script.notes.append(f"{label}:{found[1].lineno}: a second call of {name} was not read")
    for call in calls[_CONFIG][:1]:
        for keyword in call.keywords:
            if keyword.arg is None:
                script.notes.append(f"{label}:{call.lineno}: GRPOConfig(**...) was not read; its keys are unknown")
            else:
                script.keys[keyword.arg] = _given(script, keyword.value)
        if call.args:
            script.keys.setdefault("output_dir", _given(script, call.args[0]))
    for call in calls[_TRAINER][:1]:
        _read_trainer(script, call)
    for call in calls[_LORA][:1]:
        for keyword in call.keywords:
            key = _LORA_KEYS.get(keyword.arg or "", f"LoraConfig.{keyword.arg}")
            script.keys[key] = _given(script, keyword.value, label_=f"LoraConfig.{keyword.arg}")
        script.keys["use_peft"] = Given(value=True, place=f"{label}:{call.lineno}", label="LoraConfig")
    return Reading(file=label, keys=script.keys, notes=script.notes)


def _survey(script: _Script, tree: ast.Module) -> None:
    assigned: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            assigned.setdefault(node.targets[0].id, []).append(node.value)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            script.imports |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            script.imports |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            script.functions.add(node.name)
    script.names = {name: values[0] for name, values in assigned.items() if len(values) == 1}
    script.is_guarded = any(isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in tree.body)


def _calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) == name:
            yield node


def _called(node: ast.expr) -> str:
    """The last name of what a call calls; "" for anything else."""
    if isinstance(node, ast.Call):
        node = node.func
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _resolved(script: _Script, node: ast.expr) -> ast.expr:
    seen: set[str] = set()
    while isinstance(node, ast.Name) and node.id in script.names and node.id not in seen:
        seen.add(node.id)
        node = script.names[node.id]
    return node


def _given(script: _Script, node: ast.expr, *, label_: str = "") -> Given:
    place = f"{script.label}:{node.lineno}"
    try:
        value: Any = ast.literal_eval(_resolved(script, node))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        shown = ast.unparse(node)
        return Given(value=shown, place=place, label=label_, unread=f"{shown} is not a literal")
    return Given(value=_plain(value), place=place, label=label_)


def _plain(value: Any) -> JsonValue:
    if isinstance(value, set):
        value = sorted(value, key=str)
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def _read_trainer(script: _Script, call: ast.Call) -> None:
    arguments = dict(zip(_PASSED_BY_POSITION, call.args, strict=False))
    arguments |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    for name, node in arguments.items():
        label = f"{_TRAINER}.{name}"
        key = _TRAINER_KEYS.get(name, label)
        place = f"{script.label}:{node.lineno}"
        if name == "args":
            continue
        if name == "peft_config":
            script.keys[key] = Given(value=True, place=place, label=label)
        elif name == "reward_funcs":
            script.keys[key] = _rewards(script, node, place, label)
        elif name in ("train_dataset", "eval_dataset"):
            _read_dataset(script, node, name, label)
        else:
            script.keys[key] = _given(script, node, label_=label)


def _rewards(script: _Script, node: ast.expr, place: str, label: str) -> Given:
    node = _resolved(script, node)
    nodes = node.elts if isinstance(node, ast.List | ast.Tuple) else [node]
    names = [_reward(script, entry) for entry in nodes]
    if not script.is_guarded and any(f"{script.label}:" in name for name in names):
        script.notes.append(
            f"{place}: move the reward functions to a file of their own: {script.label} has no "
            '`if __name__ == "__main__":`, so importing it would start its training'
        )
    return Given(value=list(names), place=place, label=label)


def _reward(script: _Script, node: ast.expr) -> str:
    """`module.function`, or `file.py:function` for one that the script defines."""
    node = _resolved(script, node)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Name):
        if node.id in script.functions:
            return f"{script.label}:{node.id}"
        return script.imports.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        head, _, rest = ast.unparse(node).partition(".")
        return f"{script.imports.get(head, head)}.{rest}"
    if isinstance(node, ast.Call):
        arguments = [ast.unparse(argument) for argument in (*node.args, *node.keywords)]
        return f"{_reward(script, node.func)}({', '.join(arguments)})"
    return f"the expression of line {node.lineno}"


def _read_dataset(script: _Script, node: ast.expr, name: str, label: str) -> None:
    """`load_dataset("name", "config", split="train")`, also behind `.map(...)` and the like, or through a name."""
    place = f"{script.label}:{node.lineno}"
    is_train = name == "train_dataset"
    key = "dataset_name" if is_train else "eval_dataset"
    split_key = "dataset_train_split" if is_train else "dataset_test_split"
    found = _resolved(script, node)
    steps: list[str] = []
    split = ""
    while True:
        if isinstance(found, ast.Call) and isinstance(found.func, ast.Attribute) and _called(found) != "load_dataset":
            steps.append(found.func.attr)
            found = _resolved(script, found.func.value)
        elif isinstance(found, ast.Subscript) and isinstance(found.slice, ast.Constant):
            split = str(found.slice.value)
            found = _resolved(script, found.value)
        else:
            break
    if not isinstance(found, ast.Call) or _called(found) != "load_dataset":
        shown = ast.unparse(node)
        script.keys[key] = Given(value=shown, place=place, label=label, unread=f"{shown} is no load_dataset(...) call")
        return
    given = dict(zip(("path", "name"), found.args, strict=False))
    given |= {keyword.arg: keyword.value for keyword in found.keywords if keyword.arg}
    targets = {"path": key, "name": "dataset_config", "split": split_key}
    for argument, value in given.items():
        target = targets.get(argument, f"load_dataset.{argument}")
        script.keys[target] = _given(script, value, label_=f"load_dataset.{argument}")
    if split:
        script.keys[split_key] = Given(value=split, place=place, label=f"{label}[...]")
    if steps:
        script.notes.append(
            f"{place}: {label} passes through {', '.join(f'.{step}(...)' for step in reversed(steps))}, which was not "
            "read; write the rows that result to a file, or use the recipe's columns and prompt_format"
        )
