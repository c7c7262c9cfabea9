"""The start's proof: each group of tensors is perturbed in turn, and the engines' log-probs must follow."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.errors import RolloutError
from rlvr.records import Json, Transport, WeightsRef
from rlvr.run.weights.answers import Answers, Compared, deliver, name_of, some_of, with_weights
from rlvr.run.weights.canary import Scores, difference

MARGIN = 10.0
LEAST_MOVE = 0.05  # nats, mean: the least move when there is no noise
FIRST_SCALE = 0.2
GROUPS_IN_PROCESS = 8  # a copy in the learner's process is made tensor by tensor, without packing
MOST_TRIES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupProof:
    """The proof of one group. moved: the learner's log-probs; residual: the worst engine's difference; nats."""

    group: str
    scale: float
    moved: float
    residual: float


async def prove_groups(compared: Compared, answers: Answers, ref: WeightsRef) -> None:
    """Perturbs every group of tensors in turn, has all engines follow, and has them load `ref` again.

    Nothing may be generated meanwhile.

    Raises: RolloutError, which names engine and group.
    """
    started = time.perf_counter()
    before = await compared.learner_scores(compared.canary.trial)
    proofs: list[GroupProof] = []
    unmoved: list[str] = []
    most = compared.config.max_groups
    if ref.transport is Transport.IN_PLACE_COPY:
        most = min(most, GROUPS_IN_PROCESS)
    for group, names in compared.learner.tensor_groups(most=most).items():
        proof = await _prove(compared, answers, group, names, before=before)
        if proof is None:
            unmoved.append(group)
        else:
            proofs.append(proof)
    await _load_again(compared, answers, ref)
    _record(compared, answers, ref, proofs, unmoved, seconds=time.perf_counter() - started)


async def _prove(
    compared: Compared, answers: Answers, group: str, names: Sequence[str], *, before: Scores
) -> GroupProof | None:
    """The proof of one group; None when the learner's log-probs hardly depend on it."""
    wanted = max(MARGIN * answers.noise, LEAST_MOVE)
    scale = FIRST_SCALE
    try:
        for _ in range(MOST_TRIES):
            await compared.thread.run(lambda s=scale: compared.learner.perturb(names, scale=s))
            after = await compared.learner_scores(compared.canary.trial)
            moved = difference(after, before).mean
            if wanted <= moved < math.inf:
                break
            await compared.thread.run(compared.learner.unperturb)
            grow = 1.5 * wanted / max(moved, 1e-9)
            scale *= 0.3 if math.isinf(moved) else min(30.0, max(1.5, grow))
        else:
            return None
        residual = await _follow(compared, answers, group, names, after=after, moved=moved)
    finally:
        await compared.thread.run(compared.learner.unperturb)
    return GroupProof(group=group, scale=scale, moved=moved, residual=residual)


async def _follow(
    compared: Compared, answers: Answers, group: str, names: Sequence[str], *, after: Scores, moved: float
) -> float:
    """Sends the perturbed weights; returns the worst engine's mean difference to the learner, nats."""
    ref = await compared.thread.run(compared.learner.publish)
    ref, receipt = await deliver(compared.engine, ref, canary=compared.canary.trial)
    engines = with_weights(receipt)
    residual = 0.0
    for one in engines:
        gap = difference(one.canary_logprobs, after).mean
        residual = max(residual, gap)
        if gap > answers.limit(one.engine_id, moved=moved):
            raise RolloutError(
                f"{name_of(one)} does not follow the tensors of {group!r} ({some_of(names)}): they were perturbed, "
                f"the learner's log-probs moved by {moved:.4g} nats on average, and the engine's differ from "
                f"them by {gap:.4g} (noise {answers.noise:.2g}). It received the right bytes but computes with others, "
                "such as a packed copy; nothing was generated yet"
            )
    answers.note_spread(engines)
    return residual


async def _load_again(compared: Compared, answers: Answers, ref: WeightsRef) -> None:
    """Has the engines load the unperturbed weights, with which they must compute as before."""
    ref, receipt = await deliver(compared.engine, ref, canary=compared.canary.sync)
    for one in with_weights(receipt):
        answer = answers.of.get(one.engine_id)
        if answer is None:  # it joined meanwhile and is checked at its first sync
            continue
        gap = difference(one.canary_logprobs, answer.logprobs).mean
        if gap > answers.limit(one.engine_id, moved=0.0):
            raise RolloutError(
                f"version {ref.policy_version}: {name_of(one)} computes differently after its weights were "
                f"perturbed and sent again: log-probs differ by {gap:.4g} nats on average"
            )
        answer.logprobs = one.canary_logprobs


def _record(
    compared: Compared,
    answers: Answers,
    ref: WeightsRef,
    proofs: Sequence[GroupProof],
    unmoved: Sequence[str],
    *,
    seconds: float,
) -> None:
    least = min((p.moved for p in proofs), default=0.0)
    worst = max((p.residual for p in proofs), default=0.0)
    text = (
        f"{len(answers.of)} engine(s) follow the weights: {len(proofs)} groups of tensors were perturbed in "
        f"{seconds:.1f} s; log-probs moved by at least {least:.2g}, engines within {worst:.2g} "
        f"(noise {answers.noise:.2g})"
    )
    if unmoved:
        text += f"; not proven for {some_of(unmoved)}, on which the log-probs do not depend"
    fields: dict[str, Json] = {
        "policy_version": ref.policy_version,
        "seconds": round(seconds, 3),
        "noise_mean": answers.noise,
        "engines": list(answers.of),
        "unmoved": list(unmoved),
        "groups": [{"group": p.group, "scale": p.scale, "moved": p.moved, "residual": p.residual} for p in proofs],
    }
    compared.record("weights_proven", text, fields)
