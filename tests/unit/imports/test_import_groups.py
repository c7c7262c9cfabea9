"""Every key lands in exactly one group: all fields of TRL's dataclasses, and lists of verl's and prime-rl's keys."""

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlvr.config.messages.hints import peer_names
from rlvr.errors import ConfigError
from rlvr.imports.conversion import UNSEEN
from rlvr.imports.records import Imported, Taken
from rlvr.imports.table import TRAINERS, read_rules
from tests.unit.imports.import_cases import ENOUGH, GOLDEN, import_keys, recipe_of, text_of

# Values that a user would set, for keys whose default says nothing.
FILLED: dict[str, Any] = {
    "output_dir": "out", "vllm_max_model_length": 4096, "epsilon_high": 0.28, "delta": 2.0, "eval_steps": 50,
    "steps_per_generation": 2, "off_policy_mask_threshold": 0.5, "reward_weights": [1.0, 0.5],
    "reward_funcs": ["accuracy_reward", "a.b"], "dataset_name": "a/b", "model_name_or_path": "m",
    "vllm_importance_sampling_clip_min": 0.5, "generation_kwargs": {"stop": ["x"]}, "save_total_limit": 3,
    "max_steps": 10, "chat_template_kwargs": {},
}  # fmt: skip
VERL_OPEN = {
    "data.train_files": "train.parquet", "actor_rollout_ref.model.path": "m", "data.seed": 3,
    "data.apply_chat_template_kwargs.enable_thinking": False, "trainer.total_training_steps": 20,
    "reward.custom_reward_function.reward_kwargs.scale": 2, "algorithm.filter_groups.metric": "acc",
    "algorithm.rollout_correction.rollout_is": "token", "actor_rollout_ref.rollout.val_kwargs.n": 4,
    "reward.reward_kwargs.overlong_buffer_cfg.len": 16, "reward.reward_kwargs.overlong_buffer_cfg.enable": True,
    "trainer.v1.separate_async.parameter_sync_step": 4, "actor_rollout_ref.rollout.engine_kwargs.vllm.swap_space": 4,
}  # fmt: skip
PRIME_OPEN = {
    "max_steps": 10, "model.name": "m", "orchestrator.train.sampling.max_completion_tokens": 64, "ckpt.interval": 5,
    "orchestrator.train.sampling.extra_body.top_k": -1, "monitors.wandb.name": "x", "trainer.model.lora.rank": 8,
    "orchestrator.algo.length_penalty.type": "linear", "inference.vllm.swap_space": 4, "slurm.partition": "main",
    "trainer.optim.momentum": 0.9, "trainer.loss.kwargs.a": 1, "deployment.num_train_nodes": 2, "env_vars.A": "1",
}  # fmt: skip


def assert_grouped(imported: Imported, keys: set[str]) -> None:
    given = [entry.key for entry in imported.entries if not entry.is_default]
    assert len(given) == len(set(given))
    assert set(given) == keys
    assert [entry.key for entry in imported.entries if entry.text == UNSEEN] == []
    recipe_of(imported)


def example(trainer: str) -> dict[str, Any]:
    """All keys of the trainer's table with its defaults, and some that are open-ended."""
    rows = read_rules(trainer).rows
    keys = {key: rule.default for key, rule in rows.items() if not key.endswith("*") and ".N." not in key}
    more = {"trl": FILLED, "verl": VERL_OPEN, "prime-rl": PRIME_OPEN}[trainer]
    return {key: value for key, value in (keys | more).items() if not any(k.startswith(f"{key}.") for k in keys | more)}


