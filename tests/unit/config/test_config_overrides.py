"""`key=value` on the command line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rlvr.config.load import LoadedRecipe, load_recipe
from rlvr.errors import ConfigError

TEXT = """\
name: x
model: {tiny: {}}
data:
  train:
    - source: generator:sums
      verifier: text_match
algorithm:
  loss: {clip_high: 0.25}
"""
Load = Callable[..., LoadedRecipe]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(TEXT, encoding="utf-8")
    return lambda *overrides: load_recipe("x.yaml", overrides)


def fault(load: Load, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(*overrides)
    return str(caught.value).splitlines()


def test_numbers_lists_and_mappings_are_read_as_yaml(load: Load) -> None:
    recipe = load(
        "learner.lr=1e-5",
        "learner.adam_betas=[0.9, 0.95]",
        "learner.gradient_checkpointing=true",
        "model.tiny={layers: 3, characters: '01:'}",
        "run.trackers=[]",
    ).recipe
    assert (recipe.learner.lr, recipe.learner.adam_betas) == (1e-5, (0.9, 0.95))
    assert recipe.learner.gradient_checkpointing is True
    assert recipe.model.tiny is not None
    assert (recipe.model.tiny.layers, recipe.model.tiny.characters) == (3, "01:")
    assert recipe.run.trackers == []


def test_an_entry_of_a_list_is_set_by_its_position(load: Load) -> None:
    loaded = load("data.train.0.source=y.jsonl")
    assert loaded.recipe.data.train[0].source == "y.jsonl"
    assert loaded.recipe.data.train[0].verifier == "text_match"
    assert loaded.provenance["data.train.0.source"] == "command line"
    assert loaded.provenance["data.train.0.verifier"] == "x.yaml:6"


def test_the_next_free_position_appends(load: Load) -> None:
    recipe = load(
        "data.train.1.source=a.jsonl",
        "data.train.1.verifier=math",
        "data.eval.0.source=b.jsonl",
        "data.eval.0.verifier=math",
    ).recipe
    assert [source.source for source in recipe.data.train] == ["generator:sums", "a.jsonl"]
    assert [source.source for source in recipe.data.eval] == ["b.jsonl"]


def test_a_free_mapping_takes_any_key(load: Load) -> None:
    recipe = load(
        "data.train.0.verifier_settings.mode=exact",
        "data.train.0.verifier_settings.deep.er=0.5",
        "data.train.0.columns.prompt=question",
    ).recipe
    assert recipe.data.train[0].verifier_settings == {"mode": "exact", "deep": {"er": 0.5}}
    assert recipe.data.train[0].columns == {"prompt": "question"}


def test_text_is_taken_literally(load: Load) -> None:
    recipe = load(
        "name=2024",
        r"data.train.0.reference_pattern=####\s*(.+)$",
        "data.train.0.prompt_format={prompt} = ",
        "data.train.0.system_prompt=",
        "data.train.0.assistant_prefix='<think> '",
    ).recipe
    source = recipe.data.train[0]
    assert recipe.name == "2024"
    assert source.reference_pattern == r"####\s*(.+)$"
    assert source.prompt_format == "{prompt} = "
    assert (source.system_prompt, source.assistant_prefix) == ("", "<think> ")


def test_the_last_of_two_overrides_wins(load: Load) -> None:
    assert load("seed=1", "seed=2").recipe.seed == 2


def test_null_clears_a_section_so_that_its_rival_can_be_set(load: Load) -> None:
    assert load("model.path=y", "model.tiny=null").recipe.model.tiny is None
    assert fault(load, "model.path=y") == [
        "command line: model.path=y: model: set exactly one of model.path (a hub name, a folder, "
        "a GGUF file or package:NAME/FILE) and model.tiny"
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rollout.grp_size=4", "unknown key; did you mean rollout.group_size?"),
        ("rolout.group_size=4", "rolout: unknown key; did you mean rollout.group_size?"),
        ("group_size=4", "unknown key; did you mean rollout.group_size?"),
        ("learner.seed=4", "unknown key; did you mean seed?"),
        ("steps=4", "unknown key; did you mean cold_start.steps or run.steps?"),
        ("run.steps=few", "must be a whole number"),
        ("run.steps=", "must be a whole number"),
        ("seed=true", "must be a number"),
        ("model.path=null", "must be text"),
        ("run.steps", "no equals sign; write key=value without spaces, for example run.steps=10"),
        ("=4", "no key before the equals sign; write key=value without spaces, for example run.steps=10"),
        ("run..steps=4", "the key 'run..steps' has an empty part; write key=value without spaces, for "
         "example run.steps=10"),
        ("name.x=1", "name is a value, not a section (got 'x')"),
        ("data.train.one=1", "data.train is a list of 1 entry; name one by its position, for "
         "example data.train.0"),
        ("data.train.2.limit=1", "data.train has 1 entry; 2 is beyond the next free position, 1"),
        ("data.train=[]", "needs at least 1 entry (got [])"),
        ("learner.adam_betas.0=0.5", "learner.adam_betas is not set in the recipe; set it as a "
         "whole"),
        ("learner.adam_betas=[1,", "not valid YAML: while parsing a flow node expected the node "
         "content, but found '<stream end>'; put text that begins with a bracket or a quote in "
         "quotes"),
        ("model.tiny={layerz: 3}", "model.tiny.layerz: unknown key; did you mean "
         "model.tiny.layers?"),
        ("run.trackers=[wandbb]", "run.trackers.0: must be one of 'tensorboard', 'wandb' or "
         "'trackio'; did you mean 'wandb'?"),
        ("rollout=null", "the section is empty; remove the line or put keys below it"),
        ("algorithm.loss.clip_low=0.3", "algorithm.loss.clip_high=0.25 is below clip_low=0.3; DAPO needs "
         "clip_high >= clip_low"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_quoted_and_explained(load: Load, override: str, message: str) -> None:
    assert fault(load, override) == [f"command line: {override}: {message}"]


def test_a_message_that_begins_with_the_override_does_not_repeat_it(load: Load) -> None:
    assert fault(load, "algorithm.loss.clip_high=0.1") == [
        "command line: algorithm.loss.clip_high=0.1 is below clip_low=0.2; DAPO needs clip_high >= clip_low"
    ]


def test_a_misspelt_required_key_is_reported_once(load: Load) -> None:
    lines = fault(load, "data.train.0.checks.a.verifer=x")
    assert lines == [
        "command line: data.train.0.checks.a.verifer=x: unknown key; did you mean data.train.0.checks.a.verifier?"
    ]


def test_wrong_overrides_are_all_reported_with_the_problems_of_the_file(load: Load) -> None:
    Path("x.yaml").write_text(TEXT + "run: {steps: 0}\n", encoding="utf-8")
    assert fault(load, "oops", "seed=-1", "rollout.temperature=0") == [
        "x.yaml:9: run.steps: must be at least 1 (got 0)",
        "command line: oops: no equals sign; write key=value without spaces, for example run.steps=10",
        "command line: seed=-1: must be at least 0",
        "command line: rollout.temperature=0: must be at least 0.01",
    ]


def test_a_check_is_removed_by_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(
        "name: x\nmodel: {tiny: {}}\ndata:\n  train:\n    - source: generator:sums\n      checks:\n"
        "        right: {verifier: text_match}\n        extra: {verifier: countdown, role: shadow}\n"
    )
    source = load_recipe("x.yaml", ["data.train.0.checks.extra=null"]).recipe.data.train[0]
    assert list(source.checks) == ["right"]
    with pytest.raises(ConfigError, match=r"there is no nope to remove; .*\.checks has: right, ext"):
        load_recipe("x.yaml", ["data.train.0.checks.nope=null"])
    with pytest.raises(ConfigError, match="no check with role reward"):
        load_recipe("x.yaml", ["data.train.0.checks.right=null"])
