"""A plugin file that ends, hangs or breaks its process at import is an error that names the file and line."""

import resource
from pathlib import Path

import pytest

from rlvr.errors import PluginError
from rlvr.plugin import completion_from_text
from rlvr.records import Check, Prompt, Status
from rlvr.registry import SANDBOXES, VERIFIERS, find
from rlvr.verification import trial
from rlvr.verification.service import VerifierService
from rlvr.verification.trial import load_tried

VERIFIER = """
from rlvr.plugin import verifier

@verifier(version="1")
def check(text: str, reference: str) -> bool:
    return text == reference
"""
HOSTILE = {
    "sys.exit": ("import sys\nsys.exit(0)\n", r"mine\.py:2: SystemExit: 0 \(a plugin must not end"),
    "os._exit": ("import os\nos._exit(0)\n", r"mine\.py.*it ended the process \(exit code 0\)"),
    "KeyboardInterrupt": ("x = 1\nraise KeyboardInterrupt\n", r"mine\.py:2: KeyboardInterrupt"),
    "BaseException": ("class E(BaseException): pass\nraise E('x')\n", r"mine\.py:2: E: x"),
    "a crash": ("import ctypes\nctypes.string_at(0)\n", r"mine\.py.*\(signal SIGSEGV\)"),
    "a syntax error": ("x = 1\ndef f(:\n", r"mine\.py:2: SyntaxError"),
    "too much memory": (
        "x = 1\ny = b'a' * 10**12\n",
        r"mine\.py:2: MemoryError.*An import may use 768 MiB; load large data in `warm_up`",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_a_file_does_at_import_is_told_with_its_place(case: str, tmp_path: Path) -> None:
    source, message = HOSTILE[case]
    path = tmp_path / "mine.py"
    path.write_text(source, encoding="utf-8")
    with pytest.raises(PluginError, match=message):
        load_tried(find(VERIFIERS, f"{path}:check"))


def test_endless_recursion_stays_within_the_memory_of_an_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_DATA_BYTES", 128 << 20)
    path = tmp_path / "mine.py"
    path.write_text("import sys\nsys.setrecursionlimit(10**9)\ndef g(): g()\ng()\n", encoding="utf-8")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    with pytest.raises(PluginError, match=r"mine\.py.*(Error|CPU time)"):
        load_tried(find(VERIFIERS, f"{path}:check"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert after <= max(before, 256 << 10)  # KiB


def test_an_import_that_never_ends_is_told_with_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "CPU_DEADLINE_S", 0.2)
    path = tmp_path / "mine.py"
    path.write_text("x = 1\nwhile True: x += 1\n", encoding="utf-8")
    with pytest.raises(PluginError, match=r"has not finished .* at mine\.py:2; put"):
        load_tried(find(VERIFIERS, f"{path}:check"))


def test_a_module_and_a_sandbox_are_tried_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaving_package.py").write_text("import os\nos._exit(0)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    for group in (VERIFIERS, SANDBOXES):
        with pytest.raises(PluginError, match=r"leaving_package:thing.*it ended the process"):
            load_tried(find(group, "leaving_package:thing"))


def test_a_sound_file_is_loaded_and_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.py"
    path.write_text(VERIFIER, encoding="utf-8")
    source = find(VERIFIERS, f"{path}:check")
    assert load_tried(source).name == "check"
    monkeypatch.setattr(trial, "_try_import", lambda _: pytest.fail("tried again"))
    assert load_tried(source).name == "check"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# \xff\n" + VERIFIER.encode(), r"'.*mine\.py' is not UTF-8 text \(byte 2, line 1\)"),
        (b"x = 1\x00\n", r"mine\.py.*null bytes"),
        (b"#" * (5 << 20), r"mine\.py' is longer than 4,194,304 bytes"),
    ],
)
def test_a_file_that_is_no_source_is_told(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_bytes(content)
    with pytest.raises(PluginError, match=message):
        load_tried(find(VERIFIERS, f"{path}:check"))


def test_a_name_that_is_no_file_is_told_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(PluginError, match="is a folder, not a file"):
        find(VERIFIERS, f"{tmp_path}/folder.py:check")
    with pytest.raises(PluginError, match="File name too long"):
        find(VERIFIERS, f"{'a' * 5000}.py:check")


LEAVES_IN_PREJUDGE = """
import sys
from rlvr.plugin import EmptyConfig
from rlvr.protocols import Execution

class Leaves:
    name, version, execution, Config = "leaves", "1", Execution.{execution}, EmptyConfig
    def __init__(self, config, context): pass
    def {method}(self, *args): sys.exit(0)
    {other}
"""


@pytest.mark.parametrize(
    ("execution", "method"),
    [("PROCESS", "prejudge"), ("PROCESS", "work_key"), ("ASYNC", "verify"), ("SANDBOXED", "verify")],
)
def test_an_exit_inside_the_runs_own_process_is_an_error_verdict(execution: str, method: str, tmp_path: Path) -> None:
    other = "" if method == "verify" else "def verify(self, prompt, completion): pass"
    path = tmp_path / "mine.py"
    source = LEAVES_IN_PREJUDGE.format(execution=execution, method=method, other=other)
    path.write_text(source, encoding="utf-8")
    check = Check(name="main", verifier=f"{path}:Leaves", reference="1")
    prompt = Prompt(prompt_id="p", text="?", checks=(check,), source="test")
    service = VerifierService(workers=1, deadline_s=60.0)
    try:
        verdicts = service.verify_batch([(prompt, completion_from_text("1", prompt_id="p"))])
    finally:
        service.close()
    assert verdicts[0]["main"].status is Status.ERROR
    assert "SystemExit" in verdicts[0]["main"].reason
