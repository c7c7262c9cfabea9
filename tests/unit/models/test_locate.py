"""Where a model's path points, and what is said of one that points nowhere or at what is no model."""

import os
from pathlib import Path

import pytest

from rlvr.errors import ConfigError
from rlvr.models.locate import locate


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    Path("model/config.json").write_text("{}")
    Path("model/model.safetensors").write_bytes(b"")
    Path("file.txt").write_text("x")
    Path("a.gguf").write_text("x")
    os.mkfifo("pipe")
    os.mkfifo("pipe.gguf")
    Path("torn").mkdir()
    Path("torn/config.json").write_text("{}")
    os.mkfifo("torn/model.safetensors")
    Path("linked").mkdir()
    Path("linked/config.json").write_text("{}")
    Path("linked/tokenizer.json").symlink_to("../gone")


def test_folders_files_and_hub_names_are_found() -> None:
    assert locate("model") == ("model", "")
    assert locate("./a.gguf") == (".", "a.gguf")
    assert locate("someone/some-model") == ("someone/some-model", "")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("package:", "the package '' is not installed"),
        ("package:..", "the package '..' is not installed"),
        ("package:no.such/x", "the package 'no.such' is not installed"),
        ("pipe", "is a named pipe, not a folder"),
        ("pipe.gguf", "is a named pipe"),
        ("/dev/zero", "is a device"),
        ("x" * 5000, "File name too long"),
        ("a\0b", "a name with a null character"),
        ("~no_such_user_here/x", "ome directory"),
        ("file.txt", "is a file; name the folder"),
        ("gone.gguf", "this GGUF file does not exist"),
        ("torn", "model.safetensors is a named pipe, not a file"),
        ("linked", "tokenizer.json is a broken link, not a file"),
    ],
)
def test_the_error_says_what_a_path_is_if_not_a_model(path: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        locate(path)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


def test_unreadable_weights_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def may_read(path: Path, mode: int) -> bool:
        return "safetensors" not in str(path) and "gguf" not in str(path)

    monkeypatch.setattr(os, "access", may_read)  # the tests may run as root, who may read all
    for path, name in (("model", "model.safetensors"), ("a.gguf", "a.gguf")):
        with pytest.raises(ConfigError, match=f"{name} cannot be read: permission denied"):
            locate(path)
