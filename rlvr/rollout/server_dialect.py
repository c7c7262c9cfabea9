"""Requests to and answers from OpenAI-compatible servers. Pure: no network, no state.

Servers differ in what they accept, so there is a ladder of dialects, from the lossless one to the one that every
server supports; `LADDER` has the order, and the engine uses the first that a server answers.

    form    path                what is sent                           what may be lost
    TOKENS  /completions        the prompt's token ids                 nothing
    TEXT    /completions        the prompt's text                      the server tokenises it again
    CHAT    /chat/completions   the messages, for its own template     template and begin tokens are the server's

`has_extras` adds fields of vLLM and SGLang: the stop string stays in the text, token ids are returned, and the model's
own sampling defaults (top_k, repetition penalty) are switched off, because training does not use them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rlvr.protocols import GenerationRequest
from rlvr.records import FinishReason, Json, Prompt


class Form(StrEnum):
    """The form in which a prompt is sent."""

    TOKENS = "tokens"
    TEXT = "text"
    CHAT = "chat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """A server's dialect.

    has_extras: fields of vLLM and SGLang. has_options: `seed` and `logprobs`. limit_key: the name of the limit on new
    tokens. cuts_itself: stop strings are not sent; the text is cut here.
    """

    form: Form
    has_extras: bool = False
    has_options: bool = True
    limit_key: str = "max_tokens"
    cuts_itself: bool = False

    @property
    def path(self) -> str:
        """The path below the base URL."""
        return "/chat/completions" if self.form is Form.CHAT else "/completions"

    @property
    def label(self) -> str:
        """The dialect's description for messages.

        >>> Dialect(form=Form.CHAT, has_options=False).label
        '/chat/completions with messages, without seed and logprobs'
        """
        what = {Form.TOKENS: "token ids", Form.TEXT: "text", Form.CHAT: "messages"}[self.form]
        extras = " and the fields of vLLM and SGLang" if self.has_extras else ""
        bare = "" if self.has_options else ", without seed and logprobs"
        other = "" if self.limit_key == "max_tokens" else f", with {self.limit_key}"
        return f"{self.path} with {what}{extras}{bare}{other}"


LADDER = (
    Dialect(form=Form.TOKENS, has_extras=True),
    Dialect(form=Form.TOKENS),
    Dialect(form=Form.TEXT, has_extras=True),
    Dialect(form=Form.TEXT),
    Dialect(form=Form.TEXT, has_options=False),
    Dialect(form=Form.CHAT, has_extras=True),
    Dialect(form=Form.CHAT),
    Dialect(form=Form.CHAT, limit_key="max_completion_tokens"),
    Dialect(form=Form.CHAT, has_options=False),
    Dialect(form=Form.CHAT, has_options=False, limit_key="max_completion_tokens"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """A prompt's text, the text to pass to its tokenizer, and its record.

    text_as_tokenised: without a begin token if the tokenizer adds it.
    """

    text: str
    text_as_tokenised: str
    prompt: Prompt | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One choice of a server's answer.

    token_ids, logprobs: None if the server returned none. stopped_by: the stop string that ended it, "" for an end
    token, None if the server does not say. num_prompt_tokens: None if it does not say.
    """

    text: str
    finish_reason: FinishReason
    token_ids: tuple[int, ...] | None
    logprobs: tuple[float, ...] | None
    stopped_by: str | None
    num_prompt_tokens: int | None


def request_body(
    request: GenerationRequest, *, dialect: Dialect, model: str, wording: Wording, stop_token_ids: Sequence[int]
) -> dict[str, Json]:
    """The body of one POST: one completion, with its own seed.

    Raises: ValueError with the reason when the dialect cannot express this prompt.
    """
    sampling = request.sampling
    body: dict[str, Json] = {
        "model": model,
        "temperature": sampling.temperature,
        "top_p": 1.0,
        "n": 1,
        dialect.limit_key: sampling.max_tokens,
    }
    if sampling.stop_strings and not dialect.cuts_itself:
        body["stop"] = list(sampling.stop_strings)
    if dialect.has_options:
        body["seed"] = request.seed % 2**31  # some servers keep 32 bits
        body["logprobs"] = True if dialect.form is Form.CHAT else 1
    if dialect.has_extras:
        body |= {
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "return_token_ids": True,
            "include_stop_str_in_output": True,  # vLLM's name
            "no_stop_trim": True,  # SGLang's name
            "stop_token_ids": list(dict.fromkeys([*stop_token_ids, *sampling.stop_token_ids])),
        }
    if dialect.form is Form.TOKENS:
        body["prompt"] = list(request.prefix_token_ids)
    elif dialect.form is Form.TEXT:
        body["prompt"] = wording.text if dialect.has_extras else wording.text_as_tokenised
        if dialect.has_extras:
            body["add_special_tokens"] = False
    else:
        body |= _chat(wording.prompt, dialect=dialect, prompt_id=request.prompt_id)
    return body


