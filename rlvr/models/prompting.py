"""From a Prompt to tokens, and from tokens to text. Templates are applied here, once, and nowhere else."""

import re
from collections.abc import MutableMapping, Sequence
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

from rlvr.errors import DataError
from rlvr.records import Prompt

_THINKS = re.compile(r"think|thought|reason|channel|message", re.IGNORECASE)
_TURN_TAGS = frozenset({"[INST]", "[/INST]", "<s>", "</s>"})
_TAG_IDS: MutableMapping[PreTrainedTokenizerBase, frozenset[int]] = WeakKeyDictionary()


def prompt_text(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> str:
    """The exact text the policy continues.

    Raises: DataError when a chat prompt meets a tokenizer without a chat template.
    """
    if not prompt.messages:
        return prompt.text + prompt.assistant_prefix
    if getattr(tokenizer, "chat_template", None) is None:
        raise DataError(
            f"prompt {prompt.prompt_id!r} is a chat, but the tokenizer has no chat template; set "
            "data.train.N.template=plain (or r1_zero for a base model)"
        )
    messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return str(text) + prompt.assistant_prefix


def encode_prompt(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Token ids of the prompt. A chat template writes its own special tokens; plain text gets the begin token.

    The begin token is added only where the tokenizer has one that is not also its end token.
    """
    ids = tuple(tokenizer.encode(prompt_text(prompt, tokenizer), add_special_tokens=False))
    bos = tokenizer.bos_token_id
    if (
        isinstance(bos, int)
        and not prompt.messages
        and bos not in (tokenizer.eos_token_id, *ids[:1])
    ):
        ids = (bos, *ids)
    if not ids:
        raise DataError(
            f"prompt {prompt.prompt_id!r} has no tokens: its text is empty for this tokenizer"
        )
    return ids


def decode(token_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """Text without special tokens, but with those that are tags a verifier reads; spaces as the tokens have them."""
    ids, tags = list(token_ids), tag_ids(tokenizer)
    if tags.isdisjoint(ids):
        text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)
    dropped = _special_ids(tokenizer) - tags
    kept = [token for token in ids if token not in dropped]
    return str(
        tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    )


def tag_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Special tokens that enclose parts of an answer: `<think>`, `[/THINK]`, `<answer>`, `<|channel|>`.

    Either they come in a pair of which one has a slash more, or their name tells it. Tokens that begin, end or pad a
    text and those of turns are none.
    """
    found = _TAG_IDS.get(tokenizer)
    if found is None:
        names = {str(tokenizer.convert_ids_to_tokens(n)): n for n in _special_ids(tokenizer)}
        of_texts = {str(tokenizer.bos_token), str(tokenizer.eos_token), str(tokenizer.pad_token)}
        tags = {
            name
            for name in names
            if name not in of_texts and (_THINKS.search(name) or _partner(name) in names)
        }
        found = _TAG_IDS[tokenizer] = frozenset(names[name] for name in tags - _TURN_TAGS)
    return found


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    added = tokenizer.added_tokens_decoder
    return frozenset(tokenizer.all_special_ids) | {n for n, token in added.items() if token.special}


def _partner(name: str) -> str:
    """The name of the tag that belongs to it, in the form of XML or of Mistral's: with or without its slash."""
    return name.replace("/", "", 1) if name[1:2] == "/" else f"{name[:1]}/{name[1:]}"
