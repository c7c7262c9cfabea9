"""An asynchronous verifier that has to start something: before a run, and before each item outside its deadline."""

import asyncio
from pathlib import Path

import pytest

from rlvr.errors import PluginError
from rlvr.plugin import completion_from_text
from rlvr.records import Check, Prompt, Status
from rlvr.verification.service import VerifierService

SLOW = """
import asyncio
from typing import ClassVar
from rlvr.plugin import EmptyConfig, verdict
from rlvr.protocols import Execution
from rlvr.records import Status

class Slow:
    name = "slow"
    version = "1"
    execution = Execution.ASYNC
    Config = EmptyConfig

    def __init__(self, config, context):
        self.num_ready = 0

    async def ready(self):
        self.num_ready += 1
        await asyncio.sleep(0.4)
        if self.num_ready > 2:
            raise RuntimeError("it is gone")

    async def verify(self, prompt, completion):
        return verdict(self, Status.PASS, f"ready {self.num_ready} times")
"""


def test_starting_counts_to_no_deadline_and_its_failure_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    check = Check(name="main", verifier=f"{tmp_path / 'slow.py'}:Slow")
    prompt = Prompt(prompt_id="p", checks=(check,), source="test", text="?")
    service = VerifierService(workers=1, deadline_s=0.2)
    try:
        service.preflight([check])
        verdicts = [
            asyncio.run(service.verify(prompt, completion_from_text("4", prompt_id="p")))["main"] for _ in range(2)
        ]
        assert verdicts[0].status is Status.PASS
        assert verdicts[0].reason == "ready 2 times"
        assert (verdicts[1].status, verdicts[1].score) == (Status.ERROR, None)
        assert "it is gone" in verdicts[1].reason
        with pytest.raises(PluginError, match="verifier 'slow': it is gone"):
            service.preflight([check])
    finally:
        service.close()
