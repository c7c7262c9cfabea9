"""The price of a completion that comes close to the length limit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.algorithms.lengths import overlong_penalty


@pytest.mark.parametrize(
    ("num_tokens", "expected"), [(0, 0.0), (15, 0.0), (16, 0.0), (17, 0.125), (18, 0.25), (20, 0.5), (25, 0.5)]
)
def test_worked_example(num_tokens: int, expected: float):
    got = overlong_penalty(num_tokens, max_completion_tokens=20, buffer_tokens=4, penalty=0.5)
    assert got == pytest.approx(expected)


def test_a_buffer_of_zero_switches_it_off():
    assert overlong_penalty(99, max_completion_tokens=20, buffer_tokens=0, penalty=1.0) == 0.0


@given(st.integers(0, 200), st.integers(1, 99), st.floats(0, 3))
def test_it_never_falls_with_length_and_stays_within_its_bound(num_tokens: int, buffer_tokens: int, penalty: float):
    def price(n: int) -> float:
        return overlong_penalty(n, max_completion_tokens=100, buffer_tokens=buffer_tokens, penalty=penalty)

    assert 0.0 <= price(num_tokens) <= price(num_tokens + 1) <= penalty
