"""Log-probs of given tokens, with gradient, by one call of the model.

Two layouts give the same numbers:
    packed   one stream of tokens [1, tokens] without padding; the common prompt of a group is run once.
    padded   every row is run whole, right-padded; for architectures that do not allow the other.
In both the head sees only the hidden states that predict a loss token (`rlvr.models.lm_head`).
"""

import logging
from dataclasses import dataclass
from weakref import WeakSet

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from rlvr.batch import on_device
from rlvr.config.sections.learner import Layout
from rlvr.models.head_logprobs import HeadRequest, logprobs_of_logits, selected_logprobs
from rlvr.models.lm_head import head_computes, head_is_last
from rlvr.models.packed.attention import (
    NO_MASK,
    UnsupportedAttentionError,
    can_pack,
    num_attention_layers,
    refuse_packing,
    use_packed_attention,
)
from rlvr.models.packed.layout import PackedLayout
from rlvr.models.packed.packing import Stream, Targets, pack, pad
from rlvr.models.packed.ragged_attention import probe_kernel

__all__ = ["TokenLogprobs", "selected_logprobs", "token_logprobs", "usable_layout"]

logger = logging.getLogger(__name__)
_told: set[str] = set()
_changes_logits: "WeakSet[PreTrainedModel]" = WeakSet()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    """Both in nats, 0 where loss_mask is False; entropy has a gradient only if requested."""

    logprobs: Float[Tensor, "batch seq"]
    entropy: Float[Tensor, "batch seq"]


def usable_layout(model: PreTrainedModel, wanted: Layout) -> Layout:
    """The layout that `token_logprobs` will use: packed falls back to padded if the architecture needs it.

    The reason is logged once.
    """
    if wanted is Layout.PADDED:
        return wanted
    reason = can_pack(model)
    if not reason:
        return wanted
    message = f"{type(model).__name__} runs in the padded layout: {reason}"
    if message not in _told:
        _told.add(message)
        logger.warning(message)
    return Layout.PADDED


def token_logprobs(
    model: PreTrainedModel,
    *,
    token_ids: Int[Tensor, "batch seq"],
    attention_mask: Bool[Tensor, "batch seq"],
    loss_mask: Bool[Tensor, "batch seq"],
    group_index: Int[Tensor, " batch"],
    temperature: float,
    layout: Layout,
    share_prompt_prefix: bool,
    logits_memory_mb: int,
    needs_entropy_gradient: bool,
) -> TokenLogprobs:
    """The policy's log-probs of the loss tokens, under softmax(logits / temperature), in float32 or wider.

    Rows without a loss token are not run. If no row has one, a single token is run, so that every parameter gets a
    gradient of zeros, which an idle rank of a sharded model needs.

    The result is on the model's device. Rows on the host are packed there, without waiting for the device.

    Args:
        token_ids: prompt and completion, right-padded; column 0 holds no loss token.
        group_index: rows with the same number agree in every token before their first loss token.
        share_prompt_prefix: run the common prefix of a group once (packed layout only).
        logits_memory_mb: the largest block of logits held at once, in MiB; beyond it the head works in chunks.
    """
    device = next(model.parameters()).device
    ids, mask, groups = token_ids.cpu(), loss_mask.cpu(), group_index.cpu()

    def ask(targets: Targets) -> HeadRequest:
        return HeadRequest(
            targets=targets.to(device),
            temperature=temperature,
            chunk_bytes=logits_memory_mb << 20,
            needs_entropy_gradient=needs_entropy_gradient,
        )

    values = targets = None
    if usable_layout(model, layout) is Layout.PACKED:
        stream = pack(token_ids=ids, loss_mask=mask, group_index=groups, share_prompt_prefix=share_prompt_prefix)
        targets = stream.targets
        values = _run_packed(model, stream, ask(targets))
    if values is None or targets is None:
        padded = pad(token_ids=ids, loss_mask=mask)
        targets = padded.targets
        rows = padded.rows.to(token_ids.device)
        values = _run(
            model,
            ask(targets),
            input_ids=on_device(token_ids[rows, : padded.width], device),
            attention_mask=on_device(attention_mask[rows, : padded.width].long(), device),
        )
    full = values.new_zeros(mask.numel())
    column = on_device(targets.column, device)
    entropy = values[:, 1] if needs_entropy_gradient else values[:, 1].detach()
    return TokenLogprobs(
        logprobs=full.index_copy(0, column, values[:, 0]).view(mask.shape),
        entropy=full.index_copy(0, column, entropy).view(mask.shape),
    )


def _run_packed(model: PreTrainedModel, stream: Stream, request: HeadRequest) -> Tensor | None:
    """[targets, 2], or None if the pass showed that the model cannot run over a stream."""
    use_packed_attention(model)
    device = request.targets.positions.device
    layout = PackedLayout(stream.lengths, stream.prefixes, device=device)
    probe_kernel(device)  # before the pass, because inside it the probe or the pass would fail
    try:
        values = _run(
            model,
            request,
            input_ids=on_device(stream.token_ids[None], device),
            position_ids=on_device(stream.position_ids[None], device),
            attention_mask=torch.zeros(NO_MASK, dtype=torch.bool, device=device),
            packed_layout=layout,
        )
    except UnsupportedAttentionError as error:
        refuse_packing(model, str(error))
        return None
    if layout.num_calls < num_attention_layers(model):
        reason = f"only {layout.num_calls} of its {num_attention_layers(model)} layers use the attention interface"
        refuse_packing(model, reason)
        return None
    return values


def _run(model: PreTrainedModel, request: HeadRequest, **inputs: Tensor | PackedLayout) -> Tensor:
    """[targets, 2]: log-prob and entropy of each target, in one call of the model."""
    if head_is_last(model) and model not in _changes_logits:
        with head_computes(model, request, logprobs=True) as returned:
            output = model(**inputs, use_cache=False).logits
        if returned and output is returned[-1]:
            return output
        # It changes logits after the head in a way that its config does not show: use the logits themselves.
        logger.warning(
            "%s changes its logits after the head; they are held in full, and learner.logits_memory_mb has no effect",
            type(model).__name__,
        )
        _changes_logits.add(model)
    with head_computes(model, request, logprobs=False):
        logits = model(**inputs, use_cache=False).logits
    return logprobs_of_logits(logits, request=request)
