"""The names of other trainers."""

from pathlib import Path

import pytest

from rlvr.config.document.paths import key_paths
from rlvr.config.load import load_recipe
from rlvr.config.messages.hints import REFUSED, answer, peer_names
from rlvr.config.recipe import Recipe
from rlvr.errors import ConfigError

BASE = """\
name: x
model: {tiny: {}}
data: {train: [{source: generator:sums, verifier: text_match}]}
"""


def fault(text: str, *overrides: str) -> list[str]:
    Path("x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_recipe("x.yaml", overrides)
    return str(caught.value).splitlines()


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", peer_names())
def test_every_hint_leads_to_a_key_of_the_recipe(name: str) -> None:
    assert peer_names()[name].key in key_paths(Recipe)


@pytest.mark.parametrize("name", peer_names())
def test_no_name_of_a_peer_is_itself_a_key_of_the_recipe(name: str) -> None:
    assert name not in key_paths(Recipe)


@pytest.mark.parametrize("name", peer_names())
def test_every_name_is_answered_with_the_full_path(name: str) -> None:
    (line,) = fault(BASE, f"{name}=8")
    assert f"did you mean {peer_names()[name].key}? {name} is its name in" in line


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("num_generations", "rollout.group_size"),
        ("actor_rollout_ref.rollout.n", "rollout.group_size"),
        ("rollout.n", "rollout.group_size"),
        ("data.train_batch_size", "rollout.prompts_per_step"),
        ("actor_rollout_ref.actor.ppo_mini_batch_size", "learner.minibatches_per_step"),
        ("actor_rollout_ref.actor.optim.lr", "learner.lr"),
        ("epsilon", "algorithm.loss.clip_low"),
        ("eps_clip_high", "algorithm.loss.clip_high"),
        ("beta", "algorithm.kl_coef"),
        ("grpo.num_generations_per_prompt", "rollout.group_size"),
        ("policy.generation.max_new_tokens", "rollout.max_completion_tokens"),
        ("delta", "algorithm.loss.dual_clip"),
        ("actor_rollout_ref.actor.clip_ratio_c", "algorithm.loss.dual_clip"),
        ("vllm_importance_sampling_clip_max", "algorithm.correction.weight_max"),
        ("algorithm.rollout_correction.rollout_is_threshold", "algorithm.correction.weight_max"),
        ("trainer.loss.dppo_mask_low", "algorithm.loss.max_decrease"),
        ("orchestrator.max_off_policy_steps", "rollout.max_staleness"),
        ("grpo.async_grpo.max_trajectory_age_steps", "rollout.max_staleness"),
        ("algorithm.filter_groups.enable", "algorithm.dynamic_sampling.enabled"),
        ("reward_model.overlong_buffer.len", "reward.overlong_buffer_tokens"),
        ("mask_truncated_completions", "reward.truncated"),
        ("actor_rollout_ref.model.lora_rank", "model.lora.rank"),
        ("policy.dtensor_cfg.lora_cfg.dim", "model.lora.rank"),
        ("ds.use_liger_kernel", "learner.kernels"),
        ("actor_rollout_ref.model.use_remove_padding", "learner.layout"),
        ("actor_rollout_ref.actor.fsdp_config.fsdp_size", "cluster.learners"),
    ],
)
def test_dotted_names_are_known_by_their_ending(name: str, key: str) -> None:
    assert answer(name, "").startswith(f"did you mean {key}? ")


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_key_is_no_key_of_the_recipe_and_no_other_name_for_one(name: str) -> None:
    assert name not in key_paths(Recipe)
    assert name not in peer_names()


@pytest.mark.parametrize("name", REFUSED)
def test_every_refused_key_says_why(name: str) -> None:
    (line,) = fault(BASE, f"rollout.{name}=0.5")
    assert line.startswith(f"command line: rollout.{name}=0.5: unknown key; {name}=0.5 is refused")
    assert REFUSED[name].why in line


@pytest.mark.parametrize(
    "written", ["top_p: 1", "top_p: 1.0", "top_k: -1", "top_k: null", "min_p: 0", "do_sample: true"]
)
def test_a_refused_key_at_its_neutral_value_is_only_superfluous(written: str) -> None:
    name, _, value = written.partition(": ")
    (line,) = fault(BASE + f"rollout:\n  {written}\n")
    shown = {"null": "None", "true": "True"}.get(value, value)
    assert line == (f"x.yaml:5: rollout.{name}: unknown key; {name}={shown} is what rlvr always does; remove it")


def test_truncated_sampling_is_refused_with_the_reason() -> None:
    assert fault(BASE + "rollout:\n  top_p: 0.8\n") == [
        "x.yaml:5: rollout.top_p: unknown key; top_p=0.8 is refused, because the learner's "
        "log-probs are those of the full distribution, so every ratio would be biased (at top_p=0.8 "
        "a peer measured a mean ratio of 0.896); use rollout.temperature"
    ]
    assert fault(BASE, "actor_rollout_ref.rollout.top_k=50")[0].endswith("use rollout.temperature")


def test_a_name_that_no_peer_uses_has_no_hint() -> None:
    assert answer("rollout.group_sise", "") == ""


def test_a_bare_name_gets_the_full_path() -> None:
    assert fault(BASE, "num_generations=8") == [
        "command line: num_generations=8: unknown key; did you mean rollout.group_size? "
        "num_generations is its name in TRL"
    ]


def test_a_remark_says_where_the_meaning_differs() -> None:
    assert fault(BASE + "algorithm:\n  beta: 0.04\n") == [
        "x.yaml:5: algorithm.beta: unknown key; did you mean algorithm.kl_coef? beta is its name "
        "in TRL; its default in rlvr is 0, and then no reference model is loaded"
    ]


def test_a_bound_that_a_peer_counts_from_1_says_so() -> None:
    assert fault(BASE, "algorithm.cispo.cispo_eps_clip_high=4") == [
        "command line: algorithm.cispo.cispo_eps_clip_high=4: unknown key; did you mean "
        "algorithm.loss.ratio_max? cispo_eps_clip_high is its name in SkyRL; it is relative to 1, "
        "rlvr's is the ratio itself: 1 plus this"
    ]


def test_a_whole_section_of_a_peer_is_answered_key_by_key() -> None:
    text = BASE + ("actor_rollout_ref:\n  rollout:\n    n: 8\n  actor:\n    clip_ratio_high: 0.28\n    junk: 1\n")
    assert fault(text) == [
        "x.yaml:6: actor_rollout_ref.rollout.n: unknown key; did you mean rollout.group_size? "
        "rollout.n is its name in verl",
        "x.yaml:8: actor_rollout_ref.actor.clip_ratio_high: unknown key; did you mean "
        "algorithm.loss.clip_high? clip_ratio_high is its name in verl; for CISPO rlvr has "
        "algorithm.loss.ratio_min and ratio_max: ratio_max is 1 plus this",
    ]
