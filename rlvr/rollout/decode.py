"""Grouped sampling with a key-value cache: each distinct prompt is prefilled once, finished rows leave the batch.

Every draw of a row is the inverse of the cumulative distribution at a uniform number that depends only on the row's
seed and the token's position. So a completion is reproducible in any batch, up to rounding: in a batch of another
shape the logits differ in their last bits, and a draw very close to the boundary between two tokens may pick the
neighbour, after which the texts differ (more often in bfloat16 than in float32).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlvr.protocols import GenerationRequest
from rlvr.records import FinishReason
from rlvr.rollout.next_token import Way, rows_of

# Finished rows are dropped from the batch when they are at least this share of it: dropping copies the cache.
DROP_SHARE = 1 / 16


@dataclass(slots=True)
class Row:
    """One completion that is being generated."""

    request: GenerationRequest
    uniforms: np.ndarray
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None


@torch.inference_mode()
def decode_rows(
    model: PreTrainedModel,
    requests: Sequence[GenerationRequest],
    *,
    way: Way,
    stop_token_ids: Sequence[int],
    pad_token_id: int,
    to_text: Callable[[Sequence[int]], str],
    finished: Callable[[Row], None],
) -> None:
    """Generates all requests in one batch and calls `finished` with each row as it ends.

    Args:
        requests: may differ in prompt, limit, temperature and stops; equal prompts are prefilled once.
        way: how logits are computed; with EQUAL_LENGTHS all prompts must have the same length.
        to_text: decodes token ids, special ones too; used only to look for stop strings.
    """
    device = next(model.parameters()).device
    started = time.monotonic()
    rows = [Row(request=r, uniforms=uniforms(r.seed, r.sampling.max_tokens)) for r in requests]
    prompts = list(dict.fromkeys(r.prefix_token_ids for r in requests))
    prompt_of_row = torch.tensor([prompts.index(r.prefix_token_ids) for r in requests], device=device)
    longest = max(row.request.sampling.max_tokens for row in rows)
    growing = rows_of(model, prompts, way=way, pad_token_id=pad_token_id, room=longest)
    logits = growing.start()[prompt_of_row]
    if len(prompts) != len(rows):
        growing.select(prompt_of_row)
    stops = [frozenset(stop_token_ids) | frozenset(r.sampling.stop_token_ids) for r in requests]
    live = list(range(len(rows)))
    for place in range(longest):
        tokens, logprobs = sample_tokens(
            logits,
            uniforms=torch.tensor([rows[i].uniforms[place] for i in live], device=device),
            temperatures=torch.tensor([rows[i].request.sampling.temperature for i in live], device=device),
        )
        elapsed = time.monotonic() - started
        for i, token, logprob in zip(live, tokens.tolist(), logprobs.tolist(), strict=True):
            row = rows[i]
            if row.finish_reason is None:
                _append(row, token, logprob, stops=stops[i], to_text=to_text, elapsed_s=elapsed)
                if row.finish_reason is not None:
                    finished(row)
        going = [k for k, i in enumerate(live) if rows[i].finish_reason is None]
        if not going:
            return
        if len(live) - len(going) >= DROP_SHARE * len(live):
            index = torch.tensor(going, device=device)
            growing.select(index)
            tokens = tokens[index]
            live = [live[k] for k in going]
        logits = growing.append(tokens)


def uniforms(seed: int, count: int) -> np.ndarray:
    """`count` numbers in [0, 1) that depend only on the seed (Philox, a counter-based generator)."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def sample_tokens(logits: Tensor, *, uniforms: Tensor, temperatures: Tensor) -> tuple[Tensor, Tensor]:
    """One token per row and its log-prob in nats under softmax(logits / temperature).

    Temperature 0 takes the most likely token and reports its log-prob at temperature 1.

    Args:
        logits: [rows, vocab]. uniforms, temperatures: [rows].
    """
    wide = logits.float()
    greedy = temperatures == 0
    if bool(greedy.all()):
        tokens = wide.argmax(-1)
        return tokens, wide.gather(-1, tokens[:, None])[:, 0] - torch.logsumexp(wide, -1)
    if bool((temperatures != 1).any()):
        wide = wide / torch.where(greedy, 1.0, temperatures)[:, None].to(wide.dtype)
    logprobs = torch.log_softmax(wide, -1)
    cumulative = logprobs.exp().cumsum(-1)
    total = cumulative[:, -1:]
    target = uniforms[:, None].to(cumulative.dtype) * total
    # right=True skips tokens of probability 0; strictly below the total, or the last such token could be picked.
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulative, target, right=True)[:, 0]
    if bool(greedy.any()):
        tokens = torch.where(greedy, wide.argmax(-1), tokens)
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


def _append(
    row: Row,
    token: int,
    logprob: float,
    *,
    stops: frozenset[int],
    to_text: Callable[[Sequence[int]], str],
    elapsed_s: float,
) -> None:
    """Adds a token and decides whether the row ends."""
    row.token_ids.append(token)
    row.logprobs.append(logprob)
    sampling = row.request.sampling
    if token in stops or ends_with_stop(row.token_ids, sampling.stop_strings, to_text):
        row.finish_reason = FinishReason.STOP
    elif len(row.token_ids) >= sampling.max_tokens:
        row.finish_reason = FinishReason.LENGTH
    elif elapsed_s > row.request.deadline_s:
        row.finish_reason = FinishReason.ABORT


def ends_with_stop(token_ids: Sequence[int], strings: Sequence[str], to_text: Callable[[Sequence[int]], str]) -> bool:
    """Whether the newest token completes one of the stop strings; call it for each new token.

    Such a string lies in the last len(string) + 1 tokens, each at least one byte, so only these are decoded.
    """
    if not strings:
        return False
    reach = max(len(string.encode()) for string in strings) + 1
    tail = to_text(token_ids[-reach:])
    return any(string in tail for string in strings)
