"""From a Prompt to tokens, and from tokens to text. Templates are applied here, once, and nowhere else."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from rlvr.errors import DataError
from rlvr.records import Prompt


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
    """Text without special tokens, spaces exactly as the tokens have them."""
    return str(
        tokenizer.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
    )
