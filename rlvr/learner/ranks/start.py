"""Starts the ranks of a learner group, each with its models."""

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlvr.config.sections.learner import LearnerConfig
from rlvr.learner.ranks.loading import WeightSource
from rlvr.learner.ranks.memory import Meeting, share
from rlvr.learner.ranks.messages import Message
from rlvr.learner.ranks.pool import START_UP, RankPool
from rlvr.learner.ranks.process import RankHandle, RankProcess
from rlvr.models.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class FarRank:
    """A rank that another node will run.

    start: begins to start it and returns at once; the argument is the rank's number. device_index: of its device among
    those that its process sees.
    """

    start: Callable[[int], RankHandle]
    device_index: int
    num_threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The ranks of a group that run on other nodes; they are the last ones. The first run on the parent's node.

    address, interface: of the parent's node, by which the other nodes reach it.
    """

    far: Sequence[FarRank]
    address: str
    interface: str


def start_ranks(
    policy: Policy,
    *,
    reference: PreTrainedModel | None,
    source: WeightSource | None,
    config: LearnerConfig,
    num_ranks: int,
    device_type: str,
    meeting: Meeting,
    silence_s: float,
    spread: Spread | None = None,
) -> tuple[RankPool, tuple[tuple[Tensor, Tensor], ...]]:
    """The running ranks, and each tensor of the policy with its copy in the memory that they see.

    Args: spread: the ranks of other nodes, which find the weights of `source` on their own node.

    Raises: LearnerError when a rank does not start.
    """
    segments = {"policy": share(policy)}
    is_policy = reference is policy.model
    if reference is not None and not is_policy:
        segments["reference"] = share(reference)
    far = spread.far if spread else ()
    num_near = num_ranks - len(far)
    num_threads = config.num_threads or max(1, torch.get_num_threads() // num_near)
    inherited = [segment.fd for segment in segments.values()]
    with contextlib.ExitStack() as stack:
        for fd in inherited:
            stack.callback(os.close, fd)
        near = partial(
            RankProcess,
            num_threads=num_threads,
            inherited=[*inherited, *meeting.fds],
            interface=spread.interface if spread else "",
        )
        starts = [partial(near, device_index=index) for index in range(num_near)]
        pool = RankPool([*starts, *(rank.start for rank in far)], silence_s=silence_s)
        common = {
            "op": "setup",
            "size": num_ranks,
            "device_type": device_type,
            "meeting": meeting.place,
            "config": config.model_dump(mode="json"),
            "reference_is_policy": is_policy,
            "source": None if source is None else source.to_json(),
            "segments": {name: segment.description for name, segment in segments.items()},
        }
        places: list[dict[str, Any]] = [
            *({"device_index": index, "num_threads": num_threads, "is_far": False} for index in range(num_near)),
            *({"device_index": rank.device_index, "num_threads": rank.num_threads, "is_far": True} for rank in far),
        ]
        tensors = {name: segment.pickled for name, segment in segments.items()}
        copies = {f"{name}.content": segment.content for name, segment in segments.items()} if far else {}
        requests = [
            Message(
                body={**common, **place, "rank": rank}, tensors={**tensors, **copies} if place["is_far"] else tensors
            )
            for rank, place in enumerate(places)
        ]
        pool.call(requests, what=START_UP)
    return pool, segments["policy"].pairs
