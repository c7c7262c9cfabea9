"""Proof that every engine computes with the learner's weights; a checksum of the received bytes does not show it.

    start:  noise    |engine - learner| with the first weights: mean and standard error for each engine
            groups   each group of tensors is perturbed until the learner's log-probs move by at least MARGIN x noise;
                     published as a trial, every engine's must then match the learner's up to FOLLOW of that move
    sync:   row      a short row's log-probs must differ from those of the engine's previous version in at least one bit
                     (when weights changed), and agree across engines
    drift:  every `drift_every_syncs` syncs, mean |engine - learner| within noise + 4 standard errors

An engine's log-probs come with its receipt (`LoadReceipt.canary_logprobs`), so each engine of a fleet answers with the
weights that it has just loaded. Noise may grow with the mean |log-prob|, because rounding errors do.

`groups` has the proof of the start, `drift` that of drift; every sync is checked here.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlvr.errors import RolloutError
from rlvr.protocols import LoadReceipt
from rlvr.records import WeightsRef
from rlvr.run.weights.answers import NOISE_FACTOR, Answer, Answers, Compared, name_of, some_of, with_weights
from rlvr.run.weights.canary import Rows, Scores, difference, mean_size
from rlvr.run.weights.drift import check_drift
from rlvr.run.weights.groups import prove_groups

logger = logging.getLogger(__name__)

SPREAD_FLOOR = {"float32": 1e-3}  # nats, mean, between engines; for other dtypes:
SPREAD_FLOOR_ROUGH = 0.05
ENOUGH_CHANGED = 8  # tensors; fewer may leave the log-probs of a few tokens unchanged


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncProof:
    """The metrics of a sync's proof, and its seconds (engines and learner)."""

    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    seconds: float = 0.0


class WeightProof:
    """Compares engines with the learner over a run; starts afresh when the run is resumed."""

    def __init__(self, compared: Compared) -> None:
        self._compared = compared
        self._answers = Answers()
        self._checksums: dict[str, int | None] = {}
        self._num_syncs = 0

    def rows(self, ref: WeightsRef) -> Rows:
        """The canary rows of this sync: the short one, and the wide ones at the start and for drift."""
        return self._compared.canary.sync + (self._compared.canary.wide if self._is_wide(ref) else ())

    async def check(self, ref: WeightsRef, receipt: LoadReceipt) -> SyncProof:
        """Checks the engines' log-probs of `rows(ref)`.

        Raises: RolloutError, which names version and engine.
        """
        engines = with_weights(receipt)
        if not engines:
            return SyncProof()
        started = time.perf_counter()
        is_wide = self._is_wide(ref)
        changed = [e.name for e in ref.manifest if self._checksums.get(e.name) != e.checksum]
        learner = await self._compared.learner_scores(self._compared.canary.wide) if is_wide else None
        drift = [self._check_engine(one, ref, changed=changed, learner=learner) for one in engines]
        self._compare_engines(ref, engines)
        self._checksums = {entry.name: entry.checksum for entry in ref.manifest}
        self._num_syncs += 1
        own_s = time.perf_counter() - started
        seconds = own_s + max(one.canary_s for one in engines)
        metrics = {"time/proof_s": seconds, "sync/changed_tensors": float(len(changed))}
        if learner is not None:
            metrics["sync/drift_mean"] = max(drift)
        self._compared.record(
            "weights_synced",
            "",
            {
                "policy_version": ref.policy_version,
                "transport": ref.transport,
                "bytes": ref.num_bytes,
                "tensors": len(ref.manifest),
                "changed_tensors": len(changed),
                "seconds": round(receipt.seconds, 4),
                "frozen_s": round(receipt.frozen_s, 4),
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
        """Proves that the engines follow every group of tensors, unless the recipe says not to.

        Nothing may be generated meanwhile. Call it after the first `check`.

        Raises: RolloutError, which names engine and group.
        """
        if self._compared.config.at_start and self._answers.of:
            await prove_groups(self._compared, self._answers, ref)

    def _check_engine(
        self, one: LoadReceipt, ref: WeightsRef, *, changed: Sequence[str], learner: Scores | None
    ) -> float:
        """Checks and keeps this engine's answer; returns its mean difference to the learner, 0 if not measured."""
        version = f"version {ref.policy_version}: {name_of(one)}"
        rows = self.rows(ref)
        lengths = [len(row) for row in one.canary_logprobs]
        if lengths != [len(row) - 1 for row in rows]:
            raise RolloutError(
                f"{version} returned {len(lengths)} canary rows of {sum(lengths)} log-probs, but {len(rows)} rows were "
                "asked for; load_weights must score its argument `canary` with the weights it has loaded"
            )
        sync_row = one.canary_logprobs[: len(self._compared.canary.sync)]
        if not all(math.isfinite(value) for row in one.canary_logprobs for value in row):
            raise RolloutError(f"{version} returns log-probs that are not finite after the sync")
        known = self._answers.of.get(one.engine_id)
        is_other = known is not None and known.version != ref.policy_version
        if known and is_other and tuple(known.logprobs) == tuple(sync_row):
            if len(changed) >= min(ENOUGH_CHANGED, len(ref.manifest) // 2 + 1):
                raise RolloutError(
                    f"{version} reports these weights, but its canary log-probs are bitwise equal to those of "
                    f"version {known.version}, and {len(changed)} of {len(ref.manifest)} tensors changed "
                    f"({some_of(changed)}): it still computes with the old ones"
                )
            if changed:
                logger.warning("%s: %d tensors changed, but no canary log-prob did", version, len(changed))
        if known is None:
            known = self._answers.of[one.engine_id] = Answer(version=ref.policy_version, logprobs=sync_row)
        known.version, known.logprobs = ref.policy_version, sync_row
        if learner is None:
            return 0.0
        return check_drift(self._compared, self._answers, one, learner, where=version)

    def _compare_engines(self, ref: WeightsRef, engines: Sequence[LoadReceipt]) -> None:
        first = engines[0].canary_logprobs
        if self._num_syncs == 0:
            self._answers.note_spread(engines)
            return
        floor = SPREAD_FLOOR.get(ref.dtype, SPREAD_FLOOR_ROUGH)
        for one in engines[1:]:
            gap = difference(one.canary_logprobs[:1], first[:1]).mean
            if gap > max(floor, NOISE_FACTOR * self._answers.spread):
                raise RolloutError(
                    f"version {ref.policy_version}: {name_of(one)} and {name_of(engines[0])} differ by {gap:.4g} nats "
                    f"on average on the same weights ({self._answers.spread:.2g} at the start): one of them is stale"
                )

    def _is_wide(self, ref: WeightsRef) -> bool:
        """Whether this sync uses the wide rows; counted by version, so that a resumed run does so too."""
        every = self._compared.config.drift_every_syncs
        return self._num_syncs == 0 or bool(every and ref.policy_version % every == 0)
