"""Makes the model's own head call return only what the learner needs."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlvr.models.head_logprobs import HeadRequest, linear_logprobs

# Config keys by which transformers' models change logits after the head; others are noticed at the first call.
_POST_PROCESSING = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier_scale",
    "logits_soft_cap",
    "output_logit_soft_cap",
)


def head_is_last(model: PreTrainedModel) -> bool:
    """Whether the logits are those of a plain linear head, so that its call may return log-probs instead.

    False for heads of another class (adapters, quantised), and if the model caps or scales logits after the head.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or type(head).forward is not torch.nn.Linear.forward:
        return False
    return all(getattr(model.config, key, None) in (None, 1.0, 0.0, False) for key in _POST_PROCESSING)


@contextmanager
def head_computes(model: PreTrainedModel, request: HeadRequest, *, logprobs: bool) -> Iterator[list[Tensor]]:
    """A context in which, in this thread, the head computes the request; yields the list of its results.

    It runs inside the head's own call, so hooks run too and a sharded model's weights are whole.

    Args: logprobs: log-probs and entropies [targets, 2]; else the logits [sources, vocab].
    """
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError(f"{type(model).__name__} has no output embeddings; only causal language models can be trained")
    plain = head.forward
    thread = get_ident()
    returned: list[Tensor] = []

    def forward(hidden: Tensor) -> Tensor:
        if get_ident() != thread:  # an engine that generates with the same model
            return plain(hidden)
        flat = hidden.reshape(-1, hidden.shape[-1])
        sources = flat.index_select(0, request.targets.positions)
        found = linear_logprobs(sources, head, request=request) if logprobs else plain(sources)
        returned.append(found)
        return found

    head.forward = forward
    try:
        yield returned
    finally:
        del head.forward
