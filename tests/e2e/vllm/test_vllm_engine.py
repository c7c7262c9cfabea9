"""The vLLM engine for real, on this machine's CPU: a tiny tied policy in float32. One engine serves all tests."""

import asyncio
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("vllm")
sys.path.insert(0, str(Path(__file__).parent))
import vllm_cases as cases
from vllm_cases import Living, collect, differences, expected_logprobs, request

from rlvr.contracts import check_engine
from rlvr.errors import RolloutError
from rlvr.models.policy import Policy
from rlvr.records import FinishReason
from rlvr.rollout.vllm.engine import VllmEngine

pytestmark = pytest.mark.cluster
LONG_PROMPT = (1, *[4 + i * 7 % 11 for i in range(240)])  # longer than a block of the prefix cache


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return cases.without_end(cases.tiny_policy(seed=1))


@pytest.fixture(scope="module")
def other() -> Policy:
    return cases.without_end(cases.tiny_policy(seed=2))


@pytest.fixture(scope="module")
def started(policy: Policy) -> Iterator[Living]:
    living = Living(cases.engine_for(policy))
    yield living
    living.end()


@pytest.fixture
def living(started: Living, policy: Policy, folder: Path) -> Living:
    """The engine with the first policy's weights, version 1."""
    ref = cases.publish(cases.tensors_of(policy), folder / "v1.safetensors", version=1)
    started.run(started.engine.load_weights(ref))
    return started


def test_the_canary_of_a_load_follows_the_learner(living: Living, policy: Policy, folder: Path):
    tensors = cases.tensors_of(policy)
    ref = cases.publish(tensors, folder / "again.safetensors", version=2)
    receipt = living.run(living.engine.load_weights(ref, canary=cases.CANARY))
    assert (receipt.policy_version, receipt.engine_id) == (2, "engine-0")
    assert 0 < receipt.canary_s < receipt.seconds
    assert receipt.checksums == {entry.name: entry.checksum for entry in ref.manifest}
    errors = [
        error
        for row, found in zip(cases.CANARY, receipt.canary_logprobs, strict=True)
        for error in differences(found, expected_logprobs(policy, row))
    ]
    assert sum(errors) / len(errors) < 2e-5
    assert max(errors) < 2e-4


def test_logprobs_are_those_of_the_distribution_that_was_sampled(living: Living, policy: Policy):
    """At temperature 0.7 and 1.3 in one batch; greedy rows report the log-prob at temperature 1."""
    for temperature in (0.7, 1.3, 0.0):
        requests = [request(f"{i}", seed=i, temperature=temperature) for i in range(4)]
        mixed = [request(f"m{i}", seed=i, temperature=1.0) for i in range(2)]
        found = living.generate(*requests, *mixed)
        for name in (r.request_id for r in requests):
            completion = found[name]
            row = completion.prompt_token_ids + completion.token_ids
            exact = expected_logprobs(policy, row, start=4, temperature=temperature)
            errors = differences(completion.logprobs, exact)
            assert sum(errors) / len(errors) < 2e-5


def test_a_seed_decides_the_tokens_regardless_of_other_requests(living: Living):
    together = living.generate(*(request(f"{i}", seed=i) for i in range(12)))
    alone = living.generate(request("3", seed=3))
    again = living.generate(*(request(f"{i}", seed=i) for i in range(12)))
    assert {k: c.token_ids for k, c in together.items()} == {k: c.token_ids for k, c in again.items()}
    assert alone["3"].token_ids == together["3"].token_ids
    assert len({c.token_ids for c in together.values()}) == 12


def test_greedy_takes_the_most_likely_token(living: Living, policy: Policy):
    completion = living.generate(request("g", temperature=0.0, max_tokens=12))["g"]
    row = list(completion.prompt_token_ids)
    policy.model.eval()
    for token in completion.token_ids:
        with torch.no_grad():
            assert token == int(policy.model(torch.tensor([row])).logits[0, -1].argmax())
        row.append(token)


