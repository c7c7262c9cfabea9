"""How a verifier comes to be jailed: the keys of a recipe, the command line, another interpreter, the audit."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlvr import cli
from rlvr.commands.check import check_recipe
from rlvr.config.load import load_recipe
from rlvr.config.sections.data import CheckConfig, DataSource
from rlvr.errors import PluginError
from rlvr.records import Check, Execution, Prompt
from rlvr.run.record.inputs import input_digests
from rlvr.verification.service import VerifierService
from rlvr.verification.wire import prompt_from_json, prompt_to_json
from tests.unit.verification.jailed_cases import SCORER, backend, service_for, the_check, verdicts

__all__ = ["backend"]
NEEDED = ("pydantic", "pydantic_core", "annotated_types", "typing_inspection", "typing_extensions")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a scorer that marks where it is imported, and rows."""
    for path in (tmp_path, *tmp_path.parents[:3]):
        path.chmod(path.stat().st_mode | 0o755)
    mark = f"try:\n    open({str(tmp_path / 'imported')!r}, 'w').close()\nexcept OSError:\n    pass\n"
    (tmp_path / "theirs.py").write_text(mark + SCORER)
    rows = [{"prompt": f"{n} + 1?", "reference": str(n + 1)} for n in (11, 26, 40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"execution": "async"}, "a recipe chooses process or jailed"),
        ({"execution": "sandboxed"}, "a recipe chooses process or jailed"),
        ({"execution": "process", "python": "/x/python"}, "are for execution: jailed"),
        ({"execution": "process", "readable": ["data"]}, "are for execution: jailed"),
    ],
)
def test_keys_that_contradict_one_another_are_refused_in_both_forms(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CheckConfig.model_validate({"verifier": "math", **fields})
    with pytest.raises(ValueError, match=message):
        DataSource.model_validate({"source": "x.jsonl", "verifier": "math", **fields})
    with pytest.raises(ValueError, match="they belong to each check"):
        DataSource.model_validate({"source": "x.jsonl", "checks": {"a": {"verifier": "math"}}, "execution": "jailed"})


def test_the_keys_reach_the_check_and_travel() -> None:
    source = DataSource.model_validate(
        {"source": "x.jsonl", "verifier": "math", "python": "/x/python", "readable": ["data"]}
    )
    config = source.all_checks["math"]
    assert config.is_jailed
    check = Check(
        name="m", verifier="math", execution=Execution.JAILED, python=config.python, readable=tuple(config.readable)
    )
    prompt = Prompt(prompt_id="p", text="?", checks=(check,), source="s")
    assert prompt_from_json(json.loads(json.dumps(prompt_to_json(prompt)))) == prompt


def test_a_recipe_that_jails_a_verifier_is_checked_without_importing_it_here(folder: Path) -> None:
    (folder / "mine.yaml").write_text(
        "name: mine\nmodel: {tiny: {}}\nrun: {steps: 1, trackers: []}\ndata:\n  train:\n"
        "    - {source: rows.jsonl, template: plain, verifier: 'theirs.py:evaluates', execution: jailed}\n"
    )
    recipe = load_recipe("mine.yaml", []).recipe
    service_for("namespaces").close()  # skips where this machine has no jail
    report = check_recipe(recipe)
    rows = {name: value for _, table in report.tables for name, value, _ in table}
    assert rows["verifier evaluates@1"].startswith("jailed in ")
    assert "jailed, sha256 " in input_digests(recipe)["verifier theirs.py:evaluates"]
    assert rows["audit theirs.py:evaluates"] != "nothing found"
    assert not (folder / "imported").exists()


def test_verify_and_audit_take_jailed_on_the_command_line(
    folder: Path, backend: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service_for(backend).close()
    where = ["--jailed", "--sandbox", backend, "--sandbox-setting", "should_self_test=false"]
    pair = ["--explain", "--completion", f"open({str(folder / 'imported')!r}, 'w') and 4", "--reference", "4"]
    monkeypatch.setattr("sys.argv", ["rlvr", "verify", "theirs.py:evaluates", *pair, *where])
    assert cli._exit_code() == 1  # the completion raises an exception, and so gets no verdict
    monkeypatch.setattr(
        "sys.argv",
        [
            "rlvr",
            "audit",
            "theirs.py:evaluates",
            "--data",
            "rows.jsonl",
            "--json",
            "--rows",
            "2",
            "--deadline-s",
            "1",
            "--time-limit-s",
            "6",
            *where,
        ],
    )
    capsys.readouterr()
    assert cli._exit_code() == 1
    report = json.loads(capsys.readouterr().out)
    assert "execution" in [finding["problem"] for finding in report["findings"]]
    assert not (folder / "imported").exists()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own with pydantic and a package that this interpreter lacks."""
    folder = tmp_path_factory.mktemp("environment")
    for path in (folder, *folder.parents[:3]):
        path.chmod(path.stat().st_mode | 0o755)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = folder / f"lib/python3.{sys.version_info.minor}/site-packages"
    for name in NEEDED:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        origin = Path(spec.origin)
        if origin.name == "__init__.py":
            shutil.copytree(origin.parent, site / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(origin, site / origin.name)
    (site / "only_there.py").write_text("ANSWER = '4'\n")
    return folder


def test_another_interpreter_has_its_own_packages_and_only_those(environment: Path, folder: Path, backend: str) -> None:
    (folder / "there.py").write_text(
        "import only_there\nfrom rlvr.plugin import verifier\n\n@verifier(version='3')\n"
        "def known(text: str, reference: str) -> bool:\n"
        "    try:\n        import yaml\n    except ImportError:\n        return text == only_there.ANSWER\n"
        "    return False\n"
    )
    service = service_for(backend)
    try:
        check = the_check(folder / "there.py", "known", execution=None, python=str(environment / "bin/python"))
        service.preflight([check])
        assert service.label(check) == "known@3"
        assert [v.passed for v in verdicts(service, check, ["4", "5"])] == [True, False]
    finally:
        service.close()


def test_an_interpreter_without_pydantic_is_refused_with_the_fix(folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    service: VerifierService = service_for("namespaces")
    try:
        with pytest.raises(PluginError, match="install pydantic into that interpreter's environment"):
            service.preflight([the_check(folder / "theirs.py", python=str(bare / "bin/python"))])
    finally:
        service.close()
