"""Checks of a recipe's prompts that need a tokenizer but no weights.

The chat template must render every sequence of roles in the data, and stop tokens must exist. Silent faults get a
note: template arguments that no template reads, turns that close with a token that ends no completion.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from rlvr.config.recipe import Recipe
from rlvr.errors import ConfigError
from rlvr.models.policy import end_token_ids, load_tokenizer
from rlvr.models.prompting import encode_prompt, prompt_text, special_stops
from rlvr.records import Message, Prompt
from rlvr.run.launch.preflight import OpenedData

_MAX_PROMPT_CHARS = 4000
_MAX_REFERENCE_CHARS = 400
_ANSWER = "rlvr-answer"  # placeholder answer, to find the template's end of a turn


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptReport:
    """notes: one line each. tokenizer: the recipe's."""

    notes: tuple[str, ...]
    tokenizer: PreTrainedTokenizerBase


def check_prompts(recipe: Recipe, data: OpenedData, *, tell: Callable[[str], None] = lambda _: None) -> PromptReport:
    """Renders the samples of the data, and checks the tokens that end a completion.

    Args: tell: called with each note.

    Raises: ConfigError when the tokenizer is unavailable or a stop token does not exist; DataError when a prompt
        cannot be rendered, with its name.
    """
    tokenizer = load_tokenizer(recipe.model)
    _require_tokens(recipe, tokenizer)
    for _, prompt in data.samples:
        encode_prompt(prompt, tokenizer)
    ends = end_token_ids(recipe.model, tokenizer)
    found = [
        *_trained_on(recipe),
        *_answers_as_prompts(recipe),
        *_unread_arguments(data, tokenizer),
        *_other_arguments(data),
        *_open_turns(recipe, data, tokenizer, ends),
    ]
    notes = tuple(dict.fromkeys(found))
    for note in notes:
        tell(note)
    return PromptReport(notes=notes, tokenizer=tokenizer)


def rendered(data: OpenedData, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """One prompt of each source as the policy sees it, with its reference and checks; several lines each."""
    seen: set[str] = set()
    for key, prompt in data.samples:
        if key in seen:
            continue
        seen.add(key)
        yield sample_text(key, prompt, prompt_text(prompt, tokenizer))


def sample_text(key: str, prompt: Prompt, text: str) -> str:
    """A prompt for display: text, reference, checks and tag names."""
    lines = [f"prompt {prompt.prompt_id} of {key}, as the policy sees it:"]
    lines += [f"  | {line}" for line in _shortened(text, _MAX_PROMPT_CHARS).split("\n")]
    reference = json.dumps(prompt.checks[0].reference, ensure_ascii=False, default=str)
    lines.append(f"  reference: {_shortened(reference, _MAX_REFERENCE_CHARS)}")
    for check in prompt.checks:
        settings = (
            f", settings {json.dumps(dict(check.settings), ensure_ascii=False, default=str)}" if check.settings else ""
        )
        lines.append(f"  check {check.name}: {check.verifier} ({check.role}, weight {check.weight:g}{settings})")
    if prompt.tags:
        lines.append(f"  tags: {', '.join(prompt.tags)}")
    return "\n".join(lines)


def _shortened(text: str, limit: int) -> str:
    """The text, or its beginning and end with the number of characters omitted."""
    if len(text) <= limit:
        return text
    end = limit // 4
    return f"{text[: limit - end]} [... {len(text) - limit:,} characters ...] {text[-end:]}"


def _require_tokens(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> None:
    unknown = [i for i in recipe.rollout.stop_token_ids if i >= len(tokenizer)]
    if unknown:
        raise ConfigError(
            f"rollout.stop_token_ids: {', '.join(map(str, unknown))} are not tokens of this model, whose vocabulary "
            f"has {len(tokenizer)} (0 to {len(tokenizer) - 1})"
        )


def _trained_on(recipe: Recipe) -> Iterator[str]:
    """A note for each evaluation set that reads the rows of a training source."""
    for index, held_out in enumerate(recipe.data.eval):
        for number, trained in enumerate(recipe.data.train):
            if all(getattr(held_out, key) == getattr(trained, key) for key in ("source", "subset", "split")):
                yield (
                    f"warning: data.eval.{index} reads the same rows as data.train.{number}, so it measures what was "
                    "trained on; give one of them another file or split"
                )


def _answers_as_prompts(recipe: Recipe) -> Iterator[str]:
    """A note for each source whose prompts are its references."""
    for part, sources in (("train", recipe.data.train), ("eval", recipe.data.eval)):
        for index, source in enumerate(sources):
            prompt = source.columns.get("prompt", "prompt")
            if prompt == source.columns.get("reference", "reference"):
                yield (
                    f"warning: data.{part}.{index}: prompt and reference are one column, {prompt!r}, so the policy is "
                    "shown the answer"
                )


def _unread_arguments(data: OpenedData, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    for key, prompt in data.samples:
        if not prompt.chat_template_kwargs:
            continue
        template = str(tokenizer.get_chat_template())
        unread = [k for k in prompt.chat_template_kwargs if not re.search(rf"\b{re.escape(k)}\b", template)]
        if unread:
            yield (
                f"warning: {key}.chat_template_kwargs: the model's chat template never reads {', '.join(unread)}, so "
                "it changes nothing"
            )


def _other_arguments(data: OpenedData) -> Iterator[str]:
    """A note for each evaluation set whose template arguments no training source has."""
    chats = [(key, dict(p.chat_template_kwargs)) for key, p in data.samples if p.messages]
    trained = [kwargs for key, kwargs in chats if key.startswith("data.train")]
    for key, kwargs in chats:
        if trained and kwargs not in trained:
            yield (
                f"warning: {key}.chat_template_kwargs={json.dumps(kwargs)} is not what training uses "
                f"({json.dumps(trained[0])}): evaluation prompts differ from training prompts"
            )


def _open_turns(
    recipe: Recipe, data: OpenedData, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]
) -> Iterator[str]:
    """A note when the template closes the policy's turn with a token that ends no completion."""
    rollout = recipe.rollout
    stops = {*ends, *rollout.stop_token_ids, *special_stops(rollout.stop_strings, tokenizer)}
    prompt = next((prompt for _, prompt in data.samples if prompt.messages), None)
    closing = None if prompt is None or not ends else _closing_token(prompt, tokenizer)
    if closing is not None and closing not in stops:
        name = tokenizer.convert_ids_to_tokens(closing)
        yield (
            f"warning: the chat template closes a turn with {name!r}, which is not an end token of this model, so "
            f"completions go on past it; to end them there, set rollout.stop_token_ids=[{closing}]"
        )


def _closing_token(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that follows an answer in the template; None if there is none or it takes no answers."""
    turns = [*prompt.messages, Message(role="assistant", content=_ANSWER)]
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **prompt.chat_template_kwargs)
    except Exception:  # noqa: BLE001 - foreign code; the prompt itself was rendered, only the note is lost
        return None
    tail = str(text).rpartition(_ANSWER)[2]
    special = set(tokenizer.all_special_ids) | {
        n for n, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    for token in tokenizer.encode(tail, add_special_tokens=False):
        if token in special:
            return token
        if str(tokenizer.decode([token])).strip():
            return None
    return None
