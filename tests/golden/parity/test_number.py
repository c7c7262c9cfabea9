"""The scalar that reference losses are written with: its derivatives against central differences."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parity.number import Number, Scalar, clamp, exp, gradient, greater, lesser, sigmoid, still, total

STEP = 1e-6
VALUES = st.floats(-2.0, 2.0)


def everything(a: Scalar, b: Scalar) -> Scalar:
    """Every operation once, with a and b used several times."""
    smooth = exp(a - 0.5 * b) * sigmoid(a * b) - (3.0 - a) * b / 4.0 + -a
    cornered = lesser(a * 2.0, b + 0.3) + greater(a, b - 0.1) * clamp(a * b, -0.7, 0.9)
    return total([smooth, cornered, a * a, 1.0])


@given(VALUES, VALUES)
def test_gradients_are_those_of_central_differences(a: float, b: float) -> None:
    corners = (a * 2.0 - b - 0.3, a - b + 0.1, a * b + 0.7, a * b - 0.9)
    if min(abs(corner) for corner in corners) < 1e-4:
        return
    x, y = Number(a), Number(b)
    slopes = gradient(everything(x, y), [x, y])
    by_a = still(everything(a + STEP, b)) - still(everything(a - STEP, b))
    by_b = still(everything(a, b + STEP)) - still(everything(a, b - STEP))
    assert slopes == pytest.approx([by_a / (2 * STEP), by_b / (2 * STEP)], abs=1e-6)


def test_a_still_value_carries_no_gradient() -> None:
    x = Number(0.5)
    assert gradient(still(exp(x)) * x, [x]) == [math.exp(0.5)]


def test_a_held_value_carries_no_gradient() -> None:
    x = Number(2.0)
    assert gradient(clamp(x, 0.0, 1.0), [x]) == [0.0]
    assert gradient(clamp(x, 0.0, 2.0), [x]) == [1.0]


def test_a_number_used_on_many_paths_adds_its_slopes_up() -> None:
    x = Number(3.0)
    y: Scalar = x
    for _ in range(30):  # 2^30 paths; each number is visited once
        y = y + y
    assert gradient(y, [x]) == [2.0**30]
