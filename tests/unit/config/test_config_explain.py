"""`rlvr recipes explain`: the meaning, values and default of every key, and whether it may change on resume."""

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from rlvr.config.document.paths import key_paths, may_change_on_resume, sections_in
from rlvr.config.explain import explain, meaning
from rlvr.config.messages.meanings import MEANINGS
from rlvr.config.recipe import Recipe
from rlvr.errors import ConfigError
from tests.unit.config.recipe_cases import leaf_paths

CHANGEABLE = (
    "run.", "description", "cluster.", "reward.verifier_workers", "reward.verifier_deadline_s", "sandbox.",
    "reward.max_error_rate", "rollout.max_batch_rows", "learner.device", "learner.micro_batch_tokens",
    "algorithm.governor.", "learner.num_threads", "learner.gradient_checkpointing", "learner.share_prompt_prefix",
    "learner.layout", "learner.logits_memory_mb", "learner.compile", "learner.kernels",
)  # fmt: skip


def _sections(section: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield section
    for field in section.model_fields.values():
        kind: Any = field.annotation
        for inner in (kind, *get_args(kind)):
            for below in sections_in(inner):
                yield from _sections(below)


def test_every_key_means_something() -> None:
    silent = {
        f"{section.__name__}.{name}"
        for section in _sections(Recipe)
        for name, field in section.model_fields.items()
        if not sections_in(field.annotation)
        and not any(sections_in(inner) for inner in get_args(field.annotation))
        and not meaning(section, name)
    }
    assert not silent, "add `key: what it means` to the section's docstring"


def test_the_table_has_no_removed_key_and_none_that_its_docstring_explains() -> None:
    sections = {section.__name__: section for section in _sections(Recipe)}
    for key, text in MEANINGS.items():
        name, _, field = key.partition(".")
        assert field in sections[name].model_fields, key
        assert meaning(sections[name], field) == text, key


@pytest.mark.parametrize("key", key_paths(Recipe))
def test_every_path_is_explained(key: str) -> None:
    rows = explain(key)
    assert rows
    assert all(name for name, _, _ in rows)


def test_positions_and_names_may_be_written_out() -> None:
    written = explain("data.train.0.checks.mine.role")
    assert written == explain("data.train.N.checks.NAME.role")
    assert "gate: a failure sets the reward to 0" in written[0][1]
    assert written[1][1] == "reward | gate | shadow"
    assert explain("rollout.group_size")[1:] == [
        ("value", "whole number, at least 1, at most 1,000,000,000", ""),
        ("default", "8", ""),
        ("on resume", "must stay the same", ""),
    ]


def test_the_keys_that_may_change_on_resume_decide_how_long_how_often_and_how_fast() -> None:
    leaves = leaf_paths(Recipe)
    changeable = {path for path in leaves if may_change_on_resume(Recipe, tuple(path.split(".")))}
    assert changeable == {path for path in leaves if path.startswith(CHANGEABLE)}
    assert explain("run.steps")[-1] == ("on resume", "may change", "")


def test_an_entry_of_a_docstring_ends_where_the_next_begins() -> None:
    assert explain("data.train.0.limit")[0][1] == "number of rows to use (0 = all)."
    assert explain("cluster.sync_deadline_s")[0][1].startswith("longest wait for an actor to start")


def test_kinds_are_distinguished() -> None:
    names = [name for name, _, _ in explain("algorithm.loss")]
    assert "algorithm.loss.clip_low (clipped)" in names
    assert "algorithm.loss.clip_low (gspo)" in names


def test_a_kind_lists_the_built_in_ones_and_how_to_name_another() -> None:
    forms = "transformers | vllm | toy | package.module:Class | path/file.py:Class"
    for key in ("rollout.engine", "rollout.engine.kind"):
        assert ("value", forms, "") in explain(key)
        assert ("default", "transformers", "") in explain(key)
    assert ("value", "gspo", "") in explain("algorithm.loss.kind")


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("rollout.temprature", "did you mean rollout.temperature"),
        ("num_generations", "did you mean rollout.group_size"),
        ("qqq.zzz", "lists the sections"),
    ],
)
def test_an_unknown_key_gets_a_hint(key: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        explain(key)
