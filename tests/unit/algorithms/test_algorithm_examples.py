"""The examples in the docstrings of the algorithms run, and say what they say."""

import doctest
import importlib

import pytest

MODULES = ["advantages", "batch_advantages", "corrections", "kl", "lengths", "token_losses"]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str):
    module = importlib.import_module(f"rlvr.algorithms.{name}")
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
