"""What a recipe asks of vLLM, what it may not ask, and what is said before vLLM is imported. vLLM is not needed."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig

from rlvr.config.load import load_recipe
from rlvr.config.messages.contradictions import REFUSED_ENGINE_ARGUMENTS
from rlvr.config.recipe import LoraConfig, Recipe, TinyModel
from rlvr.errors import ConfigError
from rlvr.models.policy import build_tiny
from rlvr.records import Transport
from rlvr.rollout.vllm.environment import (
    engine_environment,
    prepare_environment,
    require_known,
    require_no_strangers,
    require_tested,
)
from rlvr.rollout.vllm.outline import outline_of, write_adapters
from rlvr.rollout.vllm.settings import (
    ASYNC_SCHEDULER,
    BACKENDS,
    SCHEDULER,
    EngineSettings,
    engine_arguments,
    kv_cache_bytes,
)

LLAMA = LlamaConfig(num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, hidden_size=576)


def recipe_of(*changes: str) -> Recipe:
    return load_recipe(
        "tiny", ["rollout.engine=vllm", "cluster.backend=ray", "rollout.engine_dtype=shared", *changes]
    ).recipe


def arguments_of(*changes: str, is_cpu: bool = True, has_kv_variable: bool = False) -> dict[str, object]:
    return engine_arguments(
        recipe_of(*changes),
        architecture=LLAMA,
        max_positions=8192,
        is_cpu=is_cpu,
        memory_bytes=64 << 30,
        has_kv_variable=has_kv_variable,
    )


def test_defaults_follow_the_recipe():
    found = arguments_of(
        "data.max_prompt_tokens=100", "rollout.max_completion_tokens=50", "seed=7", "rollout.max_batch_rows=32"
    )
    assert found["max_model_len"] == 151
    assert found["max_num_active_seqs"] == 32
    assert found["seed"] == 7
    assert found["load_format"] == "dummy"
    assert found["logprobs_mode"] == "processed_logprobs"
    assert found["generation_config"] == "vllm"
    assert found["weight_transfer_config"] == {"backend": BACKENDS[Transport.FILE]}
    assert found["scheduler_cls"] == SCHEDULER


@pytest.mark.parametrize(
    ("engine_dtype", "expected"), [("shared", "bfloat16"), ("bfloat16", "bfloat16"), ("float32", "float32")]
)
def test_the_engines_dtype_is_the_recipes(engine_dtype: str, expected: str):
    assert arguments_of(f"rollout.engine_dtype={engine_dtype}")["dtype"] == expected


def test_engine_args_win_over_defaults():
    found = arguments_of(
        "rollout.engine_args.enforce_eager=false",
        "rollout.engine_args.max_num_seqs=3",
        "rollout.engine_args.block_size=64",
    )
    assert (found["enforce_eager"], found["max_num_seqs"], found["block_size"]) == (False, 3, 64)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (257, 256)),
        ({"max_num_seqs": 4}, (4, 3)),
        ({"max_num_seqs": 8, "max_num_active_seqs": 4}, (8, 4)),
        ({"max_num_active_seqs": 6}, (257, 6)),
    ],
)
def test_a_scored_row_always_has_its_own_slot(given: dict[str, int], expected: tuple[int, int]):
    found = arguments_of(*(f"rollout.engine_args.{name}={value}" for name, value in given.items()))
    assert (found["max_num_seqs"], found["max_num_active_seqs"]) == expected


@pytest.mark.parametrize("given", [{"max_num_seqs": 1}, {"max_num_seqs": 4, "max_num_active_seqs": 4}])
def test_slots_without_one_for_a_scored_row_are_refused(given: dict[str, int]):
    with pytest.raises(ConfigError, match=r"1 scored row.*set rollout\.max_batch_rows"):
        arguments_of(*(f"rollout.engine_args.{name}={value}" for name, value in given.items()))


def test_one_step_on_a_cpu_has_a_token_for_every_slot():
    assert arguments_of("rollout.max_batch_rows=5000")["max_num_batched_tokens"] == 5001


def test_one_step_on_a_gpu_has_as_many_tokens_as_in_vllms_server_unless_the_recipe_says_otherwise():
    assert arguments_of(is_cpu=False)["max_num_batched_tokens"] == 8192
    given = arguments_of("rollout.engine_args.max_num_batched_tokens=4096", is_cpu=False)
    assert given["max_num_batched_tokens"] == 4096


@pytest.mark.parametrize(
    ("is_cpu", "changes", "is_ahead"),
    [
        (True, {}, False),
        (False, {}, True),
        (False, {"pipeline_parallel_size": 2}, False),
        (False, {"tensor_parallel_size": 2}, True),
        (False, {"async_scheduling": "false"}, False),
        (True, {"async_scheduling": "true"}, True),
    ],
)
def test_a_gpu_schedules_ahead_unless_the_recipe_says_otherwise(is_cpu: bool, changes: dict[str, str], is_ahead: bool):
    found = arguments_of(*(f"rollout.engine_args.{name}={value}" for name, value in changes.items()), is_cpu=is_cpu)
    assert found["async_scheduling"] is is_ahead
    assert found["scheduler_cls"] == (ASYNC_SCHEDULER if is_ahead else SCHEDULER)


@pytest.mark.parametrize("key", sorted(REFUSED_ENGINE_ARGUMENTS))
def test_an_argument_that_would_break_training_is_refused_by_name(key: str):
    with pytest.raises(ConfigError, match=rf"rollout\.engine_args\.{key} cannot be set: .+"):
        arguments_of(f"rollout.engine_args.{key}=1")


def test_all_refusals_are_reported_at_once():
    with pytest.raises(ConfigError, match=r"dtype cannot be set: set rollout\.engine_dtype; .*seed cannot"):
        arguments_of("rollout.engine_args.dtype=half", "rollout.engine_args.seed=1")


@pytest.mark.parametrize(("rank", "taken"), [(1, 1), (2, 8), (8, 8), (33, 64), (512, 512)])
def test_adapters_alone_use_the_next_rank_that_vllm_supports(rank: int, taken: int):
    found = arguments_of(f"model.lora.rank={rank}", "model.lora.sends_alone=true")
    assert (found["enable_lora"], found["max_lora_rank"], found["max_loras"]) == (True, taken, 1)


def test_layers_without_adapters_are_left_as_they_are():
    policy = build_tiny(TinyModel(), seed=0)
    found = outline_of(policy.model, lora=LoraConfig(rank=2))
    assert set(found.adapted) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    recipe = recipe_of("model.lora.rank=2", "model.lora.sends_alone=true")
    arguments = engine_arguments(
        recipe, architecture=LLAMA, max_positions=8192, is_cpu=True, memory_bytes=64 << 30, adapted=("q_proj",)
    )
    assert arguments["lora_target_modules"] == ["q_proj"]


def test_whole_weights_are_sent_unless_adapters_are_sent_alone():
    assert not recipe_of("model.lora.rank=8").sends_adapters
    assert "enable_lora" not in arguments_of("model.lora.rank=8")


def test_a_folder_of_adapters_names_their_layers_and_holds_a_copy(tmp_path: Path):
    file = tmp_path / "v3.safetensors"
    file.write_bytes(b"x")
    names = [f"base_model.model.layers.{i}.{m}.lora_{x}.weight" for i in (0, 1) for m in "qk" for x in "AB"]
    write_adapters(tmp_path / "a", str(file), names=names, lora=LoraConfig(rank=4, alpha=6.0))
    file.unlink()
    assert (tmp_path / "a" / "adapter_model.safetensors").read_bytes() == b"x"
    settings = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["target_modules"]) == (4, 6.0, ["k", "q"])


def test_a_length_below_the_recipes_is_refused_and_one_above_is_accepted():
    sizes = ["data.max_prompt_tokens=100", "rollout.max_completion_tokens=50"]
    with pytest.raises(ConfigError, match=r"max_model_len=149 is below .*100 .*50; remove it"):
        arguments_of(*sizes, "rollout.engine_args.max_model_len=149")
    assert arguments_of(*sizes, "rollout.engine_args.max_model_len=900")["max_model_len"] == 900


def test_the_length_stays_within_the_models_positions():
    recipe = recipe_of("data.max_prompt_tokens=8000", "rollout.max_completion_tokens=500")
    found = engine_arguments(recipe, architecture=LLAMA, max_positions=8192, is_cpu=True, memory_bytes=64 << 30)
    assert found["max_model_len"] == 8192


def test_workers_of_a_parallel_engine_are_processes_of_the_actor_that_owns_the_devices():
    found = arguments_of("rollout.engine_args.tensor_parallel_size=2", is_cpu=False)
    assert (found["tensor_parallel_size"], found["distributed_executor_backend"]) == (2, "mp")
    assert "distributed_executor_backend" not in arguments_of(is_cpu=False)


def test_an_unknown_argument_gets_the_nearest():
    with pytest.raises(ConfigError, match=r"enforce_eagr: vLLM 0\.32\.0 has no .*'enforce_eager'\?"):
        require_known(["enforce_eagr"], known=["enforce_eager", "model"], version="0.32.0")


def test_the_arguments_of_the_installed_vllm_are_known_without_importing_it():
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    code = (
        "import sys; from rlvr.rollout.vllm.environment import argument_names as names; print(len(names())); "
        "assert {'max_num_seqs', 'enforce_eager', 'weight_transfer_config', 'enable_log_requests'} <= names(); "
        "assert 'vllm' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 200


def test_only_a_gpu_engine_that_shares_its_device_may_sleep():
    shared = ["cluster.placement=colocated", "learner.streaming=false"]
    assert arguments_of(*shared, is_cpu=False)["enable_sleep_mode"] is True
    assert "enable_sleep_mode" not in arguments_of(*shared)
    assert "enable_sleep_mode" not in arguments_of(is_cpu=False)


def test_on_a_cpu_a_prompt_is_never_computed_in_parts():
    """A part of a seeded request's prompt ends vLLM's core there: a CPU's generator has no offset to rewind."""
    long = ("data.max_prompt_tokens=4000", "rollout.max_completion_tokens=1000")
    for found, tokens in ((arguments_of(), 2048), (arguments_of(*long), 5001)):
        assert found["enable_chunked_prefill"] is False
        assert found["max_num_batched_tokens"] == tokens
    assert "enable_chunked_prefill" not in arguments_of(is_cpu=False)
    with pytest.raises(ConfigError, match="a prompt must be computed in one step"):
        arguments_of("rollout.engine_args.enable_chunked_prefill=true")


