"""The in-process engines: log-probs, seeds, stops, waves, weight copies."""

import asyncio
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rlvr.config.recipe import EngineDtype, TinyModel
from rlvr.config.sections.learner import Layout
from rlvr.errors import RolloutError
from rlvr.models import prompting
from rlvr.models.checksum import tensor_checksum
from rlvr.models.logprobs import token_logprobs
from rlvr.models.policy import Policy, build_tiny
from rlvr.protocols import GenerationRequest, RolloutEngine, Sampling
from rlvr.records import Completion, FinishReason, TensorEntry, Transport, WeightsKind, WeightsRef
from rlvr.rollout import toy_engine
from rlvr.rollout.decode import sample_tokens, uniforms
from rlvr.rollout.toy_engine import ToyEngine
from rlvr.rollout.transformers_engine import COPY_DTYPES, TransformersEngine

TINY = TinyModel(layers=2, hidden_size=32, heads=4, intermediate_size=64, characters="0123456789:")


@pytest.fixture
def policy() -> Policy:
    built = build_tiny(TINY, seed=1)
    with torch.no_grad():  # sharper than at birth, so that texts differ and end
        for parameter in built.model.parameters():
            parameter.mul_(2.0)
    return built


def engine_of(policy: Policy, dtype: EngineDtype = EngineDtype.SHARED, rows: int = 64) -> TransformersEngine:
    return TransformersEngine(policy, engine_dtype=dtype, autocast=False, max_batch_rows=rows)


def requests_of(
    prompts: Sequence[Sequence[int]], *, group_size: int = 4, temperature: float = 1.0, **sampling: object
) -> list[GenerationRequest]:
    return [
        GenerationRequest(
            request_id=f"{p}/{i}",
            prompt_id=str(p),
            prefix_token_ids=tuple(prompt),
            sample_index=i,
            seed=1000 * p + i,
            sampling=Sampling(temperature=temperature, max_tokens=12, **sampling),  # type: ignore[arg-type]
        )
        for p, prompt in enumerate(prompts)
        for i in range(group_size)
    ]


PROMPTS = [[1, 5, 6, 7], [1, 9], [1, 4, 4, 4, 4, 8]]


async def collect(engine: RolloutEngine, requests: Sequence[GenerationRequest]) -> list[Completion]:
    return [completion async for completion in engine.generate(requests)]


def generate(engine: RolloutEngine, *calls: Sequence[GenerationRequest]) -> list[Completion]:
    async def everything() -> list[Completion]:
        found = await asyncio.gather(*(collect(engine, requests) for requests in calls))
        return sorted((c for part in found for c in part), key=lambda c: c.completion_id)

    return asyncio.run(everything())


def test_learner_reproduces_the_engines_logprobs(policy: Policy):
    for completion in generate(engine_of(policy), requests_of(PROMPTS, temperature=0.8)):
        ids = torch.tensor([completion.prompt_token_ids + completion.token_ids])
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        mask[:, len(completion.prompt_token_ids) :] = True
        out = token_logprobs(
            policy.model,
            token_ids=ids,
            attention_mask=torch.ones_like(mask),
            loss_mask=mask,
            group_index=torch.tensor([0]),
            temperature=0.8,
            layout=Layout.PADDED,
            share_prompt_prefix=False,
            logits_memory_mb=64,
            needs_entropy_gradient=False,
        )
        assert out.logprobs[mask].tolist() == pytest.approx(list(completion.logprobs), abs=1e-4)


def test_a_sample_does_not_depend_on_its_batch(policy: Policy):
    requests = requests_of(PROMPTS)
    together = {c.completion_id: c for c in generate(engine_of(policy), requests)}
    for other in (
        generate(engine_of(policy), requests[::-1]),
        generate(engine_of(policy, rows=5), requests),
        generate(engine_of(policy), requests[5:7]),
        generate(engine_of(policy), requests[:4], requests[4:]),
    ):
        for completion in other:
            assert completion.token_ids == together[completion.completion_id].token_ids


def test_seed_decides_the_sample(policy: Policy):
    texts = {c.token_ids for c in generate(engine_of(policy), requests_of(PROMPTS[:1], group_size=16))}
    assert len(texts) > 8


def test_greedy_equals_the_generate_of_transformers(policy: Policy):
    policy.model.eval()
    for prompt, completion in zip(
        PROMPTS, generate(engine_of(policy), requests_of(PROMPTS, group_size=1, temperature=0.0)), strict=True
    ):
        ids = torch.tensor([prompt])
        expected = policy.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)
        assert completion.token_ids == tuple(expected[0, len(prompt) :].tolist())


