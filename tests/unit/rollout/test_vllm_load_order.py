"""A vLLM engine inspects a weights file before it pauses generation; vLLM itself is replaced by a recorder."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rlvr.errors import RolloutError
from rlvr.models.checksum import tensor_checksum
from rlvr.records import TensorEntry, Transport, WeightsKind, WeightsRef
from rlvr.rollout.vllm.engine import VllmEngine
from rlvr.rollout.vllm.settings import EngineSettings

TENSORS = {"a": torch.arange(6, dtype=torch.bfloat16).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


class RecordedCore:
    """Stands in for `VllmCore`. sums: what the worker finds on its device."""

    def __init__(self, sums: dict[str, int]) -> None:
        self.calls: list[str] = []
        self.sums = sums
        self.mapped = ["", ""]  # of two workers

    async def start(self) -> None:
        pass

    async def call(self, method: str, *positional: Any, **named: Any) -> Any:
        name = positional[0] if method == "collective_rpc" else method
        self.calls.append(name)
        return {"rlvr_map": self.mapped, "rlvr_received": [(self.sums, "")]}.get(name)

    def trouble(self) -> str:
        return ""


def published(folder: Path) -> WeightsRef:
    save_file(TENSORS, folder / "v3.safetensors")
    return WeightsRef(
        policy_version=3,
        kind=WeightsKind.FULL,
        transport=Transport.FILE,
        uri=str(folder / "v3.safetensors"),
        dtype="bfloat16",
        manifest=tuple(
            TensorEntry(name=n, shape=tuple(t.shape), checksum=tensor_checksum(t)) for n, t in TENSORS.items()
        ),
    )


def engine_with(core: RecordedCore, *, is_cpu: bool) -> VllmEngine:
    engine = VllmEngine(
        EngineSettings(
            arguments={},
            environment={},
            weight_shapes={name: tuple(tensor.shape) for name, tensor in TENSORS.items()},
            max_model_len=16,
            is_cpu=is_cpu,
        ),
        text=SimpleNamespace(tokenizer=None),  # type: ignore[arg-type]
        architecture=None,  # type: ignore[arg-type]
    )
    engine._core = core  # type: ignore[assignment]
    return engine


LOAD = ["pause_generation", "start_weight_update", "update_weights", "finish_weight_update", "rlvr_repack"]


@pytest.mark.parametrize("is_cpu", [True, False])
def test_the_file_is_inspected_and_mapped_before_generation_pauses(tmp_path: Path, is_cpu: bool):
    ref = published(tmp_path)
    sums = {entry.name: entry.checksum for entry in ref.manifest}
    core = RecordedCore({} if is_cpu else sums)
    receipt = asyncio.run(engine_with(core, is_cpu=is_cpu).load_weights(ref))
    received = [] if is_cpu else ["rlvr_received"]
    assert core.calls == ["rlvr_map", *LOAD, *received, "update_weight_version", "resume_generation"]
    assert receipt.checksums == sums
    assert 0 < receipt.frozen_s < receipt.seconds


def test_a_wrong_file_never_pauses_generation(tmp_path: Path):
    ref = published(tmp_path)
    save_file({**TENSORS, "a": TENSORS["a"] + 1}, ref.uri)
    core = RecordedCore({})
    with pytest.raises(RolloutError, match=r"'a' arrived with bytes that differ.*keeps version -1"):
        asyncio.run(engine_with(core, is_cpu=True).load_weights(ref))
    assert core.calls == []


def test_what_all_workers_report_is_reported_once(tmp_path: Path):
    core = RecordedCore({})
    core.mapped = ["the file was replaced after it was inspected"] * 2
    with pytest.raises(RolloutError, match=r"v3\.safetensors: the file was replaced after it was inspected\. Engine"):
        asyncio.run(engine_with(core, is_cpu=True).load_weights(published(tmp_path)))
    assert core.calls == ["rlvr_map"]


def test_wrong_bytes_on_a_device_end_the_engine(tmp_path: Path):
    ref = published(tmp_path)
    core = RecordedCore({"a": 1, "b": ref.manifest[1].checksum})
    engine = engine_with(core, is_cpu=False)
    with pytest.raises(RolloutError, match=r"'a' arrived with bytes that differ.*must be replaced"):
        asyncio.run(engine.load_weights(ref))
    assert not asyncio.run(engine.health()).is_healthy
    assert "update_weight_version" not in core.calls
