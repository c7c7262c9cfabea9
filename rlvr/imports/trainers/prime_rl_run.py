"""prime-rl's batches, lengths, optimiser, precision, engines, intervals."""

from rlvr.config.messages.hints import REFUSED
from rlvr.errors import ConfigError
from rlvr.imports.conversion import Conversion
from rlvr.imports.trainers.parts import MODEL_MISSING, count, number, put_interval, recipe_name, whole

_BATCH, _GROUP, _TOKENS = "orchestrator.batch_size", "orchestrator.group_size", "orchestrator.token_batch_size"
_SAMPLING = "orchestrator.train.sampling"
_MODELS = ("model.name", "trainer.model.name", "orchestrator.model.name", "inference.vllm.model")
_STEPS = ("max_steps", "trainer.max_steps", "orchestrator.max_steps")
_LORA = "trainer.model.lora"
_PROMPT_SHARE = 2  # of seq_len, for prompts, where the file limits only the sum


def _first(c: Conversion, *keys: str) -> str:
    """The first key that the input sets; the last where it sets none."""
    return next((key for key in keys if c.is_given(key) and c.value(key) is not None), keys[-1])


def _same(c: Conversion, chosen: str, *keys: str, ours: str) -> None:
    """Verdicts on copies of one setting, which prime-rl requires to agree."""
    for key in keys:
        if c.is_given(key) and c.value(key) != c.value(chosen):
            c.leave(key, text=f"{chosen} has another value, which the recipe has")
    c.exactly(*keys, ours=ours)


def naming(c: Conversion) -> None:
    """run.name."""
    if c.is_given("run.name"):
        c.put("name", recipe_name(str(c.value("run.name"))), "run.name")
    c.exactly("run.name", ours="name")


def model(c: Conversion) -> None:
    """The model's name, shared or the trainer's."""
    key = _first(c, *_MODELS)
    path = c.value(key)
    if not path:
        c.ask("set model.path: the file names no model (prime-rl's default is Qwen/Qwen3-0.6B)")
    c.put("model.path", str(path) if path else MODEL_MISSING, key, how="" if path else "to set")
    _same(c, key, *_MODELS, ours="model.path")


def lora(c: Conversion) -> None:
    """trainer.model.lora; the orchestrator's block repeats it."""
    given = [key for key in c.given if key == _LORA or key.startswith(f"{_LORA}.")]
    ours = [key for key in c.given if key.startswith("orchestrator.model.lora")]
    if not given:
        c.leave(*ours, text=f"has no effect without {_LORA}")
        return
    rank, alpha, dropout, targets, saved = (
        f"{_LORA}.{name}" for name in ("rank", "alpha", "dropout", "target_modules", "modules_to_save")
    )
    c.put("model.lora.rank", count(c, rank), rank)
    c.put("model.lora.alpha", float(number(c, alpha)), alpha)
    c.exactly(_LORA, rank, ours="model.lora.rank")
    c.exactly(alpha, ours="model.lora.alpha")
    if number(c, dropout):
        c.leave(dropout, text=REFUSED["lora_dropout"].answer("dropout", c.value(dropout)))
    c.exactly(dropout, ours="always")
    if c.value(targets):
        c.put("model.lora.target_modules", c.value(targets), targets)
    c.exactly(targets, ours="model.lora.target_modules")
    if c.value(saved):
        c.leave(saved, text="rlvr has plain LoRA on linear layers")
    c.exactly(saved, ours="always")
    for name, key in (("rank", rank), ("alpha", alpha)):
        _same(c, key, f"orchestrator.model.lora.{name}", ours=f"model.lora.{name}")
    c.exactly("orchestrator.model.lora", ours="model.lora.rank")


