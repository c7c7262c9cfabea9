"""Proof that every engine computes with the learner's weights; a checksum of the received bytes does not show it.

    start:  noise    |engine - learner| with the first weights: mean and standard error for each engine
            groups   each group of tensors is perturbed until the learner's log-probs move by at least MARGIN x noise;
                     published as a trial, every engine's must then match the learner's up to FOLLOW of that move
    sync:   row      a short row's log-probs must differ from those of the engine's previous version in at least one bit
                     (when weights changed), and agree across engines
    drift:  every `drift_every_syncs` syncs, mean |engine - learner| within noise + 4 standard errors

An engine's log-probs come with its receipt (`LoadReceipt.canary_logprobs`), so each engine of a fleet answers with the
weights that it has just loaded. Noise may grow with the mean |log-prob|, because rounding errors do.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rlvr.batch import ProvableLearner
from rlvr.config.sections.proof import ProofConfig
from rlvr.errors import RolloutError
from rlvr.protocols import LoadReceipt, RolloutEngine
from rlvr.records import Json, Transport, WeightsRef
from rlvr.run.step.learner_thread import LearnerThread
from rlvr.run.weights.canary import Canary, Difference, Rows, Scores, difference, mean_size

logger = logging.getLogger(__name__)

START_LIMIT = 0.5  # nats, mean: more is not rounding but another model
MARGIN = 10.0
LEAST_MOVE = 0.05  # nats, mean: the least move when there is no noise
FOLLOW = 0.2
NOISE_FACTOR = 4.0
STANDARD_ERRORS = 4.0
DRIFT_FLOOR = 1e-3  # nats, mean: too small to affect training
DRIFT_FACTOR = 2.0  # times the start's mean: rounding grows as a policy sharpens (small model: a third in 20 steps)
FIRST_SCALE = 0.2
GROUPS_IN_PROCESS = 8  # a copy in the learner's process is made tensor by tensor, without packing
MOST_TRIES = 8
SPREAD_FLOOR = {"float32": 1e-3}  # nats, mean, between engines; for other dtypes:
SPREAD_FLOOR_ROUGH = 0.05
ENOUGH_CHANGED = 8  # tensors; fewer may leave the log-probs of a few tokens unchanged


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupProof:
    """The proof of one group. moved: the learner's log-probs; residual: the worst engine's difference; nats."""

    group: str
    scale: float
    moved: float
    residual: float


@dataclass(slots=True, kw_only=True)
class _Known:
    """An engine's answers. logprobs: of the sync row at the latest version. noise: at the start."""

    version: int
    logprobs: Scores
    noise: Difference | None = None
    is_drifting: bool = False  # a warning was given


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncProof:
    """The metrics of a sync's proof, and its seconds (engines and learner)."""

    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    seconds: float = 0.0


