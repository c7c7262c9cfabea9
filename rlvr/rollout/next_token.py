"""Logits of the next token of many rows: with a key-value cache, or by running whole rows again.

Three ways, the fastest first:
    PADDED         one cache for all rows; prompts are padded on the left to one length.
    EQUAL_LENGTHS  one cache for prompts of equal length, because a recurrent state would read padding.
    WHOLE_ROWS     no cache: every token costs a pass over the row. For families whose cache is not exact.

`way_of` finds the fastest exact way: known for plain attention, measured once for everything else.
"""

import inspect
import logging
from collections.abc import Sequence
from enum import IntEnum
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from rlvr.errors import RolloutError
from rlvr.models.families import CACHE_ARGUMENTS
from rlvr.rollout.key_value_cache import is_state_alone, key_value_cache, select_rows

logger = logging.getLogger(__name__)

# Largest difference of logits, in standard deviations of a row's logits, between a way and rows run alone. Rounding in
# float32 gives 1e-6 to 1e-5, padding that leaks into a state 1e-3, a wrong cache 0.1 to 5.
_TOLERANCE = 3e-4
# Tolerance of the last resort: beyond it engine and learner cannot agree on log-probs.
_LAST_TOLERANCE = 1e-2
_PLAIN_LAYERS = {DynamicLayer, DynamicSlidingWindowLayer}
_NEEDED = {"input_ids", "attention_mask", "position_ids"}


class Way(IntEnum):
    """How the next token's logits are computed; the lower the faster."""

    PADDED = 0
    EQUAL_LENGTHS = 1
    WHOLE_ROWS = 2


class Rows(Protocol):
    """Rows that grow by a token at a time."""

    def start(self) -> Float[Tensor, "prompt vocab"]:
        """Logits after each prompt; called once, first."""
        ...

    def select(self, index: Int[Tensor, " row"]) -> None:
        """Replaces the rows by these of them, in this order; a row may be repeated."""
        ...

    def append(self, tokens: Int[Tensor, " row"]) -> Float[Tensor, "row vocab"]:
        """Adds a token to each row; the logits after it."""
        ...


def rows_of(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], *, way: Way, pad_token_id: int, room: int
) -> Rows:
    """The rows of some prompts. Args: room: maximum number of appended tokens."""
    if way is Way.WHOLE_ROWS:
        return WholeRows(model, prompts, pad_token_id=pad_token_id)
    return CachedRows(model, prompts, pad_token_id=pad_token_id, room=room)


class CachedRows:
    """With a key-value cache, and states of recurrent layers; shorter prompts are padded on the left."""

    def __init__(
        self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], *, pad_token_id: int, room: int
    ) -> None:
        device = next(model.parameters()).device
        self._model = model
        self._width = max(len(prompt) for prompt in prompts)
        ids = torch.full((len(prompts), self._width), pad_token_id)
        mask = torch.zeros((len(prompts), self._width), dtype=torch.long)
        for i, prompt in enumerate(prompts):
            ids[i, self._width - len(prompt) :] = torch.tensor(prompt)
            mask[i, self._width - len(prompt) :] = 1
        self._ids, mask = ids.to(device), mask.to(device)
        self._position = mask.sum(1)
        # One mask for the whole generation: each step uses a wider part of it.
        self._mask = torch.cat([mask, mask.new_ones(len(prompts), room)], 1)
        self._cache = key_value_cache(model.config)
        self._is_state_alone = is_state_alone(self._cache)
        self._memory = {_cache_argument(model): self._cache, "use_cache": True}

    def start(self) -> Tensor:
        """See `Rows`."""
        mask = self._mask[:, : self._width]
        return self._model(
            input_ids=self._ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            **self._memory,
            # The last place, as an index: `1` would give the head a strided slice, which torch multiplies by one copy
            # of a frozen head for each row (60 prompts of SmolLM2 in bfloat16: 21 s and 3.2 GiB for 0.05 s).
            logits_to_keep=torch.tensor([self._width - 1], device=mask.device),
        ).logits[:, -1]

    def select(self, index: Tensor) -> None:
        """See `Rows`."""
        select_rows(self._cache, index)
        self._mask, self._position = self._mask[index], self._position[index]

    def append(self, tokens: Tensor) -> Tensor:
        """See `Rows`."""
        self._width += 1
        # A purely recurrent model attends to no earlier place: its mask covers the new tokens, and none of them is
        # padding.
        mask = None if self._is_state_alone else self._mask[:, : self._width]
        logits = self._model(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=self._position[:, None],
            **self._memory,
            logits_to_keep=1,
        ).logits[:, -1]
        self._position = self._position + 1
        return logits


