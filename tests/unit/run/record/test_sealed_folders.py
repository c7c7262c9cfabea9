"""A sealed folder says which of its files is not what was written."""

import hashlib
import json
from pathlib import Path

import pytest

from rlvr.config.recipe import ModelConfig, TinyModel
from rlvr.errors import CheckpointError, StorageError
from rlvr.models.export import export_policy
from rlvr.models.policy import build_tiny, load_policy
from rlvr.storage import atomic_files, sealed_folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "model.safetensors").write_bytes(b"weights" * 1000)
    (tmp_path / "adapter" / "weights").write_bytes(b"adapter")
    sealed_folders.seal(tmp_path)
    return tmp_path


def test_a_whole_folder_has_no_problem_and_digests_that_sha256sum_gives_too(folder: Path) -> None:
    assert sealed_folders.check(folder) == sealed_folders.SealCheck(problems=(), has_digests=True)
    held = json.loads((folder / "complete.json").read_text())["files"]
    assert held == {
        "adapter/weights": {"bytes": 7, "sha256": hashlib.sha256(b"adapter").hexdigest()},
        "model.safetensors": {"bytes": 7000, "sha256": hashlib.sha256(b"weights" * 1000).hexdigest()},
    }


def test_each_damaged_file_is_named_with_what_is_wrong(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[3000] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    (folder / "adapter" / "weights").write_bytes(b"adap")
    assert sealed_folders.check(folder).problems == (
        "adapter/weights has 4 bytes of 7",
        "model.safetensors has changed since it was written (its SHA-256 differs)",
    )
    (folder / "adapter" / "weights").unlink()
    assert sealed_folders.check(folder, ignoring=("model.safetensors",)).problems == ("adapter/weights is missing",)


@pytest.mark.parametrize(
    "marker",
    ["", "[]", "{", '{"format": 1}', '{"format": 1, "filez": {}}', '{"format": 1, "files": {}}',
     '{"format": 1, "files": {"a": 3}}', '{"format": 1, "files": {"a": {"bytes": "x", "sha256": ""}}}', "[" * 100_000],
)  # fmt: skip
def test_a_damaged_marker_is_never_mistaken_for_one_of_an_older_version(folder: Path, marker: str) -> None:
    (folder / "complete.json").write_text(marker)
    (problem,) = sealed_folders.check(folder).problems
    assert problem.startswith("complete.json is damaged")


def test_a_file_that_may_not_be_read_is_no_damage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sealed_folders, "file_digest", refused)
    with pytest.raises(StorageError, match=r"weights cannot be read: Permission denied"):
        sealed_folders.check(folder)


def test_a_folder_of_an_older_version_passes_unchecked(folder: Path) -> None:
    (folder / "complete.json").write_text("{}\n")
    assert sealed_folders.check(folder) == sealed_folders.SealCheck(problems=(), has_digests=False)


def test_a_policy_is_not_loaded_from_a_damaged_checkpoint(tmp_path: Path) -> None:
    tiny = build_tiny(TinyModel(layers=1, hidden_size=16, heads=2, characters="01"), seed=0)
    export_policy(tiny, tmp_path)
    (tmp_path / "optimizer.pt").write_bytes(b"state")
    sealed_folders.seal(tmp_path)
    (tmp_path / "optimizer.pt").write_bytes(b"other")  # not read, so not looked at
    load_policy(ModelConfig(path=str(tmp_path)), seed=0)
    file = tmp_path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 2
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"is damaged: model\.safetensors has changed since it was"):
        load_policy(ModelConfig(path=str(tmp_path)), seed=0)


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    atomic_files.write_text(file, "first")
    with pytest.raises(UnicodeEncodeError):
        atomic_files.write_text(file, "second \ud800")
    assert file.read_text() == "first"
    assert [f.name for f in tmp_path.iterdir()] == ["recipe.yaml"]
