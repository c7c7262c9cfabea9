"""verl's model, adapters, data files and reward functions."""

from typing import cast

from pydantic import JsonValue

from rlvr.imports.conversion import Conversion
from rlvr.imports.trainers.parts import (
    DATA_MISSING,
    MODEL_MISSING,
    SCORE_RANGE,
    Check,
    count,
    number,
    put_checks,
    put_source,
    whole,
)

_MODEL = "actor_rollout_ref.model"
_CUSTOM = ("reward.custom_reward_function", "custom_reward_function")
_MANAGERS = ("reward.reward_manager.name", "reward_model.reward_manager")
_OWN_SCORER = "verl.utils.reward_score:default_compute_score"


def model(c: Conversion) -> None:
    """actor_rollout_ref.model.path."""
    key = f"{_MODEL}.path"
    path = c.value(key)
    if not path:
        c.ask("set model.path: the configuration names no model that could be read")
    c.put("model.path", str(path) if path else MODEL_MISSING, key, how="" if path else "to set")
    c.exactly(key, ours="model.path")


def lora(c: Conversion) -> None:
    """lora_rank, lora_alpha, target_modules."""
    rank, alpha, targets = (f"{_MODEL}.{name}" for name in ("lora_rank", "lora_alpha", "target_modules"))
    others = (f"{_MODEL}.exclude_modules", f"{_MODEL}.lora_adapter_path")
    if not whole(c, rank):
        c.exactly(rank, ours="model.lora.rank")
        c.leave(alpha, targets, *others, text="has no effect with lora_rank=0")
        return
    c.put("model.lora.rank", count(c, rank), rank)
    c.put("model.lora.alpha", float(number(c, alpha)), alpha)
    value = c.value(targets)
    names = [str(name) for name in cast(list[object], value)] if isinstance(value, list) else [str(value)]
    c.put("model.lora.target_modules", list(names), targets)
    for key in others:
        if c.value(key):
            c.leave(key, text="rlvr starts with new adapters on model.lora.target_modules")
        c.exactly(key, ours="always")
    c.exactly(rank, ours="model.lora.rank")
    c.exactly(alpha, ours="model.lora.alpha")
    c.exactly(targets, ours="model.lora.target_modules")


def data(c: Conversion) -> None:
    """data.train_files and data.val_files, one source each."""
    kwargs: dict[str, JsonValue] = c.below("data.apply_chat_template_kwargs")
    for part, key, limit in (
        ("train", "data.train_files", "data.train_max_samples"),
        ("eval", "data.val_files", "data.val_max_samples"),
    ):
        value = c.value(key) if c.is_given(key) else None
        files = [
            str(file) for file in (cast(list[object], value) if isinstance(value, list) else [value] if value else [])
        ]
        if not files and part == "train":
            files = [DATA_MISSING]
            c.ask("set data.train: the configuration names no files that could be read")
        for index, file in enumerate(files):
            source = f"data.{part}.{index}"
            put_source(
                c,
                source,
                {
                    "source": (file, (key,)),
                    "name": (_name(files, index, part), (key,)),
                    "layout": ("verl", ()),
                    "columns.prompt": (_prompt_column(c), ("data.prompt_key",)),
                },
            )
            if kwargs:
                c.put(f"{source}.chat_template_kwargs", dict(kwargs), *_below(c, "data.apply_chat_template_kwargs"))
            if c.is_given(limit) and whole(c, limit) > 0:
                c.put(f"{source}.limit", whole(c, limit), limit)
        c.exactly(key, ours=f"data.{part}")
        c.exactly(limit, ours=f"data.{part}.limit")
    c.exactly("data.prompt_key", ours="data.train.columns.prompt")
    c.exactly(*_below(c, "data.apply_chat_template_kwargs"), ours="data.train.chat_template_kwargs")


def _prompt_column(c: Conversion) -> str:
    """The column of the prompt; "" if it is that of the layout."""
    return str(c.value("data.prompt_key")) if c.is_given("data.prompt_key") else ""


def _name(files: list[str], index: int, part: str) -> str:
    """A name by the folder for several files of the same name; "" lets rlvr name the source."""
    if len(files) == 1:
        return ""
    folders = files[index].rstrip("/").split("/")
    return f"{folders[-2] if len(folders) > 1 else 'data'}_{part}_{index}"


def _below(c: Conversion, start: str) -> list[str]:
    return [key for key in c.given if key == start or key.startswith(f"{start}.")]


def rewards(c: Conversion) -> None:
    """custom_reward_function, or verl's own scorer by the data_source column."""
    start = next((start for start in _CUSTOM if c.is_given(f"{start}.path") and c.value(f"{start}.path")), "")
    arguments = {key: value for start_ in _CUSTOM for key, value in c.below(f"{start_}.reward_kwargs").items()}
    if start:
        name = str(c.value(f"{start}.name") or "compute_score")
        checks = [Check(name, f"verl:{c.value(f'{start}.path')}:{name}", arguments=arguments)]
        keys = (f"{start}.path", f"{start}.name")
        c.ask(SCORE_RANGE.format(name=name))
    else:
        checks, keys = [Check("default_compute_score", f"verl:{_OWN_SCORER}")], ("data.reward_fn_key",)
        c.ask(
            "verl's default_compute_score chooses a scorer by the data_source column and needs verl installed; rlvr's "
            "`math` and `code` verifiers need nothing: `rlvr audit` shows what each one misses"
        )
    settings = [key for start_ in _CUSTOM for key in c.given if key.startswith(f"{start_}.reward_kwargs")]
    for part in ("train", "eval"):
        section = c.values["data"]
        sources = section.get(part, []) if isinstance(section, dict) else []
        for index in range(len(cast(list[object], sources))):
            put_checks(c, f"data.{part}.{index}", checks, *keys)
    if start:
        c.exactly(*settings, ours="data.train.verifier_settings")
    c.leave(*settings, text="has no effect without custom_reward_function.path")
    if c.value("data.reward_fn_key") != "data_source":
        text = "verl passes this column to the function as data_source; rename it, or add `data_source` to `columns`"
        c.differently("data.reward_fn_key", ours="data.train.columns", text=text)
    c.exactly("data.reward_fn_key", ours="data.train.verifier")
    for other in _CUSTOM:
        c.exactly(f"{other}.path", f"{other}.name", ours="data.train.verifier")
    for key in _MANAGERS:
        if c.value(key) not in ("naive", "dapo", "prime", None):
            text = f"rlvr calls the function once for each completion; the {c.value(key)!r} manager does otherwise"
            c.leave(key, text=text)
        c.exactly(key, ours="always")
