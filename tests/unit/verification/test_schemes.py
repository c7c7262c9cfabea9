"""Names with a scheme: found without importing what they adapt, bound to an adapter class, sent to workers as JSON."""

import json
import sys
from dataclasses import asdict
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rlvr import registry
from rlvr.adapted import Adapted
from rlvr.config.sections.data import DataSource
from rlvr.errors import PluginError
from rlvr.plugin import EmptyConfig, VerifierContext, completion_from_text, verdict
from rlvr.protocols import Execution
from rlvr.records import Check, Completion, Prompt, Status, Verdict
from rlvr.registry import VERIFIERS, PluginSource, build_verifier, find, load, short_name

THEIRS = "def longer(text):\n    return len(text) > 3\n"


class PredicateVerifier:
    """The text passes someone's predicate."""

    name: ClassVar[str] = "predicate"
    version: ClassVar[str] = "2"
    execution: ClassVar[Execution] = Execution.PROCESS
    Config: ClassVar[type[EmptyConfig]] = EmptyConfig
    adapted: ClassVar[Adapted]

    def __init__(self, config: EmptyConfig, context: VerifierContext) -> None:
        self._function: Any = None

    def warm_up(self) -> None:
        self._function = self.adapted.load()

    def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
        status = Status.PASS if self._function(completion.text) else Status.FAIL
        return verdict(self, status, "asked")


@pytest.fixture(autouse=True)
def scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    real = registry.entry_points

    def with_scheme(**chosen: str) -> Any:
        if chosen["group"] == registry.SCHEMES:
            target = f"{__name__}:PredicateVerifier"
            return EntryPoints([EntryPoint(name="predicate", value=target, group=registry.SCHEMES)])
        return real(**chosen)

    monkeypatch.setattr(registry, "entry_points", with_scheme)


def test_a_name_with_a_scheme_is_bound_to_its_adapter_without_an_import() -> None:
    source = find(VERIFIERS, "predicate:no_such_package.check")
    assert (source.scheme, source.argument) == ("predicate", "no_such_package.check")
    assert source.module == __name__
    loaded = load(source)
    assert (loaded.name, loaded.version) == ("predicate:no_such_package.check", "2")
    assert loaded.adapted.argument == "no_such_package.check"
    assert loaded.__doc__ == PredicateVerifier.__doc__
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        build_verifier(source, {}, VerifierContext()).warm_up()  # type: ignore[attr-defined]


def test_an_adapted_file_travels_as_text_with_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "theirs.py"
    path.write_text(THEIRS, encoding="utf-8")
    found = find(VERIFIERS, f"predicate:{path}:longer")
    path.unlink()
    source = PluginSource(**json.loads(json.dumps(asdict(found))))
    assert (source.argument, source.source, len(source.digest)) == ("theirs.py:longer", THEIRS, 64)
    verifier = build_verifier(source, {}, VerifierContext())
    verifier.warm_up()  # type: ignore[attr-defined]
    prompt = Prompt(prompt_id="p", text="?", checks=(Check(name="c", verifier=found.name),), source="s")
    answers = [verifier.verify(prompt, completion_from_text(text, prompt_id="p")) for text in ("four", "no")]
    assert [answer.status for answer in answers] == [Status.PASS, Status.FAIL]  # type: ignore[union-attr]
    assert answers[0].verifier == f"predicate:{path}:longer@2"  # type: ignore[union-attr]


def test_an_unknown_scheme_lists_the_schemes_and_a_module_is_no_scheme() -> None:
    with pytest.raises(PluginError, match=r"'predicat' is neither a module nor a scheme\. Schemes: predicate:\. Did"):
        find(VERIFIERS, "predicat:module.check")
    with pytest.raises(PluginError, match="'rlhf' is neither a module nor a scheme"):
        find(VERIFIERS, "rlhf:checks/mine.py:check")
    assert find(VERIFIERS, "json:loads").scheme == ""


def test_a_scheme_hides_a_module_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "predicate", sys)
    assert find(VERIFIERS, "predicate:path").scheme == "predicate"
    assert find(VERIFIERS, "predicate.sub:path").scheme == ""


def test_nothing_after_the_scheme_can_be_shown_but_not_built() -> None:
    source = find(VERIFIERS, "predicate:")
    assert load(source).version == "2"
    with pytest.raises(PluginError, match="nothing follows the scheme; `rlvr verifiers show predicate:`"):
        build_verifier(source, {}, VerifierContext())


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("predicate:package.module.check", "check"),
        ("predicate:rewards/all.py:check", "check"),
        ("https://judge.example:8000/v1/verify", "verify"),
        ("http://localhost:8000", "localhost"),
        ("math", "math"),
    ],
)
def test_a_check_is_named_after_the_last_word(name: str, short: str) -> None:
    assert short_name(name) == short
    assert list(DataSource(source="rows.jsonl", verifier=name).all_checks) == [short]
