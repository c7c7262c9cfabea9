"""Adapters alone reach a vLLM engine: the base once, then few bytes a sync, and the log-probs are the learner's."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

pytest.importorskip("vllm")
pytest.importorskip("peft")
sys.path.insert(0, str(Path(__file__).parent))
import vllm_cases as cases
from vllm_cases import Living, differences, request

from rlvr.config.sections.model import LoraConfig
from rlvr.errors import RolloutError
from rlvr.learner.weights.publication import Publication
from rlvr.models import lora
from rlvr.records import Transport, WeightsKind, WeightsRef
from tests.e2e.ray.ray_runs import RAY, TINY, events_of, rlvr, rows_of

pytestmark = pytest.mark.cluster
CONFIG = LoraConfig(rank=4, alpha=8.0)
SENT = ["model.lora.rank=4", "model.lora.alpha=8", "model.lora.sends_alone=true"]


def adapted(*, seed: int) -> PreTrainedModel:
    """A model with adapters that do something."""
    model = cases.tiny_policy(seed=seed).model
    lora.attach(model, CONFIG, seed=0, base_name="tiny")
    moved(model, seed=seed)
    return model


def moved(model: PreTrainedModel, *, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


class Sending:
    """A learner's publications."""

    def __init__(self, model: PreTrainedModel, folder: Path) -> None:
        self.model = model
        self.publication = Publication(
            transport=Transport.FILE, dtype=torch.float32, folder=folder, kind=WeightsKind.ADAPTER
        )

    def next(self) -> WeightsRef:
        self.publication.has_changed = True
        return self.publication.publish(self.model)

    def errors(self, found: object) -> float:
        """The largest difference of log-probs on the canary to the learner's own, which computes unmerged."""
        worst = 0.0
        for row, line in zip(cases.CANARY, found, strict=True):  # type: ignore[call-overload]
            with torch.no_grad():
                logits = self.model(torch.tensor([row])).logits[0].double()
            table = torch.log_softmax(logits, -1)
            own = [table[i, row[i + 1]].item() for i in range(len(row) - 1)]
            worst = max(worst, *differences(line, own))
        return worst


@pytest.fixture(scope="module")
def living() -> Iterator[Living]:
    living = Living(cases.engine_for(cases.without_end(cases.tiny_policy(seed=1)), *SENT))
    yield living
    living.end()


def counted(living: Living, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of vLLM's methods that are called from now on."""
    calls: list[str] = []
    real = living.engine._core.call

    async def call(method: str, *args: object, **kwargs: object) -> object:
        calls.append(method)
        return await real(method, *args, **kwargs)

    monkeypatch.setattr(living.engine._core, "call", call)
    return calls


def test_the_base_goes_once_and_each_set_of_adapters_is_followed(
    living: Living, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls = counted(living, monkeypatch)
    sending = Sending(adapted(seed=1), tmp_path)
    seen: list[object] = []
    for version in range(4):
        ref = sending.next()
        receipt = living.run(living.engine.load_weights(ref, canary=cases.CANARY))
        assert receipt.policy_version == version
        assert receipt.checksums == {entry.name: entry.checksum for entry in ref.manifest}
        assert sending.errors(receipt.canary_logprobs) < 2e-4
        assert receipt.canary_logprobs not in seen
        seen.append(receipt.canary_logprobs)
        moved(sending.model, seed=10 + version)
    assert calls.count("start_weight_update") == 1
    assert calls.count("add_lora") == 4
    assert ref.base is not None
    assert Path(ref.uri).stat().st_size < Path(ref.base.uri).stat().st_size / 5
    sending.publication.close()


def test_requests_in_flight_go_on_with_the_new_adapters(living: Living, tmp_path: Path):
    import asyncio

    sending = Sending(adapted(seed=1), tmp_path)
    living.run(living.engine.load_weights(sending.next()))
    moved(sending.model, seed=3)

    async def work() -> list[tuple[int, ...]]:
        requests = [request(f"{i}", seed=i, max_tokens=150) for i in range(8)]
        task = asyncio.create_task(cases.collect(living.engine, requests))
        await asyncio.sleep(0.1)
        await living.engine.load_weights(sending.next())
        return [tuple(sorted(set(c.policy_versions))) for c in (await task).values()]

    assert (0, 1) in living.run(work())
    sending.publication.close()


def test_other_bytes_are_refused_by_name_and_another_base_is_loaded(living: Living, tmp_path: Path):
    sending = Sending(adapted(seed=1), tmp_path / "a")
    living.run(living.engine.load_weights(sending.next()))
    ref = sending.next()
    first = ref.manifest[0]
    wrong = dataclasses.replace(first, checksum=first.checksum ^ 1)
    forged = dataclasses.replace(ref, manifest=(wrong, *ref.manifest[1:]))
    with pytest.raises(RolloutError, match=f"'{first.name}' arrived with bytes that differ"):
        living.run(living.engine.load_weights(forged))
    with pytest.raises(RolloutError, match="was started with adapters"):
        living.run(living.engine.load_weights(ref.base))  # type: ignore[arg-type] # an adapter's has one
    other = Sending(adapted(seed=2), tmp_path / "b")
    receipt = living.run(living.engine.load_weights(other.next(), canary=cases.CANARY))
    assert other.errors(receipt.canary_logprobs) < 2e-4
    sending.publication.close()
    other.publication.close()


def test_a_run_behind_ray_sends_adapters_alone_and_proves_them(tmp_path: Path):
    changes = [
        *TINY, *RAY, *SENT, "rollout.engine=vllm", "rollout.engine_dtype=float32", "rollout.max_completion_tokens=8",
        "rollout.max_batch_rows=16", "cold_start.steps=0", "data.eval=[]", "run.steps=3", "learner.lr=0.01",
    ]  # fmt: skip
    rlvr("train", "tiny", *changes, "--run-dir", "run", cwd=tmp_path)
    run = tmp_path / "run"
    synced = events_of(run, "weights_synced")
    assert {event["tensors"] for event in synced} == {2 * 7 * 2}  # A and B of 7 layers in 2 blocks
    assert len(rows_of(run)) == 3
    assert max(row["mismatch/mean_abs_logprob_diff"] for row in rows_of(run)) < 1e-3
