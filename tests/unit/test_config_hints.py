"""The names of other trainers."""

from pathlib import Path

import pytest

from rlvr.config.hints import PEER_NAMES, peer_hint
from rlvr.config.load import load_recipe
from rlvr.config.paths import key_paths
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


@pytest.mark.parametrize("name", PEER_NAMES)
def test_every_hint_leads_to_a_key_of_the_recipe(name: str) -> None:
    assert PEER_NAMES[name].key in key_paths(Recipe)


@pytest.mark.parametrize("name", PEER_NAMES)
def test_no_name_of_a_peer_is_itself_a_key_of_the_recipe(name: str) -> None:
    assert name not in key_paths(Recipe)


@pytest.mark.parametrize("name", PEER_NAMES)
def test_every_name_is_answered_with_the_full_path(name: str) -> None:
    (line,) = fault(BASE, f"{name}=8")
    assert f"did you mean {PEER_NAMES[name].key}? {name} is its name in" in line


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("num_generations", "rollout.group_size"),
        ("actor_rollout_ref.rollout.n", "rollout.group_size"),
        ("rollout.n", "rollout.group_size"),
        ("data.train_batch_size", "rollout.prompts_per_step"),
        ("actor_rollout_ref.actor.ppo_mini_batch_size", "learner.minibatches_per_step"),
        ("actor_rollout_ref.actor.optim.lr", "learner.lr"),
        ("epsilon", "algorithm.clip_low"),
        ("eps_clip_high", "algorithm.clip_high"),
        ("beta", "algorithm.kl_coef"),
        ("grpo.num_generations_per_prompt", "rollout.group_size"),
        ("policy.generation.max_new_tokens", "rollout.max_completion_tokens"),
    ],
)
def test_dotted_names_are_known_by_their_ending(name: str, key: str) -> None:
    found = peer_hint(name)
    assert found is not None
    assert found[1].key == key


def test_a_name_that_no_peer_uses_has_no_hint() -> None:
    assert peer_hint("rollout.group_sise") is None


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


def test_a_whole_section_of_a_peer_is_answered_key_by_key() -> None:
    text = BASE + (
        "actor_rollout_ref:\n  rollout:\n    n: 8\n  actor:\n    clip_ratio_high: 0.28\n    junk: 1\n"
    )
    assert fault(text) == [
        "x.yaml:6: actor_rollout_ref.rollout.n: unknown key; did you mean rollout.group_size? "
        "rollout.n is its name in verl",
        "x.yaml:8: actor_rollout_ref.actor.clip_ratio_high: unknown key; did you mean "
        "algorithm.clip_high? clip_ratio_high is its name in verl",
    ]
