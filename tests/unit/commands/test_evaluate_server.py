"""`rlvr eval --server`, from the command line's function to figures, against a server on the loopback interface."""

import json
from pathlib import Path

import pytest

from rlvr.commands.evaluate import evaluate_model
from rlvr.commands.evaluate_server import ServerChoice, server_choice
from rlvr.config.recipe import TinyModel
from rlvr.errors import ConfigError
from rlvr.models.export import export_policy
from rlvr.models.policy import build_tiny
from tests.unit.rollout.loopback_server import loopback

RECIPE = """
name: sums
model: {path: placeholder}
data:
  train:
    - source: FILE
      template: plain
      verifier: text_match
      verifier_settings: {mode: exact}
  eval:
    - source: FILE
      name: sums
      template: plain
      verifier: text_match
      verifier_settings: {mode: exact}
rollout: {max_completion_tokens: 8}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rows = tmp_path / "rows.jsonl"
    pairs = [("2+2=", "4"), ("1+3=", "4"), ("0+4=", "4"), ("2+3=", "5"), ("1" * 70, "4")]
    rows.write_text("".join(json.dumps({"prompt": p, "reference": r}) + "\n" for p, r in pairs))
    path = tmp_path / "sums.yaml"
    path.write_text(RECIPE.replace("FILE", str(rows)))
    return path


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A folder with a policy; its weights are spoilt, because none may be read."""
    tiny = TinyModel(layers=1, hidden_size=16, heads=2, characters="0123456789+=", max_positions=256)
    folder = tmp_path / "model"
    export_policy(build_tiny(tiny, seed=0), folder)
    for file in folder.glob("*.safetensors"):
        file.write_bytes(b"none")
    return str(folder)


def test_figures_come_from_the_servers_answers(recipe: Path, model: str, tmp_path: Path):
    output = tmp_path / "rollouts.jsonl"
    with loopback(answer="4", models=("served",)) as server:
        rows = evaluate_model(
            model,
            recipe=str(recipe),
            prompts=None,
            overrides=[],
            samples_per_prompt=1,
            output=output,
            server=ServerChoice(url=server.url),
        )
    figures = {name: value for name, value, _ in rows}
    # The fifth prompt is longer than the 64 positions of the server, though not than the model's 256.
    assert figures["eval/sums/num_prompts"] == "4"
    assert figures["eval/sums/pass@1"] == "0.75"
    assert server.requests[-1]["model"] == "served"
    assert server.requests[-1]["temperature"] == 0.0
    texts = [json.loads(line)["completion"] for line in output.read_text().splitlines()]
    assert texts == ["4"] * 4


def test_several_samples_a_prompt_are_drawn_at_the_recipes_temperature(recipe: Path, model: str):
    with loopback(answer="4") as server:
        rows = evaluate_model(
            model,
            recipe=str(recipe),
            prompts=None,
            overrides=["rollout.temperature=0.8"],
            samples_per_prompt=4,
            output=None,
            server=ServerChoice(url=server.url, model="tiny"),
        )
    figures = {name: value for name, value, _ in rows}
    assert (figures["eval/sums/avg@4"], figures["eval/sums/maj@4"]) == ("0.75", "0.75")
    assert len(server.requests) == 1 + 4 * 4
    assert {body["temperature"] for body in server.requests} == {0.8}
    assert len({body["seed"] for body in server.requests}) == 16


def test_a_key_comes_from_the_variable_that_is_named(recipe: Path, model: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SUMS_KEY", "abc-123\n")
    with loopback(key="abc-123") as server:
        arguments = {"recipe": str(recipe), "prompts": None, "overrides": [], "samples_per_prompt": 1, "output": None}
        evaluate_model(model, **arguments, server=ServerChoice(url=server.url, key_env="SUMS_KEY"))
        with pytest.raises(ConfigError, match="'UNSET_KEY' is empty or not set"):
            evaluate_model(model, **arguments, server=ServerChoice(url=server.url, key_env="UNSET_KEY"))


def test_options_of_a_server_without_one_are_refused():
    with pytest.raises(ConfigError, match="go with --server URL"):
        server_choice(None, model="m", key_env="", max_open=1)
    assert server_choice(None, model="", key_env="", max_open=1) is None
    assert server_choice("http://h/v1", model="m", key_env="K", max_open=2) == ServerChoice(
        url="http://h/v1", model="m", key_env="K", max_open=2
    )