def test_the_limit_ends_a_completion(living: Living):
    completion = living.generate(request("x", max_tokens=7))["x"]
    assert (completion.finish_reason, len(completion.token_ids)) == (FinishReason.LENGTH, 7)
    assert completion.policy_versions == (1,) * 7


def test_a_stop_token_ends_a_completion_and_stays_in_it(living: Living):
    free = living.generate(request("x", seed=5, max_tokens=40))["x"].token_ids
    stop = free[10]
    found = living.generate(request("x", seed=5, max_tokens=40, stop_token_ids=(stop,)))["x"]
    assert found.finish_reason is FinishReason.STOP
    assert found.token_ids == free[: free.index(stop) + 1]
    assert len(found.logprobs) == len(found.token_ids)


def test_a_stop_string_ends_a_completion_and_stays_in_it(living: Living):
    free = living.generate(request("x", seed=5, max_tokens=40))["x"]
    stop = free.text[8:10]
    found = living.generate(request("x", seed=5, max_tokens=40, stop_strings=(stop,)))["x"]
    end = free.text.index(stop) + len(stop)
    assert found.finish_reason is FinishReason.STOP
    assert found.text == free.text[:end]
    assert found.token_ids == free.token_ids[: len(found.token_ids)]
    assert len(found.logprobs) == len(found.token_ids)


def test_a_stop_string_that_is_a_special_token_ends_a_completion(living: Living, policy: Policy):
    (token,) = policy.tokenizer.encode("<unk>", add_special_tokens=False)
    names = [str(i) for i in range(24)]
    free = living.generate(*(request(n, seed=i, max_tokens=60) for i, n in enumerate(names)))
    reached = [name for name in names if token in free[name].token_ids]
    assert reached
    stops = {"stop_strings": ("<unk>",)}
    found = living.generate(*(request(n, seed=int(n), max_tokens=60, **stops) for n in reached))
    for name in reached:
        ids = free[name].token_ids
        assert found[name].token_ids == ids[: ids.index(token) + 1]
        assert found[name].finish_reason is FinishReason.STOP
        assert "<unk>" not in found[name].text


def test_a_deadline_returns_what_was_generated_so_far(living: Living):
    begin = time.monotonic()
    found = living.generate(
        *(request(f"{i}", seed=i, max_tokens=440, deadline_s=0.5) for i in range(96)), request("free", max_tokens=440)
    )
    assert time.monotonic() - begin < 60
    cut = [c for name, c in found.items() if name != "free"]
    assert {c.finish_reason for c in cut} == {FinishReason.ABORT}
    assert all(0 < len(c.token_ids) < 440 for c in cut)
    assert found["free"].finish_reason is FinishReason.LENGTH


def test_a_caller_that_is_cancelled_aborts_its_requests(living: Living):
    async def work() -> int:
        requests = [request(f"{i}", seed=i, max_tokens=200) for i in range(16)]
        task = asyncio.create_task(collect(living.engine, requests))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return (await living.engine.health()).num_open_requests

    assert living.run(work()) == 0
    assert living.engine._core.llm.output_processor.get_num_unfinished_requests() == 0
    assert len(living.generate(request("next"))) == 1


def test_health_answers_while_the_engine_generates(living: Living):
    async def work() -> tuple[float, int]:
        requests = [request(f"{i}", seed=i, max_tokens=200) for i in range(32)]
        task = asyncio.create_task(collect(living.engine, requests))
        await asyncio.sleep(0.05)
        begin = time.perf_counter()
        health = await living.engine.health()
        seconds = time.perf_counter() - begin
        await task
        assert health.is_healthy
        return seconds, health.num_open_requests

    seconds, num_open = living.run(work())
    assert seconds < 0.2
    assert num_open == 32


