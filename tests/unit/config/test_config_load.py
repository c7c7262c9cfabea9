"""Recipes from files: lines, extends, messages, provenance."""

import textwrap
from pathlib import Path

import pytest

from rlvr.config.document.packaged import find_recipe, list_recipes
from rlvr.config.load import load_recipe
from rlvr.config.recipe import ClusterConfig, EngineDtype, Recipe
from rlvr.errors import ConfigError
from tests.unit.config.recipe_cases import leaf_paths

BASE = """\
name: x
model: {tiny: {}}
data:
  train:
    - source: generator:sums
      verifier: text_match
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, name: str = "x.yaml") -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(textwrap.dedent(text), encoding="utf-8")
    return name


def fault(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(text), overrides)
    return str(caught.value).splitlines()


def test_a_recipe_holds_its_values_and_the_defaults() -> None:
    recipe = load_recipe(write(BASE + "rollout: {engine_dtype: bfloat16, group_size: 4}\n")).recipe
    assert recipe.rollout.engine_dtype is EngineDtype.BFLOAT16
    assert (recipe.rollout.group_size, recipe.rollout.temperature) == (4, 1.0)


def test_provenance_names_the_line_the_command_line_or_the_default() -> None:
    loaded = load_recipe(write(BASE + "learner:\n  lr: 1e-5\n"), ["seed=3"])
    assert loaded.provenance["name"] == "x.yaml:1"
    assert loaded.provenance["data.train.0.source"] == "x.yaml:5"
    assert loaded.provenance["learner.lr"] == "x.yaml:8"
    assert loaded.provenance["seed"] == "command line"
    assert loaded.provenance["learner.adam_betas"] == "default"
    assert loaded.provenance["model.tiny.layers"] == "default"
    assert loaded.path == Path("x.yaml")


@pytest.mark.parametrize("written", ["1e-5", "1E-5", "1.0e-5", "0.00001", "'1e-5'", "+1e-05"])
def test_a_number_may_be_written_in_any_way(written: str) -> None:
    recipe = load_recipe(write(BASE + f"learner: {{lr: {written}}}\n")).recipe
    assert recipe.learner.lr == 1e-5


def test_only_true_and_false_are_booleans_and_dates_stay_text() -> None:
    settings = "{a: on, b: no, c: true, d: 2024-01-02, e: 010, f: 0x10, g: ~, h: 1_000, i: 12:30}"
    recipe = load_recipe(write(BASE + f"      verifier_settings: {settings}\n")).recipe
    assert recipe.data.train[0].verifier_settings == {
        "a": "on",
        "b": "no",
        "c": True,
        "d": "2024-01-02",
        "e": 10,
        "f": 16,
        "g": None,
        "h": "1_000",
        "i": "12:30",
    }


def test_on_and_off_are_accepted_where_the_recipe_wants_a_boolean() -> None:
    recipe = load_recipe(write(BASE + "learner: {gradient_checkpointing: on}\n")).recipe
    assert recipe.learner.gradient_checkpointing is True


def test_all_problems_come_at_once_with_file_and_line() -> None:
    text = """\
        name: x
        model: {tiny: {}}
        data:
          train:
            - source: generator:sums
              verfier: text_match
        rollout:
          grp_size: 4
          group_size: 8.5
          prompts_per_step: 0
          temperature: hot
          stop_strings: x
          engine: transformer
        algorithm:
          loss: {clip_high: 0.1}
        learner:
          group_size: 5
          lr: 1e-5
          lr: 1e-6
          share_prompt_prefix: maybe
          device: 3
          adam_betas: [0.9]
        run:
        """
    assert fault(text, "cluster.backend=rey") == [
        "x.yaml:6: data.train.0.verfier: unknown key; did you mean data.train.0.verifier?",
        "x.yaml:8: rollout.grp_size: unknown key; did you mean rollout.group_size?",
        "x.yaml:9: rollout.group_size: must be a whole number (got 8.5)",
        "x.yaml:10: rollout.prompts_per_step: must be at least 1 (got 0)",
        "x.yaml:11: rollout.temperature: must be a number (got 'hot')",
        "x.yaml:12: rollout.stop_strings: must be a list (got 'x')",
        "x.yaml:13: rollout.engine: must be an engine's name ('transformers', 'vllm' or 'toy'), package.module:Class "
        "or path/file.py:Class, or a mapping with one of these as its kind and the engine's settings as further keys; "
        "did you mean 'transformers'? (got 'transformer')",
        "x.yaml:15: algorithm.loss.clip_high=0.1 is below clip_low=0.2; DAPO needs clip_high >= clip_low",
        "x.yaml:17: learner.group_size: unknown key; did you mean rollout.group_size?",
        "x.yaml:19: learner.lr is given twice (first at line 18)",
        "x.yaml:20: learner.share_prompt_prefix: must be true or false (got 'maybe')",
        "x.yaml:21: learner.device: must be text; put it in quotes (got 3)",
        "x.yaml:22: learner.adam_betas: needs 2 entries",
        "x.yaml:23: run: the section is empty; remove the line or put keys below it",
        "command line: cluster.backend=rey: must be one of 'local' or 'ray'; did you mean 'ray'?",
    ]


def test_missing_sections_are_named() -> None:
    assert fault("name: x\n") == ["x.yaml:1: model: this key is required", "x.yaml:1: data: this key is required"]


def test_a_boolean_is_not_a_number() -> None:
    assert fault(BASE + "seed: true\n") == ["x.yaml:7: seed: must be a number (got True)"]


def test_a_key_that_nothing_resembles_gets_the_keys_of_its_section() -> None:
    assert fault(BASE + "cluster:\n  zzzz: 1\n") == [
        "x.yaml:8: cluster.zzzz: unknown key; cluster has the keys " + ", ".join(ClusterConfig.model_fields)
    ]


def test_a_check_of_a_section_names_the_section_and_its_line() -> None:
    text = BASE.replace("{tiny: {}}", "\n  tiny: {}\n  path: y")
    assert fault(text) == [
        "x.yaml:2: model: set exactly one of model.path (a hub name, a folder, a GGUF file or "
        "package:NAME/FILE) and model.tiny"
    ]


def test_each_cross_check_of_the_recipe_has_its_own_line() -> None:
    text = BASE + "rollout:\n  prompts_per_step: 6\nlearner: {minibatches_per_step: 4}\n"
    assert fault(text, "rollout.group_size=1") == [
        "x.yaml:9: learner.minibatches_per_step=4 does not divide rollout.prompts_per_step=6; "
        "groups are never split over minibatches",
        "command line: rollout.group_size=1: the grpo advantage compares the rollouts of a group "
        "and needs at least 2; 8 is usual",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name: x\nmodel: {tiny: {}\n",
            "x.yaml:line 3: not valid YAML: while parsing a flow mapping expected ',' or '}', but got '<stream end>'",
        ),
        (
            "name: x\nrun:\n\tsteps: 3\n",
            "x.yaml:line 3: not valid YAML: while scanning for the next token found character "
            "'\\t' that cannot start any token; the line is indented with a tab, YAML needs spaces",
        ),
        ("name: x\nrun: \x01\n", "x.yaml:line 2: not valid YAML: the character '\\x01'"),
        ("- a\n", "x.yaml:line 1: a recipe is a mapping (`key: value` lines)"),
        ("", "x.yaml: the file is empty; a recipe needs name, model and data"),
    ],
)
def test_a_syntax_error_says_its_line(text: str, message: str) -> None:
    Path("x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_recipe("x.yaml")
    assert str(caught.value) == message


def test_tags_merge_keys_and_endless_aliases_are_problems() -> None:
    text = BASE + "description: !!python/name:os.system x\nrun: {<<: {}}\nrollout: &a {stop_strings: [*a]}\n"
    assert fault(text) == [
        "x.yaml:7: description: the tag 'tag:yaml.org,2002:python/name:os.system' is not supported in a recipe",
        "x.yaml:8: run.<<: merge keys are not supported; use `extends`",
        "x.yaml:9: rollout.stop_strings.0: an alias refers to a value that contains it",
    ]


def test_an_anchor_may_be_used_twice() -> None:
    text = BASE.replace("- source", "- &one\n      source") + "  eval: [*one]\n"
    recipe = load_recipe(write(text)).recipe
    assert recipe.data.eval == recipe.data.train


def test_a_recipe_extends_one_other() -> None:
    write(BASE + "run: {steps: 7, eval_prompts: 9}\nlearner:\n  adam_betas: [0.8, 0.9]\n", "b/base.yaml")
    text = "extends: base.yaml\nname: child\nrun:\n  steps: 8\nlearner: {adam_betas: [0.5, 0.6]}\n"
    loaded = load_recipe(write(text, "b/child.yaml"))
    assert (loaded.recipe.name, loaded.recipe.run.steps) == ("child", 8)
    assert loaded.recipe.run.eval_prompts == 9
    assert loaded.recipe.learner.adam_betas == (0.5, 0.6)
    assert loaded.provenance["run.steps"] == "child.yaml:4"
    assert loaded.provenance["run.eval_prompts"] == "base.yaml:7"
    assert loaded.provenance["learner.adam_betas"] == "child.yaml:5"


def test_a_list_of_the_base_is_replaced_whole() -> None:
    write(BASE + "      limit: 5\n", "base.yaml")
    text = "extends: base.yaml\ndata: {train: [{source: y.jsonl, verifier: math}]}\n"
    loaded = load_recipe(write(text))
    assert (loaded.recipe.data.train[0].source, loaded.recipe.data.train[0].limit) == ("y.jsonl", 0)
    assert loaded.provenance["data.train.0.limit"] == "default"


def test_a_packaged_recipe_can_be_extended_by_name() -> None:
    loaded = load_recipe(write("extends: tiny\nname: longer\nrun: {steps: 99}\n"))
    assert loaded.recipe.run.steps == 99
    assert loaded.recipe.model.tiny is not None
    assert loaded.provenance["learner.dtype"].startswith("tiny.yaml:")


def test_a_problem_of_the_base_carries_the_line_of_the_base() -> None:
    write(BASE + "run: {stepz: 7}\n", "base.yaml")
    assert fault("extends: base.yaml\nseed: x\n") == [
        "base.yaml:7: run.stepz: unknown key; did you mean run.steps?",
        "x.yaml:2: seed: must be a whole number (got 'x')",
    ]


def test_longer_chains_cycles_and_missing_bases_are_errors() -> None:
    write("extends: base.yaml\n", "middle.yaml")
    write(BASE, "base.yaml")
    assert fault("name: x\nextends: middle.yaml\n") == [
        "x.yaml:2: extends: only one level is allowed, and middle.yaml itself extends 'base.yaml' (line 1)"
    ]
    assert fault("extends: x.yaml\n") == ["x.yaml:1: extends: the recipe extends itself"]
    write("extends: x.yaml\n", "base.yaml")
    assert fault("extends: base.yaml\n") == [
        "x.yaml:1: extends: only one level is allowed, and base.yaml itself extends 'x.yaml' (line 1)"
    ]
    assert fault("extends: [a]\n") == ["x.yaml:1: extends: must be the file or name of one recipe (got ['a'])"]
    assert fault("extends: tinny\n")[0].startswith("x.yaml:1: extends: no recipe 'tinny': ")


def test_a_packaged_recipe_is_found_by_its_bare_name() -> None:
    names = [info.name for info in list_recipes()]
    assert "quickstart" in names
    assert "r1-zero-qwen2.5-3b-countdown" in names
    for name in names:
        assert find_recipe(name) == find_recipe(f"{name}.yaml")
    assert all(info.description for info in list_recipes())


def test_a_file_goes_before_a_packaged_name() -> None:
    write(BASE.replace("name: x", "name: mine"), "quickstart.yaml")
    assert load_recipe("quickstart.yaml").recipe.name == "mine"
    assert load_recipe("quickstart").recipe.name == "quickstart"


def test_an_unknown_recipe_gets_a_suggestion() -> None:
    names = ", ".join(info.name for info in list_recipes())
    with pytest.raises(ConfigError) as caught:
        load_recipe("quikstart.yaml")
    assert str(caught.value) == (
        "no recipe 'quikstart.yaml': no such file, and not one of the packaged recipes: "
        f"{names}. Did you mean 'quickstart'?"
    )


def test_text_that_is_not_utf_8_is_an_error() -> None:
    Path("x.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(ConfigError, match=r"^x.yaml is not UTF-8 text \(byte 6, line 1\)"):
        load_recipe("x.yaml")


def test_the_resolved_recipe_loads_to_an_equal_one_and_says_where_values_came_from() -> None:
    strings = ["a # b", "it's", "x: y", "on", "1e-5", "", "tab\there", "two\nlines", "✓", " pad "]
    settings = {"deep": {"list": [1, 2.5, None, True], "rows": [{"a": [1]}, [2]]}, "null": None}
    text = (
        BASE
        + f"      verifier_settings: {settings!r}".replace("None", "null").replace("True", "true")
        + "\nlearner: {lr: 1e-6}\n"
    )
    overrides = [f"data.train.0.verifier_settings.s{i}={s!r}" for i, s in enumerate(strings[:1])]
    loaded = load_recipe(write(text), overrides)
    values = loaded.recipe.data.train[0].verifier_settings
    values.update({f"t{i}": value for i, value in enumerate(strings)})
    resolved = loaded.to_yaml()
    again = load_recipe(write(resolved, "again.yaml"))
    assert again.recipe == loaded.recipe
    lines = resolved.splitlines()
    assert "name: x  # x.yaml:1" in lines
    assert "  lr: 1.0e-06  # x.yaml:8" in lines
    assert "  adam_betas: [0.9, 0.999]  # default" in lines
    assert "    - source: generator:sums  # x.yaml:5" in lines
    assert "        s0: 'a # b'  # command line" in lines
    leaves = [line for line in lines if not line.endswith(":")]
    assert all("  # " in line for line in leaves)


def test_the_recipe_has_at_most_174_keys() -> None:
    # the sections of data.eval are those of data.train
    leaves = [path for path in leaf_paths(Recipe) if not path.startswith("data.eval.")]
    assert "rollout.group_size" in leaves
    assert "data.train.N.checks.NAME.weight" in leaves
    assert len(leaves) <= 174