class WholeRows:
    """Without a cache: rows are padded on the right and run whole, as in the learner."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], *, pad_token_id: int) -> None:
        self._model = model
        self._pad = pad_token_id
        self._lengths = torch.tensor([len(prompt) for prompt in prompts])
        self._ids = torch.full((len(prompts), int(self._lengths.max())), pad_token_id)
        for i, prompt in enumerate(prompts):
            self._ids[i, : len(prompt)] = torch.tensor(prompt)

    def start(self) -> Tensor:
        """See `Rows`."""
        return self._last_logits()

    def select(self, index: Tensor) -> None:
        """See `Rows`."""
        index = index.cpu()
        self._ids, self._lengths = self._ids[index], self._lengths[index]

    def append(self, tokens: Tensor) -> Tensor:
        """See `Rows`."""
        if int(self._lengths.max()) == self._ids.shape[1]:
            more = self._ids.new_full((len(self._ids), 1), self._pad)
            self._ids = torch.cat([self._ids, more], 1)
        self._ids[torch.arange(len(self._ids)), self._lengths] = tokens.cpu()
        self._lengths = self._lengths + 1
        return self._last_logits()

    def _last_logits(self) -> Tensor:
        device = next(self._model.parameters()).device
        mask = torch.arange(self._ids.shape[1]) < self._lengths[:, None]
        logits = self._model(
            input_ids=self._ids.to(device), attention_mask=mask.long().to(device), use_cache=False
        ).logits
        return logits[torch.arange(len(self._ids), device=device), self._lengths.to(device) - 1]


def way_of(model: PreTrainedModel) -> Way:
    """The fastest way whose logits are those of whole rows run one at a time.

    Unless the cache is of plain attention it is measured, in float32 or the model's own dtype, by some passes over a
    dozen tokens. Anything but PADDED is logged.
    Raises: RolloutError when not even rows padded on the right have the logits of rows run alone.
    """
    if _has_plain_cache(model):
        return Way.PADDED
    reasons: list[str] = []
    was_training = model.training
    model.eval()
    try:
        for way in Way:
            reason = _difference(model, way)
            if not reason:
                if way is not Way.PADDED:
                    logger.warning("%s generates %s: %s", type(model).__name__, _SLOWER[way], "; ".join(reasons))
                return way
            reasons.append(f"{way.name.lower()}: {reason}")
    finally:
        model.train(was_training)
    raise RolloutError(
        f"{type(model).__name__} cannot generate here: its logits depend on the other rows of a batch "
        f"({'; '.join(reasons)}); use a model of another family"
    )


_SLOWER = {
    Way.EQUAL_LENGTHS: "prompts of equal length together, which is slower",
    Way.WHOLE_ROWS: "without a cache, so that each token costs a pass over its row",
}


def _has_plain_cache(model: PreTrainedModel) -> bool:
    """Whether every layer keeps only keys and values, under the mask and positions that it is given."""
    accepted = set(inspect.signature(model.forward).parameters)
    return (
        not model._is_stateful
        and accepted >= {*_NEEDED, _cache_argument(model)}
        and {type(layer) for layer in DynamicCache(config=model.config).layers} <= _PLAIN_LAYERS
    )


def _cache_argument(model: PreTrainedModel) -> str:
    """The name under which the model takes its cache."""
    accepted = inspect.signature(model.forward).parameters
    return next((name for name in CACHE_ARGUMENTS if name in accepted), CACHE_ARGUMENTS[0])


@torch.no_grad()
@torch.backends.cudnn.flags(allow_tf32=False)
def _difference(model: PreTrainedModel, way: Way) -> str:
    """How a way's logits differ from those of rows run alone; empty if they do not."""
    vocab = int(model.config.get_text_config().vocab_size)
    drawn = torch.randint(0, vocab, (64,), generator=torch.Generator().manual_seed(0)).tolist()
    lengths = (6, 6) if way is Way.EQUAL_LENGTHS else (6, 3)
    rows = [drawn[:6], drawn[6 : 6 + lengths[1]]]
    taken = iter(drawn[20:])
    try:
        growing = rows_of(model, rows, way=way, pad_token_id=0, room=8)
        worst = _compare(model, growing.start(), rows)
        for chosen in ([1, 0, 0], None, None, None, None, [2, 0], None):
            if chosen is not None:
                growing.select(torch.tensor(chosen, device=next(model.parameters()).device))
                rows = [rows[i] for i in chosen]
            tokens = [next(taken) for _ in rows]
            rows = [[*row, token] for row, token in zip(rows, tokens, strict=True)]
            device = next(model.parameters()).device
            worst = max(worst, _compare(model, growing.append(torch.tensor(tokens, device=device)), rows))
    except Exception as error:  # noqa: BLE001 - whatever a family's own cache code raises
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
    tolerance = _LAST_TOLERANCE if way is Way.WHOLE_ROWS else _TOLERANCE
    return "" if worst < tolerance else f"its logits differ by {worst:.2g} standard deviations"


def _compare(model: PreTrainedModel, logits: Tensor, rows: Sequence[Sequence[int]]) -> float:
    worst = 0.0
    for found, row in zip(logits.float(), rows, strict=True):
        ids = torch.tensor([list(row)], device=logits.device)
        alone = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0, -1].float()
        spread = float(alone.std()) or 1.0
        difference = float((found - alone).abs().max()) / spread
        worst = max(worst, difference if difference == difference else float("inf"))
    return worst
