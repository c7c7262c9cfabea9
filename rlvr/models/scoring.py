"""Teacher-forced log-probs of whole rows in a fixed shape: equal weights give equal bits, whatever else runs."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel


def score_rows(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> list[list[float]]:
    """For each row the log-probs (nats, temperature 1, float32) of all tokens but the first.

    Each row is one call of the model on [1, tokens], so its result depends on no other row. The caller chooses the
    arithmetic (autocast); the model's mode is unchanged.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            return [_score_row(model, torch.tensor([list(row)], device=device)) for row in rows]
    finally:
        model.train(was_training)


def _score_row(model: PreTrainedModel, ids: torch.Tensor) -> list[float]:
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0, :-1].float()
    chosen = logits.gather(1, ids[0, 1:, None])[:, 0]
    return (chosen - torch.logsumexp(logits, 1)).tolist()