def test_requests_in_flight_survive_a_load_and_tell_which_token_came_from_which_weights(
    living: Living, policy: Policy, other: Policy, folder: Path
):
    ref = cases.publish(cases.tensors_of(other), folder / "v2.safetensors", version=2)

    async def work() -> dict[str, object]:
        requests = [request(f"{i}", seed=i, temperature=1.0, max_tokens=200) for i in range(24)]
        task = asyncio.create_task(collect(living.engine, requests))
        await asyncio.sleep(0.25)
        await living.engine.load_weights(ref)
        return dict(await task)

    found = living.run(work())
    spans = [tuple(sorted(set(c.policy_versions))) for c in found.values()]  # type: ignore[attr-defined]
    assert spans == [(1, 2)] * 24
    for completion in list(found.values())[:6]:
        versions = completion.policy_versions  # type: ignore[attr-defined]
        assert list(versions) == sorted(versions)
        switch = versions.index(2)
        row = completion.prompt_token_ids + completion.token_ids  # type: ignore[attr-defined]
        start = len(completion.prompt_token_ids)  # type: ignore[attr-defined]
        old = expected_logprobs(policy, row, start=start)[:switch]
        new = expected_logprobs(other, row, start=start)[switch:]
        errors = differences(completion.logprobs, old + new)  # type: ignore[attr-defined]
        assert sum(errors) / len(errors) < 2e-5


def test_more_prompts_than_one_step_holds_and_a_seed_still_decides(living: Living):
    """40 prompts of 241 tokens are more than the 2,048 tokens of a step; a load makes the engine read them all anew."""
    requests = [request(f"{i}", (1, *LONG_PROMPT[i:], *LONG_PROMPT[1:i]), seed=i) for i in range(1, 41)]
    together = living.generate(*requests)
    alone = living.generate(requests[36])
    assert alone["37"].token_ids == together["37"].token_ids
    assert len({c.token_ids for c in together.values()}) == 40


def test_no_prefix_of_an_old_policy_is_read(living: Living, other: Policy, folder: Path):
    """The same long prompt before and after a load, and back to a version that was served before."""
    living.generate(request("warm", LONG_PROMPT, max_tokens=4))
    ref = cases.publish(cases.tensors_of(other), folder / "v1b.safetensors", version=1)
    living.run(living.engine.load_weights(ref))
    found = living.generate(request("x", LONG_PROMPT, temperature=1.0, max_tokens=8))["x"]
    row = found.prompt_token_ids + found.token_ids
    exact = expected_logprobs(other, row, start=len(LONG_PROMPT))
    assert max(differences(found.logprobs, exact)) < 2e-4


def test_equal_weights_give_equal_bits_also_while_others_generate(living: Living):
    rows = [*cases.CANARY, LONG_PROMPT]

    async def busy() -> list[list[float]]:
        requests = [request(f"{i}", seed=i, max_tokens=200) for i in range(20)]
        task = asyncio.create_task(collect(living.engine, requests))
        await asyncio.sleep(0.1)
        scored = await living.engine.score(rows)
        found = await task
        assert {len(c.token_ids) for c in found.values()} == {200}
        return scored

    first = living.run(living.engine.score(rows))
    assert living.run(busy()) == first
    assert living.run(living.engine.score(rows[::-1]))[::-1] == first


def test_scored_rows_leave_the_tokens_of_others_alone(living: Living):
    requests = [request(f"{i}", seed=i, max_tokens=120) for i in range(8)]

    async def busy() -> dict[str, object]:
        task = asyncio.create_task(collect(living.engine, requests))
        for _ in range(5):
            await asyncio.sleep(0.02)
            await living.engine.score(cases.CANARY)
        return dict(await task)

    quiet = living.generate(*requests)
    disturbed = living.run(busy())
    assert {k: c.token_ids for k, c in quiet.items()} == {
        k: c.token_ids  # type: ignore[attr-defined]
        for k, c in disturbed.items()
    }


def test_the_running_engine_has_a_slot_more_than_rows_that_generate(living: Living):
    found = living.engine._core.llm.vllm_config.scheduler_config
    assert (found.max_num_seqs, found.max_num_active_seqs) == (257, 256)  # rollout.max_batch_rows=256


