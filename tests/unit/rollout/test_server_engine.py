"""An OpenAI-compatible server as an engine, against a server on the loopback interface."""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase

from rlvr.config.recipe import TinyModel
from rlvr.errors import ConfigError, RolloutError
from rlvr.http.client import JsonClient, Retries
from rlvr.models.policy import build_tiny
from rlvr.protocols import GenerationRequest, Sampling
from rlvr.records import Check, Completion, FinishReason, Message, Prompt, Transport, WeightsKind, WeightsRef
from rlvr.rollout.server_dialect import Form
from rlvr.rollout.server_engine import ServerEngine
from tests.unit.rollout.loopback_server import Loopback, loopback

QUICK = Retries(attempts=4, pause_s=0.001, max_pause_s=0.002)
CHECK = Check(name="main", verifier="text_match", reference="4")
CHAT_PROMPT = Prompt(prompt_id="p", messages=(Message(role="user", content="2+2?"),), source="s", checks=(CHECK,))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """One that writes no begin token itself."""
    found = build_tiny(TinyModel(layers=1, hidden_size=16, heads=2, characters="0123456789+=</x>"), seed=0).tokenizer
    found.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
    return found


def request(
    index: int = 0,
    *,
    stop: Sequence[str] = (),
    stop_ids: Sequence[int] = (),
    deadline_s: float = 20.0,
    max_tokens: int = 5,
) -> GenerationRequest:
    return GenerationRequest(
        request_id=f"g#{index}",
        prompt_id="p",
        prefix_token_ids=(1, 6, 14, 6, 15),  # <bos>2+2=
        sample_index=index,
        seed=2**63 + index,
        sampling=Sampling(
            temperature=0.7, max_tokens=max_tokens, stop_strings=tuple(stop), stop_token_ids=tuple(stop_ids)
        ),
        deadline_s=deadline_s,
    )


def engine_of(
    server: Loopback,
    tokenizer: PreTrainedTokenizerBase,
    *,
    key: str = "",
    max_open: int = 8,
    prompt: Prompt = CHAT_PROMPT,
) -> ServerEngine:
    client = JsonClient(server.url, key=key, max_open=max_open, retries=QUICK)
    return ServerEngine(client, model="tiny", tokenizer=tokenizer, stop_token_ids=(2,), prompts={"p": prompt})


def run(engine: ServerEngine, *requests: GenerationRequest) -> list[Completion]:
    async def collect() -> list[Completion]:
        try:
            found = [completion async for completion in engine.generate(requests)]
        finally:
            await engine.close()
        return sorted(found, key=lambda completion: completion.sample_index)

    return asyncio.run(collect())


def test_a_server_that_takes_token_ids_is_sent_exactly_the_prefix(tokenizer):
    with loopback() as server:
        engine = engine_of(server, tokenizer)
        (found,) = run(engine, request())
    assert engine.dialect is not None
    assert (engine.dialect.form, engine.dialect.has_extras) == (Form.TOKENS, True)
    probe, sent = server.requests
    assert probe["max_tokens"] == 1
    assert sent["prompt"] == [1, 6, 14, 6, 15]
    assert (sent["max_tokens"], sent["temperature"], sent["n"]) == (5, 0.7, 1)
    assert (sent["top_p"], sent["top_k"], sent["repetition_penalty"]) == (1.0, -1, 1.0)
    assert sent["stop_token_ids"] == [2]
    assert found.text == "4"
    assert found.token_ids == (100,)
    assert found.logprobs == (-0.5,)
    assert found.finish_reason is FinishReason.STOP
    assert found.prompt_token_ids == (1, 6, 14, 6, 15)


def test_each_completion_of_a_group_has_its_own_seed_below_two_to_the_31(tokenizer):
    with loopback() as server:
        found = run(engine_of(server, tokenizer), *(request(i) for i in range(4)))
    assert [completion.sample_index for completion in found] == [0, 1, 2, 3]
    assert [completion.completion_id for completion in found] == ["g#0", "g#1", "g#2", "g#3"]
    assert sorted(body["seed"] for body in server.requests[1:]) == [0, 1, 2, 3]


def test_a_server_that_refuses_unknown_fields_gets_the_plain_ones(tokenizer):
    with loopback(takes_extras=False) as server:
        engine = engine_of(server, tokenizer)
        (found,) = run(engine, request())
    assert engine.dialect is not None
    assert (engine.dialect.form, engine.dialect.has_extras) == (Form.TOKENS, False)
    assert "top_k" not in server.requests[-1]
    assert found.token_ids == tuple(tokenizer.encode("4", add_special_tokens=False))
    assert found.logprobs == (-0.5,)