def test_samples_follow_the_distribution(policy: Policy):
    """The first token of 4,000 samples against softmax: the largest deviation stays within 5 standard errors."""
    count = 4000
    sampled = generate(
        engine_of(policy, rows=count),
        [
            GenerationRequest(
                request_id=str(i),
                prompt_id="p",
                prefix_token_ids=(1, 5),
                sample_index=i,
                seed=i,
                sampling=Sampling(temperature=0.7, max_tokens=1),
            )
            for i in range(count)
        ],
    )
    found = np.bincount([c.token_ids[0] for c in sampled], minlength=16) / count
    policy.model.eval()
    with torch.no_grad():
        expected = torch.softmax(policy.model(torch.tensor([[1, 5]])).logits[0, -1] / 0.7, -1).numpy()
    assert np.abs(found - expected).max() < 5 * np.sqrt(0.25 / count)


def test_sampling_never_picks_a_token_of_probability_zero():
    logits = torch.tensor([[0.0, -math.inf, 0.0, -math.inf]]).repeat(3, 1)
    tokens, logprobs = sample_tokens(logits, uniforms=torch.tensor([0.0, 0.5, 1.0 - 1e-9]), temperatures=torch.ones(3))
    assert tokens.tolist() == [0, 2, 2]
    assert logprobs.tolist() == pytest.approx([-math.log(2)] * 3)


def test_finish_reasons_stop_length_and_stop_string(policy: Policy):
    completions = generate(engine_of(policy), requests_of(PROMPTS, group_size=16))
    reasons = {c.finish_reason for c in completions}
    assert reasons == {FinishReason.STOP, FinishReason.LENGTH}
    for c in completions:
        ended = c.token_ids[-1] in policy.stop_token_ids
        assert c.finish_reason is (FinishReason.STOP if ended else FinishReason.LENGTH)
        assert ended or len(c.token_ids) == 12
        assert not set(c.token_ids[:-1]) & set(policy.stop_token_ids)
    stopped = generate(engine_of(policy), requests_of(PROMPTS, group_size=16, stop_strings=("3",)))
    assert any(c.text.endswith("3") for c in stopped)
    for c in stopped:
        assert "3" not in c.text[:-1]
        assert not c.text.endswith("3") or c.finish_reason is FinishReason.STOP


@pytest.mark.parametrize("key", ["stop_strings", "stop_token_ids"])
def test_a_special_token_ends_a_completion_and_is_no_part_of_its_text(policy: Policy, key: str):
    name = "<unk>"
    (token,) = policy.tokenizer.encode(name, add_special_tokens=False)
    assert token not in policy.stop_token_ids
    stops: dict[str, Any] = {key: (name if key == "stop_strings" else token,)}
    completions = generate(engine_of(policy), requests_of(PROMPTS, group_size=16, **stops))
    ended = [c for c in completions if token in c.token_ids]
    assert ended
    for c in ended:
        assert c.token_ids.index(token) == len(c.token_ids) - 1
        assert c.finish_reason is FinishReason.STOP
        assert name not in c.text


def test_deadline_ends_a_completion_with_abort(policy: Policy):
    late = GenerationRequest(
        request_id="late",
        prompt_id="p",
        prefix_token_ids=(1, 5),
        sample_index=0,
        seed=3,
        deadline_s=0.0,
        sampling=Sampling(temperature=1.0, max_tokens=500),
    )
    (completion,) = generate(engine_of(policy), [late])
    assert completion.finish_reason in (FinishReason.ABORT, FinishReason.STOP)
    assert len(completion.token_ids) == 1


def ref_of(
    policy: Policy, version: int, transport: Transport = Transport.IN_PLACE_COPY, dtype: torch.dtype = torch.bfloat16
) -> WeightsRef:
    manifest = tuple(
        TensorEntry(name=n, shape=tuple(p.shape), checksum=tensor_checksum(p.detach().to(dtype)))
        for n, p in policy.model.named_parameters()
    )
    return WeightsRef(
        policy_version=version,
        kind=WeightsKind.FULL,
        transport=transport,
        uri="memory:learner",
        dtype=str(dtype),
        manifest=manifest,
    )


@pytest.mark.parametrize("dtype", [EngineDtype.BFLOAT16, EngineDtype.FLOAT32])
def test_a_copy_follows_the_learner_and_equals_a_fresh_engine(policy: Policy, dtype: EngineDtype):
    engine = engine_of(policy, dtype)
    before = generate(engine, requests_of(PROMPTS))
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    assert [c.logprobs for c in generate(engine, requests_of(PROMPTS))] == [c.logprobs for c in before]
    ref = ref_of(policy, 4, dtype=COPY_DTYPES[dtype])
    receipt = asyncio.run(engine.load_weights(ref))
    assert receipt.checksums == {entry.name: entry.checksum for entry in ref.manifest}
    after = generate(engine, requests_of(PROMPTS))
    fresh = generate(engine_of(policy, dtype), requests_of(PROMPTS))
    assert receipt.policy_version == 4
    assert [c.logprobs for c in after] == [c.logprobs for c in fresh]
    assert [c.logprobs for c in after] != [c.logprobs for c in before]
    assert {v for c in after for v in c.policy_versions} == {4}


