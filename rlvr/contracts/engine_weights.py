"""The clauses about weights: which ones generate, what a receipt says of them, and how they change."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import torch

from rlvr.contracts.engine_trial import CANARY, Checks, EngineTrial, Problems
from rlvr.errors import RolloutError
from rlvr.protocols import LoadReceipt
from rlvr.records import WeightsRef

_NATS = 0.05  # a log-prob may differ so much by the layout of a computation in float32


async def a_load_is_followed(trial: EngineTrial) -> Problems:
    """Changed weights change scores and the version of completions; the receipt says what came."""
    problems: Problems = []
    for seed in (1, 2):
        if trial.traits.has_weights:
            trial.change_weights(seed=seed)
        ref = trial.publish()
        receipt = await trial.load(ref)
        problems += _receipt_problems(trial, ref, receipt)
        problems += await score_problems(trial)
        versions = {v for c in await trial.generate(trial.group(1)) for v in c.policy_versions}
        if versions != {ref.policy_version}:
            problems.append(f"completions after a load of version {ref.policy_version} are of {sorted(versions)}")
        health = await trial.engine.health()
        if health.policy_version != ref.policy_version:
            problems.append(f"health says version {health.policy_version} after a load of {ref.policy_version}")
    return problems


def _receipt_problems(trial: EngineTrial, ref: WeightsRef, receipt: LoadReceipt) -> Problems:
    problems: Problems = []
    if receipt.policy_version != ref.policy_version:
        problems.append(f"the receipt is of version {receipt.policy_version}, not {ref.policy_version}")
    has_weights = trial.traits.has_weights
    if receipt.has_weights is not has_weights:
        problems.append(f"the receipt has has_weights={receipt.has_weights}; the engine's is {has_weights}")
    if not has_weights:
        return problems
    sent = {entry.name: entry.checksum for entry in ref.manifest}
    if dict(receipt.checksums) != sent:
        wrong = [name for name in sent if receipt.checksums.get(name) != sent[name]]
        problems.append(
            f"the receipt's checksums differ from the manifest at {len(wrong)} of {len(sent)} tensors: {wrong[:3]}; "
            "use rlvr.models.checksum.tensor_checksum of what the engine now holds"
        )
    if not _close(receipt.canary_logprobs, trial.reference(CANARY)):
        problems.append("the receipt's canary_logprobs are not those of the weights that were sent")
    return problems


async def score_problems(trial: EngineTrial) -> Problems:
    """What is wrong with the log-probs that `score` gives of the policy's present weights."""
    scores = await trial.engine.score(CANARY)
    if [len(row) for row in scores] != [len(row) - 1 for row in CANARY]:
        return ["score must give one log-prob for each token of a row but the first"]
    if trial.traits.has_weights and not _close(scores, trial.reference(CANARY)):
        return ["score does not give the log-probs of the weights that were sent last"]
    return []


def _close(rows: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> bool:
    if [len(row) for row in rows] != [len(row) for row in others]:
        return False
    pairs = [pair for a, b in zip(rows, others, strict=True) for pair in zip(a, b, strict=True)]
    return all(abs(a - b) <= _NATS for a, b in pairs)


async def reported_logprobs_are_the_policys(trial: EngineTrial) -> Problems:
    """A completion's log-probs are those of the weights at its temperature; greedy takes the likeliest token."""
    if not trial.traits.has_weights:
        return []
    for temperature in (1.0, 0.5, 0.0):
        for completion in await trial.generate(trial.group(2, temperature=temperature)):
            logits = trial.expected_logits(completion)
            chosen = torch.tensor(completion.token_ids)[:, None]
            at = torch.log_softmax(logits / (temperature or 1.0), -1)
            wanted = [float(value) for value in at.gather(1, chosen)[:, 0]]
            if not _close([completion.logprobs], [wanted]):
                shown = [round(value, 3) for value in completion.logprobs[:4]]
                return [
                    f"at temperature {temperature:g} log-probs begin {shown}, and the policy's "
                    f"{[round(value, 3) for value in wanted[:4]]}"
                ]
            if temperature == 0.0 and (at.max(-1).values - at.gather(1, chosen)[:, 0]).max() > _NATS:
                return ["temperature 0 takes a token that is not the likeliest"]
    return []


async def a_load_may_come_while_it_generates(trial: EngineTrial) -> Problems:
    """Requests that are open at a load are all answered, and their versions say which weights each token is of."""
    before = trial.version
    requests = trial.group()
    generating = asyncio.ensure_future(trial.generate(requests))
    await asyncio.sleep(0)
    ref = trial.publish()
    await trial.load(ref)
    found = await generating
    problems: Problems = []
    if len(found) != len(requests):
        problems.append(f"{len(found)} of {len(requests)} open requests are answered")
    for completion in found:
        versions = list(completion.policy_versions)
        if versions != sorted(versions) or not set(versions) <= {before, ref.policy_version}:
            problems.append(f"policy_versions of an open request are {versions}, from {before} to {ref.policy_version}")
            break
    return problems


async def other_bytes_are_noticed(trial: EngineTrial) -> Problems:
    """Where what arrived is not what the manifest says, the load fails or the receipt shows it."""
    ref = trial.publish()
    if not ref.manifest:
        await trial.load(ref)
        return []
    first, *rest = ref.manifest
    forged = replace(ref, manifest=(replace(first, checksum=(first.checksum or 0) ^ 1), *rest))
    problems: Problems = []
    try:
        receipt = await trial.engine.load_weights(forged, canary=CANARY)
    except RolloutError:
        pass
    else:
        if receipt.checksums.get(first.name) != first.checksum:
            problems.append(
                f"a wrong checksum of {first.name!r} in the manifest is not noticed; compare checksums of what the "
                "engine holds with the manifest and raise RolloutError"
            )
    await trial.load(trial.publish())
    return problems


WEIGHT_CHECKS: Checks = {
    "load_weights": a_load_is_followed,
    "log-probs": reported_logprobs_are_the_policys,
    "load while generating": a_load_may_come_while_it_generates,
    "damaged weights": other_bytes_are_noticed,
}
