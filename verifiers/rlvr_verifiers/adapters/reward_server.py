"""`http://...` and `https://...`: a reward server, asked once for each completion.

Form `plain`: POST to the URL {"prompt": text or messages, "completion": text, "reference": ..., "columns": {...},
"completion_id": ..., "finish_reason": "stop" or "length"}; the answer is a number, or an object with "score" (or
"reward") and, if it likes, "reason", "extracted" and further keys, which become details. A score of null means that
the server has no opinion on this row (SKIPPED).

Form `nemo_gym`: POST to the URL (which ends in /verify) {"responses_create_params": {"input": messages}, "response": a
response of OpenAI's Responses API, **columns}, as NeMo Gym's resources servers take it; the answer has "reward".

A server that is down, too slow or answers something else is an ERROR, never a score.
"""

import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, Field

from rlvr.adapted import Adapted
from rlvr.errors import ConfigError, RolloutError, VerifierError
from rlvr.http.client import DeadlineError, JsonClient
from rlvr.plugin import VerifierContext
from rlvr.protocols import Execution
from rlvr.records import Completion, FinishReason, Json, Prompt, Verdict
from rlvr_verifiers.adapters.scores import AdapterConfig, as_json, scored

_SHARE_OF_DEADLINE = 0.95  # leaves time to report the cause before the item's deadline
_KEY_REFUSED = frozenset({401, 403})
_MAX_DETAIL_CHARS = 2000
_OWN_KEYS = frozenset({"score", "reward", "reason", "extracted"})
_REPEATED = frozenset({"responses_create_params", "response"})  # NeMo Gym repeats the request, with defaults filled in
_FAILURE = "_ng_failure_class"  # NeMo Gym's mark of a verdict that its judge could not give


class ServerForm(StrEnum):
    """The form of requests and answers."""

    PLAIN = "plain"
    NEMO_GYM = "nemo_gym"


class RewardServerConfig(AdapterConfig):
    """Settings of `http:` and `https:`."""

    form: ServerForm = Field(default=ServerForm.PLAIN, description="plain, or nemo_gym for its `/verify`")
    reference: str = Field(
        default="expected_answer", description="of nemo_gym: the field with the reference, unless a column has it"
    )
    token_file: str = Field(
        default="",
        description="a file with a bearer token, on every node with verifiers; it is sent as Authorization header",
    )
    max_open: int = Field(default=32, ge=1, description="completions that are judged at once")


