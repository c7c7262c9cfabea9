"""The counts that follow from a recipe."""

import pytest

from rlvr.config.derived import derived_table, due_steps, speed_rows
from rlvr.config.recipe import Recipe

SOURCE = {"source": "generator:sums", "verifier": "text_match"}


def rows(**sections: object) -> dict[str, tuple[str, str]]:
    recipe = Recipe.model_validate({"name": "x", "model": {"tiny": {}}, "data": {"train": [SOURCE]}, **sections})
    return {quantity: (value, how) for quantity, value, how in derived_table(recipe)}


def test_the_counts_of_a_step() -> None:
    table = rows(
        rollout={"prompts_per_step": 6, "group_size": 8, "max_completion_tokens": 12},
        learner={"minibatches_per_step": 3},
        run={"steps": 32},
    )
    assert table["completions per step"] == ("48", "6 prompts x 8 each")
    assert table["prompts per minibatch"] == ("2", "6 prompts in 3 minibatches")
    assert table["completions per minibatch"] == ("16", "2 prompts x 8 each")
    assert table["optimiser steps per training step"] == ("3", "one per minibatch")
    assert table["total prompts"] == ("192", "32 steps x 6")
    assert table["total completions"] == ("1,536", "32 steps x 48")
    assert table["max completion tokens per step"] == ("576", "48 completions x 12 tokens")
    assert table["cold-start steps"] == ("0", "none")


def test_evaluations_run_before_during_and_after_training() -> None:
    data = {"train": [SOURCE], "eval": [SOURCE]}
    table = rows(data=data, run={"steps": 32, "eval_every_steps": 10})
    assert table["evaluations at steps"] == ("0, 10, 20, 30, 32", "before training, every 10 and at the last step")


def test_without_eval_sources_nothing_is_evaluated() -> None:
    assert rows()["evaluations at steps"] == ("none", "data.eval is empty")


def test_the_last_step_saves_even_when_the_interval_is_never() -> None:
    table = rows(run={"steps": 32, "checkpoint_every_steps": 0})
    assert table["checkpoints at steps"] == ("32", "at the last step")


def test_many_steps_are_shortened() -> None:
    table = rows(run={"steps": 100, "checkpoint_every_steps": 5})
    assert table["checkpoints at steps"] == ("5, 10, 15, ..., 100 (20 in all)", "every 5 and at the last step")


def test_a_cold_start_is_counted_in_steps() -> None:
    table = rows(cold_start={"steps": 350, "batch_size": 64})
    assert table["cold-start steps"] == ("350", "64 demonstrations each")


def test_settings_of_speed_are_shown_as_they_are_on_the_device() -> None:
    recipe = Recipe.model_validate({"name": "x", "model": {"tiny": {}}, "data": {"train": [SOURCE]}})
    found = {name: (value, how) for name, value, how in speed_rows(recipe, device="cuda")}
    assert found["logits held at once"] == ("2,048 MiB", "in float32, by the LM head; the default on cuda")
    assert found["kernels"] == ("torch, eager layers", "learner.kernels, learner.compile")
    (first, _) = speed_rows(recipe, device="cpu")
    assert first[1] == "512 MiB"


def test_what_is_not_on_by_default_has_no_row() -> None:
    assert not set(rows()) & {"preset", "adapters", "learners", "completions in flight", "groups per step at most"}


def test_staleness_bounds_the_completions_in_flight() -> None:
    rollout = {"max_staleness": 2, "engine_dtype": "float32", "prompts_per_step": 6}
    algorithm = {"correction": {"weight": "token"}}
    assert rows(rollout=rollout, algorithm=algorithm)["completions in flight"] == (
        "144",  # (2 + 1) * 6 * 8
        "at most 3 steps' worth, up to 2 versions old",
    )


def test_replacements_bound_the_groups_of_a_step() -> None:
    algorithm = {"dynamic_sampling": {"enabled": True, "max_refill_factor": 1.3}}
    table = rows(algorithm=algorithm, rollout={"prompts_per_step": 6})
    assert table["groups per step at most"] == (
        "13",  # 6 + floor(1.3 * 6)
        "6 prompts and 7 replacements of groups without a signal",
    )


def test_preset_adapters_and_learners_have_a_row_when_they_are_on() -> None:
    table = rows(
        algorithm={"preset": "dapo"},
        model={"tiny": {}, "lora": {"rank": 16, "target_modules": ["q_proj", "v_proj"]}},
        cluster={"learners": 4},
        learner={"minibatches_per_step": 2},
    )
    assert table["preset"] == ("dapo", "DAPO, arXiv:2503.14476")
    assert table["adapters"] == ("rank 16", "alpha 32, on q_proj, v_proj")
    # 8 prompts / 2 minibatches * 8 completions / 4 learners
    assert table["learners"] == ("4", "about 8 completions of each minibatch per learner")


@pytest.mark.parametrize(
    ("steps", "every", "due"), [(10, 4, (4, 8, 10)), (8, 4, (4, 8)), (3, 5, (3,)), (3, 0, (3,)), (1, 1, (1,))]
)
def test_due_steps_include_the_last(steps: int, every: int, due: tuple[int, ...]) -> None:
    assert due_steps(steps, every=every) == due
