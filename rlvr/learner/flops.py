"""FLOPs of the learner's passes, and the peak FLOP/s of devices: for `learner/mfu`.

FLOPs of a training pass over real tokens (padding and recomputation excluded):

    6 N_trained + 4 N_frozen           for each token: forward 2, gradient of activations 2, of weights 2
                                       (Kaplan et al., arXiv:2001.08361, sec. 2.1); N leaves out an embedding table
                                       that is only looked up, and counts a tied one once, as the head
    6 layers * width * length**2       for each row, attention over the tokens before: QK and AV take 2 width a pair
                                       each, forward once and backward twice, and half of the pairs are masked
                                       (Chowdhery et al., arXiv:2204.02311, app. B, halved for causality)

A shared prompt counts once if it is run once. The reference's and the proximal passes are not counted, nor is their
time.
"""

import resource
import sys
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from rlvr.batch import Batch

# Dense FLOP/s from the vendors' data sheets (NVIDIA's state the double, with sparsity). The first name that is part of
# the device's name counts, so a name comes before those that it contains.
_PEAK_BFLOAT16 = (
    ("GB300", 2500e12),  # GB300 NVL72: 360 PFLOP/s sparse for 72 GPUs
    ("B300", 2250e12),  # HGX B300: 36 PFLOP/s sparse for 8 GPUs
    ("GB200", 2500e12),  # GB200 NVL72: 360 PFLOP/s sparse for 72 GPUs
    ("B200", 2250e12),  # HGX B200: 36 PFLOP/s sparse for 8 GPUs
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("H200 NVL", 835e12),
    ("H200", 989e12),  # also of a GH200
    ("A100", 312e12),
    ("MI300X", 1307e12),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCost:
    """FLOPs of passes over tokens.

    per_token, per_token_forward: of a training pass and of a forward pass alone, for each token.
    attention: layers * width, 0 if the model has no attention layers.
    """

    per_token: int
    per_token_forward: int
    attention: int

    def of(self, batch: Batch, *, shares_prompts: bool, is_forward_only: bool = False) -> float:
        """FLOPs of a training pass over these rows, or of a forward pass alone.

        >>> mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool()
        >>> rows = Batch(token_ids=mask.long(), attention_mask=mask, loss_mask=mask & (torch.arange(4) > 1),
        ...              behavior_logprobs=mask.float(), advantages=mask.float(),
        ...              group_index=torch.tensor([0, 0]), group_num_tokens=torch.tensor([3, 3]),
        ...              num_loss_tokens=3, num_sequences=2, num_prompts=1)
        >>> cost = ModelCost(per_token=10, per_token_forward=4, attention=1)
        >>> cost.of(rows, shares_prompts=False) == 10 * 7 + 6 * (9 + 16)
        True
        >>> cost.of(rows, shares_prompts=True) == 10 * 5 + 6 * (9 + 16 - 4)  # the prompt of 2 tokens is run once
        True
        >>> cost.of(rows, shares_prompts=False, is_forward_only=True) == 4 * 7 + 2 * (9 + 16)
        True
        """
        lengths = batch.attention_mask.sum(1)
        num_tokens = int(lengths.sum())
        num_pairs = int(lengths.square().sum())
        if shares_prompts:
            prompts = batch.loss_mask.int().argmax(1)
            order = batch.group_index.argsort(stable=True)
            is_repeated = batch.group_index[order][1:] == batch.group_index[order][:-1]
            repeated = prompts[order][1:][is_repeated]
            num_tokens -= int(repeated.sum())
            num_pairs -= int(repeated.square().sum())
        per_token = self.per_token_forward if is_forward_only else self.per_token
        per_pair = self.attention * (2 if is_forward_only else 6)
        return float(per_token * num_tokens + per_pair * num_pairs)


def model_cost(model: PreTrainedModel) -> ModelCost:
    """The FLOPs of this model per token and attention pair."""
    inputs, head = model.get_input_embeddings(), model.get_output_embeddings()
    looked_up = inputs.weight if isinstance(inputs, torch.nn.Embedding) else None
    if head is not None and getattr(head, "weight", None) is looked_up:
        looked_up = None
    multiplied = [p for p in model.parameters() if p is not looked_up]
    per_token = sum(p.numel() * (6 if p.requires_grad else 4) for p in multiplied)
    per_token_forward = 2 * sum(p.numel() for p in multiplied)
    config = model.config.get_text_config()
    layers = getattr(config, "num_hidden_layers", 0)
    heads = getattr(config, "num_attention_heads", 0)
    width = getattr(config, "head_dim", None) or getattr(config, "hidden_size", 0) // max(1, heads)
    return ModelCost(per_token=per_token, per_token_forward=per_token_forward, attention=layers * heads * width)


def peak_flops(device: torch.device) -> float:
    """The device's dense bfloat16 FLOP/s from its data sheet; 0 if unknown."""
    if device.type != "cuda":
        return 0.0
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in _PEAK_BFLOAT16 if known in name), 0.0)


def peak_memory_gb(device: torch.device) -> float:
    """Peak memory so far, in 1e9 bytes: tensors on a CUDA device, else the process's RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 1e9 if sys.platform == "darwin" else used * 1024 / 1e9
