"""Copies of weights on the nodes of engines: shared, and removed by the last user or the next one."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("ray")
from rlvr.errors import RolloutError
from rlvr.records import TensorEntry, Transport, WeightsKind, WeightsRef
from rlvr.run.ray import weight_files
from rlvr.run.ray.weight_files import WeightFiles, WeightSource


def opened(place: Path, name: str = "rlvr-weights-1-a") -> tuple[WeightFiles, Path]:
    files = WeightFiles(place)
    return files, files._shared_folder(name, num_bytes=1)


def test_engines_of_a_node_share_a_folder_that_the_last_one_removes(tmp_path: Path):
    one, folder = opened(tmp_path)
    other, same = opened(tmp_path)
    assert folder == same
    (folder / "v1.safetensors").write_bytes(b"x")
    one.close()
    assert (folder / "v1.safetensors").exists()
    other.close()
    other.close()
    assert not folder.exists()


def test_copies_of_another_learner_that_is_in_use_stay(tmp_path: Path):
    one, folder = opened(tmp_path)
    other, second = opened(tmp_path, "rlvr-weights-2-b")
    assert folder.is_dir()
    assert second.is_dir()
    one.close()
    other.close()


def test_a_learner_that_was_replaced_leaves_no_copies(tmp_path: Path):
    files, before = opened(tmp_path)
    after = files._shared_folder("rlvr-weights-2-b", num_bytes=1)
    assert not before.exists()
    assert after.is_dir()
    files.close()


def test_what_a_killed_engine_left_is_removed_by_its_watchdog(tmp_path: Path):
    code = (
        "import os, sys; from pathlib import Path; from rlvr.run.ray.weight_files import WeightFiles; "
        "files = WeightFiles(Path(sys.argv[1])); files._shared_folder('rlvr-weights-1-a', num_bytes=1); "
        "os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).parents[4]
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, check=False)
    left = tmp_path / "rlvr-weights-copies-a"
    until = time.monotonic() + 60
    while left.exists():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_what_was_left_where_the_watchdog_was_killed_too_is_removed_by_the_next(tmp_path: Path):
    left = tmp_path / "rlvr-weights-copies-a"
    left.mkdir(mode=0o700)
    (left / "v1.safetensors").write_bytes(b"x")
    files, _ = opened(tmp_path, "rlvr-weights-2-b")
    assert not left.exists()
    files.close()


def test_nobody_else_can_enter_the_folder_and_what_they_planted_is_refused(tmp_path: Path):
    files, folder = opened(tmp_path)
    assert folder.stat().st_mode & 0o077 == 0
    (folder / "lock").symlink_to(tmp_path / "precious")
    (tmp_path / "precious").write_text("x")
    with pytest.raises(OSError, match="symbolic link"), weight_files._locked(folder / "lock"):
        pass
    assert (tmp_path / "precious").read_text() == "x"
    files.close()
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o700)
    (tmp_path / "rlvr-weights-copies-b").symlink_to(theirs)
    with pytest.raises(RolloutError, match=r"copies-b, the folder for .* is a link"):
        opened(tmp_path, "rlvr-weights-1-b")
    os.mkfifo(tmp_path / "rlvr-weights-copies-c")
    with pytest.raises(RolloutError, match=r"copies-c, the folder for .* is a link, not a folder"):
        opened(tmp_path, "rlvr-weights-1-c")
    (tmp_path / "rlvr-weights-copies-d").mkdir()
    (tmp_path / "rlvr-weights-copies-d").chmod(0o777)
    with pytest.raises(RolloutError, match="can be entered by others"):
        opened(tmp_path, "rlvr-weights-1-d")
    assert theirs.is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to own a folder for somebody else")
def test_a_folder_of_another_user_is_refused_and_left_alone(tmp_path: Path):
    theirs = tmp_path / "rlvr-weights-copies-a"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, 65534, 65534)
    files, _ = opened(tmp_path, "rlvr-weights-2-b")
    assert theirs.is_dir()
    files.close()
    with pytest.raises(RolloutError, match="another user's"):
        opened(tmp_path)


def test_adapters_bring_their_base_once_and_it_stays_when_versions_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fetched: list[str] = []

    def fetch(ref: WeightsRef, source: WeightSource, target: Path) -> None:
        fetched.append(ref.uri)
        target.write_bytes(b"x")

    elsewhere = SimpleNamespace(get_node_id=lambda: "here")
    monkeypatch.setattr(weight_files, "_fetch", fetch)
    monkeypatch.setattr(weight_files.ray, "get_runtime_context", lambda: elsewhere)
    full = WeightsRef(
        policy_version=0,
        kind=WeightsKind.FULL,
        transport=Transport.FILE,
        dtype="float32",
        uri="/far/rlvr-weights-1-a/base.safetensors",
        manifest=(TensorEntry(name="w", shape=(4,), checksum=1),),
    )
    files = WeightFiles(tmp_path)
    source = WeightSource(actor=None, node_id="there")
    for version in range(5):
        uri = f"/far/rlvr-weights-1-a/v{version}.safetensors"
        ref = replace(full, kind=WeightsKind.ADAPTER, policy_version=version, uri=uri, base=full)
        found = files.here(ref, source)
        assert found.base is not None
        assert Path(found.uri).parent == Path(found.base.uri).parent
        assert Path(found.uri).is_file()
        assert Path(found.base.uri).is_file()
    assert [Path(uri).stem for uri in fetched] == ["base", "v0", "v1", "v2", "v3", "v4"]
    assert len(list(Path(found.uri).parent.glob("v*.safetensors"))) <= 2
    files.close()
