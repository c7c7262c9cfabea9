"""Executable contracts, which plugin authors run in their own tests.

def test_my_verifier():
    assert check_verifier(my_verifier, passing=[("4", "it is 4")], failing=[("4", "it is 5")]) == []

def test_my_sandbox():
    assert check_sandbox(MySandbox, settings={"slots": 2}) == []

def test_my_loss():
    assert check_loss(my_loss, expected=[[-1.0, -1.8, -0.4], [1.0, 0.4, 1.8]]) == []

def test_my_advantage():
    assert check_advantage(my_advantage, expected=[([1.0, 0.0], [0.5, -0.5])]) == []

def test_my_engine():
    assert check_engine(MyEngine, settings={"max_batch": 8}) == []
"""

from typing import TYPE_CHECKING, Any

from rlvr.contracts.sandboxes import check_sandbox
from rlvr.contracts.verifiers import check_verifier

if TYPE_CHECKING:
    from rlvr.contracts.algorithms import check_advantage, check_loss
    from rlvr.contracts.engines import check_engine

__all__ = ["check_advantage", "check_engine", "check_loss", "check_sandbox", "check_verifier"]


def __getattr__(name: str) -> Any:
    """Loads the contracts that need torch on demand; the others do not need it."""
    if name in ("check_advantage", "check_loss"):
        from rlvr.contracts import algorithms

        return getattr(algorithms, name)
    if name == "check_engine":
        from rlvr.contracts import engines

        return engines.check_engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
