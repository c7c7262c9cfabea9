"""During a run the garbage collector leaves alone what was there before."""

import asyncio
import gc
from typing import Any

import pytest

from rlvr.run import loop


def test_objects_from_before_the_run_are_not_scanned_during_it(monkeypatch: pytest.MonkeyPatch):
    before = gc.get_freeze_count()

    async def steps(parts: Any) -> int:
        return gc.get_freeze_count()

    monkeypatch.setattr(loop, "_run", steps)
    parts: Any = None
    assert asyncio.run(loop.run_loop(parts)) > before + 10_000
    assert gc.get_freeze_count() == 0


def test_they_are_scanned_again_after_a_run_that_failed(monkeypatch: pytest.MonkeyPatch):
    async def steps(parts: Any) -> int:
        raise RuntimeError

    monkeypatch.setattr(loop, "_run", steps)
    parts: Any = None
    with pytest.raises(RuntimeError):
        asyncio.run(loop.run_loop(parts))
    assert gc.get_freeze_count() == 0
