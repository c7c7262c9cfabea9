"""Loads weights into members of a fleet: within a deadline, and checks the receipt before a member may serve."""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import replace

from rlvr.errors import RolloutError
from rlvr.protocols import LoadReceipt
from rlvr.records import WeightsRef
from rlvr.run.ray.workers.engine_member import EngineLost, EngineMember

# Engines of one kind score the canary in one fixed shape, so on other hardware only the last bits may differ.
CANARY_TOLERANCE = 0.05  # nats, mean over the canary's tokens
_CHECKS = 20  # of a load within its deadline: whether it still waits for requests; so the deadline is exact to 5 %
GRACE_S = 15.0  # after its own deadline a process has this long to abort a transfer and to answer


class Loading:
    """Loads weights into members."""

    def __init__(self, deadline_s: float, *, loads_after_work: bool) -> None:
        self._deadline_s = deadline_s
        self._loads_after_work = loads_after_work

    async def load(
        self,
        member: EngineMember,
        ref: WeightsRef,
        *,
        canary: Sequence[Sequence[int]],
        peers: Sequence[LoadReceipt],
        sent: "asyncio.Future[WeightsRef] | None" = None,
    ) -> None:
        """Sets the member's receipt.

        The deadline counts from the call, or from the end of the member's open requests if it loads only then.

        Args: sent: gives `ref` with checksums, if these are computed while the weights are sent.

        Raises: RolloutError when it fails, misses its deadline, or its receipt does not match what the learner sent;
            TransferError when it did not arrive and the engine is well.
        """
        deadline_s = self._deadline_s if sent is None else self._deadline_s + GRACE_S  # the engine aborts first
        before = set(member.open)
        member.loading = ref
        task = asyncio.create_task(member.remote.load_weights(ref, canary=canary))
        member.serving.add(task)  # cancelled when the member is lost
        task.add_done_callback(member.serving.discard)
        since = time.monotonic()
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=deadline_s / _CHECKS)
                if task.cancelled():
                    raise EngineLost("it was lost while it loaded weights")
                if self._loads_after_work and before & set(member.open):
                    since = time.monotonic()
                elif time.monotonic() - since > deadline_s and not task.done():
                    raise EngineLost(
                        f"the weights of version {ref.policy_version} were not loaded within "
                        f"cluster.sync_deadline_s={self._deadline_s:g} s"
                    )
            receipt = task.result()
            if sent is not None:
                ref = await asyncio.shield(sent)
        finally:
            member.loading = None
            task.cancel()
        problem = receipt_problem(receipt, ref=ref, peers=peers)
        if problem:
            raise RolloutError(problem)
        member.receipt = replace(receipt, engine_id=receipt.engine_id or member.name)


def receipt_problem(receipt: LoadReceipt, *, ref: WeightsRef, peers: Sequence[LoadReceipt]) -> str:
    """Why an engine with this receipt may not serve; "" if it may.

    peers: receipts of other engines; those of the same version must agree on the canary.
    """
    if receipt.policy_version != ref.policy_version:
        return f"it serves version {receipt.policy_version} after it was sent {ref.policy_version}"
    wrong = [e.name for e in ref.manifest if receipt.checksums.get(e.name) != e.checksum]
    if receipt.checksums and wrong:
        return f"{len(wrong)} of {len(ref.manifest)} tensors differ from what was sent, first {wrong[0]!r}"
    for peer in peers:
        if peer.policy_version != receipt.policy_version:
            continue
        distance = canary_distance(receipt, peer)
        if distance > CANARY_TOLERANCE:
            return (
                f"its canary log-probs differ from {peer.engine_id}'s by {distance:.4f} nats on average "
                f"(bound {CANARY_TOLERANCE}): it computes with other weights"
            )
    return ""


def canary_distance(one: LoadReceipt, other: LoadReceipt) -> float:
    """The mean absolute difference of two canaries, nats; 0 if either has none.

    >>> one = LoadReceipt(policy_version=1, canary_logprobs=((-1.0, -2.0),))
    >>> canary_distance(one, LoadReceipt(policy_version=1, canary_logprobs=((-1.5, -2.0),)))
    0.25
    """
    pairs = [
        (a, b)
        for row, twin in zip(one.canary_logprobs, other.canary_logprobs, strict=False)
        for a, b in zip(row, twin, strict=False)
    ]
    return math.fsum(abs(a - b) for a, b in pairs) / max(1, len(pairs))


def fleet_receipt(receipts: Sequence[LoadReceipt], *, sent: WeightsRef) -> LoadReceipt:
    """One receipt for all: the slowest engine's times, the first one's contents, and all receipts as members.

    Args: sent: the reference that was loaded, with checksums.
    """
    first = receipts[0]
    return replace(
        first,
        seconds=max(receipt.seconds for receipt in receipts),
        frozen_s=max(receipt.frozen_s for receipt in receipts),
        engine_id="" if len(receipts) > 1 else first.engine_id,
        members=tuple(receipts),
        sent=sent,
    )
