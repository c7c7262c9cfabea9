"""From one step's groups to an optimiser step, in this order:

    groups -> shaped rewards -> [reference log-probs -> KL penalty] -> advantages over all groups of the step
           -> groups whose advantages are all 0 are removed, if the recipe says so; masked rollouts too
           -> batch with denominators over the remaining rows -> [reference log-probs] -> optimiser step

With `streaming` the same is done for each group as it ends, with one `apply` over the summed denominators at the end;
the config allows it only where a group's advantages do not depend on the others.
"""

import functools
import operator
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from rlvr.algorithms.build import AdvantageFunction
from rlvr.algorithms.kl import KlFunction, kl_penalties
from rlvr.batch import Batch, Denominators, Learner
from rlvr.data.collate import Row, collate_rows, select_rows
from rlvr.records import Group
from rlvr.run.activity import Activity
from rlvr.run.step.buffer import GroupBuffer, Taken
from rlvr.run.step.learner_thread import LearnerThread
from rlvr.run.step.metrics import RolloutStatistics, penalty_metrics, rollout_metrics, selection_metrics, staleness
from rlvr.run.step.shaping import EQUAL, DropReason, RewardShaping, Screened, Shaped, group_rewards


@dataclass(frozen=True, slots=True, kw_only=True)
class KlInReward:
    """The KL penalty to the reference: coef times the sum over a rollout's loss tokens."""

    coef: float
    estimator: KlFunction


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """The result of one step.

    Attributes:
        taken: the groups of the step; those removed because of their advantages are among the dropped ones.
        shaped: the shaped reward of every judged rollout, by completion id.
        statistics: over the rollouts of `taken.groups`.
        has_learned: whether there was an optimiser step.
        is_refill_spent: the step is smaller than requested, because no more groups may replace dropped ones.
        wait_s: seconds until the last group was judged, minus the training done meanwhile.
        train_s: seconds of the learner's work.
    """

    taken: Taken
    shaped: Mapping[str, Shaped]
    statistics: RolloutStatistics
    metrics: dict[str, float]
    has_learned: bool
    is_refill_spent: bool
    wait_s: float
    train_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Groups prepared for the learner.

    batch: None when no row is left. silent: ids of groups removed because all their advantages are 0.
    """

    batch: Batch | None
    shaped: Mapping[str, Shaped]
    silent: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Learned:
    """The part of `Prepared` kept after the learner's work; counts: None when there was no batch."""

    counts: Denominators | None
    shaped: Mapping[str, Shaped]
    silent: frozenset[str]
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(slots=True, kw_only=True)
class _Work:
    """What one step has gathered so far. train_s: seconds of the learner's work."""

    items: list[Screened] = field(default_factory=list[Screened])
    learned: list[_Learned] = field(default_factory=list[_Learned])
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    train_s: float = 0.0

    @property
    def counts(self) -> list[Denominators]:
        """The denominators of each batch."""
        return [part.counts for part in self.learned if part.counts is not None]

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Context whose seconds count as training."""
        begun = time.perf_counter()
        yield
        self.train_s += time.perf_counter() - begun


class Updater:
    """Takes groups from the buffer and trains on them."""

    def __init__(
        self,
        *,
        buffer: GroupBuffer,
        learner: Learner,
        thread: LearnerThread,
        advantage: AdvantageFunction,
        shaping: RewardShaping,
        kl_in_reward: KlInReward | None,
        drops_zero_variance: bool,
        pad_token_id: int,
        is_streaming: bool,
        may_overlap: bool,
        activity: Activity,
    ) -> None:
        """Args:
        activity: the status line.
        may_overlap: the learner may work while the engine generates; False when they share tensors: streaming then
            begins after the last group.
        """
        self._buffer = buffer
        self._learner = learner
        self._thread = thread
        self._advantage = advantage
        self._shaping = shaping
        self._kl_in_reward = kl_in_reward
        self._drops_zero_variance = drops_zero_variance
        self._pad_token_id = pad_token_id
        self._is_streaming = is_streaming
        self._may_overlap = may_overlap
        self._activity = activity

    async def step(self, *, policy_version: int) -> Update:
        """Waits for one step's groups and trains on them; no groups when the prompts have run out.

        Raises: the producer's error; LearnerError.
        """
        started = time.perf_counter()
        work = _Work()
        self._activity.begin("generating: groups", total=self._buffer.prompts_per_step)
        async for chunk in self._chunks():
            work.items += chunk
            kept = [item for item in chunk if item.reason is None]
            if not kept:
                continue
            if not self._is_streaming:
                self._activity.begin("training")
            with work.timed():
                learned = await self._thread.train(lambda kept=kept: self._learn(kept))
            work.learned.append(learned)
            work.metrics |= learned.metrics
        if self._is_streaming and work.counts:
            total = functools.reduce(operator.add, work.counts)
            with work.timed():
                report = await self._thread.train(lambda: self._learner.apply(total))
            work.metrics |= report.metrics
        return self._result(work, policy_version=policy_version, step_s=time.perf_counter() - started)

    def _result(self, work: _Work, *, policy_version: int, step_s: float) -> Update:
        silent = frozenset[str]().union(*(part.silent for part in work.learned))
        taken = Taken.of(
            [(x.group, DropReason.ZERO_ADVANTAGES if x.group.group_id in silent else x.reason) for x in work.items],
            num_wanted=self._buffer.prompts_per_step,
        )
        shaped = _shaped(work.items)
        for part in work.learned:
            shaped |= part.shaped
        statistics = RolloutStatistics.of(taken.groups)
        metrics = dict(work.metrics)
        if taken.groups:
            metrics |= rollout_metrics(taken.groups, known=statistics)
            metrics |= staleness(taken.groups, policy_version=policy_version)
            metrics |= selection_metrics(taken)
            metrics |= penalty_metrics(shaped.values(), has_overlong=self._shaping.buffer_tokens > 0)
        return Update(
            taken=taken,
            shaped=shaped,
            statistics=statistics,
            metrics=metrics,
            has_learned=bool(work.counts),
            is_refill_spent=self._is_refill_spent(work.items),
            wait_s=step_s - work.train_s,
            train_s=work.train_s,
        )

    async def _chunks(self) -> AsyncIterator[list[Screened]]:
        """The step's groups in chunks that are trained on together."""
        if self._is_streaming and self._may_overlap:
            async for item in self._buffer.stream():
                self._activity.advance()
                yield [item]
            return
        items: list[Screened] = []
        async for item in self._buffer.stream():
            self._activity.advance()
            items.append(item)
        for chunk in [[item] for item in items] if self._is_streaming else [items]:
            yield chunk

    def _is_refill_spent(self, items: Sequence[Screened]) -> bool:
        wanted, allowed = self._buffer.prompts_per_step, self._buffer.max_groups
        return len(items) == allowed > wanted > sum(item.reason is None for item in items)

    def _learn(self, screened: Sequence[Screened]) -> _Learned:
        """Trains on the groups; runs in the learner's thread."""
        ready = self.prepare(screened)
        if ready.batch is None:
            return _Learned(counts=None, shaped=ready.shaped, silent=ready.silent)
        metrics: Mapping[str, float] = {}
        if self._is_streaming:
            self._learner.accumulate(ready.batch)
        else:
            metrics = self._learner.step(ready.batch).metrics
        return _Learned(counts=ready.batch.denominators, shaped=ready.shaped, silent=ready.silent, metrics=metrics)

    def prepare(self, screened: Sequence[Screened]) -> Prepared:
        """The annotated batch of these groups, with advantages."""
        groups = [item.group for item in screened]
        rows: list[Row] = [
            (index, rollout.completion, 0.0)
            for index, group in enumerate(groups)
            for rollout in group.rollouts
            if rollout.reward is not None and any(rollout.completion.sampled_mask)
        ]
        shaped = _shaped(screened)
        if not rows:
            return Prepared(batch=None, shaped=shaped)
        draft = collate_rows(rows, pad_token_id=self._pad_token_id)
        if self._kl_in_reward is not None:
            draft = self._learner.annotate(draft)
            self._charge_kl(draft, rows, shaped)
        silent = self._set_advantages(groups, shaped)
        masked = {
            rollout.completion.completion_id
            for group in groups
            for rollout in group.rollouts
            if group.group_id in silent or self._shaping.is_masked(rollout)
        }
        kept: list[int] = []
        advantages: list[float] = []
        for row, (_, completion, _) in enumerate(rows):
            advantage = shaped[completion.completion_id].advantage
            if advantage is not None and completion.completion_id not in masked:
                kept.append(row)
                advantages.append(advantage)
        if not kept:
            return Prepared(batch=None, shaped=shaped, silent=silent)
        batch = select_rows(draft, kept, advantages=advantages)
        if self._kl_in_reward is None:
            batch = self._learner.annotate(batch)
        return Prepared(batch=batch, shaped=shaped, silent=silent)

    def _charge_kl(self, batch: Batch, rows: Sequence[Row], shaped: dict[str, Shaped]) -> None:
        """Subtracts the KL penalty from the shaped rewards; a completion without sampled tokens has none."""
        assert self._kl_in_reward is not None
        assert batch.ref_logprobs is not None  # the reference is loaded if kl_coef > 0
        penalties = kl_penalties(
            batch.behavior_logprobs,
            ref_logprobs=batch.ref_logprobs,
            loss_mask=batch.loss_mask,
            coef=self._kl_in_reward.coef,
            estimator=self._kl_in_reward.estimator,
        ).tolist()
        paid = {row[1].completion_id: x for row, x in zip(rows, penalties, strict=True)}
        for name, before in shaped.items():
            penalty = paid.get(name, 0.0)
            shaped[name] = replace(before, reward=before.reward - penalty, kl_penalty=penalty)

    def _set_advantages(self, groups: Sequence[Group], shaped: dict[str, Shaped]) -> frozenset[str]:
        """Stores each rollout's advantage; returns the ids of groups to remove because all of theirs are 0."""
        ids = [[r.completion.completion_id for r in group.rollouts] for group in groups]
        lists = self._advantage(
            [
                group_rewards(group, [shaped.get(name) for name in names])
                for group, names in zip(groups, ids, strict=True)
            ]
        )
        silent: set[str] = set()
        for group, names, advantages in zip(groups, ids, lists, strict=True):
            given = [x for x in advantages if x is not None]
            if self._drops_zero_variance and given and max(map(abs, given)) <= EQUAL:
                silent.add(group.group_id)
            for name, advantage in zip(names, advantages, strict=True):
                if advantage is not None:
                    shaped[name] = replace(shaped[name], advantage=advantage)
        return frozenset(silent)


def _shaped(screened: Sequence[Screened]) -> dict[str, Shaped]:
    return {name: shaped for item in screened for name, shaped in item.shaped.items()}