class RewardServerVerifier:
    """A reward server: each completion is one POST to the URL, and the answer holds the score.

    plain: {"prompt", "completion", "reference", "columns", "completion_id", "finish_reason"} -> a number or {"score",
    "reason"?, ...}. nemo_gym: the `/verify` of a NeMo Gym resources server. Requests are retried until the deadline of
    the item (reward.verifier_deadline_s); a server that gives no score is an ERROR, never a 0.
    """

    name: ClassVar[str] = "http:"
    version: ClassVar[str] = "1"
    execution: ClassVar[Execution] = Execution.ASYNC
    Config: ClassVar[type[BaseModel]] = RewardServerConfig
    adapted: ClassVar[Adapted]

    def __init__(self, config: RewardServerConfig, context: VerifierContext) -> None:
        self.config = config
        self.context = context
        self.max_open = config.max_open
        url = self.adapted.name
        parts = urlsplit(url)
        if parts.query or parts.fragment:
            raise ConfigError(
                f"verifier {parts.scheme}://{parts.hostname}: a reward server's URL has no query (`?...`)"
            )
        self._path = "" if parts.path.strip("/") else "/"
        self._client = JsonClient(url, key=_token(config.token_file), max_open=config.max_open)

    def close(self) -> None:
        """Ends open requests."""
        self._client.close()

    async def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
        """The server's score. Raises: RolloutError, ConfigError or VerifierError if it gives none: an ERROR."""
        is_gym = self.config.form is ServerForm.NEMO_GYM
        body = self._gym_request(prompt, completion) if is_gym else _plain_request(prompt, completion)
        limit_s = self.context.deadline_s
        start = time.monotonic()
        try:
            answer = await self._client.post(self._path, body, deadline_s=_SHARE_OF_DEADLINE * limit_s)
        except DeadlineError as error:
            cause = f" ({error})" if str(error) else ""
            raise RolloutError(
                f"reward server {self._client.url} gave no answer in {time.monotonic() - start:.1f} s, and "
                f"reward.verifier_deadline_s is {limit_s:g} s{cause}"
            ) from error
        if answer.status in _KEY_REFUSED:
            raise ConfigError(
                f"reward server {self._client.url} refused the token ({answer.message}); give the file that holds it "
                "(settings: {token_file: PATH})"
            )
        if not answer.is_ok:
            raise RolloutError(f"reward server {self._client.url} answered {answer.status}: {answer.message}")
        return self._verdict(answer.body, sent=body)

    def _gym_request(self, prompt: Prompt, completion: Completion) -> dict[str, Json]:
        messages = [{"role": m.role, "content": m.content} for m in prompt.messages]
        return {
            self.config.reference: prompt.reference,
            "responses_create_params": {"input": messages or [{"role": "user", "content": prompt.text}]},
            **prompt.tags,
            "response": _response(completion),
        }

    def _verdict(self, body: Json, *, sent: Mapping[str, Json]) -> Verdict:
        """The verdict of an answer; what only repeats the request (NeMo Gym does) is not in its details."""
        if not isinstance(body, Mapping):
            return self._scored(body, {}, "")
        found = cast(Mapping[str, Json], body)
        if found.get(_FAILURE):
            why = found.get("_ng_failure_judge_error", "")
            raise VerifierError(f"reward server {self._client.url} gave no verdict: {found[_FAILURE]} {why}".rstrip())
        key = next((key for key in ("score", "reward") if key in found), "")
        if not key:
            raise VerifierError(
                f"reward server {self._client.url} answered without 'score' or 'reward': {str(body)[:200]}"
            )
        details = {
            name: as_json(value)
            for name, value in found.items()
            if name not in _OWN_KEYS | _REPEATED
            and not (name in sent and sent[name] == value)
            and len(str(value)) <= _MAX_DETAIL_CHARS
        }
        return self._scored(found[key], details, str(found.get("reason") or ""))

    def _scored(self, score: Json, details: Mapping[str, Json], reason: str) -> Verdict:
        if score is not None and not isinstance(score, bool | int | float):
            raise VerifierError(f"reward server {self._client.url} answered the score {score!r:.200}, not a number")
        return scored(self, self.config, score, reason=reason, details=details)


def _plain_request(prompt: Prompt, completion: Completion) -> dict[str, Json]:
    messages = [{"role": m.role, "content": m.content} for m in prompt.messages]
    return {
        "prompt": messages or prompt.text,
        "completion": completion.text,
        "reference": prompt.reference,
        "columns": dict(prompt.tags),
        "completion_id": completion.completion_id,
        "finish_reason": completion.finish_reason.value,
    }


def _response(completion: Completion) -> dict[str, Any]:
    """The completion as a response of OpenAI's Responses API with one message."""
    is_whole = completion.finish_reason is FinishReason.STOP
    message = {
        "id": f"msg_{completion.completion_id}",
        "type": "message",
        "role": "assistant",
        "status": "completed" if is_whole else "incomplete",
        "content": [{"type": "output_text", "text": completion.text, "annotations": []}],
    }
    return {
        "id": f"resp_{completion.completion_id}",
        "created_at": 0.0,
        "model": "policy",
        "object": "response",
        "output": [message],
        "parallel_tool_calls": False,
        "tool_choice": "none",
        "tools": [],
    }


def _token(path: str) -> str:
    """The bearer token in a file; "" without a file. Raises: ConfigError if it cannot be read or is empty."""
    if not path:
        return ""
    try:
        token = Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"token_file {path!r} cannot be read: {error}") from error
    if not token:
        raise ConfigError(f"token_file {path!r} is empty")
    return token
