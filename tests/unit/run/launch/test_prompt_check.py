"""What is checked of prompts before weights are loaded, and what `--dry-run` shows of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlvr.commands.dry_run import dry_run
from rlvr.config.load import load_recipe
from rlvr.config.recipe import Recipe
from rlvr.config.sections.model import ModelConfig
from rlvr.errors import ConfigError, DataError
from rlvr.models.policy import build_tiny, end_token_ids, load_tokenizer
from rlvr.records import Check, Prompt
from rlvr.run.launch.preflight import opened
from rlvr.run.launch.prompt_check import check_prompts, sample_text
from rlvr.run.launch.run import prompt_limit

CLOSED = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CLOSED


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a config and a tokenizer whose template closes turns with a token that ends nothing."""
    tiny = load_recipe("tiny").recipe.model.tiny
    assert tiny is not None
    policy = build_tiny(tiny, seed=0)
    policy.tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    policy.tokenizer.chat_template = CLOSED
    policy.model.config.save_pretrained(tmp_path / "model")
    policy.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def recipe_of(model: Path, rows: list[dict[str, Any]], *overrides: str) -> Recipe:
    changes = [f"model.path={model}", "model.tiny=null"]
    for part in ("train", "eval"):
        data = model.parent / f"{part}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        changes.append(f"data.{part}=[{{source: '{data}', name: rows, verifier: text_match}}]")
    return load_recipe("tiny", [*changes, "cold_start.steps=0", *overrides]).recipe


ROWS = [{"prompt": "1", "reference": "2", "level": 3}]


def notes_of(recipe: Recipe) -> tuple[str, ...]:
    with opened(recipe) as (_, data):
        return check_prompts(recipe, data).notes


def test_turns_that_close_with_no_end_token_cause_a_warning_with_the_key(model: Path) -> None:
    tokenizer = load_tokenizer(ModelConfig(path=str(model)))
    closing = tokenizer.convert_tokens_to_ids("<|im_end|>")
    (note,) = notes_of(recipe_of(model, ROWS))
    assert "closes a turn with '<|im_end|>', which is not an end token" in note
    assert note.endswith(f"set rollout.stop_token_ids=[{closing}]")
    for key in (f"rollout.stop_token_ids=[{closing}]", "rollout.stop_strings=['<|im_end|>']"):
        assert notes_of(recipe_of(model, ROWS, key)) == ()
    config = model / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": [2, closing]}))
    assert notes_of(recipe_of(model, ROWS)) == ()


def test_end_tokens_are_those_of_the_loaded_policy(model: Path) -> None:
    config = ModelConfig(path=str(model))
    tokenizer = load_tokenizer(config)
    assert end_token_ids(config, tokenizer) == (2,)
    (model / "generation_config.json").write_text('{"eos_token_id": [2, 5]}')
    assert set(end_token_ids(config, tokenizer)) == {2, 5}
    tiny = load_recipe("tiny").recipe.model
    assert tiny.tiny is not None
    policy = build_tiny(tiny.tiny, seed=0)
    assert end_token_ids(tiny, policy.tokenizer) == policy.stop_token_ids


def test_a_stop_token_outside_of_the_vocabulary_is_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"stop_token_ids: 999 are not tokens of this model"):
        notes_of(recipe_of(model, ROWS, "rollout.stop_token_ids=[3, 999]"))


def test_an_empty_stop_string_is_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"rollout\.stop_strings"):
        recipe_of(model, ROWS, "rollout.stop_strings=['']")


def test_template_arguments_that_no_template_reads_cause_a_warning(model: Path) -> None:
    key = "data.train.0.chat_template_kwargs={enable_thinking: false, add_generation: 1}"
    found = [note for note in notes_of(recipe_of(model, ROWS, key)) if "kwargs" in note]
    assert len(found) == 2
    assert "data.eval.0.chat_template_kwargs={} is not what training uses" in found[1]
    assert "data.train.0.chat_template_kwargs" in found[0]
    assert "never reads enable_thinking, add_generation, so" in found[0]


