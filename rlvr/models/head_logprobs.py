"""Log-probs and entropies directly from hidden states, without holding the logits of all tokens.

For logits z = (h W' + b) / temperature of a hidden state h, in nats:

    log p(t) = z_t - lse(z)             d log p(t) / dz = onehot(t) - p
    H = lse(z) - sum_k p_k z_k          d H / dz = -p (log p + H)

Rows are processed in chunks: matrix products in autocast's dtype, the softmax in float32 (float64 for a float64 model),
a few rows at a time so that its passes stay in the cache. When all logits fit in `logits_memory_mb` they are kept for
the backward pass, which turns them into their gradient in place; otherwise each chunk is recomputed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlvr.models.packed.packing import Targets

# float32 elements that a pass of the softmax covers at once: 2 MB on a CPU; on a GPU enough to fill it.
_PASS_CPU = 1 << 19
_PASS_GPU = 1 << 25


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRequest:
    """The head's results from the hidden states, in place of their logits.

    chunk_bytes: the largest block of logits held at once, counted in the softmax's precision.
    """

    targets: Targets
    temperature: float
    chunk_bytes: int
    needs_entropy_gradient: bool


def linear_logprobs(
    sources: Float[Tensor, "sources width"], head: torch.nn.Linear, *, request: HeadRequest
) -> Float[Tensor, "targets 2"]:
    """Log-prob and entropy of each target, from the hidden states that predict them and a linear head."""
    kind = sources.device.type
    narrow = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.weight.dtype
    with torch.autocast(kind, enabled=False):
        found = _LinearLogprobs.apply(sources, head.weight, head.bias, request, narrow)
    return torch.stack(found, 1)


def logprobs_of_logits(logits: Float[Tensor, "sources vocab"], *, request: HeadRequest) -> Float[Tensor, "targets 2"]:
    """Log-prob and entropy of each target, from logits that the model has already computed."""
    return torch.stack(_LogitsLogprobs.apply(logits, request), 1)


def selected_logprobs(
    logits: Float[Tensor, "tokens vocab"], token_ids: Int[Tensor, " tokens"], *, temperature: float
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """(log softmax(logits / temperature)[token], entropy of that distribution), nats; only the first has a gradient.

    >>> logprobs, entropy = selected_logprobs(torch.tensor([[0.0, 0.0]]), torch.tensor([1]), temperature=1.0)
    >>> round(logprobs.item(), 4), round(entropy.item(), 4)
    (-0.6931, 0.6931)
    """
    count = torch.arange(len(logits), device=logits.device)
    request = HeadRequest(
        targets=Targets(
            positions=count, source=count, first_target=range(len(logits) + 1), token_ids=token_ids, column=count
        ),
        temperature=temperature,
        chunk_bytes=1 << 62,
        needs_entropy_gradient=False,
    )
    logprobs, entropy = _LogitsLogprobs.apply(logits, request)
    return logprobs, entropy


class _LinearLogprobs(torch.autograd.Function):
    """(hidden [sources, width], weight [vocab, width], bias) -> log-probs and entropies [targets]."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, request: HeadRequest, narrow: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        rows = hidden.to(narrow)
        matrix = weight.to(narrow)
        offset = None if bias is None else bias.to(narrow)
        softmax = _Softmax(request, rows)
        outputs = softmax.outputs()
        chunks = _chunks(len(rows), softmax.rows_within(request.chunk_bytes, matrix.shape[0]))
        # One block of memory for the logits of all chunks: freeing and reallocating blocks of this size fragments it.
        room = _room(chunks, matrix)
        for chunk in chunks:
            softmax.forward(_linear(rows[chunk], matrix, offset, room), chunk, *outputs)
        ctx.softmax, ctx.chunks = softmax, chunks
        ctx.kept = room if len(chunks) == 1 and any(ctx.needs_input_grad) else None
        ctx.narrow = narrow
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.save_for_backward(hidden, weight, bias)
        if not request.needs_entropy_gradient:
            ctx.mark_non_differentiable(outputs[1])
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = ctx.saved_tensors
        narrow: torch.dtype = ctx.narrow
        needs_hidden, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        softmax: _Softmax = ctx.softmax
        rows, matrix = hidden.to(narrow), weight.to(narrow)
        offset = None if bias is None else bias.to(narrow)
        d_hidden = torch.zeros_like(hidden) if needs_hidden else None
        d_weight = _WeightGradient(matrix, softmax.wide, many=len(ctx.chunks) > 1)
        d_bias: Tensor | None = None
        if bias is not None and needs_bias:
            d_bias = torch.zeros_like(bias, dtype=softmax.wide)
        # A backward pass overwrites kept logits with their gradient, so a second one recomputes them.
        kept, ctx.kept = ctx.kept, None
        room = _room(ctx.chunks, matrix) if kept is None else kept
        for chunk in ctx.chunks:
            logits = kept
            if logits is None:
                logits = _linear(rows[chunk], matrix, offset, room)
            softmax.backward_(logits, chunk, *gradients)
            if d_hidden is not None:
                d_hidden[chunk] = logits @ matrix
            if needs_weight:
                d_weight.add(logits, rows[chunk])
            if d_bias is not None:
                d_bias.add_(logits.sum(0, dtype=softmax.wide))
        return (
            d_hidden,
            d_weight.total(weight.dtype) if needs_weight else None,
            None if d_bias is None else d_bias.to(ctx.bias_dtype),
            None,
            None,
        )


