"""The learning rate by optimiser step."""


def learning_rate(step: int, *, lr: float, warmup_steps: int, decay: tuple[int, int, float] | None) -> float:
    """The rate of optimiser step `step` (the first is 1): linear warm-up, then constant, or with a linear fall.

    Args:
        decay: (first step, last step, final share of lr); None: no fall.

    >>> [learning_rate(n, lr=1.0, warmup_steps=4, decay=None) for n in (1, 2, 4, 9)]
    [0.25, 0.5, 1.0, 1.0]
    >>> [learning_rate(n, lr=1.0, warmup_steps=0, decay=(4, 8, 0.5)) for n in (4, 6, 8, 9)]
    [1.0, 0.75, 0.5, 0.5]
    """
    rate = lr * min(1.0, step / warmup_steps if warmup_steps else 1.0)
    if decay is not None:
        first, last, final = decay
        progress = min(1.0, max(0.0, (step - first) / max(1, last - first)))
        rate *= 1.0 - (1.0 - final) * progress
    return rate
