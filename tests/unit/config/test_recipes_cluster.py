"""The overrides that recipes/README.md names for clusters resolve with each recipe that it names them for."""

import re

import pytest

from rlvr.config.document.packaged import recipe_folder
from rlvr.config.load import load_recipe
from rlvr.config.recipe import Backend, EngineKind, Placement

RECIPES = ["smollm2-gsm8k", "r1-zero-qwen2.5-1.5b-gsm8k", "r1-zero-qwen2.5-3b-countdown", "code-mbpp"]
ASYNC = "scalerl-qwen2.5-1.5b-gsm8k"


def override_rows() -> dict[str, list[str]]:
    text = (recipe_folder() / "README.md").read_text(encoding="utf-8")
    section = text.partition("## From one machine to a cluster")[2].partition("\n## ")[0]
    return {where: keys.split() for where, keys in re.findall(r"^\| ([^|]+) \| `([^`]+)` \|$", section, re.M)}


ROWS = override_rows()


def test_the_table_has_its_rows():
    assert len(ROWS) == 5


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("where", ROWS)
def test_the_overrides_resolve(name: str, where: str):
    recipe = load_recipe(name, ROWS[where]).recipe
    assert recipe.cluster.backend is Backend.RAY
    assert recipe.rollout.engine is EngineKind.VLLM


def test_the_asynchronous_recipe_takes_those_without_staleness_of_their_own():
    taken = [
        where
        for where, keys in ROWS.items()
        if not any(k.startswith(("rollout.max_staleness", "cluster.placement")) for k in keys)
    ]
    assert len(taken) == 3
    for where in taken:
        assert load_recipe(ASYNC, ROWS[where]).recipe.rollout.max_staleness == 8


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("quickstart-cluster", "quickstart"),
        ("r1-zero-qwen2.5-1.5b-gsm8k-colocated", "r1-zero-qwen2.5-1.5b-gsm8k"),
        ("r1-zero-qwen2.5-3b-countdown-node", "r1-zero-qwen2.5-3b-countdown"),
    ],
)
def test_a_cluster_recipe_trains_what_its_base_trains(name: str, base: str):
    cluster, local = load_recipe(name).recipe, load_recipe(base).recipe
    assert cluster.data.train == local.data.train
    assert cluster.data.eval == local.data.eval
    assert cluster.model == local.model
    assert cluster.learner.lr == local.learner.lr
    assert cluster.run == local.run


def test_the_cluster_quickstart_fits_two_cores():
    recipe = load_recipe("quickstart-cluster").recipe
    assert 1 + recipe.cluster.engines * recipe.cluster.cpus_per_engine <= 2
    assert recipe.cluster.placement is Placement.DISAGGREGATED
