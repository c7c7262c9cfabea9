"""What the engines of a run have answered to the canary, and the bounds that follow from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rlvr.batch import ProvableLearner
from rlvr.config.sections.proof import ProofConfig
from rlvr.errors import RolloutError
from rlvr.protocols import LoadReceipt, RolloutEngine
from rlvr.records import Json, WeightsRef
from rlvr.run.step.learner_thread import LearnerThread
from rlvr.run.weights.canary import Canary, Difference, Scores, difference

FOLLOW = 0.2
NOISE_FACTOR = 4.0
DRIFT_FLOOR = 1e-3  # nats, mean: too small to affect training


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The learner and the engines that a proof compares, and how.

    thread: in which the learner works. record: takes the kind of an event, a line for a person ("" for none), and the
    event's fields.
    """

    config: ProofConfig
    canary: Canary
    learner: ProvableLearner
    engine: RolloutEngine
    thread: LearnerThread
    record: Callable[[str, str, Mapping[str, Json]], None]

    async def learner_scores(self, rows: Sequence[Sequence[int]]) -> Scores:
        """The learner's log-probs of these rows, nats."""
        return await self.thread.run(lambda: self.learner.score(rows))


@dataclass(slots=True, kw_only=True)
class Answer:
    """An engine's answers. logprobs: of the sync row at the latest version. noise: at the start."""

    version: int
    logprobs: Scores
    noise: Difference | None = None
    is_drifting: bool = False  # a warning was given


@dataclass(slots=True, kw_only=True)
class Answers:
    """The answers of all engines by id.

    size: the learner's mean |log-prob| at the start. spread: the largest mean difference between two engines on the
    same weights at the start; nats.
    """

    of: dict[str, Answer] = field(default_factory=dict[str, Answer])
    size: float = 0.0
    spread: float = 0.0

    @property
    def noise(self) -> float:
        """The largest mean difference of an engine to the learner at the start, nats."""
        return max((answer.noise.mean for answer in self.of.values() if answer.noise), default=0.0)

    def limit(self, engine_id: str, *, moved: float) -> float:
        """How far the engine may be from the learner, whose log-probs were moved by `moved`; nats."""
        answer = self.of.get(engine_id)
        noise = answer.noise.mean if answer and answer.noise else 0.0
        return max(NOISE_FACTOR * noise, FOLLOW * moved, DRIFT_FLOOR)

    def note_spread(self, engines: Sequence[LoadReceipt]) -> None:
        """Widens the spread to what these engines, on the same weights, differ by."""
        for one in engines[1:]:
            gap = difference(one.canary_logprobs, engines[0].canary_logprobs).mean
            self.spread = max(self.spread, gap)


async def deliver(
    engine: RolloutEngine, ref: WeightsRef, *, canary: Sequence[Sequence[int]]
) -> tuple[WeightsRef, LoadReceipt]:
    """Has the engines load `ref`; returns it with the checksums of what was sent, and their receipts.

    Raises: RolloutError when the version or the checksums that an engine reports differ from what was published.
    """
    receipt = await engine.load_weights(ref, canary=canary)
    sent = receipt.sent or ref
    known = {entry.name: entry.checksum for entry in ref.manifest if entry.checksum is not None}
    changed = [entry.name for entry in sent.manifest if known.get(entry.name, entry.checksum) != entry.checksum]
    if changed:
        raise RolloutError(
            f"the weights of version {ref.policy_version} were sent again, and {len(changed)} tensors differ from the "
            f"first time: {some_of(changed)}; the learner did not restore them"
        )
    check_receipts(sent, receipt)
    return sent, receipt


def check_receipts(ref: WeightsRef, receipt: LoadReceipt) -> None:
    """Raises RolloutError when the version or the checksums that an engine reports differ from what was published."""
    for one in receipt.each:
        if one.policy_version != ref.policy_version:
            raise RolloutError(
                f"the learner published version {ref.policy_version}, {name_of(one)} reports {one.policy_version}"
            )
        if not one.has_weights:
            continue
        stale = [e.name for e in ref.manifest if one.checksums.get(e.name) != e.checksum]
        if stale:
            raise RolloutError(
                f"version {ref.policy_version}: {name_of(one)} holds other bytes in {len(stale)} of "
                f"{len(ref.manifest)} tensors: {some_of(stale)}"
            )


def with_weights(receipt: LoadReceipt) -> list[LoadReceipt]:
    """The receipts of single engines that have weights."""
    return [one for one in receipt.each if one.has_weights]


def name_of(receipt: LoadReceipt) -> str:
    """The engine's name in a message."""
    return f"engine {receipt.engine_id!r}" if receipt.engine_id else "the engine"


def some_of(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
