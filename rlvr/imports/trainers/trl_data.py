"""TRL's model, adapters and data sets."""

import math
from typing import cast

from rlvr.config.messages.hints import REFUSED
from rlvr.imports.conversion import Conversion
from rlvr.imports.trainers.parts import DATA_MISSING, EVAL, MODEL_MISSING, ROWS, TRAIN, count, number, put_source

_DATA = ("dataset_name", "dataset_config", "dataset_train_split", "dataset_test_split", "datasets", "eval_dataset")
_LORA = (
    "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_parameters", "lora_modules_to_save",
    "use_rslora", "use_dora",
)  # fmt: skip


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
        "layout": ("trl", ()),
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
        c.put(f"{source}.layout", "trl", how=ROWS)
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
