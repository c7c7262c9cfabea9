"""TRL's model, adapters, data sets and reward functions."""

import math
import re
from typing import cast

from rlvr.config.messages.hints import REFUSED
from rlvr.imports.conversion import Conversion
from rlvr.imports.trainers.parts import (
    DATA_MISSING,
    EVAL,
    MODEL_MISSING,
    NO_REWARD,
    TRAIN,
    count,
    number,
    put_checks,
    put_source,
)

_DATA = ("dataset_name", "dataset_config", "dataset_train_split", "dataset_test_split", "datasets", "eval_dataset")
_LORA = (
    "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_parameters", "lora_modules_to_save",
    "use_rslora", "use_dora",
)  # fmt: skip
_OVERLONG = "get_soft_overlong_punishment"
_OVERLONG_LIMIT, _OVERLONG_CACHE = 1280, 256  # what `trl grpo` passes
_BUILT_IN = ("accuracy_reward", "reasoning_accuracy_reward", "think_format_reward")
_REFERENCES = {"accuracy_reward": "solution", "reasoning_accuracy_reward": "solution"}


def model(c: Conversion) -> None:
    """model_name_or_path."""
    path = c.value("model_name_or_path")
    if not path:
        c.ask("set model.path: the file names no model")
    c.put("model.path", str(path) if path else MODEL_MISSING, "model_name_or_path", how="" if path else "to set")
    c.exactly("model_name_or_path", ours="model.path")


def lora(c: Conversion) -> None:
    """use_peft and the adapters' settings."""
    if not c.value("use_peft"):
        c.exactly("use_peft", ours="model.lora.rank")
        c.leave(*_LORA, text="has no effect without use_peft")
        return
    rank, alpha = count(c, "lora_r"), number(c, "lora_alpha")
    c.put("model.lora.rank", rank, "lora_r", "use_peft", always=True)
    c.exactly("use_peft", "lora_r", ours="model.lora.rank")
    if c.value("use_rslora"):
        how = f"{alpha:g} x sqrt({rank}): rlvr's scale is alpha / rank, rsLoRA's alpha / sqrt(rank)"
        c.put("model.lora.alpha", alpha * math.sqrt(rank), "lora_alpha", "use_rslora", how=how)
    else:
        c.put("model.lora.alpha", float(alpha), "lora_alpha")
    c.exactly("lora_alpha", "use_rslora", ours="model.lora.alpha")
    targets = c.value("lora_target_modules")
    names = cast(list[str], targets) if isinstance(targets, list) else [targets]
    if targets:
        c.put("model.lora.target_modules", [str(name) for name in names], "lora_target_modules")
        c.exactly("lora_target_modules", ours="model.lora.target_modules")
    else:
        text = "peft chooses layers by architecture, often only the attention's; the recipe has all linear layers"
        c.differently("lora_target_modules", ours="model.lora.target_modules", text=text)
    if number(c, "lora_dropout"):
        c.leave(
            "lora_dropout",
            text=REFUSED["lora_dropout"].answer("lora_dropout", c.value("lora_dropout")),
            is_default=True,
        )
    c.exactly("lora_dropout", ours="always")
    for key in ("lora_target_parameters", "lora_modules_to_save", "use_dora"):
        if c.value(key):
            c.leave(key, text="rlvr has plain LoRA on linear layers")
        c.exactly(key, ours="always")


def data(c: Conversion) -> None:
    """The training set, and the test split where the run evaluates."""
    mixture = c.value("datasets")
    if isinstance(mixture, list) and mixture:
        _mixture(c, cast(list[object], mixture))
        c.leave(*_DATA, text="has no effect with datasets")
        return
    name, config = c.value("dataset_name"), c.value("dataset_config")
    if not name:
        c.ask("set data.train: the file names no data set that could be read")
    fields = {
        "source": (name or DATA_MISSING, ("dataset_name",)),
        "subset": (config, ("dataset_config",)),
        "split": (c.value("dataset_train_split"), ("dataset_train_split",)),
    }
    put_source(c, TRAIN, fields)
    has_eval = str(c.value("eval_strategy")) not in ("no", "False")
    if has_eval and (name or c.value("eval_dataset")):
        source = (c.value("eval_dataset") or name, ("eval_dataset",) if c.value("eval_dataset") else ("dataset_name",))
        split = (c.value("dataset_test_split"), ("dataset_test_split",))
        put_source(c, EVAL, {**fields, "source": source, "split": split})
    else:
        c.leave("dataset_test_split", "eval_dataset", text="has no effect without eval_strategy")
    _template(c, has_eval=has_eval)
    c.exactly(*_DATA, ours="data.train")