def test_bytes_are_summed_where_they_arrive_on_an_accelerator(
    living: Living, other: Policy, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def forbidden(*_: object) -> int:
        raise AssertionError("the host summed the file")

    monkeypatch.setattr("rlvr.rollout.vllm.inspection.tensor_checksum", forbidden)
    monkeypatch.setattr(living.engine, "_settings", replace(living.engine._settings, is_cpu=False))
    ref = cases.publish(cases.tensors_of(other), folder / "device.safetensors", version=2)
    receipt = living.run(living.engine.load_weights(ref, canary=cases.CANARY))
    assert receipt.checksums == {entry.name: entry.checksum for entry in ref.manifest}
    for row, found in zip(cases.CANARY, receipt.canary_logprobs, strict=True):
        assert max(differences(found, expected_logprobs(other, row))) < 2e-4


def test_a_corrupted_tensor_is_named_and_the_engine_keeps_its_weights(living: Living, other: Policy, folder: Path):
    before = living.run(living.engine.score(cases.CANARY))
    path = folder / "corrupt.safetensors"
    ref = cases.publish(cases.tensors_of(other), path, version=2)
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 0x10  # a byte of the last tensor in the file
    path.write_bytes(raw)
    with pytest.raises(RolloutError, match=r"version 2 .*arrived with bytes that differ"):
        living.run(living.engine.load_weights(ref))
    assert living.run(living.engine.health()).policy_version == 1
    assert living.run(living.engine.score(cases.CANARY)) == before


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("missing", r"'model\.layers\.1\.mlp\.down_proj\.weight' is missing from the file"),
        ("extra", r"'model\.layers\.9\.mlp\.down_proj\.weight' is in the file but not in the model"),
        ("shape", r"'model\.norm\.weight' has shape \(64,\); expected \(128,\)"),
        ("not sent", r"'model\.norm\.weight' arrived but is not in the learner's manifest"),
        ("no file", r"cannot be read"),
    ],
)
def test_a_tensor_that_should_not_be_so_is_named(
    living: Living, policy: Policy, folder: Path, fault: str, expected: str
):
    tensors = cases.tensors_of(policy)
    path = folder / "fault.safetensors"
    if fault == "missing":
        del tensors["model.layers.1.mlp.down_proj.weight"]
    elif fault == "extra":
        tensors["model.layers.9.mlp.down_proj.weight"] = torch.zeros(2, 2)
    elif fault == "shape":
        tensors["model.norm.weight"] = tensors["model.norm.weight"][:64].clone()
    ref = cases.publish(tensors, path, version=2)
    if fault == "no file":
        path.unlink()
    elif fault == "not sent":
        kept = tuple(e for e in ref.manifest if e.name != "model.norm.weight")
        ref = cases.dataclasses.replace(ref, manifest=kept)
    with pytest.raises(RolloutError, match=expected):
        living.run(living.engine.load_weights(ref))
    assert len(living.generate(request("still serves"))) == 1


def test_a_request_that_does_not_fit_is_refused_with_the_reason(living: Living):
    with pytest.raises(RolloutError, match="'long#"):
        living.generate(request("long", (1,) * 600))
    with pytest.raises(RolloutError, match="at most 456"):
        living.run(living.engine.score([(1,) * 457]))


def test_an_engine_that_sleeps_refuses_and_wakes_with_its_weights(living: Living):
    """On a CPU vLLM frees nothing; what is tested is that nothing is served meanwhile and all is served after."""
    before = living.run(living.engine.score(cases.CANARY))
    used = living.run(living.engine.sleep())
    assert all(number > 0 for number in used)
    with pytest.raises(RolloutError, match="sleeps; call wake"):
        living.generate(request("x"))
    living.run(living.engine.wake())
    assert living.run(living.engine.score(cases.CANARY)) == before


def test_an_engine_without_weights_refuses_to_generate(policy: Policy):
    engine = cases.engine_for(policy)
    assert isinstance(engine, VllmEngine)
    with pytest.raises(RolloutError, match="call start or load_weights first"):
        asyncio.run(collect(engine, [request("x")]))


def test_vllm_keeps_the_contract_of_engines():
    assert check_engine("vllm") == []
