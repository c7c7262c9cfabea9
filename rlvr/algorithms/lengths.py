"""The penalty on length."""


def overlong_penalty(num_tokens: int, *, max_completion_tokens: int, buffer_tokens: int, penalty: float) -> float:
    """The penalty to subtract from the reward of a completion close to the length limit.

    0 up to max_completion_tokens - buffer_tokens, then linear up to `penalty` at the limit, and `penalty` beyond
    (DAPO, arXiv:2503.14476, eq. 13, with penalty 1). It is minus TRL's soft overlong punishment at penalty 1, and
    minus the term of verl's DAPO reward manager with `penalty_factor` = penalty (verl's keeps rising beyond the limit,
    which no completion reaches).

    Args:
        num_tokens: sampled tokens of the completion.
        buffer_tokens: number of tokens before the limit that cost reward; 0 = no penalty at any length.
        penalty: in units of the reward, >= 0.

    >>> [overlong_penalty(n, max_completion_tokens=100, buffer_tokens=20, penalty=1.0) for n in (80, 85, 100, 120)]
    [0.0, 0.25, 1.0, 1.0]
    """
    if buffer_tokens == 0:
        return 0.0
    beyond = num_tokens - (max_completion_tokens - buffer_tokens)
    return penalty * min(1.0, max(0.0, beyond / buffer_tokens))