def _mixture(c: Conversion, mixture: list[object]) -> None:
    left: set[str] = set()
    for index, entry in enumerate(mixture):
        given = cast(dict[str, object], entry) if isinstance(entry, dict) else {"path": entry}
        source = f"data.train.{index}"
        c.put(f"{source}.source", str(given.get("path", DATA_MISSING)), "datasets")
        if given.get("name"):
            c.put(f"{source}.subset", str(given["name"]), "datasets")
        c.put(f"{source}.split", str(given.get("split", "train")), "datasets", always=True)
        left |= {key for key in given if key not in ("path", "name", "split") and given[key] is not None}
    if left:
        text = f"{', '.join(sorted(left))} was not taken over: data.train has source, subset, split, weight and limit"
        c.differently("datasets", ours="data.train", text=text)
    c.exactly("datasets", ours="data.train")
    if len(mixture) > 1:
        c.ask("TRL draws from `datasets` in proportion to their rows, rlvr by `weight` of each source: set the weights")
    _template(c, has_eval=False)


def _template(c: Conversion, *, has_eval: bool) -> None:
    settings = c.value("chat_template_kwargs")
    if isinstance(settings, dict):
        for source in (TRAIN, *([EVAL] if has_eval else [])):
            c.put(f"{source}.chat_template_kwargs", settings, "chat_template_kwargs")
    c.exactly("chat_template_kwargs", ours="data.train.chat_template_kwargs")
    c.ask(
        "TRL sends plain text as it is, and messages through the chat template: set template: plain if prompts are text"
    )


def rewards(c: Conversion) -> None:
    """reward_funcs with reward_weights, as checks of every source."""
    value = c.value("reward_funcs")
    names = (
        [str(name) for name in cast(list[object], value)] if isinstance(value, list) else [str(value)] if value else []
    )
    weights = c.value("reward_weights")
    weights_G = (
        [float(str(w)) for w in cast(list[object], weights)] if isinstance(weights, list) else [1.0] * len(names)
    )
    if len(weights_G) != len(names):
        c.leave("reward_weights", text=f"there are {len(weights_G)} weights for {len(names)} reward functions")
        weights_G = [1.0] * len(names)
    checks: list[tuple[str, str, float]] = []
    notes: list[str] = []
    for name, weight in zip(names, weights_G, strict=True):
        short = re.split(r"[.:]", name)[-1]
        if short == _OVERLONG or name.startswith(_OVERLONG):
            notes.append(_overlong(c, name, weight))
        elif not re.fullmatch(r"[\w./-]+(:\w+)?", name):
            notes.append(f"{name} is no function by name")
            c.ask(f"give {name} a name in a module of its own, and add it as a check: verifier: trl:module.name")
        elif weight < 0:
            notes.append(f"{name} has a negative weight, and rlvr's are not")
            c.ask(f"make {name} a function that rewards the opposite, and add it as a check")
        else:
            full = f"trl.rewards.{name}" if name in _BUILT_IN else name
            checks.append((short, f"trl:{full}", weight))
    if not checks:
        checks = [("check", NO_REWARD, 1.0)]
        c.ask("set data.train.0.verifier: the file names no reward function that could be read")
    reference = next((_REFERENCES[check[0]] for check in checks if check[0] in _REFERENCES), "")
    _put_rewards(c, checks, reference)
    if any(notes):
        c.differently("reward_funcs", ours="data.train.checks", text="; ".join(filter(None, notes)), is_default=False)
    c.exactly("reward_funcs", "reward_weights", ours="data.train.checks")
    if c.value("reward_model_name_or_path"):
        c.leave("reward_model_name_or_path", text="add a check with verifier: reward_model")
    c.exactly("reward_model_name_or_path", ours="data.train.checks")


def _put_rewards(c: Conversion, checks: list[tuple[str, str, float]], reference: str) -> None:
    sections = c.values["data"]
    assert isinstance(sections, dict)
    for part in ("train", "eval"):
        sources = sections.get(part, [])
        for index in range(len(cast(list[object], sources))):
            source = f"data.{part}.{index}"
            c.put(f"{source}.columns.prompt", "prompt", how="TRL's column", always=True)
            c.put(
                f"{source}.columns.reference",
                reference or "*",
                "reward_funcs",
                how="" if reference else "the whole row",
            )
            put_checks(c, source, checks, "reward_funcs", "reward_weights")
    if not reference:
        c.ask("name the column of the right answer in columns.reference; '*' is the whole row")


def _overlong(c: Conversion, name: str, weight: float) -> str:
    """The soft overlong punishment as `reward.overlong_*`; the text of a difference."""
    found = dict(re.findall(r"(max_completion_len|soft_punish_cache)=(\d+)", name))
    limit = int(found.get("max_completion_len", _OVERLONG_LIMIT))
    c.put("reward.overlong_buffer_tokens", int(found.get("soft_punish_cache", _OVERLONG_CACHE)), "reward_funcs")
    c.put("reward.overlong_penalty", weight, "reward_funcs")
    if limit != c.value("max_completion_length"):
        return f"{_OVERLONG} counts from {limit} tokens, rlvr's penalty from rollout.max_completion_tokens"
    return ""
