"""Starts the ranks of a learner group, each with its models."""

import contextlib
import os

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlvr.config.sections.learner import LearnerConfig
from rlvr.learner.ranks.loading import WeightSource
from rlvr.learner.ranks.memory import Meeting, share
from rlvr.learner.ranks.messages import Message
from rlvr.learner.ranks.pool import START_UP, RankPool
from rlvr.models.policy import Policy


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
) -> tuple[RankPool, tuple[tuple[Tensor, Tensor], ...]]:
    """The running ranks, and each tensor of the policy with its copy in the memory that they see.

    Raises: LearnerError when a rank does not start.
    """
    segments = {"policy": share(policy)}
    is_policy = reference is policy.model
    if reference is not None and not is_policy:
        segments["reference"] = share(reference)
    num_threads = config.num_threads or max(1, torch.get_num_threads() // num_ranks)
    inherited = [segment.fd for segment in segments.values()]
    with contextlib.ExitStack() as stack:
        for fd in inherited:
            stack.callback(os.close, fd)
        pool = RankPool(num_ranks, num_threads=num_threads, inherited=[*inherited, *meeting.fds], silence_s=silence_s)
        common = {
            "op": "setup",
            "size": num_ranks,
            "device_type": device_type,
            "store_file": meeting.path,
            "num_threads": num_threads,
            "config": config.model_dump(mode="json"),
            "reference_is_policy": is_policy,
            "source": None if source is None else source.to_json(),
            "segments": {name: segment.description for name, segment in segments.items()},
        }
        tensors = {name: segment.pickled for name, segment in segments.items()}
        pool.call([Message(body={**common, "rank": rank}, tensors=tensors) for rank in range(num_ranks)], what=START_UP)
    return pool, segments["policy"].pairs
