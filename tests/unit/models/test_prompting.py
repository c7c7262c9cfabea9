"""From prompts to tokens and back: templates, begin tokens, stop strings, and which special tokens verifiers read."""

import asyncio
import logging
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase

from rlvr.config.recipe import TinyModel
from rlvr.errors import DataError, RolloutError
from rlvr.http.client import JsonClient
from rlvr.models.policy import build_tiny
from rlvr.models.prompting import decode, encode_prompt, prompt_text, special_stops, stop_text, tag_ids
from rlvr.protocols import GenerationRequest
from rlvr.records import Check, FinishReason, Message, Prompt
from rlvr.rollout.server_dialect import Reply
from rlvr.rollout.server_engine import ServerEngine
from tests.unit.rollout.loopback_server import loopback
from tests.unit.rollout.test_server_engine import engine_of as server_engine
from tests.unit.rollout.test_server_engine import request
from tests.unit.rollout.test_server_engine import run as ask

SPECIAL = ["<think>", "</think>", "<|im_end|>", "[INST]", "[/INST]", "<answer>", "</answer>"]


def tokenizer_with(special: list[str]) -> PreTrainedTokenizerBase:
    model = TinyModel(layers=1, hidden_size=16, heads=2, characters="0123456789+=")
    tokenizer = build_tiny(model, seed=0).tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    return tokenizer


def ids_of(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def test_tags_stay_in_the_text_and_what_ends_a_turn_does_not() -> None:
    tokenizer = tokenizer_with(SPECIAL)
    ids = ids_of("<think>1+1</think><answer>2</answer><|im_end|><eos><pad>", tokenizer)
    assert len(ids) == 11
    assert decode(ids, tokenizer) == "<think>1+1</think><answer>2</answer>"
    assert decode(ids_of("2<|im_end|>[INST]3[/INST]<eos>", tokenizer), tokenizer) == "23"


@pytest.mark.parametrize(
    ("special", "kept"),
    [
        (["[THINK]", "[/THINK]"], ["[THINK]", "[/THINK]"]),
        (
            ["<|START_THINKING|>", "<|END_THINKING|>", "<|END_OF_TURN_TOKEN|>"],
            ["<|START_THINKING|>", "<|END_THINKING|>"],
        ),
        (["<|channel|>", "<|message|>", "<|start|>", "<|end|>"], ["<|channel|>", "<|message|>"]),
        (["<|im_start|>", "<|im_end|>", "<|eot_id|>"], []),
    ],
)
def test_a_tag_has_a_partner_or_a_name_that_tells_it(special: list[str], kept: list[str]) -> None:
    tokenizer = tokenizer_with(special)
    assert {str(tokenizer.convert_ids_to_tokens(n)) for n in tag_ids(tokenizer)} == set(kept)


def test_text_of_a_server_shows_tags_where_it_gives_token_ids() -> None:
    tokenizer = tokenizer_with(SPECIAL)
    client = JsonClient("http://127.0.0.1:9", key="", max_open=1)
    engine = ServerEngine(client, model="tiny", tokenizer=tokenizer, stop_token_ids=(2,), prompts={})
    asked: GenerationRequest = request()

    def text_of(ids: tuple[int, ...] | None) -> str:
        reply = Reply(
            text="1+12",
            finish_reason=FinishReason.STOP,
            token_ids=ids,
            logprobs=None,
            stopped_by="",
            num_prompt_tokens=None,
        )
        return engine._completion(asked, reply).text

    assert text_of(tuple(ids_of("<think>1+1</think>2<eos>", tokenizer))) == "<think>1+1</think>2"
    assert text_of(tuple(ids_of("1+12<eos>", tokenizer))) == "1+12"
    assert text_of(None) == "1+12"
    asyncio.run(engine.close())


CHECKS = (Check(name="main", verifier="text_match", reference="4"),)
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}{{ m['content'] }}{% endfor %}="
)
THINKS = "{{ messages[0]['content'] }}{% if enable_thinking is defined and not enable_thinking %}::{% endif %}"


def chat(*roles: str, **more: Any) -> Prompt:
    messages = tuple(Message(role=role, content="1") for role in roles)
    return Prompt(prompt_id="d/7", messages=messages, source="d", checks=CHECKS, **more)


