"""verl's batches, lengths, optimiser, engine, machines and intervals."""

import math
from typing import cast

from rlvr.errors import ConfigError
from rlvr.imports.conversion import Conversion
from rlvr.imports.trainers.parts import count, number, per_step, put_interval, recipe_name, whole
from rlvr.imports.trainers.verl_algorithm import ACTOR

ROLLOUT = "actor_rollout_ref.rollout"
_OVERLONG = (
    "reward.reward_kwargs.overlong_buffer_cfg", "reward_model.reward_kwargs.overlong_buffer_cfg",
    "reward_model.overlong_buffer",
)  # fmt: skip
_LIMITS = ("reward.reward_kwargs.max_resp_len", "reward_model.reward_kwargs.max_resp_len")


def batch(c: Conversion) -> None:
    """Prompts, completions of each and minibatches; verl's sizes count prompts."""
    train, mini, group = "data.train_batch_size", f"{ACTOR}.ppo_mini_batch_size", f"{ROLLOUT}.n"
    prompts, size, rollouts = count(c, train), count(c, mini), count(c, group)
    if size > prompts:
        place = c.given[mini].place if c.is_given(mini) else c.trainer
        raise ConfigError(f"{place}: {mini}={size} is above {train}={prompts}, which verl refuses too")
    if rollouts == 1 and not str(c.value("algorithm.adv_estimator")).startswith("reinforce"):
        raise ConfigError(
            f"{group} is 1, and rlvr's advantage for adv_estimator={c.value('algorithm.adv_estimator')} compares the "
            f"completions of a prompt (verl takes the raw reward, or a critic); add a number to the call: {group}=8"
        )
    c.put("rollout.prompts_per_step", prompts, train, always=True)
    c.put("rollout.group_size", rollouts, group, always=True)
    c.exactly(train, ours="rollout.prompts_per_step")
    c.exactly(group, ours="rollout.group_size")
    path = "learner.minibatches_per_step"
    minibatches = math.gcd(prompts, max(1, prompts // size))
    c.put(path, minibatches, train, mini, how=f"{prompts} / {size} prompts")
    if minibatches * size != prompts:
        text = f"{size} prompts do not divide {prompts}; the recipe has {minibatches} equal minibatches"
        c.differently(mini, ours=path, text=text)
    c.exactly(mini, ours=path)
    epochs = f"{ACTOR}.ppo_epochs"
    if count(c, epochs) > 1:
        c.leave(epochs, text=f"rlvr uses each completion once; {path} gives several optimiser steps in a step")
    c.exactly(epochs, ours="always")


def filtering(c: Conversion) -> None:
    """algorithm.filter_groups: groups of equal rewards are replaced."""
    enable, metric, most = (f"algorithm.filter_groups.{name}" for name in ("enable", "metric", "max_num_gen_batches"))
    section = "algorithm.dynamic_sampling"
    if not c.value(enable):
        c.exactly(enable, ours=f"{section}.enabled")
        c.leave(metric, most, text="has no effect without filter_groups.enable")
    else:
        c.put(f"{section}.enabled", True, enable)
        batches = whole(c, most)
        c.put(
            f"{section}.max_refill_factor",
            float(batches) if batches > 0 else 1000.0,
            most,
            how="" if batches > 0 else "no limit in verl",
        )
        c.exactly(enable, ours=f"{section}.enabled")
        c.differently(
            metric,
            ours=f"{section}.enabled",
            text="rlvr replaces groups whose advantages are all 0, by the reward itself",
        )
        text = "verl counts generation batches and stops the run at the limit; rlvr trains on the groups that it has"
        c.differently(most, ours=f"{section}.max_refill_factor", text=text)
    c.leave("data.gen_batch_size", text="rlvr asks for replacements one group at a time")


def lengths(c: Conversion) -> None:
    """Limits of prompt and completion, and what happens beyond them."""
    prompt, response = "data.max_prompt_length", "data.max_response_length"
    c.put("data.max_prompt_tokens", count(c, prompt), prompt)
    c.put("rollout.max_completion_tokens", count(c, response), response)
    c.exactly(prompt, ours="data.max_prompt_tokens")
    c.exactly(response, ours="rollout.max_completion_tokens")
    for inner, outer in ((f"{ROLLOUT}.prompt_length", prompt), (f"{ROLLOUT}.response_length", response)):
        if c.is_given(inner) and c.value(inner) != c.value(outer):
            c.leave(inner, text=f"differs from {outer}, which the recipe has")
        c.exactly(inner, ours="data.max_prompt_tokens" if outer == prompt else "rollout.max_completion_tokens")
    drops, cut = "data.filter_overlong_prompts", "data.truncation"
    if c.value(drops):
        c.exactly(drops, ours="always")
        c.leave(cut, text="has no effect with filter_overlong_prompts")
    else:
        how = "stops with an error" if c.value(cut) == "error" else f"cuts it ({c.value(cut)})"
        text = f"at a longer prompt verl {how}; rlvr drops and counts it"
        c.differently(drops, ours="data.max_prompt_tokens", text=text)
        c.differently(cut, ours="data.max_prompt_tokens", text=text, is_default=False)
    c.put("reward.truncated", "judge", how="a completion at the limit is judged and trained on like any other")


def overlong(c: Conversion) -> None:
    """The penalty of DAPO's reward manager for completions near the limit."""
    for start in _OVERLONG:
        keys = {name: f"{start}.{name}" for name in ("enable", "len", "penalty_factor", "log")}
        if not any(key in c.given for key in keys.values()):
            continue
        if c.value(keys["enable"]) and c.is_given(keys["len"]):
            c.put("reward.overlong_buffer_tokens", count(c, keys["len"]), keys["len"])
            if c.is_given(keys["penalty_factor"]):
                c.put("reward.overlong_penalty", number(c, keys["penalty_factor"]), keys["penalty_factor"])
            c.exactly(keys["enable"], keys["len"], ours="reward.overlong_buffer_tokens")
            c.exactly(keys["penalty_factor"], ours="reward.overlong_penalty")
        c.exactly(keys["enable"], ours="reward.overlong_buffer_tokens")
        c.leave(keys["len"], keys["penalty_factor"], text="has no effect without enable")
        c.leave(keys["log"], text="rlvr's metrics have the penalty (reward/overlong_penalty_mean)")
        c.leave(*(key for key in c.given if key.startswith(f"{start}.")), text="not a key of the penalty")
    for key in _LIMITS:
        if c.is_given(key) and c.value(key) != c.value("data.max_response_length"):
            c.leave(key, text="rlvr's penalty counts from rollout.max_completion_tokens")
        c.exactly(key, ours="rollout.max_completion_tokens")


def schedule(c: Conversion) -> None:
    """The learning rate's warm-up and fall. verl changes the rate once per training step."""
    style, kind_key = f"{ACTOR}.optim.warmup_style", f"{ACTOR}.optim.lr_scheduler_type"
    chosen = style if c.value(style) is not None else kind_key
    if c.value(chosen) != "constant":
        text = f"verl's rate falls during the run ({c.value(chosen)}); rlvr's is constant after the warm-up"
        c.leave(chosen, text=text, is_default=True)
    c.exactly(style, kind_key, ours="learner.lr")
    steps_key, ratio_key = f"{ACTOR}.optim.lr_warmup_steps", f"{ACTOR}.optim.lr_warmup_steps_ratio"
    ratio, total = number(c, ratio_key), c.value("trainer.total_training_steps")
    steps, key = whole(c, steps_key) if c.value(steps_key) is not None else -1, steps_key
    if steps > 0:
        c.leave(ratio_key, text="lr_warmup_steps takes precedence")
    elif ratio and total:
        steps, key = int(ratio * count(c, "trainer.total_training_steps")), ratio_key
    elif ratio:
        text = "it is a share of the run, whose length the file does not give; set learner.lr_warmup_steps"
        c.leave(ratio_key, text=text)
    if steps > 0:
        each = per_step(c)
        c.put("learner.lr_warmup_steps", steps * each, key, how=f"{steps} x {each} optimiser steps per step")
        text = "verl's rate is 0 in the first step and changes once per training step; rlvr's in every optimiser step"
        c.differently(key, ours="learner.lr_warmup_steps", text=text)
    c.exactly(steps_key, ratio_key, ours="learner.lr_warmup_steps")


def gradients(c: Conversion) -> None:
    """The gradient norm's limit, which has three names."""
    keys = (f"{ACTOR}.optim.grad_clip", f"{ACTOR}.optim.clip_grad", f"{ACTOR}.grad_clip")
    key = next((key for key in keys if c.is_given(key) and c.value(key) is not None), keys[-1])
    c.put("learner.max_grad_norm", number(c, key), key)
    c.exactly(key, ours="learner.max_grad_norm")
    for other in keys:
        if c.value(other) != c.value(key) and c.value(other) is not None:
            c.leave(other, text=f"{key} takes precedence")
    c.exactly(*keys, ours="learner.max_grad_norm")


def engine(c: Conversion) -> None:
    """Where completions are generated."""
    name, parallel, pipeline = (
        f"{ROLLOUT}.{key}" for key in ("name", "tensor_model_parallel_size", "pipeline_model_parallel_size")
    )
    c.put("rollout.engine", "vllm", name)
    c.put("cluster.backend", "ray", name, how="vLLM runs in processes of its own")
    if c.value(name) not in ("vllm", "???"):
        text = f"rlvr's fast engine is vLLM, not {c.value(name)}; samples come from the same distribution"
        c.differently(name, ours="rollout.engine", text=text)
    c.exactly(name, ours="rollout.engine cluster.backend")
    for key, ours in ((parallel, "tensor_parallel_size"), (pipeline, "pipeline_parallel_size")):
        if c.is_given(key) and count(c, key) > 1:
            c.put(f"rollout.engine_args.{ours}", c.value(key), key)
        c.exactly(key, ours=f"rollout.engine_args.{ours}")


def machines(c: Conversion) -> None:
    """trainer.nnodes and n_gpus_per_node; the defaults of verl's own machines are not written."""
    nodes_key, gpus_key, parallel_key = (
        "trainer.nnodes",
        "trainer.n_gpus_per_node",
        f"{ROLLOUT}.tensor_model_parallel_size",
    )
    if not (c.is_given(nodes_key) or c.is_given(gpus_key)):
        return
    nodes, gpus = count(c, nodes_key), count(c, gpus_key)
    if nodes > 1:
        c.leave(nodes_key, gpus_key, text="rlvr colocates learner and engines on one node only")
        c.ask(
            f"place learner and engines on {nodes} nodes of {gpus} GPUs with cluster.learners, cluster.engines and "
            f"cluster.placement: `rlvr check RECIPE --gpus {nodes}x{gpus}x80GB` plans them"
        )
        return
    parallel = count(c, parallel_key) if c.is_given(parallel_key) else 1
    c.put("cluster.placement", "colocated", gpus_key, nodes_key)
    c.put("cluster.learners", gpus, gpus_key, nodes_key)
    how = f"{gpus} GPUs / {parallel} for each engine"
    c.put("cluster.engines", max(1, gpus // parallel), gpus_key, parallel_key, how=how)
    c.exactly(nodes_key, gpus_key, ours="cluster.learners cluster.engines cluster.placement")


def mode(c: Conversion) -> None:
    """Synchronous training, or one of the asynchronous trainers."""
    key, oldest = "trainer.v1.trainer_mode", "trainer.v1.sampler.max_off_policy_threshold"
    rest = [name for name in c.given if name.startswith("trainer.v1.") and name not in (key, oldest)]
    if not c.value("trainer.use_v1"):
        text = "the older trainer counts tokens after a rejection, where rlvr counts before; otherwise they are equal"
        c.differently("trainer.use_v1", ours="algorithm.correction.geometric_max", text=text)
    c.exactly("trainer.use_v1", ours="always")
    if c.value(key) == "sync" or not c.value("trainer.use_v1"):
        c.exactly(key, ours="rollout.max_staleness")
        c.leave(oldest, *rest, text="has no effect with trainer_mode=sync")
        return
    c.put("rollout.max_staleness", count(c, oldest), oldest)
    if not c.value("algorithm.rollout_correction.bypass_mode"):
        c.put("algorithm.correction.weight", "token", key, how="rlvr refuses stale completions without a correction")
    text = "the recipe lets completions be stale, with importance weights; rlvr publishes weights after every step"
    c.differently(key, ours="rollout.max_staleness", text=text)
    c.differently(
        oldest, ours="rollout.max_staleness", text="verl counts syncs; rlvr counts published versions, one per step"
    )
    c.leave(*rest, text="rlvr overlaps generation and training by rollout.max_staleness alone")


def validation(c: Conversion) -> None:
    """val_kwargs: evaluation in rlvr is greedy, one completion for each prompt."""
    start = f"{ROLLOUT}.val_kwargs"
    greedy = not c.below(start).get("do_sample") and c.below(start).get("n", 1) == 1
    for key in [key for key in c.given if key.startswith(f"{start}.")]:
        if greedy:
            c.exactly(key, ours="always")
        else:
            c.leave(
                key, text="rlvr evaluates greedily; `rlvr eval RUN --samples-per-prompt K` samples several completions"
            )


def length(c: Conversion) -> None:
    """total_training_steps and total_epochs; a training step is a step of rlvr."""
    total, epochs = "trainer.total_training_steps", "trainer.total_epochs"
    if c.value(total) is not None:
        c.put("run.steps", count(c, total), total, always=True)
        c.exactly(total, ours="run.steps")
        c.leave(epochs, text="total_training_steps takes precedence")
        return
    c.exactly(total, ours="run.steps")
    prompts = cast(dict[str, int], c.values["rollout"])["prompts_per_step"]
    number_of = count(c, epochs)
    c.put("run.steps", 100, epochs, always=True, how=f"to set: {number_of} x (rows / {prompts}, rounded down)")
    text = f"rlvr counts steps: set run.steps to {number_of} x (rows / {prompts}, rounded down); the recipe has 100"
    c.differently(epochs, ours="run.steps", text=text)
    c.ask(f"set run.steps: {number_of} epochs are {number_of} x (the number of rows / {prompts} prompts, rounded down)")


def intervals(c: Conversion) -> None:
    """test_freq, save_freq and val_before_train."""
    for key, path in (
        ("trainer.test_freq", "run.eval_every_steps"),
        ("trainer.save_freq", "run.checkpoint_every_steps"),
    ):
        put_interval(c, path, whole(c, key), key, each=1)
        if whole(c, key) > 0 and path == "run.eval_every_steps":
            text = "verl evaluates on all rows, rlvr on run.eval_prompts=200 of each source"
            c.differently(key, ours=path, text=text)
        c.exactly(key, ours=path)
    before = "trainer.val_before_train"
    if c.is_given(before) and not c.value(before):
        c.differently(
            before, ours="run.eval_every_steps", text="rlvr always evaluates before training, if data.eval has sources"
        )
    c.exactly(before, ours="always")


def trackers(c: Conversion) -> None:
    """trainer.logger."""
    value = c.value("trainer.logger")
    names = [str(name) for name in (cast(list[object], value) if isinstance(value, list) else [value])]
    known = [name for name in names if name in ("wandb", "tensorboard", "trackio")]
    if c.is_given("trainer.logger"):
        c.put("run.trackers", list(known), "trainer.logger")
    if left := [name for name in names if name not in (*known, "console", "file")]:
        c.leave("trainer.logger", text=f"rlvr has no tracker {', '.join(left)}")
    c.exactly("trainer.logger", ours="run.trackers")


def naming(c: Conversion) -> None:
    """trainer.experiment_name."""
    key = "trainer.experiment_name"
    if c.is_given(key) and c.value(key):
        c.put("name", recipe_name(str(c.value(key))), key)
    c.exactly(key, ours="name")