class _WeightGradient:
    """Sum over chunks of gradient' rows, in float32 or wider where there are several."""

    def __init__(self, matrix: Tensor, wide: torch.dtype, *, many: bool) -> None:
        self._matrix = matrix
        self._sum: Tensor | None = None
        self._part: Tensor | None = None
        self._wide = wide if many else matrix.dtype

    def add(self, gradient: Tensor, rows: Tensor) -> None:
        """Adds the gradient [rows, vocab]' rows [rows, width]."""
        if self._sum is None:
            product = torch.mm(gradient.t(), rows)
            self._sum = product.to(self._wide)
            self._part = None if self._sum is product else product
            return
        part = self._part = torch.mm(gradient.t(), rows, out=self._part)
        # A few rows at a time: if dtypes differ, adding on a CPU first makes a whole copy in the wider one.
        step = max(1, (_PASS_GPU if part.is_cuda else _PASS_CPU) // part.shape[1])
        for start in range(0, len(part), step):
            self._sum[start : start + step].add_(part[start : start + step])

    def total(self, dtype: torch.dtype) -> Tensor:
        """The sum; zeros where nothing was added."""
        if self._sum is None:
            return torch.zeros_like(self._matrix, dtype=dtype)
        return self._sum.to(dtype)


class _LogitsLogprobs(torch.autograd.Function):
    """logits [sources, vocab] -> log-probs and entropies [targets]."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, request: HeadRequest) -> tuple[Tensor, Tensor]:
        softmax = _Softmax(request, logits)
        outputs = softmax.outputs()
        softmax.forward(logits, slice(0, len(logits)), *outputs)
        ctx.softmax = softmax
        ctx.save_for_backward(logits)
        if not request.needs_entropy_gradient:
            ctx.mark_non_differentiable(outputs[1])
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (logits,) = ctx.saved_tensors
        gradient = logits.clone()  # the model's own operations may have saved the logits
        ctx.softmax.backward_(gradient, slice(0, len(logits)), *gradients)
        return gradient, None


class _Softmax:
    """The softmax part, over chunks of logits; keeps the normaliser and the entropy of each source."""

    def __init__(self, request: HeadRequest, like: Tensor) -> None:
        """Args: like: a tensor of the logits' dtype and device, one row per source."""
        targets = request.targets
        self.wide = torch.float64 if like.dtype == torch.float64 else torch.float32
        self._temperature = request.temperature
        self._source, self._token_ids = targets.source, targets.token_ids
        self._first = targets.first_target
        self._has_entropy_gradient = request.needs_entropy_gradient
        self._normaliser = torch.empty(len(like), dtype=self.wide, device=like.device)
        self._entropy = torch.empty_like(self._normaliser)
        self._pass = _PASS_GPU if like.is_cuda else _PASS_CPU

    def outputs(self) -> tuple[Tensor, Tensor]:
        """An empty tensor for the log-prob and the entropy of each target."""
        logprobs = self._normaliser.new_empty(len(self._token_ids))
        return logprobs, torch.empty_like(logprobs)

    def rows_within(self, num_bytes: int, vocab: int) -> int:
        """How many rows of logits fit."""
        return max(1, num_bytes // (vocab * self.wide.itemsize))

    def forward(self, logits: Tensor, chunk: slice, logprobs: Tensor, entropies: Tensor) -> None:
        """Writes the values of the targets of the sources in `chunk`."""
        for start, part in self._passes(logits, chunk):
            stop = start + len(part)
            z = self._scaled(part)
            top = z.amax(1, keepdim=True)
            z.sub_(top)
            rows, targets = self._targets(start, stop)
            p = torch.exp(z)
            total = p.sum(1)
            log_total = total.log()
            entropy = (log_total - torch.linalg.vecdot(p, z) / total).clamp_(min=0.0)
            self._normaliser[start:stop] = log_total + top[:, 0]
            self._entropy[start:stop] = entropy
            logprobs[targets] = z[rows, self._token_ids[targets]] - log_total[rows]
            entropies[targets] = entropy[rows]

    def backward_(self, logits: Tensor, chunk: slice, d_logprobs: Tensor, d_entropy: Tensor | None) -> None:
        """Turns the logits of the sources in `chunk` into the loss's gradient of them, in place."""
        count = len(self._normaliser)
        of_source = d_logprobs.new_zeros(count).index_add_(0, self._source, d_logprobs)
        entropy_of_source: Tensor | None = None
        if self._has_entropy_gradient and d_entropy is not None:
            entropy_of_source = d_entropy.new_zeros(count).index_add_(0, self._source, d_entropy)
        for start, part in self._passes(logits, chunk):
            stop = start + len(part)
            z = self._scaled(part)
            z.sub_(self._normaliser[start:stop, None])  # log p
            if entropy_of_source is None:
                d = z.exp_().mul_(-of_source[start:stop, None])
            else:
                p = torch.exp(z)
                z.add_(self._entropy[start:stop, None])
                z.mul_(entropy_of_source[start:stop, None]).add_(of_source[start:stop, None])
                d = z.mul_(p).neg_()
            rows, targets = self._targets(start, stop)
            d.view(-1).index_add_(0, rows * d.shape[1] + self._token_ids[targets], d_logprobs[targets])
            part.copy_(d if self._temperature == 1.0 else d.div_(self._temperature))

    def _passes(self, logits: Tensor, chunk: slice) -> Iterator[tuple[int, Tensor]]:
        """(first source, its logits and those of the next few) of a chunk."""
        step = max(1, self._pass // logits.shape[1])
        for start in range(0, len(logits), step):
            yield chunk.start + start, logits[start : start + step]

    def _scaled(self, logits: Tensor) -> Tensor:
        """A copy divided by the temperature, in the softmax's precision."""
        z = logits.to(self.wide, copy=True)
        return z if self._temperature == 1.0 else z.div_(self._temperature)

    def _targets(self, start: int, stop: int) -> tuple[Tensor, slice]:
        """(row within the sources [start, stop), place among all targets) of their targets."""
        targets = slice(self._first[start], self._first[stop])
        return self._source[targets] - start, targets


def _chunks(count: int, size: int) -> list[slice]:
    """[0, count) in as few parts of equal size as `size` allows."""
    if not count:
        return []
    parts = -(-count // size)
    step = -(-count // parts)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _room(chunks: list[slice], matrix: Tensor) -> Tensor:
    """Uninitialised logits of the largest chunk."""
    count = max((chunk.stop - chunk.start for chunk in chunks), default=0)
    return matrix.new_empty(count, len(matrix))


def _linear(rows: Tensor, matrix: Tensor, offset: Tensor | None, room: Tensor) -> Tensor:
    """rows @ matrix' + offset, written to the first rows of `room`."""
    logits = room[: len(rows)]
    if offset is None:
        return torch.mm(rows, matrix.t(), out=logits)
    return torch.addmm(offset, rows, matrix.t(), out=logits)