def plain(text: str) -> Prompt:
    return Prompt(prompt_id="d/7", text=text, source="d", checks=CHECKS)


@pytest.mark.parametrize(
    ("form", "expected"), [("$A", "12"), ("<bos> $A", "<bos>12"), ("<bos> $A <eos>", "<bos>12"), ("$A <eos>", "12")]
)
def test_plain_text_begins_as_the_tokenizer_itself_begins_it(form: str, expected: str) -> None:
    tokenizer = tokenizer_with([])
    ids = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<bos>", "<eos>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=form, special_tokens=ids)
    assert tokenizer.decode(list(encode_prompt(plain("12"), tokenizer))) == expected
    written = encode_prompt(plain("<bos>12"), tokenizer)  # never twice
    assert tokenizer.decode(list(written)) == "<bos>12"


def test_a_tiny_policy_s_tokenizer_writes_its_begin_token() -> None:
    assert encode_prompt(plain("12"), tokenizer_with([]))[0] == 1


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        (("system", "user"), r"\(turns: system, user\).*TemplateError: System role not supported;.*system_prompt"),
        (("user", "user"), r"\(turns: user, user\).*Roles must alternate; its turns must be as"),
    ],
)  # fmt: skip
def test_a_template_that_raises_is_an_error_of_the_prompt(roles: tuple[str, ...], said: str) -> None:
    tokenizer = tokenizer_with([])
    tokenizer.chat_template = GEMMA
    assert prompt_text(chat("user"), tokenizer) == "1="
    with pytest.raises(DataError, match=r"prompt 'd/7' " + said):
        prompt_text(chat(*roles), tokenizer)
    tokenizer.chat_template = "{{ messages[0]['content'] + 1 }}"
    with pytest.raises(DataError, match="refuses it: TypeError"):
        prompt_text(chat("user"), tokenizer)


def test_template_arguments_reach_the_template() -> None:
    tokenizer = tokenizer_with([])
    tokenizer.chat_template = THINKS
    assert prompt_text(chat("user"), tokenizer) == "1"
    off = chat("user", chat_template_kwargs={"enable_thinking": False})
    assert prompt_text(off, tokenizer) == "1::"


def test_stop_strings_are_searched_in_text_with_special_tokens() -> None:
    tokenizer = tokenizer_with(SPECIAL)
    assert stop_text(ids_of("2<|im_end|>3", tokenizer), tokenizer) == "2<|im_end|>3"
    names = ["<|im_end|>", "3", "<eos>", "</answer><|im_end|>"]
    assert special_stops(names, tokenizer) == ids_of("<|im_end|><eos>", tokenizer)


def test_stop_tokens_and_special_stop_strings_are_sent_as_ids(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = tokenizer_with([])
    asked = request(stop=("<unk>", "</x>"), stop_ids=(7,))
    with loopback() as server:
        ask(server_engine(server, tokenizer), asked)
    assert server.requests[-1]["stop_token_ids"] == [2, 3, 7]  # <unk> is 3
    assert "stop_token_ids" not in caplog.text
    with loopback(takes_extras=False) as server, caplog.at_level(logging.WARNING):
        ask(server_engine(server, tokenizer), asked)
    assert "takes no stop_token_ids" in caplog.text


def test_template_arguments_go_to_a_chat_server_or_are_refused() -> None:
    tokenizer = tokenizer_with([])
    message = Message(role="user", content="2+2?")
    quiet = Prompt(
        prompt_id="p", messages=(message,), source="s", checks=CHECKS, chat_template_kwargs={"enable_thinking": False}
    )
    with loopback(paths=("/v1/chat/completions",)) as server:
        ask(server_engine(server, tokenizer, prompt=quiet), request())
        assert server.requests[-1]["chat_template_kwargs"] == {"enable_thinking": False}
    with (
        loopback(paths=("/v1/chat/completions",), takes_extras=False) as server,
        pytest.raises(RolloutError, match="has chat_template_kwargs"),
    ):
        ask(server_engine(server, tokenizer, prompt=quiet), request())
