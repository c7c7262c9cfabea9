"""Log-probs of given tokens, with gradient, computing logits only where a loss token needs them.

Two layouts give the same numbers:
    plain    every row is run whole, right-padded.
    shared   the common prompt of a group is run once, and its key-value cache (with gradient) is expanded to the
             group's completions. Short completions after a long prompt gain most.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    """logprobs: nats, 0 where loss_mask is False. entropy_sum: nats, summed over loss tokens, without gradient."""

    logprobs: Float[Tensor, "batch seq"]
    entropy_sum: float


def token_logprobs(
    model: PreTrainedModel,
    *,
    token_ids: Int[Tensor, "batch seq"],
    attention_mask: Bool[Tensor, "batch seq"],
    loss_mask: Bool[Tensor, "batch seq"],
    group_index: Int[Tensor, " batch"],
    temperature: float,
    share_prompt_prefix: bool,
) -> TokenLogprobs:
    """The policy's log-probs of the loss tokens, under softmax(logits / temperature), in float32 or wider.

    Args:
        token_ids: prompt and completion, right-padded; every row has at least one loss token, none in column 0.
        group_index: rows of one number begin with the same prompt (up to their first loss token).
    """
    if (
        share_prompt_prefix
        and can_share_prefix(model)
        and len(torch.unique(group_index)) < len(group_index)
    ):
        logits = _shared_logits(model, token_ids, attention_mask, loss_mask, group_index)
    else:
        keep = torch.zeros_like(loss_mask)
        keep[:, :-1] = loss_mask[:, 1:]
        with _only_positions(model, keep):
            output = model(
                input_ids=token_ids, attention_mask=attention_mask.long(), use_cache=False
            )
        logits = output.logits
    chosen, entropy = selected_logprobs(logits, token_ids[loss_mask], temperature=temperature)
    full = torch.zeros(token_ids.shape, dtype=chosen.dtype, device=chosen.device)
    return TokenLogprobs(
        logprobs=full.masked_scatter(loss_mask, chosen), entropy_sum=float(entropy.sum())
    )


def selected_logprobs(
    logits: Float[Tensor, "tokens vocab"], token_ids: Int[Tensor, " tokens"], *, temperature: float
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """(log softmax(logits / temperature)[token], entropy of that distribution), nats; only the first has a gradient."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    scaled = wide if temperature == 1.0 else wide / temperature
    normaliser = torch.logsumexp(scaled, -1)
    chosen = scaled.gather(-1, token_ids[:, None])[:, 0] - normaliser
    with torch.no_grad():
        probabilities = torch.exp(scaled.detach() - normaliser[:, None])
        mean_logit = torch.linalg.vecdot(probabilities, scaled.detach())
        entropy = (normaliser - mean_logit).clamp(min=0.0)
    return chosen, entropy


def can_share_prefix(model: PreTrainedModel) -> bool:
    """Whether the model keeps a plain cache (no sliding window, no state space) and stores activations."""
    if getattr(model, "is_gradient_checkpointing", False) and model.training:
        return False  # transformers switches the cache off under checkpointing
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def _shared_logits(
    model: PreTrainedModel,
    token_ids: Int[Tensor, "batch seq"],
    attention_mask: Bool[Tensor, "batch seq"],
    loss_mask: Bool[Tensor, "batch seq"],
    group_index: Int[Tensor, " batch"],
) -> Float[Tensor, "tokens vocab"]:
    """Logits of the loss tokens in row-major order; the prompt of each group is run once."""
    device = token_ids.device
    num_rows = len(token_ids)
    prompt_length = loss_mask.int().argmax(1)
    length = attention_mask.sum(1)
    groups, group_of_row = torch.unique(group_index, return_inverse=True)
    first_row = torch.full((len(groups),), num_rows, device=device).scatter_reduce(
        0, group_of_row, torch.arange(num_rows, device=device), "amin"
    )
    if bool((prompt_length != prompt_length[first_row][group_of_row]).any()):
        raise ValueError("rows of one group_index differ in the length of their prompt")

    # Prompts, left-padded, so that their last tokens stand in one column.
    widths = prompt_length[first_row]
    num_columns = int(widths.max())
    column = torch.arange(num_columns, device=device)
    source = column - (num_columns - widths)[:, None]
    prompt_mask = source >= 0
    prompt_ids = token_ids[first_row].gather(1, source.clamp(min=0))
    cache = DynamicCache(config=model.config)
    keep = torch.zeros_like(prompt_mask)
    keep[:, -1] = True
    with _only_positions(model, keep):
        first_logits = model(
            input_ids=prompt_ids,
            attention_mask=prompt_mask.long(),
            position_ids=source.clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        ).logits

    # Completions, right-padded, without their last token, which predicts nothing.
    completion_width = int((length - prompt_length).max())
    if completion_width == 1:
        return first_logits[group_of_row]
    offset = torch.arange(completion_width - 1, device=device)
    place = prompt_length[:, None] + offset
    inside = place < (length - 1)[:, None]
    place = place.clamp(max=token_ids.shape[1] - 1)
    completion_ids = token_ids.gather(1, place)
    predicts = loss_mask.gather(1, (place + 1).clamp(max=token_ids.shape[1] - 1)) & inside
    cache.batch_select_indices(group_of_row)
    with _only_positions(model, predicts):
        rest_logits = model(
            input_ids=completion_ids,
            attention_mask=torch.cat([prompt_mask[group_of_row], inside], 1).long(),
            position_ids=place,
            past_key_values=cache,
            use_cache=True,
        ).logits
    # Row-major order over [first token, later tokens].
    order = torch.cat([torch.ones(num_rows, 1, dtype=torch.bool, device=device), predicts], 1)
    index = torch.empty(order.shape, dtype=torch.long, device=device)
    index[:, 0] = group_of_row
    index[:, 1:][predicts] = len(groups) + torch.arange(int(predicts.sum()), device=device)
    return torch.cat([first_logits, rest_logits])[index[order]]


@contextmanager
def _only_positions(model: PreTrainedModel, keep: Bool[Tensor, "batch seq"]) -> Iterator[None]:
    """Within it, the model's head sees only the kept positions: logits become [num_kept, vocab], row-major.

    A hook on the head works for every architecture, scaling and soft-capping of logits included.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError(
            f"{type(model).__name__} has no output embeddings; only causal language models can be trained"
        )
    handle = head.register_forward_pre_hook(lambda _module, inputs: (inputs[0][keep],))
    try:
        yield
    finally:
        handle.remove()
