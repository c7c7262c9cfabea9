"""Pieces of recipes that several tests refuse."""

# 12 levels of nine: a few hundred bytes that unfold to more than any memory holds
ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
