"""Finding plugins: by entry point, by module, by file; what the messages say."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rlvr.errors import PluginError
from rlvr.plugin import VerifierContext
from rlvr.registry import VERIFIERS, build_verifier, find, list_plugins, load

GOOD = """
from rlvr.plugin import verifier

@verifier(version="3")
def equal(text: str, reference: str, *, strict: bool = True) -> bool:
    '''Equal texts.'''
    return text == reference
"""


def test_the_built_in_verifiers_are_listed_with_their_origin() -> None:
    entries = {entry.name: entry for entry in list_plugins(VERIFIERS)}
    assert {"math", "countdown", "text_match", "code"} <= set(entries)
    assert entries["math"].target == "rlvr_verifiers.math_answer:MathVerifier"
    assert entries["math"].distribution == "rlvr"


def test_listing_imports_no_plugin() -> None:
    program = """
import sys
from rlvr.registry import VERIFIERS, find, list_plugins
assert list_plugins(VERIFIERS)
find(VERIFIERS, "math")
assert not any(name.startswith("rlvr_verifiers") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(PluginError, match=r"verifier 'mat' is not installed.*Did you mean 'math'"):
        find(VERIFIERS, "mat")


def test_a_file_travels_as_source_with_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(GOOD, encoding="utf-8")
    source = find(VERIFIERS, f"{path}:equal")
    assert source.source == GOOD
    assert len(source.digest) == 64
    path.unlink()
    built = build_verifier(source, {"strict": False}, VerifierContext())
    assert (built.name, built.version) == ("equal", "3")


def test_a_missing_file_and_a_missing_attribute_are_named(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"nowhere\.py"):
        find(VERIFIERS, "nowhere.py:check")
    path = tmp_path / "mine.py"
    path.write_text(GOOD, encoding="utf-8")
    with pytest.raises(PluginError, match="no attribute 'other'"):
        load(find(VERIFIERS, f"{path}:other"))


def test_an_import_that_fails_names_the_plugin_and_the_cause(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import no_such_module_here\n", encoding="utf-8")
    with pytest.raises(PluginError, match=r"broken\.py.*ModuleNotFoundError.*no_such_module_here"):
        load(find(VERIFIERS, f"{path}:check"))


def test_bad_settings_are_all_listed() -> None:
    with pytest.raises(PluginError) as caught:
        build_verifier(find(VERIFIERS, "countdown"), {"use_al": 1, "max_chars": -1}, VerifierContext())
    message = str(caught.value)
    assert "use_al" in message
    assert "max_chars" in message
    assert "use_all, allow_last_line" in message.partition("Its settings: ")[2]


def test_what_is_neither_class_nor_decorated_function_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.py"
    path.write_text(textwrap.dedent("def check(text): return True\n"), encoding="utf-8")
    with pytest.raises(PluginError, match="is a function"):
        load(find(VERIFIERS, f"{path}:check"))
    path.write_text("def score(solution_str, ground_truth): return 1.0\n", encoding="utf-8")
    with pytest.raises(PluginError, match=r"function of verl; to use it unchanged, write verl:.*plain\.py:score"):
        load(find(VERIFIERS, f"{path}:score"))


def test_a_class_without_the_contracts_members_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bare.py"
    path.write_text("class Bare:\n    name = 'bare'\n", encoding="utf-8")
    with pytest.raises(PluginError, match="lacks version, execution, Config, verify"):
        build_verifier(find(VERIFIERS, f"{path}:Bare"), {}, VerifierContext())


def register(folder: Path, distribution: str, name: str, target: str) -> None:
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[rlvr.verifiers]\n{name} = {target}\n")


def test_a_name_that_two_distributions_register_is_an_error_where_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(tmp_path, "taker", "math", "taker.checks:Math")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [e.distribution for e in list_plugins(VERIFIERS) if e.name == "math"] == ["rlvr", "taker"]
    assert find(VERIFIERS, "countdown").target.endswith("CountdownVerifier")
    with pytest.raises(PluginError, match="two distributions register") as caught:
        find(VERIFIERS, "math")
    assert "rlvr_verifiers.math_answer:MathVerifier" in str(caught.value)
    assert "taker 1.0 (taker.checks:Math)" in str(caught.value)
    assert load(find(VERIFIERS, "rlvr_verifiers.math_answer:MathVerifier")).name == "math"


def test_a_missing_attribute_is_answered_with_what_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(GOOD, encoding="utf-8")
    with pytest.raises(PluginError, match=r"its plugins are: equal\. Did you mean 'equal'\?"):
        load(find(VERIFIERS, f"{path}:equa"))
    path.write_text("def check(text): return True\n")
    with pytest.raises(PluginError, match=r"no plugin, and these functions: check.*decorated with"):
        load(find(VERIFIERS, f"{path}:nope"))


def test_a_file_with_a_byte_order_mark_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(GOOD, encoding="utf-8-sig")
    assert load(find(VERIFIERS, f"{path}:equal")).version == "3"
