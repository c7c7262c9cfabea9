"""From a Prompt to tokens, and from tokens to text. Templates are applied only here, once."""

import re
from collections.abc import MutableMapping, Sequence
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

from rlvr.errors import DataError
from rlvr.records import Prompt

_THINKS = re.compile(r"think|thought|reason|channel|message", re.IGNORECASE)
_TURN_TAGS = frozenset({"[INST]", "[/INST]", "<s>", "</s>"})
_TAG_IDS: MutableMapping[PreTrainedTokenizerBase, frozenset[int]] = WeakKeyDictionary()
_BEGIN_IDS: MutableMapping[PreTrainedTokenizerBase, tuple[int, ...]] = WeakKeyDictionary()


def prompt_text(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> str:
    """The exact text the policy continues.

    Raises: DataError when the tokenizer has no chat template for a chat prompt, or the template rejects it.
    """
    if not prompt.messages:
        return prompt.text + prompt.assistant_prefix
    if getattr(tokenizer, "chat_template", None) is None:
        raise DataError(
            f"prompt {prompt.prompt_id!r} is a chat, but the tokenizer has no chat template; set "
            "data.train.N.template=plain (or r1_zero for a base model)"
        )
    messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
    try:
        text = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **prompt.chat_template_kwargs
        )
    except Exception as error:  # a template is third-party code and may raise anything
        raise _refused(prompt, error) from error
    return str(text) + prompt.assistant_prefix


def _refused(prompt: Prompt, error: Exception) -> DataError:
    """What to do when the chat template raised."""
    roles = [message.role for message in prompt.messages]
    hints: list[str] = []
    if "system" in roles:
        hints.append(
            "if it takes no system message, remove data.train.N.system_prompt (or the system turn of the data) and put "
            "that text into prompt_format, in front of {prompt}"
        )
    if roles not in (["user"], ["system", "user"]):
        hints.append("its turns must be as the template expects, usually alternating user and assistant")
    if prompt.chat_template_kwargs:
        hints.append(f"it was given chat_template_kwargs={dict(prompt.chat_template_kwargs)!r}")
    said = str(error).strip() or "no message"
    return DataError(
        f"prompt {prompt.prompt_id!r} (turns: {', '.join(roles)}): the model's chat template refuses it: "
        f"{type(error).__name__}: {said}" + "".join(f"; {hint}" for hint in hints)
    )


def encode_prompt(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Token ids of the prompt. A chat template writes its own special tokens; plain text gets the tokenizer's.

    Plain text begins as the tokenizer begins it, with or without a begin token; tokens that it appends, such as an end
    token, are left out, because the policy continues there.
    """
    ids = tuple(tokenizer.encode(prompt_text(prompt, tokenizer), add_special_tokens=False))
    if not prompt.messages:
        begin = _begin_ids(tokenizer)
        ids = ids if ids[: len(begin)] == begin else (*begin, *ids)
    if not ids:
        raise DataError(f"prompt {prompt.prompt_id!r} has no tokens: its text is empty for this tokenizer")
    return ids


def _begin_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """What the tokenizer puts in front of any text: a begin token, or nothing."""
    found = _BEGIN_IDS.get(tokenizer)
    if found is None:
        bare = list(tokenizer.encode("1", add_special_tokens=False))
        whole = list(tokenizer.encode("1", add_special_tokens=True))
        places = (i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        found = _BEGIN_IDS[tokenizer] = tuple(whole[: next(places, 0)])
    return found


def stop_text(token_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """The text to search for stop strings, with every special token, as in vLLM."""
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def special_stops(stop_strings: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of the stop strings that are single special tokens, for servers whose text omits special tokens."""
    names = {str(tokenizer.convert_ids_to_tokens(n)): n for n in _special_ids(tokenizer)}
    return [names[text] for text in stop_strings if text in names]


def decode(token_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """Text without special tokens except tags that a verifier reads; spaces as in the tokens."""
    ids, tags = list(token_ids), tag_ids(tokenizer)
    if tags.isdisjoint(ids):
        text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)
    dropped = _special_ids(tokenizer) - tags
    kept = [token for token in ids if token not in dropped]
    return str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def tag_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Special tokens that enclose parts of an answer: `<think>`, `[/THINK]`, `<answer>`, `<|channel|>`.

    They come in a pair of which one has an extra slash, or their name identifies them. Tokens that begin, end or pad a
    text and those of turns are not included.
    """
    found = _TAG_IDS.get(tokenizer)
    if found is None:
        names = {str(tokenizer.convert_ids_to_tokens(n)): n for n in _special_ids(tokenizer)}
        of_texts = {str(tokenizer.bos_token), str(tokenizer.eos_token), str(tokenizer.pad_token)}
        tags = {name for name in names if name not in of_texts and (_THINKS.search(name) or _partner(name) in names)}
        found = _TAG_IDS[tokenizer] = frozenset(names[name] for name in tags - _TURN_TAGS)
    return found


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    added = tokenizer.added_tokens_decoder
    return frozenset(tokenizer.all_special_ids) | {n for n, token in added.items() if token.special}


def _partner(name: str) -> str:
    """The name of the matching tag, in XML's or Mistral's form: with or without the slash."""
    return name.replace("/", "", 1) if name[1:2] == "/" else f"{name[:1]}/{name[1:]}"
