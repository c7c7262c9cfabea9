"""The data of a run: each file is read once; order, evaluations and digests are as if it was read for each purpose."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rlvr.data.files
from rlvr.config.load import load_recipe
from rlvr.config.recipe import Recipe
from rlvr.data.load import open_eval, open_train
from rlvr.data.order import PromptStream
from rlvr.records import Prompt
from rlvr.run.launch.preflight import PromptLimit, opened
from rlvr.run.record.inputs import input_digests

NUM_ROWS = 12
SOURCE = {"source": "rows.jsonl", "verifier": "text_match"}
# Recorded when every source was opened anew for each purpose.
ORDER = "a/6 b/2 a/4 b/0 a/0 b/2 a/7 b/0 a/2 b/2 a/3 b/0 a/2 b/2 a/0 b/0 a/7 b/0 a/4 b/2 a/3 b/0 a/6 b/2".split()  # noqa: SIM905
EVALS = {"c": ["c/0", "c/2", "c/3", "c/4"], "d": ["d/0", "d/2", "d/3", "d/4"], "e": ["e/0", "e/2", "e/3", "e/4"]}
DIGESTS = {
    "data.train.0 (rows.jsonl)": "8 rows, sha256 c1a5f8d32dc5248f",
    "data.train.1 (other.jsonl)": "3 rows, sha256 a9d9c2224edf0f16",
    "data.eval.0 (rows.jsonl)": "12 rows, sha256 ddfb71881c81ded6",
    "data.eval.1 (rows.jsonl)": "8 rows, sha256 c1a5f8d32dc5248f",
    "data.eval.2 (rows.jsonl)": "12 rows, sha256 3586595e55ced7bb",
}


@pytest.fixture(autouse=True)
def _rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        {"prompt": f"q{i % 9}{'!' * (40 if i % 4 == 1 else 0)}", "reference": str(i % 9), "n": i}
        for i in range(NUM_ROWS)
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))


@pytest.fixture
def num_opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was opened."""
    found: Counter[str] = Counter()
    real = rlvr.data.files.open_text

    def counted(path: Path, **how: Any) -> Any:
        found[path.name] += 1
        return real(path, **how)

    monkeypatch.setattr(rlvr.data.files, "open_text", counted)
    return found


def recipe_of(train: list[dict[str, Any]], evals: list[dict[str, Any]]) -> Recipe:
    changes = [
        f"data.train={json.dumps(train)}",
        f"data.eval={json.dumps(evals)}",
        "cold_start.steps=0",
        "run.eval_prompts=4",
    ]
    return load_recipe("tiny", changes).recipe


def mixed() -> Recipe:
    """One file under four sources, which share all of its rows, the first ones, and none as they are mapped."""
    train = [SOURCE | {"name": "a", "limit": 8}, SOURCE | {"name": "b", "source": "other.jsonl"}]
    evals = [
        SOURCE | {"name": "c"},
        SOURCE | {"name": "d", "limit": 8, "prompt_format": "{prompt} {n}"},
        SOURCE | {"name": "e", "columns": {"prompt": "prompt", "reference": "n", "id": "n"}},
    ]
    return recipe_of(train, evals)


def is_too_long(prompt: Prompt) -> bool:
    return len(prompt.messages[-1].content) > 40


def taken(stream: PromptStream, count: int) -> Iterator[str]:
    for _ in range(count):
        issue = stream.take()
        stream.settle(issue.index)
        yield issue.prompt.prompt_id


def test_each_file_is_opened_once_for_all_sources_and_purposes(num_opened: Counter[str]) -> None:
    with opened(mixed()) as (_, data):
        input_digests(mixed(), opener=data.opener)
        data.limit_prompts(PromptLimit(is_too_long=is_too_long))
        data.limit_prompts(PromptLimit(is_too_long=is_too_long))  # a learner was lost
    assert num_opened == {"rows.jsonl": 1, "other.jsonl": 1}


def test_order_evaluations_and_digests_are_the_recorded_ones() -> None:
    recipe = mixed()
    with opened(recipe) as (_, data):
        digests = input_digests(recipe, opener=data.opener)
        data.limit_prompts(PromptLimit(is_too_long=is_too_long))
    assert list(taken(data.stream, len(ORDER))) == ORDER
    assert {name: [p.prompt_id for p in found] for name, found in data.evals.items()} == EVALS
    assert {key: value for key, value in digests.items() if key.startswith("data")} == DIGESTS


def test_sources_opened_together_are_those_opened_alone() -> None:
    recipe = mixed()
    with opened(recipe) as (_, data):
        data.limit_prompts(PromptLimit(is_too_long=is_too_long))
    stream = open_train(recipe.data, seed=recipe.seed, is_too_long=is_too_long)
    evals = open_eval(recipe.data, 4, seed=recipe.seed, is_too_long=is_too_long)
    assert list(taken(data.stream, 30)) == list(taken(stream, 30))
    assert data.stream.state() == stream.state()
    assert data.evals == evals
    assert (data.evals.places, data.evals.num_too_long) == (evals.places, evals.num_too_long)
    assert input_digests(recipe, opener=data.opener) == input_digests(recipe)


def test_rows_as_they_were_read_are_kept_no_longer_than_needed() -> None:
    with opened(mixed()) as (_, data):
        assert data.opener is not None
        assert data.opener._reader._raw == {}
        train, same = (data.opener.open(s) for s in (mixed().data.train[0], mixed().data.eval[1]))
    assert train.rows is same.rows
