"""The verdicts that each verifier gives before a run."""

import logging
from pathlib import Path

import pytest

from rlvr.config.load import load_recipe
from rlvr.errors import PluginError
from rlvr.records import Check, Prompt
from rlvr.run.launch.preflight import opened
from rlvr.verification.first_verdicts import require_verdicts
from rlvr.verification.service import VerifierService

PLUGINS = """
from rlvr.plugin import verifier
from rlvr.protocols import Execution


@verifier(version="1")
def silent_on_wrong(text, reference):
    if text == reference:
        return True


@verifier(version="1")
def silent_on_right(text, reference):
    if text != reference:
        return False


@verifier(version="1")
def wordy(text, reference):
    return "yes" if text == reference else "no"


@verifier(version="1")
def raises(text, reference):
    return inner(text)


def inner(text):
    return {}[text]


@verifier(version="1", execution=Execution.ASYNC)
async def asks_a_service(text, reference):
    raise ConnectionError("nobody there")


@verifier(version="1")
def hangs(text, reference):
    import time
    time.sleep(60)


class Picky:
    "Returns what is no verdict."
    name, version, execution = "picky", "1", Execution.PROCESS
    from rlvr.plugin import EmptyConfig as Config

    def __init__(self, config, context):
        pass

    def verify(self, prompt, completion):
        return 1.0
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(PLUGINS)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "2 + 2", "reference": "4"}\n')
    return tmp_path


def open_with(verifier: str) -> None:
    changes = [f"data.train=[{{source: rows.jsonl, verifier: 'mine.py:{verifier}'}}]", "data.eval=[]"]
    with opened(load_recipe("tiny", [*changes, "cold_start.steps=0"]).recipe):
        pass


@pytest.mark.parametrize(
    ("verifier", "what"),
    [
        ("silent_on_wrong", r"'I do not know.': .*\(mine.py:6\) returned None .*, on every path"),
        ("silent_on_right", r"'4': .*\(mine.py:12\) returned None"),
        ("wordy", r"returned 'no' of type str; return one bool"),
        ("Picky", r"picky@1: returned 1.0 of type float; verify must return a Verdict"),
    ],
)
def test_a_verifier_that_returns_no_verdict_is_refused_before_a_run(folder: Path, verifier: str, what: str) -> None:
    with pytest.raises(PluginError, match=what):
        open_with(verifier)


def test_one_that_raises_is_reported_with_its_own_frames_and_one_that_asks_a_service_is_not_called(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        open_with("raises")
        open_with("asks_a_service")
    (message,) = [record.getMessage() for record in caplog.records if "tried on" in record.getMessage()]
    assert "KeyError: 'I do not know.' (mine.py:29, in inner: return {}[text])" in message
    assert '  File "mine.py", line 25, in raises\n' in message
    assert "/rlvr/" not in message


def test_a_verifier_that_hangs_is_not_waited_for(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    check = Check(name="main", verifier="mine.py:hangs", reference="4")
    service = VerifierService(workers=1, deadline_s=1000)
    try:
        with caplog.at_level(logging.WARNING):
            require_verdicts(service, [Prompt(prompt_id="p", text="?", checks=(check,), source="s")], patience_s=2)
    finally:
        service.close()
    assert "'mine.py:hangs', tried on the completion 'I do not know.': no verdict within 2 s" in caplog.text
