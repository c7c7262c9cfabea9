"""The start's proof: each group of tensors is perturbed in turn, and the engines' log-probs must follow.

A group costs one sync of the weights. Groups that would not fit into `proof.max_seconds` are merged with their
neighbours, so a large model is proven in the same time, with larger groups.
"""

import math
import time
from collections import deque
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Tensors that are perturbed together."""

    name: str
    tensors: tuple[str, ...]


def merged_to_fit(groups: Sequence[Group], *, count: int) -> list[Group]:
    """At most `count` groups (at least 1) of the same tensors, in order: neighbours are merged evenly.

    >>> [g.name for g in merged_to_fit([Group(name=n, tensors=(n,)) for n in "abcde"], count=2)]
    ['a to c', 'd to e']
    """
    size = -(-len(groups) // max(1, count))
    merged: list[Group] = []
    for start in range(0, len(groups), size):
        part = groups[start : start + size]
        first, last = part[0].name.partition(" to ")[0], part[-1].name.rpartition(" to ")[2]
        tensors = tuple(name for group in part for name in group.tensors)
        merged.append(Group(name=part[0].name if len(part) == 1 else f"{first} to {last}", tensors=tensors))
    return merged


async def prove_groups(compared: Compared, answers: Answers, ref: WeightsRef) -> None:
    """Perturbs every group of tensors in turn, has all engines follow, and has them load `ref` again.

    Nothing may be generated meanwhile. The last load belongs to the time of `proof.max_seconds`.

    Raises: RolloutError, which names engine and group.
    """
    started = time.perf_counter()
    before = await compared.learner_scores(compared.canary.trial)
    proofs: list[GroupProof] = []
    unmoved: list[str] = []
    most = compared.config.max_groups
    if ref.transport is Transport.IN_PLACE_COPY:
        most = min(most, GROUPS_IN_PROCESS)
    groups = [Group(name=name, tensors=tuple(t)) for name, t in compared.learner.tensor_groups(most=most).items()]
    wanted = len(groups)
    left = deque(groups)
    slowest = 0.0
    while left:
        group, begun = left.popleft(), time.perf_counter()
        proof = await _prove(compared, answers, group.name, group.tensors, before=before)
        if proof is None:
            unmoved.append(group.name)
        else:
            proofs.append(proof)
        now = time.perf_counter()
        slowest = max(slowest, now - begun)
        rest = compared.config.max_seconds - (now - started)
        if left and (len(left) + 1) * slowest > rest:
            left = deque(merged_to_fit(tuple(left), count=int(rest / slowest) - 1))
    await _load_again(compared, answers, ref)
    _record(compared, answers, ref, proofs, unmoved, wanted=wanted, seconds=time.perf_counter() - started)


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
    wanted: int,
    seconds: float,
) -> None:
    least = min((p.moved for p in proofs), default=0.0)
    worst = max((p.residual for p in proofs), default=0.0)
    text = (
        f"{len(answers.of)} engine(s) follow the weights: {len(proofs)} groups of tensors were perturbed in "
        f"{seconds:.1f} s; log-probs moved by at least {least:.2g}, engines within {worst:.2g} "
        f"(noise {answers.noise:.2g})"
    )
    if (count := len(proofs) + len(unmoved)) < wanted:
        text += (
            f"; {wanted} groups were merged into {count} to fit into proof.max_seconds={compared.config.max_seconds:g}"
        )
    if unmoved:
        text += f"; not proven for {some_of(unmoved)}, on which the log-probs do not depend"
    fields: dict[str, Json] = {
        "policy_version": ref.policy_version,
        "seconds": round(seconds, 3),
        "merged_from": wanted,
        "noise_mean": answers.noise,
        "engines": list(answers.of),
        "unmoved": list(unmoved),
        "groups": [{"group": p.group, "scale": p.scale, "moved": p.moved, "residual": p.residual} for p in proofs],
    }
    compared.record("weights_proven", text, fields)
