"""TRL's batches, length of the run, precision, engine, intervals."""

import math
from typing import cast

from rlvr.config.messages.hints import REFUSED
from rlvr.errors import ConfigError
from rlvr.imports.conversion import Conversion
from rlvr.imports.trainers.parts import count, number, per_step, put_interval, recipe_name, whole
from rlvr.imports.trainers.trl_algorithm import NO_VLLM

_SIZES = ("per_device_train_batch_size", "num_processes", "gradient_accumulation_steps")
_RUN_LENGTH = "it is a share of the run, whose length the file does not give; set it in steps"
_VLLM_KEYS = ("vllm_mode", "vllm_tensor_parallel_size", "vllm_gpu_memory_utilization", "vllm_max_model_length")


def batch(c: Conversion) -> None:
    """From sizes of devices and accumulation to prompts and minibatches of a step."""
    devices, accumulation = count(c, _SIZES[0]) * count(c, "num_processes"), count(c, _SIZES[2])
    per_generation = accumulation
    if c.value("steps_per_generation") is not None:
        per_generation = count(c, "steps_per_generation")
    elif c.value("generation_batch_size") is not None:
        per_generation = max(1, count(c, "generation_batch_size") // devices)
    keys = (*_SIZES, "steps_per_generation", "generation_batch_size")
    completions, group = devices * max(per_generation, accumulation), count(c, "num_generations")
    if completions % group:
        raise ConfigError(
            f"{c.trainer}: {completions} completions in a step ({devices} on all devices x "
            f"{max(per_generation, accumulation)} micro-batches) are not divisible by num_generations={group}, which "
            "TRL needs too; if accelerate starts several processes, add their number: num_processes=8"
        )
    prompts = completions // group
    c.put("rollout.group_size", group, "num_generations")
    c.exactly("num_generations", ours="rollout.group_size")
    how = f"{devices} completions on all devices x {max(per_generation, accumulation)} / {group} of each prompt"
    c.put("rollout.prompts_per_step", prompts, *keys, how=how, always=True)
    wanted = max(1, per_generation // accumulation)
    minibatches = math.gcd(prompts, wanted)
    c.put("learner.minibatches_per_step", minibatches, *keys)
    ours = "rollout.prompts_per_step learner.minibatches_per_step"
    if wanted > 1:
        cut = f" (the recipe has {minibatches}, which divides {prompts} prompts)" if minibatches != wanted else ""
        text = (
            f"TRL takes {wanted} optimiser steps on one generation{cut} and cuts it at any completion; rlvr keeps the "
            "completions of a prompt together and divides by the tokens of each minibatch"
        )
        chosen = "steps_per_generation" if c.is_given("steps_per_generation") else "generation_batch_size"
        c.differently(chosen, ours=ours, text=text)
    c.exactly(*keys, ours=ours)
    if not c.is_given("num_processes"):
        c.ask(
            "TRL's batch grows with accelerate's processes, and the file does not have their number: "
            f"rollout.prompts_per_step={prompts} is for one process (add num_processes=8 to the call for eight)"
        )
    if count(c, "num_iterations") > 1:
        text = "rlvr uses each completion once; learner.minibatches_per_step gives several optimiser steps in a step"
        c.leave("num_iterations", text=text)
    c.exactly("num_iterations", ours="always")
    _prompt_limit(c)


def _prompt_limit(c: Conversion) -> None:
    """TRL has no limit but the engine's; rlvr drops longer prompts."""
    if c.is_given("max_prompt_length"):
        return
    total, completion = c.value("vllm_max_model_length"), count(c, "max_completion_length")
    if c.value("use_vllm") and total is not None and count(c, "vllm_max_model_length") > completion:
        limit = count(c, "vllm_max_model_length") - completion
        c.put("data.max_prompt_tokens", limit, "vllm_max_model_length", how=f"{total} - {completion}")
        return
    c.put("data.max_prompt_tokens", 1024, how="to check: TRL has no limit, rlvr drops longer prompts", always=True)
    c.ask("TRL has no limit for prompts; rlvr drops and counts those above data.max_prompt_tokens=1024")


def length(c: Conversion) -> None:
    """max_steps and num_train_epochs."""
    steps, each = whole(c, "max_steps"), per_step(c) * count(c, "num_iterations")
    if steps > 0:
        put_interval(c, "run.steps", steps, "max_steps", each=each)
        c.exactly("max_steps", ours="run.steps")
        c.leave("num_train_epochs", text="has no effect with max_steps")
        return
    c.exactly("max_steps", ours="run.steps")
    rollout = cast(dict[str, int], c.values["rollout"])
    epochs, prompts = number(c, "num_train_epochs"), rollout["prompts_per_step"]
    text = f"rlvr counts steps: set run.steps to {epochs:g} x the number of rows / {prompts}; the recipe has 100"
    c.differently("num_train_epochs", ours="run.steps", text=text)
    c.put("run.steps", 100, "num_train_epochs", always=True, how=f"to set: {epochs:g} x rows / {prompts}")
    c.ask(f"set run.steps: {epochs:g} epochs are {epochs:g} x the number of rows / {prompts} prompts per step")


def _total_optimiser_steps(c: Conversion) -> int:
    """0 when the file does not give the length of the run."""
    return max(0, whole(c, "max_steps"))


def schedule(c: Conversion) -> None:
    """The learning rate's warm-up and fall."""
    kind = str(c.value("lr_scheduler_type"))
    warmup = number(c, "warmup_steps") or number(c, "warmup_ratio")
    warmup_key = "warmup_steps" if number(c, "warmup_steps") else "warmup_ratio"
    if not kind.startswith("constant"):
        c.leave("lr_scheduler_type", is_default=True, text=_falls(kind))
    c.exactly("lr_scheduler_type", ours="learner.lr")
    c.leave("lr_scheduler_kwargs", text="rlvr's rate is constant after the warm-up")
    if kind == "constant":
        c.leave("warmup_steps", "warmup_ratio", text="has no effect with lr_scheduler_type=constant")
        return
    if 0 < warmup < 1:
        total = _total_optimiser_steps(c)
        if not total:
            c.leave(warmup_key, text=_RUN_LENGTH)
            return
        warmup = math.ceil(warmup * total)
    if warmup:
        c.put("learner.lr_warmup_steps", int(warmup), warmup_key)
        text = "TRL's first optimiser step has rate 0, and the full rate comes one step later than in rlvr"
        c.differently(warmup_key, ours="learner.lr_warmup_steps", text=text)
    c.exactly("warmup_steps", "warmup_ratio", ours="learner.lr_warmup_steps")


def _falls(kind: str) -> str:
    mean = " (its mean over the run is half of learning_rate)" if kind in ("linear", "cosine") else ""
    return (
        f"TRL's rate falls during the run by {kind!r}{mean}; rlvr's is constant after the warm-up, as with "
        "lr_scheduler_type: constant_with_warmup"
    )


def betas(c: Conversion) -> None:
    """adam_beta1 and adam_beta2."""
    c.put("learner.adam_betas", [number(c, "adam_beta1"), number(c, "adam_beta2")], "adam_beta1", "adam_beta2")
    c.exactly("adam_beta1", "adam_beta2", ours="learner.adam_betas")


def precision(c: Conversion) -> None:
    """bf16, fp16 and the dtype of the weights."""
    is_half = bool(c.value("fp16"))
    is_bfloat = c.value("bf16") if c.value("bf16") is not None else not is_half
    c.put("learner.dtype", "bfloat16_autocast" if is_bfloat or is_half else "float32", "bf16", "fp16")
    if is_half:
        c.differently("fp16", ours="learner.dtype", text="rlvr has no float16; the recipe has bfloat16 autocast")
    c.exactly("bf16", "fp16", ours="learner.dtype")
    settings = c.value("model_init_kwargs")
    inner = dict(cast(dict[str, object], settings)) if isinstance(settings, dict) else {}
    if isinstance(settings, str):
        c.leave("model_init_kwargs", text="rlvr loads the model itself")
    for key in ("dtype", "torch_dtype"):
        _weights(c, key, str(c.value(key) or "float32"))
    named = inner.pop("dtype", None) or inner.pop("torch_dtype", None)
    if inner:
        c.leave("model_init_kwargs", text=f"rlvr loads the model itself: {', '.join(inner)} has no counterpart")
    _weights(c, "model_init_kwargs", str(named or "float32"))


def _weights(c: Conversion, key: str, dtype: str) -> None:
    if dtype not in ("float32", "torch.float32"):
        text = f"TRL trains the weights in {dtype}; rlvr's master weights and optimiser states are float32"
        c.differently(key, ours="learner.dtype", text=text, is_default=False)
    c.exactly(key, ours="always")


def engine(c: Conversion) -> None:
    """Where completions are generated: the learner's own model, or vLLM."""
    processes = count(c, "num_processes")
    if c.is_given("num_processes"):
        c.put("cluster.learners", processes, "num_processes")
    if not c.value("use_vllm"):
        c.exactly("use_vllm", ours="rollout.engine")
        c.leave(*_VLLM_KEYS, text=NO_VLLM)
        return
    c.put("rollout.engine", "vllm", "use_vllm")
    c.put("cluster.backend", "ray", "use_vllm", how="vLLM runs in processes of its own")
    c.exactly("use_vllm", ours="rollout.engine cluster.backend")
    mode, parallel = str(c.value("vllm_mode")), count(c, "vllm_tensor_parallel_size")
    is_colocated = mode == "colocate"
    c.put("cluster.placement", "colocated" if is_colocated else "disaggregated", "vllm_mode")
    c.exactly("vllm_mode", ours="cluster.placement")
    if parallel > 1:
        c.put("rollout.engine_args.tensor_parallel_size", parallel, "vllm_tensor_parallel_size")
    if is_colocated and processes >= parallel and c.is_given("num_processes"):
        how = f"{processes} GPUs / {parallel} for each engine"
        c.put("cluster.engines", processes // parallel, "num_processes", "vllm_tensor_parallel_size", how=how)
    c.exactly("vllm_tensor_parallel_size", ours="rollout.engine_args.tensor_parallel_size")
    names = {"vllm_gpu_memory_utilization": "gpu_memory_utilization", "vllm_max_model_length": "max_model_len"}
    for theirs, ours in names.items():
        if c.is_given(theirs) and c.value(theirs) is not None:
            c.put(f"rollout.engine_args.{ours}", c.value(theirs), theirs)
        c.exactly(theirs, ours=f"rollout.engine_args.{ours}")


def generation(c: Conversion) -> None:
    """generation_kwargs: a mapping whose keys are the engine's."""
    value = c.value("generation_kwargs")
    left: list[str] = []
    for name, setting in (cast(dict[str, object], value) if isinstance(value, dict) else {}).items():
        if name in ("stop", "stop_strings"):
            words = cast(list[object], setting) if isinstance(setting, list) else [setting]
            c.put("rollout.stop_strings", [str(word) for word in words], "generation_kwargs")
        elif name in ("stop_token_ids", "eos_token_id"):
            ids = cast(list[int], setting) if isinstance(setting, list) else [cast(int, setting)]
            c.put("rollout.stop_token_ids", [int(token) for token in ids], "generation_kwargs")
        elif name not in REFUSED or setting not in REFUSED[name].off:
            left.append(REFUSED[name].answer(name, setting) if name in REFUSED else f"{name} has no counterpart")
    if left or isinstance(value, str):
        c.leave("generation_kwargs", text="; ".join(left) or "a name of a file, which was not read")
    c.exactly("generation_kwargs", ours="rollout.stop_strings")


def evaluation(c: Conversion) -> None:
    """eval_strategy, eval_steps, eval_on_start."""
    strategy = str(c.value("eval_strategy"))
    each = per_step(c)
    if strategy in ("no", "False"):
        c.exactly("eval_strategy", ours="run.eval_every_steps")
        c.leave("eval_steps", "eval_on_start", text="has no effect without eval_strategy")
        return
    steps = c.value("eval_steps")
    interval = _interval(c, "eval_steps") if steps is not None else 10
    if strategy == "steps" and interval:
        put_interval(c, "run.eval_every_steps", interval, "eval_steps", "eval_strategy", each=each)
        text = (
            "TRL samples num_generations completions of every row and reports their mean reward; rlvr decodes greedily "
            "(pass@1), run.eval_prompts=200 of each source"
        )
        c.differently("eval_strategy", ours="run.eval_every_steps", text=text)
        c.exactly("eval_steps", ours="run.eval_every_steps")
    else:
        c.leave(
            "eval_strategy",
            "eval_steps",
            text=f"{strategy!r}: rlvr evaluates every run.eval_every_steps, and at the end",
        )
    if c.is_given("eval_on_start") and not c.value("eval_on_start"):
        c.differently("eval_on_start", ours="run.eval_every_steps", text="rlvr always evaluates before training too")
    c.exactly("eval_on_start", ours="run.eval_every_steps")


def _interval(c: Conversion, key: str) -> int:
    """Optimiser steps; 0 for a share of a run of unknown length."""
    value = number(c, key)
    return math.ceil(value * _total_optimiser_steps(c)) if 0 < value < 1 else int(value)


def checkpoints(c: Conversion) -> None:
    """save_strategy, save_steps, save_total_limit."""
    strategy, ours = str(c.value("save_strategy")), "run.checkpoint_every_steps"
    if strategy in ("no", "False"):
        c.exactly("save_strategy", ours=ours)
        c.leave("save_steps", text="has no effect without save_strategy")
    elif strategy == "steps" and (interval := _interval(c, "save_steps")):
        put_interval(c, ours, interval, "save_steps", "save_strategy", each=per_step(c))
        c.exactly("save_strategy", "save_steps", ours=ours)
    else:
        c.leave("save_strategy", "save_steps", text=f"{strategy!r}: rlvr saves every {ours}, and at the end")
    if c.value("save_total_limit") is not None:
        c.put("run.keep_checkpoints", count(c, "save_total_limit"), "save_total_limit")
    c.exactly("save_total_limit", ours="run.keep_checkpoints")


def trackers(c: Conversion) -> None:
    """report_to."""
    value = c.value("report_to")
    names = [str(name) for name in (cast(list[object], value) if isinstance(value, list) else [value])]
    known = [name for name in names if name in ("wandb", "tensorboard", "trackio")]
    if known:
        c.put("run.trackers", list(known), "report_to")
    if left := [name for name in names if name not in (*known, "none", "None")]:
        c.leave("report_to", text=f"rlvr has no tracker {', '.join(left)}")
    c.exactly("report_to", ours="run.trackers")


def naming(c: Conversion) -> None:
    """run_name and output_dir."""
    if c.value("run_name"):
        c.put("name", recipe_name(str(c.value("run_name"))), "run_name")
    c.exactly("run_name", ours="name")
    c.leave("output_dir", text="`rlvr train RECIPE --run-dir FOLDER` names the run's folder")
