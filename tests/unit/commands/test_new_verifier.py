"""`rlvr verifiers new`: what it writes works, and so do the commands that it prints."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlvr.commands.new_verifier.write import NewVerifier, write_verifier
from rlvr.errors import ConfigError


def run_commands(written: NewVerifier, folder: Path, *, skip: Sequence[str] = ()) -> dict[str, str]:
    """The output of each printed command, run in a shell."""
    path = os.pathsep.join([str(folder / "site"), *(entry for entry in sys.path if entry)])
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    for name, module in (("rlvr", "rlvr.cli"), ("pytest", "pytest")):
        script = bin_folder / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        script.chmod(0o755)
    found: dict[str, str] = {}
    for what, command in written.commands:
        if what in skip:
            continue
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": path, "PATH": f"{bin_folder}:{os.environ['PATH']}", "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, (command, done.stdout + done.stderr)
        found[what] = done.stdout + done.stderr
    return found


@pytest.mark.slow
def test_a_new_verifier_passes_its_tests_and_audit_and_trains(tmp_path: Path) -> None:
    written = write_verifier("capital", folder=tmp_path, is_package=False)
    assert written.files == ("capital.py", "capital.audit.jsonl", "test_capital.py")
    assert len((tmp_path / "capital.audit.jsonl").read_text().splitlines()) == 10
    said = run_commands(written, tmp_path)
    assert "3 passed" in said["test"]
    assert "PASS      5" in said["verify"]
    assert "capital@1: nothing found" in said["audit"]
    assert "author's cases            10" in said["audit"]
    assert "UNPARSED  capital: the last line is not `Answer: ...`" in said["train"]


@pytest.mark.slow
def test_a_new_package_installs_and_is_found_by_name(tmp_path: Path) -> None:
    written = write_verifier("my_capital", folder=tmp_path, is_package=True)
    install = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet", "--target", "site"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *install, "./my_capital"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=120,
    )
    said = run_commands(written, tmp_path, skip=("install", "train"))
    assert "3 passed" in said["test"]
    assert "PASS      5" in said["verify"]
    assert "my_capital@1: nothing found" in said["audit"]
    assert "author's cases            10" in said["audit"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "test_capital.py").write_text("mine")
    with pytest.raises(ConfigError, match=r"there is test_capital.py already; choose another name"):
        write_verifier("capital", folder=tmp_path, is_package=False)
    (tmp_path / "capital").mkdir()
    with pytest.raises(ConfigError, match="there is capital already"):
        write_verifier("capital", folder=tmp_path, is_package=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["capital", "test_capital.py"]


@pytest.mark.parametrize("name", ["1x", "a-b", "a b", "class", "_x", "naïve", "json", "rlvr", "verdict", ""])
def test_a_name_that_cannot_be_used_is_refused(name: str, tmp_path: Path) -> None:
    for is_package in (False, True):
        with pytest.raises(ConfigError, match=r"another name|cannot name a Python function"):
            write_verifier(name, folder=tmp_path, is_package=is_package)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "what"), [("text_match", "registers a verifier"), ("pytest", "installed already")])
def test_a_package_with_a_name_in_use_is_refused(name: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=what):
        write_verifier(name, folder=tmp_path, is_package=True)