def test_on_a_gpu_vllm_sizes_its_own_cache_and_compiles():
    found = arguments_of(is_cpu=False)
    assert "kv_cache_memory_bytes" not in found
    assert "enforce_eager" not in found


def test_the_cache_on_a_cpu_is_what_the_rows_need_within_bounds():
    per_token = 2 * 30 * 3 * 64 * 2
    size = {"architecture": LLAMA, "dtype": "bfloat16", "memory_bytes": 64 << 30}
    assert kv_cache_bytes(num_tokens=20_000, **size) == 20_000 * per_token  # type: ignore[arg-type]
    assert kv_cache_bytes(num_tokens=10, **size) == 128 << 20  # type: ignore[arg-type]
    assert kv_cache_bytes(num_tokens=10**9, **size) == 4 << 30  # type: ignore[arg-type]


def test_a_cache_that_the_user_sized_is_left_alone():
    assert "kv_cache_memory_bytes" not in arguments_of(has_kv_variable=True)
    given = arguments_of("rollout.engine_args.kv_cache_memory_bytes=1000000000")
    assert given["kv_cache_memory_bytes"] == 1_000_000_000


def test_the_folder_and_the_extension_are_put_in_at_the_start():
    settings = EngineSettings(
        arguments={"dtype": "float32"}, environment={}, weight_shapes={}, max_model_len=8, is_cpu=True
    )
    found = settings.call_arguments("somewhere")
    assert (found["model"], found["tokenizer"], found["dtype"]) == ("somewhere", "somewhere", "float32")
    assert found["worker_extension_cls"] == "rlvr.rollout.vllm.extension.WorkerExtension"