class WeightProof:
    """Compares engines with the learner over a run; starts afresh when the run is resumed."""

    def __init__(
        self,
        config: ProofConfig,
        *,
        canary: Canary,
        learner: ProvableLearner,
        engine: RolloutEngine,
        thread: LearnerThread,
        record: Callable[[str, str, Mapping[str, Json]], None],
    ) -> None:
        """Args: record: takes the kind of an event, a line for a person ("" for none), and the event's fields."""
        self._config = config
        self._canary = canary
        self._learner = learner
        self._engine = engine
        self._thread = thread
        self._record = record
        self._known: dict[str, _Known] = {}
        self._checksums: dict[str, int] = {}
        self._num_syncs = 0
        self._size = 0.0
        self._spread = 0.0

    def rows(self, ref: WeightsRef) -> Rows:
        """The canary rows of this sync: the short one, and the wide ones at the start and for drift."""
        return self._canary.sync + (self._canary.wide if self._is_wide(ref) else ())

    async def check(self, ref: WeightsRef, receipt: LoadReceipt) -> SyncProof:
        """Checks the engines' log-probs of `rows(ref)`.

        Raises: RolloutError, which names version and engine.
        """
        engines = [one for one in receipt.each if one.has_weights]
        if not engines:
            return SyncProof()
        started = time.perf_counter()
        is_wide = self._is_wide(ref)
        changed = [e.name for e in ref.manifest if self._checksums.get(e.name) != e.checksum]
        learner = await self._scores(self._canary.wide) if is_wide else None
        drift = [self._check_engine(one, ref, changed=changed, learner=learner) for one in engines]
        self._compare_engines(ref, engines)
        self._checksums = {entry.name: entry.checksum for entry in ref.manifest}
        self._num_syncs += 1
        own_s = time.perf_counter() - started
        seconds = own_s + max(one.canary_s for one in engines)
        metrics = {"time/proof_s": seconds, "sync/changed_tensors": float(len(changed))}
        if learner is not None:
            metrics["sync/drift_mean"] = max(drift)
        self._record(
            "weights_synced",
            "",
            {
                "policy_version": ref.policy_version,
                "tensors": len(ref.manifest),
                "changed_tensors": len(changed),
                "seconds": round(receipt.seconds, 4),
                "proof_s": round(seconds, 4),
                "engines": [
                    {
                        "engine": one.engine_id,
                        "canary_mean": -mean_size(one.canary_logprobs[:1]),
                        **({"drift_mean": gap} if is_wide else {}),
                    }
                    for one, gap in zip(engines, drift, strict=True)
                ],
            },
        )
        return SyncProof(metrics=metrics, seconds=seconds)

    async def prove_groups(self, ref: WeightsRef) -> None:
        """Perturbs every group of tensors in turn, has all engines follow, and has them load `ref` again.

        Nothing may be generated meanwhile. Call it after the first `check`.

        Raises: RolloutError, which names engine and group.
        """
        if not self._config.at_start or not self._known:
            return
        started = time.perf_counter()
        before = await self._scores(self._canary.trial)
        proofs: list[GroupProof] = []
        unmoved: list[str] = []
        most = self._config.max_groups
        if ref.transport is Transport.IN_PLACE_COPY:
            most = min(most, GROUPS_IN_PROCESS)
        groups = self._learner.tensor_groups(most=most)
        for group, names in groups.items():
            proof = await self._prove(group, names, before=before)
            if proof is None:
                unmoved.append(group)
            else:
                proofs.append(proof)
        receipt = await self._engine.load_weights(ref, canary=self._canary.sync)
        check_receipts(ref, receipt)
        for one in _with_weights(receipt):
            known = self._known.get(one.engine_id)
            if known is None:  # it joined meanwhile and is checked at its first sync
                continue
            gap = difference(one.canary_logprobs, known.logprobs).mean
            if gap > self._limit(one.engine_id, moved=0.0):
                raise RolloutError(
                    f"version {ref.policy_version}: {_name(one)} computes differently after its weights were "
                    f"perturbed and sent again: log-probs differ by {gap:.4g} nats on average"
                )
            known.logprobs = one.canary_logprobs
        self._tell(ref, proofs, unmoved, seconds=time.perf_counter() - started)

    async def _prove(self, group: str, names: Sequence[str], *, before: Scores) -> GroupProof | None:
        """The proof of one group; None when the learner's log-probs hardly depend on it."""
        noise = max((k.noise.mean for k in self._known.values() if k.noise), default=0.0)
        wanted = max(MARGIN * noise, LEAST_MOVE)
        scale = FIRST_SCALE
        try:
            for _ in range(MOST_TRIES):
                await self._thread.run(lambda s=scale: self._learner.perturb(names, scale=s))
                after = await self._scores(self._canary.trial)
                moved = difference(after, before).mean
                if wanted <= moved < math.inf:
                    break
                await self._thread.run(self._learner.unperturb)
                grow = 1.5 * wanted / max(moved, 1e-9)
                scale *= 0.3 if math.isinf(moved) else min(30.0, max(1.5, grow))
            else:
                return None
            ref = await self._thread.run(self._learner.publish)
            receipt = await self._engine.load_weights(ref, canary=self._canary.trial)
            check_receipts(ref, receipt)
            engines = _with_weights(receipt)
            residual = 0.0
            for one in engines:
                gap = difference(one.canary_logprobs, after).mean
                residual = max(residual, gap)
                if gap > self._limit(one.engine_id, moved=moved):
                    raise RolloutError(
                        f"{_name(one)} does not follow the tensors of {group!r} ({_some(names)}): they were perturbed, "
                        f"the learner's log-probs moved by {moved:.4g} nats on average, and the engine's differ from "
                        f"them by {gap:.4g} (noise {noise:.2g}). It received the right bytes but computes with others, "
                        "such as a packed copy; nothing was generated yet"
                    )
            self._note_spread(engines)
        finally:
            await self._thread.run(self._learner.unperturb)
        return GroupProof(group=group, scale=scale, moved=moved, residual=residual)

    def _check_engine(
        self,
        one: LoadReceipt,
        ref: WeightsRef,
        *,
        changed: Sequence[str],
        learner: Scores | None,
    ) -> float:
        """Checks and keeps this engine's answer; returns its mean difference to the learner, 0 if not measured."""
        version = f"version {ref.policy_version}: {_name(one)}"
        rows = self.rows(ref)
        lengths = [len(row) for row in one.canary_logprobs]
        if lengths != [len(row) - 1 for row in rows]:
            raise RolloutError(
                f"{version} returned {len(lengths)} canary rows of {sum(lengths)} log-probs, but {len(rows)} rows were "
                "asked for; load_weights must score its argument `canary` with the weights it has loaded"
            )
        sync_row = one.canary_logprobs[: len(self._canary.sync)]
        if not all(math.isfinite(value) for row in one.canary_logprobs for value in row):
            raise RolloutError(f"{version} returns log-probs that are not finite after the sync")
        known = self._known.get(one.engine_id)
        is_other = known is not None and known.version != ref.policy_version
        if known and is_other and tuple(known.logprobs) == tuple(sync_row):
            if len(changed) >= min(ENOUGH_CHANGED, len(ref.manifest) // 2 + 1):
                raise RolloutError(
                    f"{version} reports these weights, but its canary log-probs are bitwise equal to those of "
                    f"version {known.version}, and {len(changed)} of {len(ref.manifest)} tensors changed "
                    f"({_some(changed)}): it still computes with the old ones"
                )
            if changed:
                logger.warning("%s: %d tensors changed, but no canary log-prob did", version, len(changed))
        if known is None:
            known = self._known[one.engine_id] = _Known(version=ref.policy_version, logprobs=sync_row)
        known.version, known.logprobs = ref.policy_version, sync_row
        if learner is None:
            return 0.0
        return self._check_drift(known, one, learner, version=version)

    def _check_drift(self, known: _Known, one: LoadReceipt, learner: Scores, *, version: str) -> float:
        gap = difference(one.canary_logprobs[len(self._canary.sync) :], learner)
        size = mean_size(learner)
        if known.noise is None:
            if gap.mean > START_LIMIT:
                raise RolloutError(
                    f"{version} differs from the learner by {gap.mean:.4g} nats a token on average (bound "
                    f"{START_LIMIT}): it does not compute with the weights that it received, or computes differently"
                )
            known.noise = gap
            self._size = self._size or size
            return gap.mean
        error = math.sqrt(2) * known.noise.standard_error  # the standard error of `gap` would grow with the fault
        growth = max(1.0, size / self._size)
        warn_limit, limit = (
            max(DRIFT_FLOOR, growth * (factor * known.noise.mean + STANDARD_ERRORS * error))
            for factor in (1.0, DRIFT_FACTOR)
        )
        figures = (
            f"mean difference {gap.mean:.4g} nats a token over {sum(map(len, learner))} canary tokens; "
            f"{known.noise.mean:.4g} at the start, bound {limit:.4g}"
        )
        if gap.mean > limit:
            raise RolloutError(f"{version} has drifted from the learner: {figures}")
        if gap.mean > warn_limit and not known.is_drifting:
            known.is_drifting = True
            self._record(
                "engine_drifting",
                f"{version} differs more from the learner than at the start: {figures}",
                {
                    "engine": one.engine_id,
                    "policy_version": one.policy_version,
                    "mean": gap.mean,
                    "start": known.noise.mean,
                    "bound": limit,
                },
            )
        return gap.mean

    def _compare_engines(self, ref: WeightsRef, engines: Sequence[LoadReceipt]) -> None:
        first = engines[0].canary_logprobs
        if self._num_syncs == 0:
            self._note_spread(engines)
            return
        floor = SPREAD_FLOOR.get(ref.dtype, SPREAD_FLOOR_ROUGH)
        for one in engines[1:]:
            gap = difference(one.canary_logprobs[:1], first[:1]).mean
            if gap > max(floor, NOISE_FACTOR * self._spread):
                raise RolloutError(
                    f"version {ref.policy_version}: {_name(one)} and {_name(engines[0])} differ by {gap:.4g} nats on "
                    f"average on the same weights ({self._spread:.2g} at the start): one of them is stale"
                )

    def _note_spread(self, engines: Sequence[LoadReceipt]) -> None:
        for one in engines[1:]:
            gap = difference(one.canary_logprobs, engines[0].canary_logprobs).mean
            self._spread = max(self._spread, gap)

    def _limit(self, engine_id: str, *, moved: float) -> float:
        known = self._known.get(engine_id)
        noise = known.noise.mean if known and known.noise else 0.0
        return max(NOISE_FACTOR * noise, FOLLOW * moved, DRIFT_FLOOR)

    def _tell(
        self,
        ref: WeightsRef,
        proofs: Sequence[GroupProof],
        unmoved: Sequence[str],
        *,
        seconds: float,
    ) -> None:
        noise = max((k.noise.mean for k in self._known.values() if k.noise), default=0.0)
        least = min((p.moved for p in proofs), default=0.0)
        worst = max((p.residual for p in proofs), default=0.0)
        text = (
            f"{len(self._known)} engine(s) follow the weights: {len(proofs)} groups of tensors were perturbed in "
            f"{seconds:.1f} s; log-probs moved by at least {least:.2g}, engines within {worst:.2g} (noise {noise:.2g})"
        )
        if unmoved:
            text += f"; not proven for {_some(unmoved)}, on which the log-probs do not depend"
        fields: dict[str, Json] = {
            "policy_version": ref.policy_version,
            "seconds": round(seconds, 3),
            "noise_mean": noise,
            "engines": list(self._known),
            "unmoved": list(unmoved),
            "groups": [{"group": p.group, "scale": p.scale, "moved": p.moved, "residual": p.residual} for p in proofs],
        }
        self._record("weights_proven", text, fields)

    def _is_wide(self, ref: WeightsRef) -> bool:
        """Whether this sync uses the wide rows; counted by version, so that a resumed run does so too."""
        every = self._config.drift_every_syncs
        return self._num_syncs == 0 or bool(every and ref.policy_version % every == 0)

    async def _scores(self, rows: Sequence[Sequence[int]]) -> Scores:
        return await self._thread.run(lambda: self._learner.score(rows))


def check_receipts(ref: WeightsRef, receipt: LoadReceipt) -> None:
    """Raises RolloutError when the version or the checksums that an engine reports differ from what was published."""
    for one in receipt.each:
        if one.policy_version != ref.policy_version:
            raise RolloutError(
                f"the learner published version {ref.policy_version}, {_name(one)} reports {one.policy_version}"
            )
        if not one.has_weights:
            continue
        stale = [e.name for e in ref.manifest if one.checksums.get(e.name) != e.checksum]
        if stale:
            raise RolloutError(
                f"version {ref.policy_version}: {_name(one)} holds other bytes in {len(stale)} of {len(ref.manifest)} "
                f"tensors: {_some(stale)}"
            )


def _with_weights(receipt: LoadReceipt) -> list[LoadReceipt]:
    return [one for one in receipt.each if one.has_weights]


def _name(receipt: LoadReceipt) -> str:
    return f"engine {receipt.engine_id!r}" if receipt.engine_id else "the engine"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
