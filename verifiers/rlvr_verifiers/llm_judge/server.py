"""The server behind `llm_judge`: one question, one answer, one deadline; a silent server is not asked for a while.

Faults of the server or the recipe raise; whatever a completion may cause is returned as an empty answer.
"""

import time
from collections.abc import Mapping

from rlvr.errors import ConfigError, RolloutError
from rlvr.http.client import DeadlineError, JsonClient
from rlvr.http.served_model import KEY_REFUSED, find_model, key_refused
from rlvr.records import Json
from rlvr_verifiers.llm_judge.budget import Budget

_TOO_LONG = 400  # the status for a prompt that exceeds the context


class TooLongError(Exception):
    """The server refused the request; a shorter one may be accepted."""


class JudgeServer:
    """Asks one model of one server. Use it only in the process that created it; several event loops may share it."""

    def __init__(
        self, url: str, *, key: str, model: str, most_open: int, deadline_s: float, budget: Budget | None = None
    ) -> None:
        """Creates the client without connecting.

        Args:
            model: the name of the model; "" asks the server once which one it serves.
            most_open: the maximum number of concurrent requests.
            deadline_s: the deadline of an item.
            budget: what the requests may spend; None: any amount.
        """
        self.model = model
        self.budget = budget or Budget()
        self._client = JsonClient(url, key=key, max_open=most_open)
        self._most_open = most_open
        self._deadline_s = deadline_s
        self._num_silent = 0
        self._silent_until = 0.0

    async def answer(self, body: Mapping[str, Json], *, until: float) -> str:
        """The judge's answer; "" if it is empty (a refusal).

        Args:
            until: the deadline on the monotonic clock.

        Raises:
            TooLongError: the prompt may be too long.
            RolloutError, ConfigError: the server is unavailable, or it cut its answer off.
            VerifierError: the budget is used up; nothing was sent.
        """
        if time.monotonic() < self._silent_until:
            raise RolloutError(
                f"judge {self._client.url} left {self._num_silent} requests in a row without an answer; it is asked "
                f"again in {self._silent_until - time.monotonic():.0f} s"
            )
        try:
            if not self.model:
                left_s = max(0.0, until - time.monotonic())
                self.model = await self._found_model(left_s)
            left_s = max(0.0, until - time.monotonic())
            whole = {"model": self.model, **body}
            self.budget.begin_call()
            answer = await self._client.post("/chat/completions", whole, deadline_s=left_s)
        except DeadlineError as error:
            self._note_silence()
            raise RolloutError(
                f"judge {self._client.url} gave no answer in reward.verifier_deadline_s={self._deadline_s:g} s"
                f"{f' ({error})' if str(error) else ''}"
            ) from error
        self._num_silent = 0
        if answer.status in KEY_REFUSED:
            raise key_refused(self._client, answer.message)
        if answer.status == _TOO_LONG:
            raise TooLongError(answer.message)
        if not answer.is_ok:
            raise RolloutError(f"judge {self._client.url} answered {answer.status}: {answer.message}")
        self.budget.spend(answer.body)
        return self._text_of(answer.body)

    def refused(self, error: TooLongError) -> ConfigError:
        """The error for a request that is refused at any length."""
        return ConfigError(f"judge {self._client.url} refuses every request: {error}")

    def close(self) -> None:
        """Ends open requests."""
        self._client.close()

    async def _found_model(self, deadline_s: float) -> str:
        try:
            found = await find_model(self._client, name="", alias="", deadline_s=deadline_s)
        except RolloutError:
            self._note_silence()
            raise
        return found.name

    def _note_silence(self) -> None:
        self._num_silent += 1
        if self._num_silent >= self._most_open:
            self._silent_until = time.monotonic() + self._deadline_s

    def _text_of(self, body: Json) -> str:
        match body:
            case {"choices": [{"finish_reason": "length"}, *_]}:
                raise RolloutError(f"judge {self._client.url} was cut off after max_tokens; raise that setting")
            case {"choices": [{"message": {"content": str() | None as text}}, *_]}:
                return text or ""
            case _:
                raise RolloutError(
                    f"judge {self._client.url} answered something else than a chat completion: {str(body)[:200]}"
                )
