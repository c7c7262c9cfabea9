"""How a verifier gets its sandbox: by the recipe's `sandbox`, one a run, only where one is needed."""

import asyncio
from pathlib import Path

import pytest

from rlvr.config.load import load_recipe
from rlvr.errors import ConfigError, PluginError, SandboxUnavailable
from rlvr.plugin import completion_from_text
from rlvr.records import Check, Prompt, Status
from rlvr.run.launch.preflight import opened
from rlvr.verification.service import VerifierService

PLUGINS = '''
from pydantic import BaseModel, ConfigDict
from rlvr.errors import SandboxUnavailable
from rlvr.plugin import verdict
from rlvr.protocols import Execution
from rlvr.records import Status

LOG = []

class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    works: bool = True

class Box:
    """Stops nothing."""
    name, capabilities, Config = "box", frozenset(), Config
    def __init__(self, config):
        self.config = config
        LOG.append("made")
    async def start(self):
        if not self.config.works:
            raise SandboxUnavailable("nothing isolates here; mend it")
        LOG.append("started")
    async def run(self, program, files, stdin, limits):
        raise NotImplementedError
    async def self_test(self):
        return ()
    async def close(self):
        LOG.append("closed")

class Needs:
    name, version, execution = "needs", "1", Execution.SANDBOXED
    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid", frozen=True)
        number: int = 0
    def __init__(self, config, context):
        self.context = context
    async def verify(self, prompt, completion):
        return verdict(self, Status.PASS, f"{self.context.sandbox and self.context.sandbox.name} {LOG}")

class Plain(Needs):
    name, execution = "plain", Execution.ASYNC
'''


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the plugins; a path of its own makes them a module of their own."""
    (tmp_path / "plugins.py").write_text(PLUGINS + f"# {tmp_path}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reason(service: VerifierService, *checks: Check) -> list[str]:
    service.preflight(checks)
    prompt = Prompt(prompt_id="p", checks=checks, source="test", text="?")
    [verdicts] = service.verify_batch([(prompt, completion_from_text("x", prompt_id="p"))])
    assert all(verdict.status is Status.PASS for verdict in verdicts.values())
    return [verdict.reason for verdict in verdicts.values()]


def check(name: str, **settings: int) -> Check:
    return Check(name=f"{name}{len(settings)}", verifier=f"plugins.py:{name}", settings=settings)


def log() -> list[str]:
    """What the sandbox did, as a verifier without one sees it."""
    service = VerifierService(1, 5.0)
    try:
        return reason(service, check("Plain"))[0].partition("[")[2].rstrip("]").split(", ")
    finally:
        service.close()


def test_sandboxed_verifiers_share_one_sandbox_that_starts_at_preflight_and_closes() -> None:
    service = VerifierService(1, 5.0, sandbox=("plugins.py:Box", {}))
    try:
        first, second = reason(service, check("Needs"), check("Needs", number=1))
        assert first == second == "box ['made', 'started']"
    finally:
        service.close()
    assert log() == ["'made'", "'started'", "'closed'"]


def test_other_verifiers_get_none_and_nothing_is_started() -> None:
    service = VerifierService(1, 5.0, sandbox=("plugins.py:Box", {}))
    try:
        assert reason(service, check("Plain")) == ["None []"]
    finally:
        service.close()


def test_without_a_choice_a_sandboxed_verifier_gets_none() -> None:
    service = VerifierService(1, 5.0)
    try:
        assert reason(service, check("Needs")) == ["None []"]
    finally:
        service.close()


def test_a_sandbox_that_cannot_start_ends_the_run_at_preflight() -> None:
    service = VerifierService(1, 5.0, sandbox=("plugins.py:Box", {"works": False}))
    try:
        with pytest.raises(SandboxUnavailable, match="mend it"):
            service.preflight([check("Needs")])
    finally:
        service.close()


def test_preflight_may_be_called_inside_an_event_loop() -> None:
    service = VerifierService(1, 5.0, sandbox=("plugins.py:Box", {}))

    async def inside() -> None:
        service.preflight([check("Needs")])
        service.close()

    asyncio.run(inside())
    assert log() == ["'made'", "'started'", "'closed'"]


RECIPE = """\
name: x
model: {tiny: {}}
data:
  train: [{source: rows.jsonl, verifier: "plugins.py:Needs"}]
sandbox: {backend: "plugins.py:Box", settings: {works: true}}
"""


def test_the_recipes_sandbox_reaches_the_verifier(folder: Path) -> None:
    (folder / "x.yaml").write_text(RECIPE)
    (folder / "rows.jsonl").write_text('{"prompt": "?", "reference": "1"}\n' * 8)
    recipe = load_recipe("x.yaml").recipe
    assert (recipe.sandbox.backend, recipe.sandbox.settings) == ("plugins.py:Box", {"works": True})
    with opened(recipe) as (service, _):
        assert reason(service, check("Needs"))[0].startswith("box ['made', 'started'")
    broken = load_recipe("x.yaml", ["sandbox.settings.works=false"]).recipe
    with pytest.raises(SandboxUnavailable, match="nothing isolates"), opened(broken):
        pytest.fail("a run without its sandbox must not open")
    unknown = load_recipe("x.yaml", ["sandbox.settings.walls=3"]).recipe
    with pytest.raises(PluginError, match="walls"), opened(unknown):
        pytest.fail("a run with a wrong setting must not open")


def test_the_default_is_auto_without_settings(folder: Path) -> None:
    (folder / "x.yaml").write_text(RECIPE.partition("sandbox:")[0])
    sandbox = load_recipe("x.yaml").recipe.sandbox
    assert (sandbox.backend, sandbox.settings) == ("auto", {})
    with pytest.raises(ConfigError, match=r"sandbox.backnd=.*did you mean sandbox.backend"):
        load_recipe("x.yaml", ["sandbox.backnd=none"])
