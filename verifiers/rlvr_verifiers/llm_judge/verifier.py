"""`llm_judge`: a model behind an OpenAI-compatible server (vLLM, SGLang, others) judges a completion.

For answers that no program can compare. The policy's text is treated as adversarial input to the judge: it is enclosed
in two marks that the policy cannot predict (derived from a hash of the text), strings that spell control tokens of chat
templates are broken up, only the last lines of the judge's answer count, text without a letter or digit is never shown,
and a judge that returns no verdict twice counts as FAIL.

Persuasion is NOT prevented: a policy under optimisation learns what a given judge likes. Watch an evaluation with
another verifier.
"""

import asyncio
import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from rlvr.errors import ConfigError
from rlvr.plugin import VerifierContext, verdict
from rlvr.protocols import Execution
from rlvr.records import Completion, Json, Prompt, Status, Verdict
from rlvr_verifiers.llm_judge import questions, replies
from rlvr_verifiers.llm_judge.budget import Budget
from rlvr_verifiers.llm_judge.cache import AnswerCache
from rlvr_verifiers.llm_judge.server import JudgeServer, TooLongError
from rlvr_verifiers.llm_judge.settings import Disagreement, LlmJudgeConfig, Mode, read_principles

logger = logging.getLogger(__name__)
_SHOWN_CHARS = 300
_ATTEMPTS = 2  # for each question of a vote
_SHARE_OF_DEADLINE = 0.95
_SHORTEST_CHARS = 200  # a judge that refuses a completion this short refuses everything
_PAIRWISE_SCORES = {"better": 1.0, "worse": 0.0, "tie": 0.5, "swapped": 0.5, "": 0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """What is judged: the question, the reference as text ("" for none), the shown completion, and the other answer.

    is_second: the completion is answer B of the comparison.
    """

    asked: str
    reference: str
    shown: str
    other: str = ""
    is_second: bool = False


class LlmJudgeVerifier:
    """A served model decides right or wrong, awards points, judges by a rubric, or compares with another answer."""

    name: ClassVar[str] = "llm_judge"
    version: ClassVar[str] = "2"
    execution: ClassVar[Execution] = Execution.ASYNC
    Config: ClassVar[type[BaseModel]] = LlmJudgeConfig

    def __init__(self, config: LlmJudgeConfig, context: VerifierContext) -> None:
        self.config = config
        self.context = context
        self.max_open = config.max_open
        self._is_pairwise = config.mode is Mode.PAIRWISE
        key = os.environ.get(config.key_env, "").strip() if config.key_env else ""
        if config.key_env and not key:
            raise ConfigError(f"key_env: the environment variable {config.key_env!r} is empty or not set here")
        self._principles, self._principles_digest = _principles_of(config.principles_file)
        self.budget = Budget(
            max_calls=config.max_calls,
            max_tokens=config.max_total_tokens,
            max_cost=config.max_cost,
            prompt_price=config.prompt_price,
            completion_price=config.completion_price,
        )
        self._cache = AnswerCache(config.cache_size)
        self._server = JudgeServer(
            config.url,
            key=key,
            model=config.model,
            most_open=config.max_open * config.votes * (2 if self._is_pairwise else 1),
            deadline_s=context.deadline_s,
            budget=self.budget,
        )

    def close(self) -> None:
        """Ends open requests, and logs what the judge has cost."""
        self._server.close()
        if self.budget.num_calls:
            logger.info(
                "llm_judge: %d calls, %d answers from the cache, %d tokens, cost %.4g",
                self.budget.num_calls,
                self._cache.num_hits,
                self.budget.num_tokens,
                self.budget.cost,
            )

    def parse_reference(self, reference: Json) -> None:
        """Raises ValueError if the judge sees the reference and it is neither text nor a number."""
        if self.config.shows_reference and not _as_text(reference):
            raise ValueError(f"{reference!r} is not text to compare with; give the right answer as text")

    async def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
        """The judge's verdict.

        Raises: RolloutError, ConfigError, VerifierError if the server is unavailable or the budget is used up: an
            ERROR, no score.
        """
        shown = completion.text
        if self.config.after:
            _, found, shown = shown.rpartition(self.config.after)
            if not found:
                return verdict(self, Status.UNPARSED, f"{self.config.after!r} does not occur")
        shown = shown.strip()[-self.config.max_chars :]
        if not any(character.isalnum() for character in shown):
            return verdict(self, Status.UNPARSED, "there is no letter and no digit to judge")
        item = _Item(
            asked=prompt.text or "\n\n".join(f"{m.role}: {m.content}" for m in prompt.messages),
            reference=_as_text(prompt.reference),
            shown=shown,
            other=self._other_answer(prompt) if self._is_pairwise else "",
        )
        # leaves time to report the cause before the item's deadline
        until = time.monotonic() + _SHARE_OF_DEADLINE * self.context.deadline_s
        answers = await self._votes(item, until=until)
        return self._decided([vote for vote, _ in answers], answers[0][1], shown=shown)

    def _decided(self, votes: Sequence[str], words: str, *, shown: str) -> Verdict:
        """The verdict that follows from the votes; `words` are the judge's first answer."""
        details: dict[str, Json] = {"votes": list(votes), "judge": self._server.model}
        if self._principles_digest:
            details["principles"] = self._principles_digest
        if "" in votes:
            details["problem"] = "no_verdict"
        if self._is_pairwise:
            details["method"] = "order_swap" if "swapped" in votes else "both_orders"
        if self.config.criteria:
            details["criteria"] = self._met(votes)
        score = self._score(votes)
        is_unparsed = self.config.disagreement is Disagreement.UNPARSED and 2 * votes.count("swapped") > len(votes)
        if is_unparsed:
            score, status = 0.0, Status.UNPARSED
        else:
            status = Status.PASS if score >= self.config.pass_score else Status.FAIL
        reason = f"the judge: {words.strip()[-_SHOWN_CHARS:]}"
        if "swapped" in votes:
            reason = f"the judge changed its preference when the two answers were swapped; {reason}"
        return verdict(self, status, reason, score=score, extracted=shown[-_SHOWN_CHARS:], details=details)

    def _score(self, votes: Sequence[str]) -> float:
        """The score in [0, 1]; a missing verdict counts as 0.

        The mean of points or of comparisons, the weighted share of the criteria, or 1.0 for a majority of "correct".
        """
        if self._is_pairwise:
            return sum(_PAIRWISE_SCORES[vote] for vote in votes) / len(votes)
        if self.config.criteria:
            met = self._met(votes)
            total = sum(criterion.weight for criterion in self.config.criteria)
            return min(1.0, sum(c.weight for c in self.config.criteria if met[c.name]) / total)
        if self.config.points:
            return sum(int(vote or 0) for vote in votes) / (self.config.points * len(votes))
        return float(2 * Counter(votes)["correct"] > len(votes))

    def _met(self, votes: Sequence[str]) -> dict[str, Json]:
        """Whether a majority of the votes says that a criterion is met, by its name."""
        return {
            criterion.name: 2 * sum(vote[number : number + 1] == "1" for vote in votes) > len(votes)
            for number, criterion in enumerate(self.config.criteria)
        }

    async def _votes(self, item: _Item, *, until: float) -> list[tuple[str, str]]:
        """Requests all votes at once; the first failure cancels the others."""
        return await _together([self._vote(item, number, until=until) for number in range(self.config.votes)])

    async def _vote(self, item: _Item, number: int, *, until: float) -> tuple[str, str]:
        """(verdict, judge's answer). A comparison is "better", "worse" or "tie" if both orders say so, else "swapped".

        The verdict is "" if two attempts gave none.
        """
        if not self._is_pairwise:
            return await self._reply(item, number, until=until)
        swapped = _Item(asked=item.asked, reference=item.reference, shown=item.shown, other=item.other, is_second=True)
        (first, words), (second, _) = await _together(
            [self._reply(item, number, until=until), self._reply(swapped, number, until=until)]
        )
        if not (first and second):
            return "", words
        in_first = {"a": "better", "b": "worse", "tie": "tie"}[first]
        in_second = {"a": "worse", "b": "better", "tie": "tie"}[second]
        return in_first if in_first == in_second else "swapped", words

    async def _reply(self, item: _Item, number: int, *, until: float) -> tuple[str, str]:
        """(what the judge decided, its answer), after a second attempt if the first was no verdict."""
        found = words = ""
        for attempt in range(_ATTEMPTS):
            seed = _ATTEMPTS * number + attempt
            words = await self._ask(item, seed=seed, is_second_attempt=attempt > 0, until=until)
            found = self._read(words)
            if found:
                break
        return found, words

    def _read(self, words: str) -> str:
        if self._is_pairwise:
            return replies.read_preference(words)
        if self.config.criteria:
            return replies.read_criteria(words, count=len(self.config.criteria))
        return replies.read_verdict(words, points=self.config.points)

    async def _ask(self, item: _Item, *, seed: int, is_second_attempt: bool, until: float) -> str:
        """The judge's answer; a completion that exceeds its context is cut at the beginning until it fits."""
        shown = item.shown
        while True:
            body: dict[str, Json] = {
                "messages": [{"role": "user", "content": self._question(item, shown)}],
                "temperature": max(self.config.temperature, 0.3 if is_second_attempt else 0.0),
                "max_tokens": self.config.max_tokens,
                "seed": seed,
                **self.config.extra,
            }
            sent = {key: value for key, value in body.items() if value is not None}
            try:
                return await self._cache.answer(
                    json.dumps(sent, sort_keys=True), lambda sent=sent: self._server.answer(sent, until=until)
                )
            except TooLongError as error:
                if len(shown) < _SHORTEST_CHARS:
                    raise self._server.refused(error) from error
                shown = shown[len(shown) // 2 :]

    def _question(self, item: _Item, shown: str) -> str:
        config = self.config
        is_opponent_reference = self._is_pairwise and not (config.baseline or config.baseline_column)
        words = {
            "prompt": item.asked,
            "reference": item.reference,
            "known_answer": "" if is_opponent_reference else questions.known_answer_part(item.reference),
            "principles": questions.principles_part(self._principles),
            "criteria": questions.numbered([criterion.text for criterion in config.criteria]),
        }
        if self._is_pairwise:
            answers = [questions.without_control_tokens(text) for text in (shown, item.other)]
            first, second = reversed(answers) if item.is_second else answers
            words |= {
                "answer_a": first,
                "answer_b": second,
                "mark_a": questions.mark(item.other, shown, label="A"),
                "mark_b": questions.mark(item.other, shown, label="B"),
                "scale": questions.preference_scale(),
            }
        else:
            count = len(config.criteria)
            words |= {
                "completion": questions.without_control_tokens(shown),
                "mark": questions.mark(item.reference, shown),
                "scale": questions.rubric_scale(count) if count else questions.single_scale(config.points),
            }
        return questions.filled(config.template, words)

    def _other_answer(self, prompt: Prompt) -> str:
        """The answer that the completion is compared with. Raises ConfigError if the row has none."""
        config = self.config
        if config.baseline:
            return config.baseline
        if not config.baseline_column:
            return _as_text(prompt.reference)
        found = _as_text(prompt.tags.get(config.baseline_column))
        if not found:
            raise ConfigError(
                f"the row has no text in the column {config.baseline_column!r} (baseline_column); it has: "
                f"{', '.join(prompt.tags) or 'no further columns'}"
            )
        return found


async def _together(asked: Sequence[Coroutine[Any, Any, tuple[str, str]]]) -> list[tuple[str, str]]:
    """The results of all coroutines, in order; the first failure cancels the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in asked]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


def _as_text(value: Json) -> str:
    """Text or a number as text; "" for anything else, and for blank text."""
    if isinstance(value, str):
        return value if value.strip() else ""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else ""


def _principles_of(path: str) -> tuple[tuple[str, ...], str]:
    """(the principles in a file, the first digits of its SHA-256). Raises ConfigError."""
    if not path:
        return (), ""
    try:
        data = Path(path).read_bytes()
        return read_principles(data.decode("utf-8")), hashlib.sha256(data).hexdigest()[:12]
    except (OSError, ValueError) as error:
        raise ConfigError(f"principles_file {path!r} cannot be used: {error}") from error