def test_a_row_whose_roles_the_template_refuses_is_found_wherever_it_is(model: Path) -> None:
    file = model / "chat_template.jinja"
    assert file.is_file()
    file.write_text(NO_SYSTEM)
    turns = [{"role": "system", "content": "1"}, {"role": "user", "content": "2"}]
    rows = [*ROWS * 40, {"prompt": turns, "reference": "1"}]
    with pytest.raises(DataError, match=r"prompt 'rows/40' \(turns: system, user\).*no system"):
        notes_of(recipe_of(model, rows))


def test_a_dry_run_shows_a_prompt_of_each_source_with_its_reference_and_checks(model: Path) -> None:
    tried = dry_run(recipe_of(model, ROWS, "data.eval.0.prompt_format='{prompt}+{level}'"))
    train, held_out = tried.prompts
    assert train.splitlines() == [
        "prompt rows/0 of data.train.0, as the policy sees it:",
        "  | <|user|>1<|im_end|><|assistant|>",
        '  reference: "2"',
        "  check text_match: text_match (reward, weight 1)",
        "  tags: level",
    ]
    assert "of data.eval.0" in held_out
    assert "<|user|>1+3<|im_end|>" in held_out
    assert len(tried.notes) == 1


def test_a_long_prompt_is_shown_by_its_beginning_and_its_end() -> None:
    check = Check(name="main", verifier="text_match", reference="r" * 1000)
    prompt = Prompt(prompt_id="p", text="?", checks=(check,), source="s")
    shown = sample_text("data.train.0", prompt, "begin " + "x" * 100_000 + " end")
    assert len(shown) < 5000
    assert "| begin x" in shown
    assert "[... 96,010 characters ...]" in shown
    assert "x end\n" in shown


def test_a_dry_run_without_a_tokenizer_says_what_was_not_checked(model: Path) -> None:
    for file in model.glob("*token*"):
        file.unlink()
    tried = dry_run(recipe_of(model, ROWS))
    assert tried.prompts == ()
    assert "prompts were not rendered" in tried.notes[0]
    assert tried.rows


def test_the_advice_on_length_names_the_limit_that_binds() -> None:
    recipe = load_recipe("tiny", ["rollout.max_completion_tokens=250"]).recipe
    assert recipe.model.tiny is not None
    text = build_tiny(recipe.model.tiny, seed=0).text
    limit = prompt_limit(text=text, recipe=recipe)
    assert "256 positions, of which rollout.max_completion_tokens=250 leaves 6" in limit.advice
    short = load_recipe("tiny", ["data.max_prompt_tokens=5"]).recipe
    assert "raise data.max_prompt_tokens" in prompt_limit(text=text, recipe=short).advice
    none_left = load_recipe("tiny", ["rollout.max_completion_tokens=256"]).recipe
    with pytest.raises(ConfigError, match=r"leaves 0 for the prompt; lower rollout\.max_completion"):
        prompt_limit(text=text, recipe=none_left)


def test_an_evaluation_on_the_training_rows_is_warned_of(model: Path) -> None:
    same = f"data.eval.0.source={model.parent / 'train.jsonl'}"
    (note,) = (note for note in notes_of(recipe_of(model, ROWS, same)) if "same rows" in note)
    assert note.startswith("warning: data.eval.0 reads the same rows as data.train.0")
    assert not any("same rows" in note for note in notes_of(recipe_of(model, ROWS)))


def test_a_prompt_that_is_its_reference_is_warned_of(model: Path) -> None:
    (note,) = (
        note for note in notes_of(recipe_of(model, ROWS, "data.train.0.columns.prompt=reference")) if "shown" in note
    )
    assert note.startswith("warning: data.train.0: prompt and reference are one column, 'reference'")