@pytest.mark.parametrize("trainer", TRAINERS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_subset_of_keys_is_grouped_and_makes_a_valid_recipe(
    trainer: str, data: st.DataObject, tmp_path: Path
) -> None:
    every = example(trainer)
    chosen = data.draw(st.lists(st.sampled_from(sorted(every)), unique=True, min_size=1, max_size=40))
    keys = {key: every[key] for key in chosen} | dict.fromkeys(ENOUGH[trainer])
    keys = {key: ENOUGH[trainer].get(key, value) for key, value in keys.items()}
    assert_grouped(import_keys(trainer, keys, tmp_path), set(keys))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_all_keys_of_a_table_at_once_are_grouped(trainer: str, tmp_path: Path) -> None:
    keys = example(trainer) | ENOUGH[trainer]
    assert_grouped(import_keys(trainer, keys, tmp_path), set(keys))


def test_every_key_of_verl_s_reference_configuration_is_known() -> None:
    keys = (GOLDEN.parent / "imports-verl-keys.txt").read_text(encoding="utf-8").split()
    assert len(keys) > 500
    assert [key for key in keys if read_rules("verl").rule(key) is None] == []


def dataclass_fields(package: str, file: str, classes: set[str]) -> dict[str, Any]:
    """Fields and defaults of dataclasses of an installed package, read from its source: importing TRL takes long."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    tree = ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name in classes:
            lines = [line for line in node.body if isinstance(line, ast.AnnAssign)]
            found |= {line.target.id: default_of(line.value) for line in lines if isinstance(line.target, ast.Name)}
    return found


def default_of(value: ast.expr | None) -> Any:
    if isinstance(value, ast.Call):
        value = next((keyword.value for keyword in value.keywords if keyword.arg == "default"), None)
    try:
        return None if value is None else ast.literal_eval(value)
    except ValueError:
        return None


@cache
def trl_fields() -> dict[str, Any]:
    return {
        **dataclass_fields("transformers", "training_args.py", {"TrainingArguments"}),
        **dataclass_fields("trl", "trainer/base_config.py", {"_BaseConfig"}),
        **dataclass_fields("trl", "trainer/grpo_config.py", {"GRPOConfig"}),
        **dataclass_fields("trl", "trainer/model_config.py", {"ModelConfig"}),
        **dataclass_fields("trl", "scripts/grpo.py", {"GRPOScriptArguments"}),
        **dataclass_fields("trl", "scripts/utils.py", {"ScriptArguments", "DatasetMixtureConfig"}),
    }


def test_every_field_of_trl_has_a_row_with_its_default() -> None:
    fields = trl_fields()
    table = read_rules("trl")
    assert len(fields) > 200
    assert [name for name in fields if table.rule(name) is None] == []
    stated = {name: rule.default for name, rule in table.rows.items() if name in fields and rule.default is not None}
    computed = {"optim"}  # its default is an expression
    assert {name: stated[name] for name in stated if name not in computed} == {
        name: fields[name] for name in stated if name not in computed
    }
    meant = [name for name, default in fields.items() if default not in (None, False) and name not in stated]
    assert [name for name in meant if not table.rows[name].drop] == []


def test_all_fields_of_trl_at_once_are_grouped(tmp_path: Path) -> None:
    keys = trl_fields() | FILLED
    assert_grouped(import_keys("trl", keys | ENOUGH["trl"], tmp_path), set(keys))


def test_the_table_is_of_the_version_that_the_bench_installs() -> None:
    project = (GOLDEN.parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert f"trl=={read_rules('trl').version}" in project


@pytest.mark.parametrize(
    ("trainer", "keys", "key", "why"),
    [
        ("trl", {"learning_rate": -1.0}, "learning_rate", "rlvr's learner.lr cannot be -1.0"),
        ("trl", {"temperature": 1000}, "temperature", "rlvr's rollout.temperature cannot be 1000"),
        ("trl", {"epsilon": 1.5}, "epsilon", "rlvr's algorithm.loss.clip_low cannot be 1.5"),
        ("trl", {"loss_type": "sapo", "sapo_temperature_pos": -1.0}, "sapo_temperature_pos", "cannot be -1.0"),
        ("trl", {"adam_beta1": 3.0}, "adam_beta1", "rlvr's learner.adam_betas cannot be [3.0, 0.999]"),
        ("trl", {"learnig_rate": 1}, "learnig_rate", "not a key of TRL 1.16.0; did you mean learning_rate?"),
        ("trl", {"loss_type": "vespo"}, "loss_type", "rlvr has no vespo loss"),
        ("trl", {"top_k": 5}, "top_k", "every ratio would be biased"),
        (
            "verl",
            {"actor_rollout_ref.actor.clip_ratio": 0.3},
            "actor_rollout_ref.actor.clip_ratio",
            "has no effect in verl",
        ),
        ("verl", {"algorithm.adv_estimator": "gae"}, "algorithm.adv_estimator", "rlvr has no critic"),
        ("verl", {"trainer.nodes": 2}, "trainer.nodes", "a setting of verl's own processes"),
        ("verl", {"actor.lr": 2}, "actor.lr", "not a key of verl"),
        ("prime-rl", {"orchestrator.algo.type": "rae"}, "orchestrator.algo.type", "agents of an environment"),
    ],
)
def test_what_cannot_be_taken_over_has_a_reason_and_the_recipe_is_valid(
    trainer: str, keys: dict[str, Any], key: str, why: str, tmp_path: Path
) -> None:
    imported = import_keys(trainer, keys, tmp_path)
    assert why in text_of(imported, key, Taken.NOT)
    recipe_of(imported)


def test_the_tables_agree_with_the_names_that_error_messages_suggest() -> None:
    """`peer_names.yaml` has the ends of keys; a remark there says that a meaning differs."""
    compared, disagreeing = 0, list[str]()
    for trainer in TRAINERS:
        table = read_rules(trainer)
        for name, peer in peer_names().items():
            if table.name not in peer.peers or peer.remark:
                continue
            rows = [rule for key, rule in table.rows.items() if key == name or key.endswith(f".{name}")]
            ours = {rule.ours for rule in rows} - {""}
            compared += bool(ours)
            if ours and peer.key not in ours:
                disagreeing.append(f"{trainer}: {name} is {peer.key} in messages and {ours} in the table")
    assert disagreeing == []
    assert compared > 10


JUNK = [
    "",
    "text",
    "1_2",
    "a_b",
    -1,
    0,
    0.5,
    1e400,
    10**9,
    True,
    False,
    None,
    [],
    ["a", 1],
    [None],
    {},
    {"a": "b"},
    "${x}",
]


@pytest.mark.parametrize("trainer", TRAINERS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_gives_a_valid_recipe_or_an_error_with_its_place(
    trainer: str, data: st.DataObject, tmp_path: Path
) -> None:
    every = example(trainer) | ENOUGH[trainer]
    chosen = data.draw(st.lists(st.sampled_from(sorted(every)), unique=True, min_size=1, max_size=6))
    keys = {key: data.draw(st.sampled_from(JUNK), label=key) for key in chosen}
    try:
        imported = import_keys(trainer, keys, tmp_path)
    except ConfigError:
        return
    recipe_of(imported)
