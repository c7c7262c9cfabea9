"""Unions distinguished by `kind`: short forms, layers, messages."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rlvr.config.document.paths import annotation_at, kinds
from rlvr.config.load import LoadedRecipe, load_recipe
from rlvr.config.sections.algorithm import AlgorithmConfig
from rlvr.errors import ConfigError

BASE = """\
name: x
model: {tiny: {}}
data: {train: [{source: generator:sums, verifier: text_match}]}
algorithm:
"""
Load = Callable[..., LoadedRecipe]
LOSSES = "'clipped', 'gspo', 'cispo', 'sapo', 'dppo' or 'policy_gradient', or package.module:function"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.chdir(tmp_path)

    def load_text(text: str, *overrides: str) -> LoadedRecipe:
        Path("x.yaml").write_text(BASE + text, encoding="utf-8")
        return load_recipe("x.yaml", overrides)

    return load_text


def fault(load: Load, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides)
    return str(caught.value).splitlines()


def loss_of(loaded: LoadedRecipe) -> dict[str, object]:
    return loaded.recipe.algorithm.loss.model_dump()


@pytest.mark.parametrize("key", ["advantage", "loss"])
def test_the_default_kind_is_the_first(key: str) -> None:
    section = getattr(AlgorithmConfig.model_validate({key: {}}), key)
    assert section.kind == next(iter(kinds(annotation_at(AlgorithmConfig, (key,)))))
    assert section == AlgorithmConfig.model_fields[key].default


def test_a_union_may_be_written_short(load: Load) -> None:
    loaded = load("  advantage: rloo\n  loss: {kind: cispo, ratio_max: 3}\n")
    assert loaded.recipe.algorithm.advantage.kind == "rloo"
    assert loss_of(loaded) == {"kind": "cispo", "ratio_min": 0.0, "ratio_max": 3.0}
    assert loaded.provenance["algorithm.advantage.kind"] == "x.yaml:5"
    assert loaded.provenance["algorithm.loss.ratio_max"] == "x.yaml:6"
    assert loaded.provenance["algorithm.loss.ratio_min"] == "default"


def test_a_mapping_without_kind_is_of_the_default_kind(load: Load) -> None:
    loaded = load("  loss: {clip_high: 0.3}\n")
    assert loss_of(loaded) == {"kind": "clipped", "clip_low": 0.2, "clip_high": 0.3, "dual_clip": 0.0}
    assert loaded.provenance["algorithm.loss.kind"] == "default"


def test_the_resolved_recipe_holds_the_keys_of_its_kind_and_loads_to_an_equal_one(load: Load, tmp_path: Path) -> None:
    loaded = load("  advantage: pass_at_k\n  loss: dppo\n")
    lines = loaded.to_yaml().splitlines()
    assert "    kind: pass_at_k  # x.yaml:5" in lines
    assert "    max_decrease: 0.2  # default" in lines
    assert not any("clip_low" in line for line in lines)
    again = tmp_path / "again.yaml"
    again.write_text(loaded.to_yaml(), encoding="utf-8")
    assert load_recipe(str(again)).recipe == loaded.recipe


@pytest.mark.parametrize("override", ["algorithm.loss=gspo", "algorithm.loss.kind=gspo"])
def test_another_kind_on_the_command_line_drops_what_the_file_wrote_for_its_own(load: Load, override: str) -> None:
    loaded = load("  loss:\n    clip_low: 0.1\n    clip_high: 0.3\n", override)
    assert loss_of(loaded) == {"kind": "gspo", "clip_low": 3e-4, "clip_high": 4e-4}
    assert loaded.provenance["algorithm.loss.kind"] == "command line"
    assert loaded.provenance["algorithm.loss.clip_low"] == "default"


@pytest.mark.parametrize(
    "overrides",
    [
        ("algorithm.loss.kind=gspo", "algorithm.loss.clip_low=1e-3"),
        ("algorithm.loss.clip_low=1e-3", "algorithm.loss.kind=gspo"),
        ("algorithm.loss={kind: gspo, clip_low: 1e-3}",),
    ],
)
def test_the_order_of_kind_and_keys_on_the_command_line_does_not_matter(load: Load, overrides: tuple[str, ...]) -> None:
    loaded = load("  loss: {clip_high: 0.3}\n", *overrides, "algorithm.loss.clip_high=2e-3")
    assert loss_of(loaded) == {"kind": "gspo", "clip_low": 1e-3, "clip_high": 2e-3}


def test_the_same_kind_on_the_command_line_keeps_the_keys_of_the_file(load: Load) -> None:
    loaded = load("  loss: {clip_high: 0.3}\n  advantage: grpo\n", "algorithm.loss=clipped")
    assert loss_of(loaded)["clip_high"] == 0.3


def test_a_key_can_be_set_over_a_short_form(load: Load) -> None:
    loaded = load("  advantage: maxrl\n", "algorithm.advantage.eps=0.5")
    assert loaded.recipe.algorithm.advantage.model_dump() == {"kind": "maxrl", "eps": 0.5}


def test_an_extending_recipe_changes_a_key_or_the_kind(load: Load) -> None:
    Path("base.yaml").write_text(BASE + "  loss: {kind: gspo, clip_low: 1e-3, clip_high: 1e-2}\n", encoding="utf-8")
    Path("y.yaml").write_text("extends: base.yaml\nalgorithm: {loss: {clip_high: 2e-3}}\n")
    same = load_recipe("y.yaml")
    assert loss_of(same) == {"kind": "gspo", "clip_low": 1e-3, "clip_high": 2e-3}
    assert same.provenance["algorithm.loss.clip_low"] == "base.yaml:5"
    Path("y.yaml").write_text("extends: base.yaml\nalgorithm: {loss: clipped}\n")
    other = load_recipe("y.yaml")
    assert loss_of(other)["clip_low"] == 0.2
    assert other.provenance["algorithm.loss.clip_low"] == "default"


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (
            "  loss:\n    clip_hgih: 0.3\n",
            [
                "x.yaml:6: algorithm.loss.clip_hgih: unknown key; did you mean "
                "algorithm.loss.clip_high?"
            ],
        ),
        (
            "  loss:\n    ratio_max: 3\n",
            [
                "x.yaml:6: algorithm.loss.ratio_max: a key of kind cispo, not "
                "of kind clipped (the default); remove it, or set algorithm.loss.kind=cispo"
                ],
        ),
        (
            "  loss: {kind: sapo, clip_low: 0.1}\n",
            [
                "x.yaml:5: algorithm.loss.clip_low: a key of kinds clipped and gspo, "
                "not of kind sapo; remove it, or set algorithm.loss.kind=clipped or gspo"
            ],
        ),
        (
            "  loss: {ratio_mx: 3}\n",
            [
                "x.yaml:5: algorithm.loss.ratio_mx: unknown key; did you mean "
                "algorithm.loss.ratio_max, a key of kind cispo?"
            ],
        ),
        (
            "  loss: {kind: gspo, zzzz: 3}\n",
            [
                "x.yaml:5: algorithm.loss.zzzz: unknown key; algorithm.loss of kind gspo has "
                "the keys kind, clip_low, clip_high"
            ],
        ),
        (
            "  loss:\n    kind: gsop\n    clip_low: x\n",
            [
                f"x.yaml:6: algorithm.loss.kind: must be one of {LOSSES}; did you mean 'gspo'? "
                "(got 'gsop')"
            ],
        ),
        (
            "  loss: cisop\n",
            [
                f"x.yaml:5: algorithm.loss.kind: must be one of {LOSSES}; did you mean 'cispo'? "
                "(got 'cisop')"
            ],
        ),
        ("  loss: {kind: 3}\n", [f"x.yaml:5: algorithm.loss.kind: must be one of {LOSSES} (got 3)"]),
        (
            "  loss: 3\n",
            ["x.yaml:5: algorithm.loss: must be a kind or a mapping (`key: value` lines) (got 3)"],
        ),
        (
            "  loss:\n",
            ["x.yaml:5: algorithm.loss: the section is empty; remove the line or put keys below it"],
        ),
        (
            "  loss: {clip_low: wide}\n",
            ["x.yaml:5: algorithm.loss.clip_low: must be a number (got 'wide')"],
        ),
        (
            "  loss: {clipped: 3}\n",
            [
                "x.yaml:5: algorithm.loss.clipped: unknown key; algorithm.loss has the keys kind, clip_low, "
                "clip_high, dual_clip"
            ],
        ),
        (
            "  loss:\n    clip_low: 0.2\n    dual_clip: 1.1\n",
            [
                "x.yaml:7: algorithm.loss.dual_clip=1.1 is not above 1 + clip_high; 3 is usual, 0 "
                "turns it off"
            ],
        ),
        (
            "  correction: {ratio_base: behavior,\n    weight: token}\n",
            [
                "x.yaml:6: algorithm.correction.weight=token with ratio_base=behavior corrects "
                "twice: that ratio already contains the mismatch; use ratio_base=proximal"
            ],
        ),
        (
            "  loss: {kind: gspo, clip_low: 4e-4, clip_high: 3e-4}\n",
            [
                "x.yaml:5: algorithm.loss.clip_high=0.0003 is below clip_low=0.0004; GSPO "
                "clips at 4e-4 above and 3e-4 below"
            ],
        ),
    ],
)  # fmt: skip
def test_a_problem_inside_a_union_names_the_key_as_it_is_written(load: Load, text: str, messages: list[str]) -> None:
    assert fault(load, text) == messages


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algorithm.advantage=rlo", "algorithm.advantage.kind: must be one of 'grpo', 'dr_grpo', "
         "'rloo', 'batch_norm', 'maxrl', 'gdpo' or 'pass_at_k', or package.module:function; did you mean 'rloo'?"),
        ("algorithm.loss.kind=sappo", f"must be one of {LOSSES}; did you mean 'sapo'?"),
        ("algorithm.loss.ratio_max=3", "a key of kind cispo, not of kind clipped (the default); "
         "remove it, or set algorithm.loss.kind=cispo"),
        ("algorithm.loss=null", "the section is empty; remove the line or put keys below it"),
        ("algorithm.loss=", f"algorithm.loss.kind: must be one of {LOSSES}"),
        ("clip_low=0.1", "unknown key; did you mean algorithm.loss.clip_low?"),
        ("kind=gspo", "unknown key; did you mean rollout.engine.kind or algorithm.advantage.kind or "
         "algorithm.loss.kind?"),
        ("algorithm.los.kind=gspo", "algorithm.los: unknown key; did you mean "
         "algorithm.loss.kind?"),
    ],
)  # fmt: skip
def test_a_wrong_override_of_a_union_is_explained(load: Load, override: str, message: str) -> None:
    assert fault(load, "  kl_coef: 0.1\n", override) == [f"command line: {override}: {message}"]
