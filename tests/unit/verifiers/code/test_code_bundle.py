"""The programs that travel into a sandbox carry modules of `inside` and nothing else of this package."""

import importlib.resources
from pathlib import Path

import pytest

from rlvr_verifiers.codecheck.boxes import bundle


@pytest.mark.parametrize("file", ["candidate_shim.py", "test_runner.py"])
def test_a_program_is_one_text_without_imports_of_this_package(file: str) -> None:
    source = bundle(file)
    compile(source, file, "exec")
    assert "import rlvr" not in source
    assert "from rlvr" not in source


@pytest.mark.parametrize("module", ["rlvr_verifiers.codecheck.boxes", "rlvr_verifiers.mathcheck.judging"])
def test_a_module_from_elsewhere_is_refused(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "program.py").write_text(f"from {module} import anything\n")
    monkeypatch.setattr(importlib.resources, "files", lambda _: tmp_path)
    with pytest.raises(ValueError, match=f"program.py imports {module}, but only modules of rlvr_verifiers.codecheck"):
        bundle("program.py")
