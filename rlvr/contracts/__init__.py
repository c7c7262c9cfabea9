"""Executable contracts: what the author of a plugin runs in a test of their own.

def test_my_verifier():
    assert check_verifier(my_verifier, passing=[("4", "it is 4")], failing=[("4", "it is 5")]) == []

def test_my_sandbox():
    assert check_sandbox(MySandbox, settings={"slots": 2}) == []
"""

from rlvr.contracts.sandboxes import check_sandbox
from rlvr.contracts.verifiers import check_verifier

__all__ = ["check_sandbox", "check_verifier"]