def _chat(prompt: Prompt | None, *, dialect: Dialect, prompt_id: str) -> dict[str, Json]:
    if prompt is None:
        raise ValueError(f"the messages of prompt {prompt_id!r} are unknown")
    messages = [{"role": m.role, "content": m.content} for m in prompt.messages]
    messages = messages or [{"role": "user", "content": prompt.text}]
    kwargs = dict(prompt.chat_template_kwargs)
    if kwargs and not dialect.has_extras:
        raise ValueError(
            f"prompt {prompt_id!r} has chat_template_kwargs ({', '.join(kwargs)}), and this server's chat takes none"
        )
    body: dict[str, Json] = {"chat_template_kwargs": kwargs} if kwargs else {}
    if not prompt.assistant_prefix:
        return {"messages": messages, **body}
    if not dialect.has_extras:
        raise ValueError(
            f"prompt {prompt_id!r} begins the answer ({prompt.assistant_prefix!r}), and chat of this server cannot"
        )
    messages.append({"role": "assistant", "content": prompt.assistant_prefix})
    return {"messages": messages, "add_generation_prompt": False, "continue_final_message": True, **body}


def read_reply(body: Json, *, form: Form) -> Reply:
    """The one choice of an answer. Raises ValueError when it is not of the shape that OpenAI documents.

    >>> read_reply({"choices": [{"text": " 4", "finish_reason": "stop"}]}, form=Form.TEXT).text
    ' 4'
    """
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ValueError("the answer has no `choices`")
    choice: Mapping[str, Any] = choices[0]
    if form is Form.CHAT:
        message = choice.get("message")
        if not isinstance(message, dict):
            raise ValueError("the choice has no `message`")
        text = message.get("content") or ""
    else:
        text = choice.get("text")
    if not isinstance(text, str):
        raise ValueError("the choice has no text")
    usage = body.get("usage")
    prompt_tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    token_ids = _whole_numbers(choice.get("token_ids"))
    return Reply(
        text=text,
        finish_reason=_finish_reason(choice.get("finish_reason")),
        token_ids=token_ids,
        logprobs=_logprobs(choice.get("logprobs")),
        stopped_by=_stopped_by(choice),
        num_prompt_tokens=prompt_tokens if isinstance(prompt_tokens, int) else None,
    )


def _finish_reason(said: Json) -> FinishReason:
    """The finish reason; an unknown word counts as aborted, so that it earns no reward."""
    if said in {"stop", "eos", "eos_token", "stop_sequence", "tool_calls"}:
        return FinishReason.STOP
    return FinishReason.LENGTH if said in {"length", "max_tokens"} else FinishReason.ABORT


def _stopped_by(choice: Mapping[str, Any]) -> str | None:
    for key in ("stop_reason", "matched_stop"):  # the names in vLLM and SGLang
        if key in choice:
            return choice[key] if isinstance(choice[key], str) else ""
    return None


def _whole_numbers(found: Json) -> tuple[int, ...] | None:
    if not isinstance(found, list) or not all(isinstance(item, int) for item in found):
        return None
    return tuple(found)


def _logprobs(found: Json) -> tuple[float, ...] | None:
    """Log-probs of the chosen tokens, from either shape: `token_logprobs` of completions, `content` of chats."""
    if not isinstance(found, dict):
        return None
    values = found.get("token_logprobs")
    if values is None and isinstance(found.get("content"), list):
        values = [item.get("logprob") for item in found["content"] if isinstance(item, dict)]
    if not isinstance(values, list):
        return None
    return tuple(float(v) if isinstance(v, int | float) else math.nan for v in values)


def cut_at_stop(reply: Reply, *, stop_strings: Sequence[str], cuts_itself: bool) -> Reply | None:
    """The reply with its text ending in the stop string that ended it, like rlvr's engines.

    None when the server removed a stop string and does not say which: then it must be asked without any, and the text
    is cut here (`cuts_itself`).

    >>> reply = Reply(text="a 4", finish_reason=FinishReason.STOP, token_ids=None, logprobs=None, stopped_by="</x>",
    ...     num_prompt_tokens=None)
    >>> cut_at_stop(reply, stop_strings=["</x>"], cuts_itself=False).text
    'a 4</x>'
    """
    if not stop_strings:
        return reply
    ends = [reply.text.find(stop) + len(stop) for stop in stop_strings if stop in reply.text]
    if ends:
        return _with_text(reply, reply.text[: min(ends)])
    if cuts_itself or reply.finish_reason is not FinishReason.STOP:
        return reply
    if reply.stopped_by is None:
        return None
    return _with_text(reply, reply.text + reply.stopped_by) if reply.stopped_by else reply


def _with_text(reply: Reply, text: str) -> Reply:
    """The reply with another text, ended by a stop string; token ids that no longer match the text are dropped."""
    if text == reply.text and reply.finish_reason is FinishReason.STOP:
        return reply
    is_shorter = len(text) < len(reply.text)
    return Reply(
        text=text,
        finish_reason=FinishReason.STOP,
        token_ids=None if is_shorter else reply.token_ids,
        logprobs=None if is_shorter else reply.logprobs,
        stopped_by=reply.stopped_by,
        num_prompt_tokens=reply.num_prompt_tokens,
    )
