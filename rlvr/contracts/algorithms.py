"""The contracts of a token loss and of an advantage from another package."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rlvr.algorithms.advantages import GroupRewards
from rlvr.algorithms.token_losses import TokenInputs, TokenLoss, worked_example

_TOLERANCE = 1e-6
_PAST_ANY_RATIO = 60.0  # nats; exp of it is beyond float32's range of useful numbers
_REWARDS: tuple[tuple[float | None, ...], ...] = (
    (1.0, 0.0, 0.0, 1.0),
    (0.25, None, 0.75, 0.5),
    (0.0, 1.0, 0.0, 0.0),
    (0.5, 0.5, 0.5, 0.5),
    (None, None, None, 1.0),
)


def check_loss(
    loss: Callable[..., TokenLoss], *, expected: Sequence[Sequence[float]], settings: Mapping[str, Any] | None = None
) -> list[str]:
    """The ways in which a token loss breaks its contract, one sentence each; empty when there are none.

    Checked: the worked example; shapes and kinds of the result; a gradient that is exactly 0 outside the mask; no
    change of a token by padding, by the order of rows, or by values outside the mask; finite values and gradients for
    ratios past any bound; equal results of two calls; and, where the function has `is_scaled_by_advantage`, that
    advantages of 0 give loss and gradient 0.

    Args:
        loss: `TokenInputs` in, `TokenLoss` out; settings are keyword-only parameters.
        expected: the loss of each token of `rlvr.algorithms.token_losses.worked_example`, 2 x 3, within 1e-4.
        settings: as in a recipe.
    """
    bound = partial(loss, **(settings or {}))
    example = worked_example()
    try:
        first = bound(example)
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything; reported to its author
        return [f"the worked example: raised {type(error).__name__}: {error}"]
    problems = _form_problems(first, example)
    if problems:
        return problems
    wanted = torch.tensor(expected, dtype=torch.float64)
    if wanted.shape != first.loss.shape or not torch.allclose(first.loss.double(), wanted, atol=1e-4):
        given = [[float(value) for value in row] for row in first.loss]
        problems.append(f"the worked example gives {given} and not {list(expected)}")
    if not torch.equal(first.loss, bound(example).loss):
        problems.append("two calls with the same inputs give different losses")
    problems += _mask_problems(bound)
    problems += _layout_problems(bound)
    problems += _range_problems(bound)
    if getattr(loss, "is_scaled_by_advantage", False):
        value, gradient = _with_gradient(bound, replace(example, advantages=torch.zeros_like(example.advantages)))
        if value.abs().max() > 0 or gradient.abs().max() > 0:
            problems.append("is_scaled_by_advantage is True, but an advantage of 0 has a loss or a gradient")
    return problems


def _form_problems(out: object, inputs: TokenInputs) -> list[str]:
    if not isinstance(out, TokenLoss):
        return [f"it returns {type(out).__name__} and not a TokenLoss"]
    problems: list[str] = []
    for name in ("loss", "cut_low", "cut_high"):
        tensor: Tensor = getattr(out, name)
        if tensor.shape != inputs.logprobs.shape:
            wanted = tuple(inputs.logprobs.shape)
            problems.append(f"{name} has shape {tuple(tensor.shape)} and not {wanted}")
    if not out.loss.is_floating_point():
        problems.append(f"loss is {out.loss.dtype} and not floating point")
    problems += [
        f"{name} is {getattr(out, name).dtype} and not bool"
        for name in ("cut_low", "cut_high")
        if getattr(out, name).dtype is not torch.bool
    ]
    return problems


def _padded(inputs: TokenInputs, fill: float) -> TokenInputs:
    """The inputs with one more column, outside the mask."""

    def wider(tensor: Tensor, value: float) -> Tensor:
        return torch.cat([tensor, torch.full_like(tensor[:, :1], value)], dim=1)

    return TokenInputs(
        logprobs=wider(inputs.logprobs, fill),
        base_logprobs=wider(inputs.base_logprobs, fill / 2),
        behavior_logprobs=wider(inputs.behavior_logprobs, fill / 3),
        advantages=wider(inputs.advantages, -fill),
        loss_mask=wider(inputs.loss_mask, 0.0),
    )


def _with_gradient(loss: Callable[[TokenInputs], TokenLoss], inputs: TokenInputs) -> tuple[Tensor, Tensor]:
    """The loss of tokens inside the mask, and the gradient of their sum at the log-probs."""
    logprobs = inputs.logprobs.clone().requires_grad_(True)
    out = torch.where(inputs.loss_mask, loss(replace(inputs, logprobs=logprobs)).loss, 0.0)
    if not out.requires_grad:
        return out, torch.zeros_like(logprobs)
    return out.detach(), torch.autograd.grad(out.sum(), logprobs)[0]


def _mask_problems(loss: Callable[[TokenInputs], TokenLoss]) -> list[str]:
    problems: list[str] = []
    padded = _padded(worked_example(), -1.5)
    _, gradient = _with_gradient(loss, padded)
    if gradient[:, -1].abs().max() > 0:
        problems.append("tokens outside the mask have a gradient")
    return problems


def _layout_problems(loss: Callable[[TokenInputs], TokenLoss]) -> list[str]:
    problems: list[str] = []
    plain, plain_gradient = _with_gradient(loss, worked_example())
    for fill in (-1.5, -7.0):
        value, gradient = _with_gradient(loss, _padded(worked_example(), fill))
        if not _same(value[:, :-1], plain) or not _same(gradient[:, :-1], plain_gradient):
            problems.append("values outside the mask change the loss or the gradient of other tokens")
            break
    example = worked_example()
    turned = TokenInputs(**{name: getattr(example, name).flip(0) for name in TokenInputs.__dataclass_fields__})
    value, gradient = _with_gradient(loss, turned)
    if not _same(value.flip(0), plain) or not _same(gradient.flip(0), plain_gradient):
        problems.append("the order of rows changes their losses")
    return problems


def _range_problems(loss: Callable[[TokenInputs], TokenLoss]) -> list[str]:
    example = worked_example()
    problems: list[str] = []
    for shift in (-_PAST_ANY_RATIO, _PAST_ANY_RATIO):
        base = (example.base_logprobs + shift).float()
        far = TokenInputs(
            logprobs=example.logprobs.float(),
            base_logprobs=base,
            behavior_logprobs=base,
            advantages=example.advantages.float(),
            loss_mask=example.loss_mask,
        )
        value, gradient = _with_gradient(loss, far)
        if not (torch.isfinite(value).all() and torch.isfinite(gradient).all()):
            problems.append(f"a log-ratio of {-shift:g} gives a loss or a gradient that is not finite; clamp it")
    return problems


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a, b, rtol=0.0, atol=_TOLERANCE))


def check_advantage(
    advantage: Callable[..., list[list[float | None]]],
    *,
    expected: Sequence[tuple[Sequence[float | None], Sequence[float | None]]],
    settings: Mapping[str, Any] | None = None,
    is_per_group: bool = False,
) -> list[str]:
    """The ways in which an advantage breaks its contract, one sentence each; empty when there are none.

    Checked: the examples; one value for each rollout; None where a rollout is unjudged; finite values; exactly 0 for a
    step of equal rewards; no change of a rollout's advantage by the order of rollouts or of groups; and, where it
    claims so, none by other groups.

    Args:
        advantage: groups of a step in, one list for each group out; settings are keyword-only parameters.
        expected: (rewards of one group, its advantages), each a step of its own, within 1e-4; at least one.
        settings: as in a recipe.
        is_per_group: a group's advantages depend on that group alone (`whole_batch: false` in a recipe).
    """
    bound = partial(advantage, **(settings or {}))
    if not expected:
        return ["no example was given; state the advantages of a group that you worked out by hand"]
    groups = [_group(rewards) for rewards in _REWARDS]
    try:
        rows = bound(groups)
        problems = _row_problems(rows, groups)
        if problems:
            return problems
        problems += _example_problems(bound, expected)
        if [list(row) for row in bound(groups)] != [list(row) for row in rows]:
            problems.append("two calls with the same groups give different advantages")
        backwards = bound([_group(rewards[::-1]) for rewards in _REWARDS[::-1]])
        if not _close([row[::-1] for row in backwards[::-1]], rows):
            problems.append("the order of rollouts or of groups changes their advantages")
        equal = bound([_group((0.3,) * 4), _group((0.3, None, 0.3, 0.3))])
        if any(value for row in equal for value in row):
            problems.append(f"a step of equal rewards must give exactly 0, and gives {equal}")
        if is_per_group and not _close([bound([group])[0] for group in groups], rows):
            problems.append("is_per_group is True, but other groups change a group's advantages")
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything; reported to its author
        return [f"raised {type(error).__name__}: {error}"]
    return problems


def _group(rewards: Sequence[float | None]) -> GroupRewards:
    return GroupRewards(
        rewards_G=list(rewards),
        parts_G=[{} if reward is None else {"main": reward} for reward in rewards],
        weights={"main": 1.0},
        num_tokens_G=[4] * len(rewards),
    )


def _row_problems(rows: Sequence[Sequence[float | None]], groups: Sequence[GroupRewards]) -> list[str]:
    if len(rows) != len(groups):
        return [f"it must return one list for each of {len(groups)} groups"]
    problems: list[str] = []
    for row, group in zip(rows, groups, strict=True):
        rewards = list(group.rewards_G)
        if len(row) != len(rewards):
            problems.append(f"rewards {rewards}: {len(row)} advantages for {len(rewards)} rollouts")
            continue
        for reward, value in zip(rewards, row, strict=True):
            if reward is None and value is not None:
                problems.append(f"rewards {rewards}: an unjudged rollout has an advantage; it must be None")
            if value is not None and not math.isfinite(value):
                problems.append(f"rewards {rewards}: an advantage is {value}")
    return problems


def _example_problems(
    bound: Callable[[Sequence[GroupRewards]], list[list[float | None]]],
    expected: Sequence[tuple[Sequence[float | None], Sequence[float | None]]],
) -> list[str]:
    problems: list[str] = []
    for rewards, wanted in expected:
        got = bound([_group(rewards)])[0]
        if not _close([got], [list(wanted)], tolerance=1e-4):
            problems.append(f"rewards {list(rewards)} give {got} and not {list(wanted)}")
    return problems


def _close(
    rows: Sequence[Sequence[float | None]], others: Sequence[Sequence[float | None]], *, tolerance: float = _TOLERANCE
) -> bool:
    flat = [value for row in rows for value in row], [value for row in others for value in row]
    return len(flat[0]) == len(flat[1]) and all(
        (a is None) == (b is None) and (a is None or b is None or abs(a - b) <= tolerance)
        for a, b in zip(*flat, strict=True)
    )
