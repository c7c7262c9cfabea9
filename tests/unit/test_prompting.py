"""Which special tokens stand in the text that verifiers read."""

import asyncio

import pytest
from transformers import PreTrainedTokenizerBase

from rlvr.config.recipe import TinyModel
from rlvr.json_client import JsonClient
from rlvr.models.policy import build_tiny
from rlvr.models.prompting import decode, tag_ids
from rlvr.protocols import GenerationRequest
from rlvr.records import FinishReason
from rlvr.rollout.server_dialect import Reply
from rlvr.rollout.server_engine import ServerEngine
from tests.unit.test_server_engine import request

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
    engine = ServerEngine(
        client, model="tiny", tokenizer=tokenizer, stop_token_ids=(2,), prompts={}
    )
    asked: GenerationRequest = request()

    def text_of(ids: tuple[int, ...] | None) -> str:
        reply = Reply(
            text="1+12", finish_reason=FinishReason.STOP, token_ids=ids, logprobs=None, stopped_by="",
            num_prompt_tokens=None,
        )  # fmt: skip
        return engine._completion(asked, reply).text

    assert text_of(tuple(ids_of("<think>1+1</think>2<eos>", tokenizer))) == "<think>1+1</think>2"
    assert text_of(tuple(ids_of("1+12<eos>", tokenizer))) == "1+12"
    assert text_of(None) == "1+12"
    asyncio.run(engine.close())