@pytest.mark.parametrize("autocast", [False, True])
def test_a_float32_copy_computes_exactly_as_the_learners_own_tensors_do(policy: Policy, autocast: bool):
    def completions(dtype: EngineDtype) -> list[Completion]:
        engine = TransformersEngine(policy, engine_dtype=dtype, autocast=autocast, max_batch_rows=64)
        return generate(engine, requests_of(PROMPTS))

    assert completions(EngineDtype.FLOAT32) == completions(EngineDtype.SHARED)


@pytest.mark.parametrize("kind", ["copy", "toy"])
def test_loading_waits_for_the_wave_that_runs_and_its_completions_keep_their_version(policy: Policy, kind: str):
    engine = ToyEngine(policy.text) if kind == "toy" else engine_of(policy, EngineDtype.FLOAT32)
    requests = requests_of(PROMPTS, group_size=32)

    async def scenario() -> tuple[list[Completion], list[Completion], int]:
        finished: list[Completion] = []

        async def collect() -> None:
            async for completion in engine.generate(requests):
                finished.append(completion)

        collecting = asyncio.create_task(collect())
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the wave is in the engine's thread
        assert (await engine.health()).num_open_requests == len(requests)
        await engine.load_weights(ref_of(policy, 1, dtype=torch.float32))
        await collecting
        again = [completion async for completion in engine.generate(requests)]
        return finished, again, (await engine.health()).policy_version

    first, second, version = asyncio.run(scenario())
    assert {v for c in first for v in c.policy_versions} == {0}
    assert {v for c in second for v in c.policy_versions} == {1}
    assert version == 1


def test_weights_that_are_not_what_was_sent_are_refused(policy: Policy):
    ref = ref_of(policy, 1)
    with torch.no_grad():
        next(policy.model.parameters())[0, 0] += 1
    with pytest.raises(RolloutError, match=r"differ from the learner's, first 'model\.embed_tokens\.weight'"):
        asyncio.run(engine_of(policy, EngineDtype.BFLOAT16).load_weights(ref))
    with pytest.raises(RolloutError, match="shared"):
        asyncio.run(engine_of(policy, EngineDtype.BFLOAT16).load_weights(ref_of(policy, 1, Transport.SHARED)))


def test_a_failing_wave_reaches_every_caller_and_a_closed_engine_refuses(policy: Policy):
    bad = requests_of([[1, 10_000]])  # a token outside the vocabulary
    with pytest.raises(RolloutError, match="generation failed"):
        generate(engine_of(policy), bad)
    engine = engine_of(policy)
    asyncio.run(engine.close())
    with pytest.raises(RolloutError, match="closed"):
        generate(engine, requests_of(PROMPTS))


@pytest.mark.parametrize("kind", ["transformers", "toy"])
def test_a_closed_engine_refuses_every_call_and_a_load_that_waits_fails(policy: Policy, kind: str):
    ref = ref_of(policy, 1, Transport.SHARED)

    async def run() -> None:
        engine = engine_of(policy) if kind == "transformers" else ToyEngine(policy.text)
        waves: Any = engine._waves
        began = threading.Event()
        running = asyncio.ensure_future(waves.call(lambda: (began.set(), time.sleep(0.2))))
        await asyncio.to_thread(began.wait)
        waiting = asyncio.ensure_future(engine.load_weights(ref))
        await asyncio.sleep(0)
        await engine.close()
        with pytest.raises(RolloutError, match="the engine was closed"):
            await waiting
        await running
        for call in (engine.load_weights(ref), engine.score([[1, 5]]), collect(engine, requests_of([[1, 5]]))):
            with pytest.raises(RolloutError, match="the engine is closed"):
                await call

    asyncio.run(run())


def test_the_toy_engine_decodes_as_many_tokens_as_a_stop_string_can_span(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
):
    spans: list[int] = []

    def counted(ids: Sequence[int], tokenizer: Any) -> str:
        spans.append(len(ids))
        return prompting.stop_text(ids, tokenizer)

    monkeypatch.setattr(toy_engine, "stop_text", counted)
    request = requests_of([[1, 5]], group_size=1, stop_strings=("12", "345"))[0]
    requests = [
        replace(request, request_id=str(seed), seed=seed, sampling=replace(request.sampling, max_tokens=60))
        for seed in range(40)
    ]
    done = asyncio.run(collect(ToyEngine(policy.text), requests))
    assert max(spans) == len("345") + 1
    texts = [prompting.stop_text(c.token_ids, policy.tokenizer) for c in done]
    stopped = [text for text in texts if "12" in text or "345" in text]
    assert stopped
    assert all(text.endswith(("12", "345")) for text in stopped)


def test_toy_engine_is_seeded_and_exact_about_its_distribution(policy: Policy):
    first, again = (generate(ToyEngine(policy.text), requests_of(PROMPTS)) for _ in range(2))
    assert [c.token_ids for c in first] == [c.token_ids for c in again]
    assert {p for c in first for p in c.logprobs} == {-math.log(len(policy.tokenizer))}


def test_uniforms_depend_on_the_seed_alone():
    assert uniforms(7, 5).tolist() == uniforms(7, 9)[:5].tolist()
    assert uniforms(7, 5).tolist() != uniforms(8, 5).tolist()
