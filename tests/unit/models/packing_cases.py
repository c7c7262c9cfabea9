"""Ragged batches, tiny models of many architectures, and the plain forward pass that layouts are compared with."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from rlvr.models.logprobs import TokenLogprobs

Rows = dict[str, torch.Tensor]

SMALL = {
    "vocab_size": 31,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def tiny(kind: str, *, seed: int = 0, **changes: object) -> PreTrainedModel:
    """A model of an architecture with random weights, large enough to tell tokens apart, in float64."""
    config = AutoConfig.for_model(kind, **{**SMALL, **changes})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).double().train()
    model.set_experts_implementation("eager")  # the other one has no float64
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model


def ragged(groups: list[tuple[int, list[int]]], *, seed: int = 0, vocab: int = 31, holes: float = 0.0) -> Rows:
    """Rows of (prompt length, completion lengths) groups, right-padded; `holes` is the share of unsampled tokens."""
    generator = torch.Generator().manual_seed(seed)
    index = [g for g, (_, lengths) in enumerate(groups) for _ in lengths]
    start = torch.tensor([groups[g][0] for g in index])[:, None]
    count = torch.tensor([n for _, lengths in groups for n in lengths])[:, None]
    width = int((start + count).max())
    ids = torch.randint(3, vocab, (len(index), width), generator=generator)
    for row, group in enumerate(index):
        ids[row, : start[row, 0]] = ids[index.index(group), : start[row, 0]]
    column = torch.arange(width)
    attention = column < start + count
    loss = attention & (column >= start)
    loss &= (torch.rand(ids.shape, generator=generator) >= holes) | (column == start)
    return {
        "token_ids": ids.where(attention, 0),
        "attention_mask": attention,
        "loss_mask": loss,
        "group_index": torch.tensor(index),
    }


def plain(model: PreTrainedModel, rows: Rows, *, temperature: float) -> TokenLogprobs:
    """Log-probs and entropy by the textbook, from the logits of whole padded rows."""
    ids, mask = rows["token_ids"], rows["loss_mask"]
    logits = model(input_ids=ids, attention_mask=rows["attention_mask"].long()).logits
    logp = torch.log_softmax(logits[:, :-1].double() / temperature, -1)
    chosen = logp.gather(-1, ids[:, 1:, None])[..., 0]
    entropy = -(logp.exp() * logp).sum(-1)
    zero = chosen.new_zeros(len(ids), 1)
    return TokenLogprobs(logprobs=torch.cat([zero, chosen], 1) * mask, entropy=torch.cat([zero, entropy], 1) * mask)


def gradients(model: PreTrainedModel, out: TokenLogprobs, *, entropy: float = 0.3) -> torch.Tensor:
    """The flat gradient of a sum with other weights on each token's log-prob and entropy."""
    weights = torch.linspace(-1.0, 2.0, out.logprobs.numel(), device=out.logprobs.device)
    weights = weights.view_as(out.logprobs)
    model.zero_grad(set_to_none=True)
    ((out.logprobs + entropy * out.entropy) * weights).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The norm of the difference over the norm of the second."""
    return float((a - b).detach().norm() / b.detach().norm())
