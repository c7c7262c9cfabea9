"""Error messages repeat what a recipe holds, but no secret."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from rlvr.config.load import load_recipe
from rlvr.errors import ConfigError
from rlvr.telemetry.redaction import faults

BASE = """\
name: x
model: {path: x}
data: {train: [{source: x, verifier: math}]}
"""


def fault(path: Path, text: str, *overrides: str) -> str:
    (path / "x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_recipe(str(path / "x.yaml"), overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cluster: {env: [HF_TOKEN=hidden-1]}", "cluster.env: must be a mapping (`key: value` lines) (got a list)"),
        ("cluster: {env: {API_TOKEN: {a: hidden-1}}}", "cluster.env.API_TOKEN: must be text (got a mapping)"),
        ("cluster: {env: {ANY_NAME: 12.345}}", "cluster.env.ANY_NAME: must be text; put it in quotes"),
        ("cluster: [{env: {HF_TOKEN: hidden-1}}]", "cluster: must be a mapping (`key: value` lines) (got a list)"),
        ("cluster: 'env: {HF_TOKEN: hidden-1}'", "(got 'env: {HF_TOKEN: [redacted]}')"),
        ("cluster: {env: {HF_TOKEN: hidden-1}}", "HF_TOKEN looks like a secret"),
        ("rollout: {engine: {kind: http, api_key: hidden-1}}", "rollout.engine: must be an engine's name"),
        ("rollout: {engine: {api_key: hidden-1}}", "as further keys (got a mapping)"),
        ("rollout: {max_completion_tokens: 'http://me:hidden-1@host/v1'}", "(got 'http://[redacted]@host/v1')"),
        ("rollout: {max_completion_tokens: hf_hidden-1hidden}", "must be a whole number"),
    ],
)
def test_no_secret_of_the_file_is_repeated(tmp_path: Path, text: str, message: str):
    text = text.replace("hf_hidden-1hidden", "hf_hidden1hidden1hidden1")
    found = fault(tmp_path, f"{BASE}{text}\n")
    assert message in found
    for secret in ("hidden-1", "hidden1", "12.345"):
        assert secret not in found


def test_no_setting_of_a_verifier_is_repeated(tmp_path: Path):
    text = BASE.replace("verifier: math", "verifier: math, verifier_settings: [{api_key: hidden-1}]")
    assert "hidden-1" not in fault(tmp_path, text)


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("cluster.env.HF_TOKEN=hidden-1", "command line: cluster.env.HF_TOKEN=[redacted]: "),
        ("cluster.env={HF_TOKEN: [hidden-1]}", "command line: cluster.env={HF_TOKEN: [redacted]}: "),
        ("judge.api_key=hidden-1", "command line: judge.api_key=[redacted]: "),
        (
            "rollout.max_completion_tokens=http://me:hidden-1@host",
            "rollout.max_completion_tokens=http://[redacted]@host: ",
        ),
        ("run.steps=no", "command line: run.steps=no: "),
    ],
)
def test_no_secret_of_the_command_line_is_repeated(tmp_path: Path, override: str, shown: str):
    found = fault(tmp_path, BASE, override)
    assert "hidden-1" not in found
    assert shown in found


def test_a_key_below_a_secret_does_not_show_it(tmp_path: Path):
    found = fault(tmp_path, f"{BASE}cluster: {{env: {{HF_TOKEN: hidden-1}}}}\n", "cluster.env.HF_TOKEN.x=1")
    assert "cluster.env.HF_TOKEN is a value, not a section" in found
    assert "hidden-1" not in found


def test_a_value_of_this_environment_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", "hidden-1")
    assert "(got 'x [redacted]')" in fault(tmp_path, f"{BASE}seed: x hidden-1\n")


def test_the_settings_of_a_plugin_are_repeated_without_secrets():
    class Config(BaseModel):
        base_url: str
        api_key: int
        slots: int

    with pytest.raises(ValidationError) as caught:
        Config.model_validate({"api_key": "hidden-1", "slots": "many"})
    found = faults(caught.value)
    assert "hidden-1" not in found
    assert "base_url: Field required; api_key: " in found
    assert found.endswith("(got 'many')")