def batch(c: Conversion) -> None:
    """batch_size counts completions; rlvr counts prompts."""
    if c.value(_TOKENS) is not None:
        c.leave(
            _TOKENS, text="rlvr counts prompts: set rollout.prompts_per_step; the recipe has that of batch_size=128"
        )
    c.exactly(_TOKENS, ours="rollout.prompts_per_step")
    completions, group = count(c, _BATCH), count(c, _GROUP)
    if group == 1:
        raise ConfigError(
            f"{_GROUP} is 1, so that every advantage of prime-rl's {c.value('orchestrator.algo.type')} is 0; add a "
            f"number to the call: {_GROUP}=8"
        )
    if completions % group:
        place = c.given[_BATCH].place if c.is_given(_BATCH) else c.trainer
        raise ConfigError(
            f"{place}: {_BATCH}={completions} is not divisible by {_GROUP}={group}, which prime-rl needs too"
        )
    how = f"{completions} completions / {group} of each prompt"
    c.put("rollout.prompts_per_step", completions // group, _BATCH, _GROUP, how=how, always=True)
    c.put("rollout.group_size", group, _GROUP, always=True)
    c.exactly(_BATCH, ours="rollout.prompts_per_step")
    c.exactly(_GROUP, ours="rollout.group_size")


def length(c: Conversion) -> None:
    """max_steps, shared or of a part; each is one optimiser step on one batch."""
    key = _first(c, *_STEPS)
    if c.value(key) is None:
        c.put("run.steps", 100, key, always=True, how="to set: without it prime-rl trains until it is stopped")
        c.ask("set run.steps: without max_steps prime-rl trains until it is stopped")
    else:
        c.put("run.steps", count(c, key), key, always=True)
    _same(c, key, *_STEPS, ours="run.steps")


def lengths(c: Conversion) -> None:
    """Limits of prompt and completion; prime-rl limits their sum and cuts longer samples."""
    key = _first(c, "orchestrator.seq_len", "seq_len", "trainer.model.seq_len")
    total, completion = count(c, key), f"{_SAMPLING}.max_completion_tokens"
    text = f"prime-rl cuts samples above {total} tokens; rlvr limits prompt and completion each and cuts no sample"
    if c.value(completion) is None:
        tokens = total - total // _PROMPT_SHARE
        c.put("rollout.max_completion_tokens", tokens, key, always=True, how=f"half of {total} tokens")
        c.put("data.max_prompt_tokens", total // _PROMPT_SHARE, key, always=True, how=f"half of {total} tokens")
    else:
        tokens = count(c, completion)
        c.put("rollout.max_completion_tokens", tokens, completion, always=True)
        c.put("data.max_prompt_tokens", max(1, total - tokens), key, completion, how=f"{total} - {tokens}", always=True)
    c.exactly(completion, ours="rollout.max_completion_tokens")
    c.differently(key, ours="data.max_prompt_tokens", text=text)
    for other in ("seq_len", "orchestrator.seq_len", "trainer.model.seq_len"):
        c.leave(other, text=f"the recipe follows {key}")


def sampling(c: Conversion) -> None:
    """extra_body: further parameters of the server."""
    start = f"{_SAMPLING}.extra_body"
    for key in [key for key in c.given if key.startswith(f"{start}.")]:
        name, value = key.rpartition(".")[2], c.value(key)
        if name == "stop":
            c.put("rollout.stop_strings", [value] if isinstance(value, str) else value, key)
            c.exactly(key, ours="rollout.stop_strings")
        elif name == "stop_token_ids":
            c.put("rollout.stop_token_ids", value, key)
            c.exactly(key, ours="rollout.stop_token_ids")
        elif name in REFUSED and value not in REFUSED[name].off:
            c.leave(key, text=REFUSED[name].answer(name, value))
        elif name in REFUSED or name == "return_token_ids":
            c.exactly(key, ours="always")
        else:
            c.leave(key, text="rlvr's engines take temperature and stops")
    c.exactly(start, ours="always")


def betas(c: Conversion) -> None:
    """betas1 and betas2."""
    keys = ("trainer.optim.betas1", "trainer.optim.betas2")
    c.put("learner.adam_betas", [number(c, key) for key in keys], *keys)
    c.exactly(*keys, ours="learner.adam_betas")


def gradients(c: Conversion) -> None:
    """max_norm; none there is no limit."""
    key, given = "trainer.optim.max_norm", c.value("trainer.optim.max_norm")
    if given is None or given == 0:
        c.put("learner.max_grad_norm", 1.0e9, key, how="no limit")
    else:
        c.put("learner.max_grad_norm", number(c, key), key)
    c.exactly(key, ours="learner.max_grad_norm")


def schedule(c: Conversion) -> None:
    """trainer.scheduler."""
    kind_key, warmup = "trainer.scheduler.type", "trainer.scheduler.warmup_steps"
    rest = ("trainer.scheduler.decay_steps", "trainer.scheduler.min_lr")
    kind = c.value(kind_key)
    if kind == "constant":
        c.exactly(kind_key, ours="learner.lr")
        c.leave(warmup, *rest, text="has no effect with a constant rate")
        return
    c.leave(kind_key, *rest, text=f"prime-rl's rate falls at the end ({kind}); rlvr's is constant after the warm-up")
    c.put("learner.lr_warmup_steps", whole(c, warmup), warmup)
    text = "prime-rl's warm-up starts near 0 and ends one step later than rlvr's"
    c.differently(warmup, ours="learner.lr_warmup_steps", text=text)


def precision(c: Conversion) -> None:
    """optimization_dtype: of the weights; the arithmetic is bfloat16."""
    key = "trainer.model.optimization_dtype"
    c.put("learner.dtype", "bfloat16_autocast", key, how="FSDP computes in bfloat16")
    if c.value(key) != "float32":
        c.differently(key, ours="learner.dtype", text="rlvr's master weights and optimiser states are always float32")
    c.exactly(key, ours="learner.dtype")


def engine(c: Conversion) -> None:
    """vLLM, and over how many GPUs an engine is spread."""
    c.put("rollout.engine", "vllm", how="prime-rl generates with vLLM")
    c.put("cluster.backend", "ray", how="vLLM runs in processes of its own")
    tensor, copies = "inference.vllm.tensor_parallel_size", "inference.vllm.data_parallel_size"
    if count(c, tensor) > 1:
        c.put("rollout.engine_args.tensor_parallel_size", count(c, tensor), tensor)
    c.exactly(tensor, ours="rollout.engine_args.tensor_parallel_size")
    if count(c, copies) > 1:
        c.put("cluster.engines", count(c, copies), copies)
    c.exactly(copies, ours="cluster.engines")


def machines(c: Conversion) -> None:
    """deployment: GPUs of the trainer and of inference; the defaults are not written."""
    kind, train, infer = (f"deployment.{name}" for name in ("type", "num_train_gpus", "num_infer_gpus"))
    rest = [
        key
        for key in c.given
        if key.startswith("deployment.") and key not in (kind, train, infer, "deployment.gpus_per_node")
    ]
    if c.value(kind) != "single_node":
        text = "set cluster.learners and cluster.engines; `rlvr check RECIPE --gpus NODESxGPUSxMEMORY` plans them"
        c.leave(kind, train, infer, *rest, text=text)
        return
    if c.is_given(train):
        c.put("cluster.learners", count(c, train), train)
    if c.is_given(infer):
        parallel = count(c, "inference.vllm.tensor_parallel_size")
        how = f"{count(c, infer)} GPUs / {parallel} for each engine"
        c.put("cluster.engines", max(1, count(c, infer) // parallel), infer, how=how)
    c.exactly(kind, ours="cluster.placement")
    c.exactly(train, ours="cluster.learners")
    c.exactly(infer, ours="cluster.engines")
    c.leave(*rest, text="has no effect on one node")


def evaluation(c: Conversion) -> None:
    """orchestrator.eval."""
    start = "orchestrator.eval"
    if not any(key.startswith(f"{start}.") for key in c.given):
        return
    interval, examples, first = (f"{start}.{name}" for name in ("interval", "num_examples", "skip_first_step"))
    put_interval(c, "run.eval_every_steps", whole(c, interval), interval, each=1)
    text = "prime-rl samples; rlvr decodes greedily (pass@1)"
    c.differently(interval, ours="run.eval_every_steps", text=text, is_default=False)
    if whole(c, examples) > 0:
        c.put("run.eval_prompts", whole(c, examples), examples)
        c.exactly(examples, ours="run.eval_prompts")
    text = "prime-rl evaluates on all examples, rlvr on run.eval_prompts=200 of each source"
    c.differently(examples, ours="run.eval_prompts", text=text)
    if c.is_given(first) and c.value(first):
        c.differently(
            first, ours="run.eval_every_steps", text="rlvr always evaluates before training, if data.eval has sources"
        )
    c.exactly(first, ours="run.eval_every_steps")


def checkpoints(c: Conversion) -> None:
    """ckpt.interval and keep_last, shared or the trainer's."""
    for name, path in (("interval", "run.checkpoint_every_steps"), ("keep_last", "run.keep_checkpoints")):
        key = _first(c, f"ckpt.{name}", f"trainer.ckpt.{name}")
        if c.value(key) is not None:
            c.put(path, count(c, key), key)
        _same(c, key, f"ckpt.{name}", f"trainer.ckpt.{name}", ours=path)


def trackers(c: Conversion) -> None:
    """monitors.wandb."""
    keys = [key for key in c.given if key == "monitors.wandb" or key.startswith("monitors.wandb.")]
    if keys:
        c.put("run.trackers", ["wandb"], keys[0])
    for key in keys:
        name = key.rpartition(".")[2]
        if name == "wandb":
            c.exactly(key, ours="run.trackers")
        else:
            c.leave(key, text="rlvr names a run after its recipe; WANDB_PROJECT and WANDB_ENTITY set the rest")