def test_text_goes_to_a_server_without_token_ids_and_a_different_length_is_reported(tokenizer, caplog):
    with loopback(takes_ids=False, takes_extras=False, takes_seed=False) as server:
        engine = engine_of(server, tokenizer)
        with caplog.at_level(logging.WARNING):
            (found,) = run(engine, request())
    assert engine.dialect is not None
    assert (engine.dialect.form, engine.dialect.has_options) == (Form.TEXT, False)
    assert server.requests[-1]["prompt"] == "<bos>2+2="  # this tokenizer writes no begin token itself
    assert "seed" not in server.requests[-1]
    assert all(math.isnan(logprob) for logprob in found.logprobs)
    assert "reads a prompt of 5 tokens as 9" in caplog.text  # the server here counts characters


def test_a_begin_token_that_the_tokenizer_writes_itself_is_not_in_the_text():
    writes_begin = build_tiny(
        TinyModel(layers=1, hidden_size=16, heads=2, characters="0123456789+=</x>"), seed=0
    ).tokenizer
    writes_begin.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    with loopback(takes_ids=False, takes_extras=False) as server:
        run(engine_of(server, writes_begin), request())
    assert server.requests[-1]["prompt"] == "2+2="


def test_special_tokens_stay_in_the_text_if_the_server_can_omit_its_own(tokenizer):
    with loopback(takes_ids=False) as server:
        run(engine_of(server, tokenizer), request())
    assert server.requests[-1]["prompt"] == "<bos>2+2="
    assert server.requests[-1]["add_special_tokens"] is False


def test_a_server_without_completions_is_sent_messages(tokenizer, caplog):
    with loopback(paths=("/v1/chat/completions",), takes_extras=False) as server:
        engine = engine_of(server, tokenizer)
        with caplog.at_level(logging.WARNING):
            (found,) = run(engine, request())
    assert engine.dialect is not None
    assert engine.dialect.form is Form.CHAT
    assert server.requests[-1]["messages"] == [{"role": "user", "content": "2+2?"}]
    assert found.text == "4"
    assert found.logprobs == (-0.5,)
    assert "takes only messages" in caplog.text


def test_a_chat_server_with_another_name_for_the_limit_is_understood(tokenizer):
    with loopback(paths=("/v1/chat/completions",), takes_extras=False, limit_keys=("max_completion_tokens",)) as server:
        run(engine_of(server, tokenizer), request())
    assert server.requests[-1]["max_completion_tokens"] == 5


def test_an_answer_that_is_begun_goes_as_an_assistant_message_or_is_refused(tokenizer):
    begun = Prompt(prompt_id="p", text="2+2?", source="s", checks=(CHECK,), assistant_prefix=" <think>")
    with loopback(paths=("/v1/chat/completions",)) as server:
        run(engine_of(server, tokenizer, prompt=begun), request())
        assert server.requests[-1]["messages"] == [
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": " <think>"},
        ]
        assert server.requests[-1]["continue_final_message"] is True
    with (
        loopback(paths=("/v1/chat/completions",), takes_extras=False) as server,
        pytest.raises(RolloutError, match="begins the answer"),
    ):
        run(engine_of(server, tokenizer, prompt=begun), request())


@pytest.mark.parametrize(
    ("ways", "num_calls"),
    [
        ({"stop_style": "kept"}, 2),
        ({"stop_style": "stated"}, 2),
        ({"stop_style": "silent", "takes_extras": False}, 4),  # a refused probe, and one call more
    ],
)
def test_the_stop_string_stays_in_the_text_whatever_the_server_does_with_it(tokenizer, ways, num_calls):
    with loopback(answer="<x>4</x>99", **ways) as server:
        (found,) = run(engine_of(server, tokenizer), request(stop=["</x>"]))
    assert found.text == "<x>4</x>"
    assert found.finish_reason is FinishReason.STOP
    assert len(server.requests) == num_calls
    assert len(found.token_ids) == len(found.logprobs)


def test_text_that_ended_by_itself_gets_no_stop_string(tokenizer):
    with loopback(answer="4", stop_style="stated") as server:
        (found,) = run(engine_of(server, tokenizer), request(stop=["</x>"]))
    assert found.text == "4"
    assert found.finish_reason is FinishReason.STOP


@pytest.mark.parametrize(
    ("said", "meant"),
    [("length", FinishReason.LENGTH), ("abort", FinishReason.ABORT), ("content_filter", FinishReason.ABORT)],
)
def test_only_what_ended_by_itself_counts_as_ended(tokenizer, said, meant):
    with loopback(finish_reason=said) as server:
        (found,) = run(engine_of(server, tokenizer), request())
    assert found.finish_reason is meant


def test_a_retry_later_status_is_retried_and_then_reported(tokenizer):
    with loopback(failures=[429, 503, 500]) as server:
        (found,) = run(engine_of(server, tokenizer), request())
        assert found.text == "4"
        assert len(server.requests) == 5  # three refused, the probe, the completion
    with loopback(failures=[503] * 4) as server, pytest.raises(RolloutError, match="not ready: status 503, try again"):
        run(engine_of(server, tokenizer), request())


