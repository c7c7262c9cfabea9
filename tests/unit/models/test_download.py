"""A model of the hub is downloaded ahead; only what is read, and never with an error of its own. No network."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlvr.config.sections.model import ModelConfig, TinyModel
from rlvr.models import download
from rlvr.models.download import ModelDownload, files_to_read, hub_name


def test_one_set_of_weights_is_chosen_as_transformers_does():
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    names = ["config.json", "README.md", *shards, "model.safetensors.index.json", "pytorch_model.bin", "original/x.pth"]
    assert files_to_read(names) == ["config.json", "model.safetensors.index.json", *shards]
    assert files_to_read(["tokenizer.json", "pytorch_model.bin"]) == ["tokenizer.json", "pytorch_model.bin"]


def test_only_a_name_of_the_hub_is_downloaded(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    assert hub_name(ModelConfig(path=str(tmp_path))) == ""
    assert hub_name(ModelConfig(tiny=TinyModel())) == ""
    assert hub_name(ModelConfig(path="/no/such/folder")) == ""
    assert hub_name(ModelConfig(path="org/model")) == "org/model"


def test_progress_counts_finished_and_unfinished_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(download.constants, "HF_HUB_OFFLINE", False)
    found = SimpleNamespace(siblings=[SimpleNamespace(rfilename="model.safetensors")])
    monkeypatch.setattr(download, "HfApi", lambda: SimpleNamespace(model_info=lambda *_, **__: found))
    asked: list[Any] = []

    def snapshot(name: str, *, allow_patterns: list[str]) -> None:
        asked.append((name, allow_patterns))
        blobs = tmp_path / "models--org--model" / "blobs"
        blobs.mkdir(parents=True)
        (blobs / "abc").write_bytes(b"x" * 100)
        (blobs / "def.incomplete").write_bytes(b"x" * 20)

    monkeypatch.setattr(download, "snapshot_download", snapshot)
    ahead = ModelDownload(ModelConfig(path="org/model"))
    assert ahead.num_bytes() == 0
    ahead.run()
    assert asked == [("org/model", ["model.safetensors"])]
    assert ahead.num_bytes() == 120


def test_a_hub_that_cannot_be_reached_is_left_to_the_load_which_says_so(monkeypatch: pytest.MonkeyPatch):
    def model_info(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(download.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(download, "HfApi", lambda: SimpleNamespace(model_info=model_info))
    ModelDownload(ModelConfig(path="org/model")).run()
