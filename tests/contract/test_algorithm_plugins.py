"""A loss and an advantage of a package outside rlvr: their contracts, their recipes, and a run with both."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from rlvr.algorithms.advantages import GroupRewards
from rlvr.algorithms.build import build_advantage, build_loss
from rlvr.algorithms.token_losses import TokenInputs, TokenLoss, policy_gradient
from rlvr.config.load import load_recipe
from rlvr.contracts import check_advantage, check_loss
from rlvr.errors import ConfigError, PluginError
from rlvr.registry import LOSSES, build_function
from tests.e2e.in_process import rlvr_here

OUTSIDE = Path(__file__).parent / "outside"
SMOOTH = [[-1.0, -1.4608, -0.5831], [1.0, 0.5831, 1.4608]]  # 1 + .5 tanh(2 (r - 1)), r = 1, 1.8, .4
BEST = [([1.0, 0.0, 0.0], [0.6667, -0.3333, -0.3333]), ([None, 1.0, 0.5], [None, 0.25, -0.25])]


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is installed."""
    monkeypatch.syspath_prepend(str(OUTSIDE))


def test_a_sound_loss_keeps_its_contract() -> None:
    from rlvr_outside import smooth_clip  # type: ignore[import-not-found]

    assert check_loss(smooth_clip, expected=SMOOTH) == []
    [problem] = check_loss(smooth_clip, expected=SMOOTH, settings={"width": 0.1})
    assert problem.startswith("the worked example gives")


def test_the_losses_of_rlvr_keep_the_contract() -> None:
    rows = [[0.6931, 0.1054, 1.6094], [-0.6931, -1.6094, -0.1054]]
    assert check_loss(policy_gradient, expected=rows) == []


def _out(inputs: TokenInputs, loss: torch.Tensor) -> TokenLoss:
    nowhere = torch.zeros_like(inputs.loss_mask)
    return TokenLoss(loss=loss, cut_low=nowhere, cut_high=nowhere)


def _unclamped(inputs: TokenInputs) -> TokenLoss:
    ratio = torch.exp((inputs.logprobs - inputs.base_logprobs) * 10)
    return _out(inputs, -ratio * inputs.advantages)


def _whitened(inputs: TokenInputs) -> TokenLoss:
    advantages = inputs.advantages - inputs.advantages.mean()
    return _out(inputs, -advantages * inputs.logprobs)


def _constant(inputs: TokenInputs) -> TokenLoss:
    return _out(inputs, -inputs.logprobs)


_constant.is_scaled_by_advantage = True  # type: ignore[attr-defined] # a claim that is wrong


@pytest.mark.parametrize(
    ("loss", "problem"),
    [
        (_unclamped, "gives a loss or a gradient that is not finite; clamp it"),
        (_whitened, "values outside the mask change the loss"),
        (_constant, "is_scaled_by_advantage is True, but"),
        (lambda inputs: inputs.logprobs, "it returns Tensor and not a TokenLoss"),
        (lambda inputs: 1 / 0, "the worked example: raised ZeroDivisionError"),
    ],
)
def test_what_a_loss_breaks_is_named(loss: object, problem: str) -> None:
    found = check_loss(loss, expected=SMOOTH)  # type: ignore[arg-type] # what an author may write
    assert any(problem in line for line in found), found


def test_a_sound_advantage_keeps_its_contract() -> None:
    from rlvr_outside import best_of_group  # type: ignore[import-not-found]

    assert check_advantage(best_of_group, expected=BEST, is_per_group=True) == []


def _paid_unjudged(groups: Sequence[GroupRewards]) -> list[list[float | None]]:
    return [[(r or 0.0) - 0.5 for r in group.rewards_G] for group in groups]


def _by_place(groups: Sequence[GroupRewards]) -> list[list[float | None]]:
    return [[None if r is None else r * place for place, r in enumerate(group.rewards_G)] for group in groups]


@pytest.mark.parametrize(
    ("advantage", "problem"),
    [
        (_paid_unjudged, "an unjudged rollout has an advantage"),
        (_by_place, "the order of rollouts or of groups changes"),
        (_by_place, "a step of equal rewards must give exactly 0"),
        (lambda groups: [], "it must return one list for each of 5 groups"),
        (lambda groups: 1 / 0, "raised ZeroDivisionError"),
    ],
)
def test_what_an_advantage_breaks_is_named(advantage: object, problem: str) -> None:
    found = check_advantage(advantage, expected=BEST)  # type: ignore[arg-type] # what an author may write
    assert any(problem in line for line in found), found


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm.loss={kind: smooth_clip, width: 0.25}"],
        ["algorithm.loss=rlvr_outside:smooth_clip", "algorithm.loss.width=0.25"],
        ["algorithm.preset=dapo", "algorithm.loss.kind=smooth_clip", "algorithm.loss.width=0.25"],
        ["algorithm.loss={kind: plugin, name: smooth_clip, settings: {width: 0.25}}"],
    ],
)
def test_a_recipe_names_a_loss_by_its_kind(overrides: list[str]) -> None:
    loaded = load_recipe("tiny", overrides)
    loss = loaded.recipe.algorithm.loss
    assert (loss.kind, loss.settings) == ("plugin", {"width": 0.25})  # type: ignore[union-attr]
    assert loaded.provenance["algorithm.loss.settings.width"] == "command line"
    built = build_loss(loaded.recipe.algorithm, max_completion_tokens=4, uses_proximal=True)
    assert built.is_zero_without_advantage
    again = load_recipe("tiny", ["algorithm.loss=" + loss.model_dump_json()])
    assert again.recipe.algorithm.loss == loss


def test_a_recipe_names_an_advantage_by_its_kind() -> None:
    overrides = ["algorithm.advantage={kind: best_of_group, scale: 2.0, whole_batch: false}"]
    advantage = load_recipe("tiny", overrides).recipe.algorithm.advantage
    assert (advantage.is_per_group, advantage.min_judged) == (True, 2)
    group = GroupRewards(rewards_G=[1.0, 0.0], parts_G=[{}, {}], weights={}, num_tokens_G=[1, 1])
    assert build_advantage(advantage)([group]) == [[1.0, -1.0]]


def test_bad_settings_and_names_are_errors_that_say_what_is_known() -> None:
    with pytest.raises(
        PluginError, match=r"settings of loss 'smooth_clip' \(rlvr-outside 1.0.*widht.*Its settings: width"
    ):
        build_function(LOSSES, "smooth_clip", {"widht": 1.0})
    with pytest.raises(PluginError, match=r"'rlvr_outside:nope' .module.* failed to load: AttributeError"):
        build_function(LOSSES, "rlvr_outside:nope", {})
    with pytest.raises(ConfigError, match=r"must be one of 'clipped'.*or package.module:function"):
        load_recipe("tiny", ["algorithm.loss=smoth_clip"])


def test_a_run_trains_with_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(OUTSIDE), os.environ.get("PYTHONPATH", "")]))
    both = ["algorithm.loss=smooth_clip", "algorithm.advantage=best_of_group"]
    short = ["run.steps=2", "cold_start.steps=0", "run.eval_every_steps=0", "run.eval_prompts=20", "run.trackers=[]"]
    rlvr_here("train", "tiny", *both, *short, "--run-dir", "run", cwd=tmp_path)
    assert "kind: plugin" in (tmp_path / "run" / "recipe.yaml").read_text(encoding="utf-8")