def test_no_more_requests_are_open_than_allowed(tokenizer):
    with loopback() as server:
        run(engine_of(server, tokenizer, max_open=3), *(request(i) for i in range(20)))
    assert 1 <= server.most_open <= 3


def test_a_silent_server_is_named_at_the_deadline(tokenizer):
    with loopback() as server:
        engine = engine_of(server, tokenizer)

        async def two_rounds() -> None:
            async for _ in engine.generate([request()]):
                server.ways.silent_s = 30.0
            async for _ in engine.generate([request(deadline_s=0.3)]):
                pass

        with pytest.raises(RolloutError, match=r"answered nothing for 0\.3 s.*check whether it hangs"):
            asyncio.run(two_rounds())
        asyncio.run(engine.close())


def test_one_slow_completion_among_others_is_cut_off(tokenizer, caplog):
    with loopback(silent_s=30.0, slow_seeds=(1,)) as server:
        engine = engine_of(server, tokenizer)
        with caplog.at_level(logging.WARNING):
            first, slow, third = run(engine, *(request(i, deadline_s=1.0) for i in range(3)))
    assert (first.finish_reason, third.finish_reason) == (FinishReason.STOP, FinishReason.STOP)
    assert slow.finish_reason is FinishReason.ABORT
    assert slow.token_ids == ()
    assert "exceeded its deadline of 1 s" in caplog.text


def test_a_server_that_went_away_is_an_error_that_names_it(tokenizer):
    with loopback() as server:
        engine = engine_of(server, tokenizer)
        url = server.url
    with pytest.raises(RolloutError, match="failed 4 times") as caught:
        run(engine, request())
    assert url in str(caught.value)


def test_a_server_that_takes_nothing_is_an_error_that_lists_each_form(tokenizer):
    with (
        loopback(models=("other",)) as server,
        pytest.raises(RolloutError, match="takes no form of request for model 'tiny'") as caught,
    ):
        run(engine_of(server, tokenizer), request())
    assert "no model tiny" in str(caught.value)
    assert "/chat/completions with messages" in str(caught.value)


def test_the_key_goes_with_each_request_and_never_into_a_message(tokenizer):
    with loopback(key="s3cret-key") as server:
        run(engine_of(server, tokenizer, key="s3cret-key"), request())
        assert set(server.keys) == {"Bearer s3cret-key"}
        with pytest.raises(ConfigError, match="refused the key") as caught:
            run(engine_of(server, tokenizer, key="wr0ng-key"), request())
    assert "wr0ng-key" not in str(caught.value)
    assert "<key>" in str(caught.value)


def test_a_redirect_is_not_followed(tokenizer):
    with loopback() as other, loopback(redirect=f"{other.url}/completions") as server:
        with pytest.raises(RolloutError, match="status 307"):
            run(engine_of(server, tokenizer, key="s3cret-key"), request())
        assert not other.requests


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda engine, ref: engine.load_weights(ref), "cannot load weights"),
        (lambda engine, ref: engine.score([[1, 2]]), "cannot score 1 given rows"),
    ],
)
def test_what_a_server_cannot_do_is_refused_with_the_way_out(tokenizer, call: Callable[..., Any], match: str):
    ref = WeightsRef(policy_version=3, kind=WeightsKind.FULL, transport=Transport.FILE, uri="x", dtype="float32")
    with loopback() as server:
        engine = engine_of(server, tokenizer)
        with pytest.raises(RolloutError, match=match):
            asyncio.run(call(engine, ref))
        asyncio.run(engine.close())


def test_health_counts_open_requests_and_remembers_a_fault(tokenizer):
    with loopback() as server:
        engine = engine_of(server, tokenizer)

        async def watch() -> list[int]:
            counts = []
            async for _ in engine.generate([request(0), request(1)]):
                counts.append((await engine.health()).num_open_requests)
            return counts

        assert asyncio.run(watch()) == [1, 0]
        assert asyncio.run(engine.health()).is_healthy
        server.ways.models = ("other",)
        with pytest.raises(RolloutError):
            run(engine, request())
    health = asyncio.run(engine.health())
    assert not health.is_healthy
    assert "no model tiny" in health.detail
    assert health.num_open_requests == 0


def test_closing_ends_open_calls(tokenizer):
    with loopback(silent_s=60.0) as server:
        engine = engine_of(server, tokenizer)

        async def closed_meanwhile() -> None:
            async def consume() -> None:
                async for _ in engine.generate([request(deadline_s=50.0)]):
                    pass

            task = asyncio.create_task(consume())
            while not server.requests:
                await asyncio.sleep(0.005)
            await engine.close()
            with pytest.raises(RolloutError, match="the client was closed"):
                await asyncio.wait_for(task, 10.0)

        asyncio.run(closed_meanwhile())