def test_what_the_user_has_set_of_the_environment_stays():
    environ = {"OMP_WAIT_POLICY": "ACTIVE"}
    added = prepare_environment(engine_environment(is_cpu=True, threads=2), environ)
    assert environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "OMP_WAIT_POLICY" not in added
    assert environ["OMP_NUM_THREADS"] == "2"
    assert environ["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


def test_a_gpu_engines_threads_are_left_alone():
    assert not any(name.startswith("OMP_") for name in engine_environment(is_cpu=False, threads=2))


@pytest.mark.parametrize("version", ["0.31.9", "0.33.0", "0.33.0rc1+cpu", "1.0", "main"])
def test_a_version_that_was_not_tried_is_refused(version: str):
    with pytest.raises(
        ConfigError, match=r"vllm .*; to get the version that all tests run with: pip install vllm==0\.32\.0$"
    ):
        require_tested(version, distribution="vllm")


def test_a_torchvision_of_another_kind_of_torch_is_refused_with_the_fix():
    with pytest.raises(ConfigError, match=r"torchvision 0\.28\.0 does not fit .*uninstall -y torchvision$"):
        require_no_strangers({"torchvision": "0.28.0", "torchaudio": None}, torch_version="2.13.0+cpu")
    require_no_strangers({"torchvision": "0.28.0+cpu"}, torch_version="2.13.0+cpu")
    require_no_strangers({"torchvision": "0.28.0"}, torch_version="2.13.0+cu130")


def test_an_outline_names_every_tensor_that_a_learner_publishes_and_no_quantisation():
    policy = build_tiny(TinyModel(layers=1, hidden_size=32, heads=2, intermediate_size=64), seed=0)
    policy.model.config.quantization_config = {"quant_method": "gguf"}  # type: ignore[attr-defined] # as GGUF leaves it
    found = outline_of(policy.model, lora=LoraConfig())
    assert set(found.weight_shapes) == {name for name, _ in policy.model.named_parameters()}
    assert "lm_head.weight" not in found.weight_shapes  # tied
    assert found.weight_shapes["model.norm.weight"] == (32,)
    assert found.architecture.architectures == ["LlamaForCausalLM"]
    assert getattr(found.architecture, "quantization_config", None) is None


def test_building_an_engine_imports_no_vllm():
    code = (
        "import sys, rlvr.rollout.build, rlvr.rollout.vllm.build, rlvr.rollout.vllm.engine; "
        "print('vllm' in sys.modules, 'ray' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]


def test_an_open_dtype_is_refused_because_the_learner_may_choose_another():
    with pytest.raises(ConfigError, match=r"rollout\.engine_dtype=auto must be chosen"):
        arguments_of("rollout.engine_dtype=auto")
