"""Proof that weights arrived: faulty engines are caught and named, honest ones never are."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlvr.config.recipe import EngineDtype
from rlvr.errors import RolloutError
from rlvr.protocols import LoadReceipt
from rlvr.records import Transport, WeightsRef
from rlvr.rollout.toy_engine import ToyEngine
from rlvr.rollout.transformers_engine import TransformersEngine
from rlvr.run.weights.canary import Rows, build_canary, difference
from tests.unit.run.weights.proof_cases import (
    Cached,
    Corrupting,
    Drifting,
    Lying,
    Pair,
    ProofWorld,
    Skipping,
    StaleHead,
    Wrapped,
)


@pytest.mark.parametrize("transport", [Transport.FILE, Transport.IN_PLACE_COPY])
@pytest.mark.parametrize(
    ("dtype", "autocast"),
    [
        (EngineDtype.FLOAT32, False),
        (EngineDtype.FLOAT32, True),
        (EngineDtype.BFLOAT16, False),
        (EngineDtype.BFLOAT16, True),
    ],
)
def test_an_honest_engine_follows_every_group(tmp_path: Path, dtype: EngineDtype, autocast: bool, transport: Transport):
    world = ProofWorld(tmp_path, dtype=dtype, autocast=autocast, transport=transport)
    weights = {n: p.detach().clone() for n, p in world.policy.model.named_parameters()}
    syncs = world.run(syncs=4)
    assert [sync.version for sync in syncs] == [0, 1, 2, 3, 4]
    proven = next(fields for kind, fields in world.events if kind == "weights_proven")
    proven_groups = [group["group"] for group in proven["groups"]]  # type: ignore[index]
    if transport is Transport.FILE:
        assert proven_groups == list(weights)
    else:
        assert "model.layers.1 attention" in proven_groups
        assert len(proven_groups) == 8
    assert proven["unmoved"] == []
    assert all("sync/drift_mean" in syncs[i].metrics for i in (0, 2, 4))
    assert not any("sync/drift_mean" in syncs[i].metrics for i in (1, 3))
    assert not list(tmp_path.glob("weights/*"))


def test_the_proof_leaves_the_weights_bit_for_bit_and_no_trial_behind(tmp_path: Path):
    world = ProofWorld(tmp_path)
    before = {n: p.detach().clone() for n, p in world.policy.model.named_parameters()}
    world.run(syncs=0)
    for name, parameter in world.policy.model.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_adapters_are_moved_through_their_own_matrices(tmp_path: Path):
    world = ProofWorld(tmp_path, rank=4, max_groups=8)
    assert [sync.version for sync in world.run(syncs=2)] == [0, 1, 2]
    proven = next(fields for kind, fields in world.events if kind == "weights_proven")
    assert proven["unmoved"] == []
    assert len(proven["groups"]) > 1  # type: ignore[arg-type]


def test_a_tensor_damaged_on_its_way_is_named_by_the_engine(tmp_path: Path):
    with pytest.raises(RolloutError, match=r"version 1.*model\.layers\.1\.mlp\.up_proj\.weight"):
        ProofWorld(tmp_path).run(Corrupting)


def test_a_different_tensor_is_named_even_if_the_engine_does_not_check(tmp_path: Path):
    class Blind(Corrupting):
        checks = False

    with pytest.raises(RolloutError, match=r"version 1: the engine holds other bytes.*up_proj"):
        ProofWorld(tmp_path).run(Blind)


@pytest.mark.parametrize("dtype", [EngineDtype.FLOAT32, EngineDtype.BFLOAT16])
def test_a_skipped_sync_is_caught_although_the_engine_claims_it(tmp_path: Path, dtype: EngineDtype):
    with pytest.raises(RolloutError, match=r"version 2.*bitwise equal to those of version 1"):
        ProofWorld(tmp_path, dtype=dtype).run(Skipping)


def test_a_version_that_the_engine_does_not_serve_is_caught(tmp_path: Path):
    with pytest.raises(RolloutError, match="published version 0, the engine reports -1"):
        ProofWorld(tmp_path).run(Lying)


@pytest.mark.parametrize("dtype", [EngineDtype.FLOAT32, EngineDtype.BFLOAT16])
def test_a_stale_packed_head_is_caught_at_the_start_and_named(tmp_path: Path, dtype: EngineDtype):
    with pytest.raises(RolloutError, match=r"does not follow the tensors of '(lm_head|model\.embed)"):
        ProofWorld(tmp_path, dtype=dtype).run(StaleHead, syncs=0)


def test_a_stale_packed_head_is_caught_among_coarse_groups(tmp_path: Path):
    with pytest.raises(RolloutError, match=r"does not follow the tensors of '(lm_head|model\.embed)"):
        ProofWorld(tmp_path, max_groups=6).run(StaleHead, syncs=0)


class Slow(StaleHead):
    """Takes a while for every load; computes with a packed head only if told to."""

    has_stale_head = False

    def __init__(self, inner: TransformersEngine) -> None:
        if self.has_stale_head:
            super().__init__(inner)
        else:
            Wrapped.__init__(self, inner)

    async def load(self, ref: WeightsRef, canary: Rows) -> LoadReceipt:
        await asyncio.sleep(0.15)
        return await super().load(ref, canary)


def test_groups_are_merged_until_the_proof_fits_its_time(tmp_path: Path):
    world = ProofWorld(tmp_path, max_seconds=1.2)
    perturbed: list[Sequence[str]] = []
    perturb = world.learner.perturb

    def noted(names: Sequence[str], *, scale: float) -> None:
        perturbed.append(names)
        perturb(names, scale=scale)

    world.learner.perturb = noted  # type: ignore[method-assign]
    world.run(Slow, syncs=0)
    proven = next(fields for kind, fields in world.events if kind == "weights_proven")
    assert 1 < len(proven["groups"]) < proven["merged_from"] == 20  # type: ignore[arg-type]
    assert proven["seconds"] < 3.0  # type: ignore[operator]
    assert {n for names in perturbed for n in names} == {n for n, _ in world.policy.model.named_parameters()}
    assert any("groups were merged into" in line for line in world.lines)


def test_a_stale_packed_head_is_caught_among_groups_that_were_merged(tmp_path: Path):
    class Stale(Slow):
        has_stale_head = True

    with pytest.raises(RolloutError, match="does not follow the tensors of"):
        ProofWorld(tmp_path, max_seconds=1.2).run(Stale, syncs=0)


@pytest.mark.parametrize("dtype", [EngineDtype.FLOAT32, EngineDtype.BFLOAT16])
def test_drifting_arithmetic_is_caught_at_the_next_drift_check(tmp_path: Path, dtype: EngineDtype):
    class Quickly(Drifting):
        by = 2e-3 if dtype is EngineDtype.FLOAT32 else 0.05

    world = ProofWorld(tmp_path, dtype=dtype, drift_every_syncs=3)
    with pytest.raises(RolloutError, match="version 3: the engine has drifted from the learner"):
        world.run(Quickly, syncs=6)


def test_growing_rounding_is_reported_once_and_does_not_stop_the_run(tmp_path: Path):
    class Rougher(Wrapped):
        async def load(self, ref: WeightsRef, canary: Rows) -> LoadReceipt:
            receipt = await super().load(ref, canary)
            off = 0.02 + 0.004 * max(0, ref.policy_version)
            rows = tuple(tuple(x + off * (-1) ** i for i, x in enumerate(r)) for r in receipt.canary_logprobs)
            return replace(receipt, canary_logprobs=rows)

    world = ProofWorld(tmp_path, drift_every_syncs=1)
    world.run(Rougher, syncs=4)
    reported = [fields for kind, fields in world.events if kind == "engine_drifting"]
    assert len(reported) == 1
    assert reported[0]["start"] < reported[0]["mean"] < reported[0]["bound"]  # type: ignore[operator]


def test_the_stale_one_of_two_engines_is_named(tmp_path: Path):
    world = ProofWorld(tmp_path)
    pair = Pair(Wrapped(world.engine("engine-0")), Skipping(world.engine("engine-1")))
    with pytest.raises(RolloutError, match=r"version 2: engine 'engine-1'.*those of version 1"):
        world.run(engine=pair)


def test_two_honest_engines_are_both_recorded(tmp_path: Path):
    world = ProofWorld(tmp_path)
    pair = Pair(Wrapped(world.engine("engine-0")), Wrapped(world.engine("engine-1")))
    world.run(engine=pair, syncs=1)
    synced = [fields for kind, fields in world.events if kind == "weights_synced"]
    assert [e["engine"] for e in synced[-1]["engines"]] == ["engine-0", "engine-1"]  # type: ignore[index]


def test_an_answer_from_a_cache_is_caught_at_the_start(tmp_path: Path):
    with pytest.raises(RolloutError, match="does not follow"):
        ProofWorld(tmp_path).run(Cached, syncs=0)


def test_an_answer_from_a_cache_is_caught_at_a_sync_without_the_first_proof(tmp_path: Path):
    with pytest.raises(RolloutError, match=r"version 1.*bitwise equal to those of version 0"):
        ProofWorld(tmp_path, at_start=False).run(Cached)


def test_an_engine_without_canary_is_refused(tmp_path: Path):
    class Silent(Wrapped):
        async def load(self, ref: WeightsRef, canary: Rows) -> LoadReceipt:
            return replace(await super().load(ref, canary), canary_logprobs=())

    with pytest.raises(RolloutError, match="returned 0 canary rows"):
        ProofWorld(tmp_path).run(Silent)


def test_an_engine_without_weights_needs_no_proof(tmp_path: Path):
    world = ProofWorld(tmp_path)
    syncs = world.run(engine=ToyEngine(world.policy.text), syncs=2)  # type: ignore[arg-type]
    assert [dict(sync.metrics) for sync in syncs] == [{}, {}, {}]
    assert world.events == []


def test_a_run_without_the_first_proof_perturbs_nothing(tmp_path: Path):
    world = ProofWorld(tmp_path, at_start=False, drift_every_syncs=0)
    syncs = world.run(syncs=3)
    assert [kind for kind, _ in world.events] == ["weights_synced"] * 4
    assert ["sync/drift_mean" in sync.metrics for sync in syncs] == [True, False, False, False]


def test_canary_rows_begin_with_prompts_and_cover_the_vocabulary():
    canary = build_canary([[1, 2, 3], [4, 5]], vocabulary=range(10, 40), num_tokens=600, max_row_tokens=31, seed=7)
    assert {len(row) for row in canary.wide} == {31}
    assert len(canary.wide) == 20
    assert canary.wide[0][:3] == (1, 2, 3)
    assert canary.wide[1][:2] == (4, 5)
    drawn = {token for row in canary.wide for token in row[3:]}
    assert drawn == set(range(10, 40))
    assert canary.trial == canary.wide[: len(canary.trial)]
    assert len(canary.sync[0]) == 17


def test_a_difference_with_a_number_that_is_not_finite_is_infinite():
    assert difference([[float("nan"), 1.0]], [[1.0, 1.0]]).mean == float("inf")


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [EngineDtype.FLOAT32, EngineDtype.BFLOAT16])
def test_honest_engines_never_fail_in_random_runs(tmp_path: Path, dtype: EngineDtype):
    for seed in range(25):
        world = ProofWorld(
            tmp_path, dtype=dtype, autocast=seed % 2 == 1, seed=seed, lr=10.0 ** -(2 + seed % 4), max_groups=6
        )
        world.run(syncs=6)
