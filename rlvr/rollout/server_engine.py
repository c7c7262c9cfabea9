"""An OpenAI-compatible server (vLLM, SGLang and others) as a rollout engine, for evaluation.

It can generate, but not load weights or prove which weights it holds, so it is not used in training. Each completion
is a separate call with its own seed: completions are verified in the order of arrival.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from rlvr.errors import RolloutError
from rlvr.http.client import RETRIED_STATUS, DeadlineError, JsonClient
from rlvr.http.served_model import KEY_REFUSED, key_refused
from rlvr.models.prompting import decode, special_stops, tag_ids
from rlvr.protocols import EngineHealth, GenerationRequest, LoadReceipt, Sampling
from rlvr.records import Completion, FinishReason, Prompt, WeightsRef
from rlvr.rollout.server_dialect import LADDER, Dialect, Form, Reply, Wording, cut_at_stop, read_reply, request_body

logger = logging.getLogger(__name__)
_PROBE_DEADLINE_S = 300.0  # a server may still be loading or compiling when it is first asked


class ServerEngine:
    """Generates at a server.

    Token ids and log-probs are the server's if it returns them (its log-probs are usually at temperature 1, whatever
    the sampling temperature); otherwise the ids are its text tokenised here, and the log-probs are NaN.

    Args:
        tokenizer: of the model that is served.
        stop_token_ids: end a completion, in addition to the server's own.
        prompts: by prompt id, for servers that only take messages.
    """

    def __init__(
        self,
        client: JsonClient,
        *,
        model: str,
        tokenizer: PreTrainedTokenizerBase,
        stop_token_ids: Sequence[int],
        prompts: Mapping[str, Prompt],
    ) -> None:
        self._client = client
        self._model = model
        self._tokenizer = tokenizer
        self._stop_token_ids = tuple(stop_token_ids)
        self._prompts = prompts
        self._dialect: Dialect | None = None
        self._settling = asyncio.Lock()
        self._num_open = 0
        self._last_answer_s = 0.0
        self._problem = ""
        self._warned: set[str] = set()

    @property
    def dialect(self) -> Dialect | None:
        """The dialect in use; None before the first request."""
        return self._dialect

    async def generate(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Completion]:
        """Yields each completion as it arrives. Raises RolloutError when the server fails."""
        if not requests:
            return
        self._num_open += len(requests)
        num_left = len(requests)
        tasks = [asyncio.ensure_future(self._complete(request)) for request in requests]
        try:
            for finished in asyncio.as_completed(tasks):
                completion = await finished
                num_left -= 1
                self._num_open -= 1
                yield completion
        except RolloutError as error:
            self._problem = str(error)
            raise
        finally:
            self._num_open -= num_left
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def load_weights(self, ref: WeightsRef, *, canary: Sequence[Sequence[int]] = ()) -> LoadReceipt:
        """Refuses. Raises RolloutError."""
        raise RolloutError(
            f"server {self._client.url} cannot load weights (version {ref.policy_version}): it serves the model it "
            "was started with. To evaluate a checkpoint, start the server on that checkpoint's folder; to train, use "
            "rollout.engine=vllm"
        )

    async def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """Refuses. Raises RolloutError."""
        raise RolloutError(
            f"server {self._client.url} cannot score {len(rows)} given rows: not all servers can, and evaluation does "
            "not need it; use rollout.engine=vllm or transformers"
        )

    async def health(self) -> EngineHealth:
        """Healthy until a request failed; answers without asking the server."""
        return EngineHealth(
            is_healthy=not self._problem, policy_version=0, num_open_requests=self._num_open, detail=self._problem
        )

    async def close(self) -> None:
        """Ends open calls."""
        await asyncio.to_thread(self._client.close)

    async def _complete(self, request: GenerationRequest) -> Completion:
        start = time.monotonic()
        dialect = await self._settled(request)
        room_s = max(0.0, request.deadline_s - (time.monotonic() - start))
        try:
            reply = await self._ask(request, dialect, deadline_s=room_s)
            found = cut_at_stop(reply, stop_strings=request.sampling.stop_strings, cuts_itself=dialect.cuts_itself)
            if found is None:
                dialect = self._cutting_itself()
                room_s = max(0.0, request.deadline_s - (time.monotonic() - start))
                reply = await self._ask(request, dialect, deadline_s=room_s)
                found = cut_at_stop(reply, stop_strings=request.sampling.stop_strings, cuts_itself=True)
        except DeadlineError as error:
            if self._last_answer_s < start:
                raise RolloutError(
                    f"server {self._client.url} answered nothing for {request.deadline_s:g} s (request "
                    f"{request.request_id!r}{f'; last: {error}' if str(error) else ''}); check whether it hangs"
                ) from error
            self._warn(
                "a completion exceeded its deadline of %g s at server %s; it counts as cut off",
                request.deadline_s,
                self._client.url,
            )
            found = None
        if found is None:
            found = Reply(
                text="",
                finish_reason=FinishReason.ABORT,
                token_ids=(),
                logprobs=(),
                stopped_by="",
                num_prompt_tokens=None,
            )
        return self._completion(request, found)

    async def _settled(self, request: GenerationRequest) -> Dialect:
        """The server's dialect; the first request finds it, and the others wait for that."""
        async with self._settling:
            if self._dialect is None:
                self._dialect = await self._settle(request)
                logger.info("server %s is called at %s", self._client.url, self._dialect.label)
            return self._dialect

    async def _settle(self, request: GenerationRequest) -> Dialect:
        probe = replace(
            request,
            sampling=Sampling(temperature=request.sampling.temperature, max_tokens=1),
            deadline_s=_PROBE_DEADLINE_S,
        )
        refusals: list[str] = []
        absent: set[str] = set()
        for dialect in LADDER:
            if dialect.path in absent:
                continue
            try:
                body = self._body(probe, dialect)
            except ValueError as error:
                refusals.append(f"{dialect.label}: {error}")
                continue
            try:
                answer = await self._client.post(dialect.path, body, deadline_s=_PROBE_DEADLINE_S)
            except DeadlineError as error:
                raise RolloutError(
                    f"server {self._client.url} answered nothing for {_PROBE_DEADLINE_S:g} s to one request for one "
                    f"token{f'; last: {error}' if str(error) else ''}; check whether it hangs"
                ) from error
            if answer.status in KEY_REFUSED:
                raise key_refused(self._client, answer.message)
            if answer.status in RETRIED_STATUS - {500}:  # 500 may be caused by a field
                raise RolloutError(f"server {self._client.url} is not ready: status {answer.status}, {answer.message}")
            if answer.status in {404, 405}:
                absent.add(dialect.path)
            if not answer.is_ok:
                refusals.append(f"{dialect.label}: status {answer.status}, {answer.message}")
                continue
            try:
                reply = read_reply(answer.body, form=dialect.form)
            except ValueError as error:
                refusals.append(f"{dialect.label}: {error}")
                continue
            num_expected = len(request.prefix_token_ids)
            if dialect.form is Form.TOKENS and reply.num_prompt_tokens != num_expected:
                refusals.append(
                    f"{dialect.label}: {num_expected} ids were sent, and the server counts {reply.num_prompt_tokens}"
                )
                continue
            self._compare_lengths(reply, dialect=dialect, num_expected=num_expected)
            self._last_answer_s = time.monotonic()
            return dialect
        raise RolloutError(
            f"server {self._client.url} takes no form of request for model {self._model!r}:\n  " + "\n  ".join(refusals)
        )

    def _compare_lengths(self, reply: Reply, *, dialect: Dialect, num_expected: int) -> None:
        if dialect.form is Form.CHAT:
            self._warn(
                "server %s takes only messages: its own chat template makes the prompt, not the tokenizer given here",
                self._client.url,
            )
        elif reply.num_prompt_tokens not in {None, num_expected}:
            self._warn(
                "server %s reads a prompt of %d tokens as %d: its tokenizer differs, or it adds a begin token; "
                "figures may differ from those of an engine that takes token ids",
                self._client.url,
                num_expected,
                reply.num_prompt_tokens,
            )

    def _cutting_itself(self) -> Dialect:
        self._warn(
            "server %s removes stop strings without saying which; they are no longer sent, and the text is cut here "
            "(completions cost the server more)",
            self._client.url,
        )
        if self._dialect is None:
            raise RolloutError("no dialect is settled")
        self._dialect = replace(self._dialect, cuts_itself=True)
        return self._dialect

    async def _ask(self, request: GenerationRequest, dialect: Dialect, *, deadline_s: float) -> Reply:
        try:
            body = self._body(request, dialect)
        except ValueError as error:
            raise RolloutError(
                f"server {self._client.url}: {error}; evaluate with a server that has /v1/completions"
            ) from error
        answer = await self._client.post(dialect.path, body, deadline_s=deadline_s)
        if answer.status in KEY_REFUSED:
            raise key_refused(self._client, answer.message)
        if not answer.is_ok:
            raise RolloutError(
                f"server {self._client.url} refused request {request.request_id!r} ({len(request.prefix_token_ids)} "
                f"prompt tokens, at most {request.sampling.max_tokens} new ones) with status {answer.status}: "
                f"{answer.message}"
            )
        try:
            reply = read_reply(answer.body, form=dialect.form)
        except ValueError as error:
            raise RolloutError(
                f"server {self._client.url} answered request {request.request_id!r} with something else than a "
                f"completion: {error}"
            ) from error
        self._last_answer_s = time.monotonic()
        return reply

    def _body(self, request: GenerationRequest, dialect: Dialect) -> dict[str, object]:
        ids = request.prefix_token_ids
        wording = Wording(text="", text_as_tokenised="", prompt=self._prompts.get(request.prompt_id))
        if dialect.form is Form.TEXT:
            text = self._text(ids)
            # The server's tokenizer is this one: if it writes the begin token itself, the text must not.
            is_whole = tuple(self._tokenizer.encode(text)) == tuple(ids)
            bare = text if is_whole else self._text(ids[1:])
            wording = replace(wording, text=text, text_as_tokenised=bare)
        specials = special_stops(request.sampling.stop_strings, self._tokenizer)
        asked = (*request.sampling.stop_token_ids, *specials)
        if asked and not dialect.has_extras:
            self._warn(
                "server %s takes no stop_token_ids: completions may run past rollout.stop_token_ids, and past stop "
                "strings that are special tokens",
                self._client.url,
            )
        return request_body(
            request,
            dialect=dialect,
            model=self._model,
            wording=wording,
            stop_token_ids=(*self._stop_token_ids, *specials),
        )

    def _text(self, token_ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False))

    def _completion(self, request: GenerationRequest, reply: Reply) -> Completion:
        ids, text = reply.token_ids, reply.text
        if ids is None:
            ids = tuple(self._tokenizer.encode(text, add_special_tokens=False))
        elif not tag_ids(self._tokenizer).isdisjoint(ids):
            text = decode(ids, self._tokenizer)  # servers leave special tokens out, tags too
        logprobs = reply.logprobs
        if logprobs is None or len(logprobs) != len(ids):
            logprobs = (math.nan,) * len(ids)
        return Completion(
            completion_id=request.request_id,
            prompt_id=request.prompt_id,
            sample_index=request.sample_index,
            prompt_token_ids=request.prefix_token_ids,
            token_ids=ids,
            logprobs=logprobs,
            sampled_mask=(True,) * len(ids),
            text=text,
            finish_reason=reply.finish_reason,
            policy_versions=(0,) * len(ids),
        )

    def _warn(self, message: str, *values: object) -> None:
        """Logs once per cause."""
        if message not in self._warned:
            self._warned.add(message)
            logger.warning(message, *values)
