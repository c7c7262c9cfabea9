"""A second opinion by math-verify on a sample of answers, for a metric; it changes no verdict.

It runs in a child of the worker that is killed at a time limit, because math-verify's own timeouts are signals, which
cannot interrupt arithmetic in C.
"""

import contextlib
import importlib
import logging
import os
import select
import signal
import time
from collections.abc import Sequence
from typing import Any

from rlvr.processes.lifeline import end_with_parent

_MAX_CHARS = 400


def warm_up() -> None:
    """Imports math-verify and builds its parser, which every child inherits, so that no item pays for it."""
    # it warns at each call without a timeout
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    importlib.import_module("math_verify")
    _accepts([r"\frac{x}{2}"], r"0.5x+\sqrt{3}")


def verify(golds: Sequence[str], answer: str, *, limit_s: float) -> bool | None:
    """Whether math-verify accepts the answer for any of the golds; None if it does not finish within `limit_s`.

    Call it in a process with a single thread, because it forks.
    """
    if len(answer) > _MAX_CHARS:
        return None
    reader, writer = os.pipe()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        end_with_parent(parent)
        os.close(reader)
        code = 1
        with contextlib.suppress(BaseException):
            os.write(writer, b"1" if _accepts(golds, answer) else b"0")
            code = 0
        os._exit(code)
    os.close(writer)
    try:
        return _answer_of(reader, time.monotonic() + limit_s)
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _answer_of(reader: int, deadline: float) -> bool | None:
    ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
    data = os.read(reader, 1) if ready else b""
    return None if not data else data == b"1"


def _accepts(golds: Sequence[str], answer: str) -> bool:
    import math_verify  # pyright: ignore[reportMissingTypeStubs]  # it has none

    config = [math_verify.LatexExtractionConfig(), math_verify.ExprExtractionConfig()]
    said: list[Any] = math_verify.parse(f"\\boxed{{{answer}}}", config, parsing_timeout=None)  # type: ignore[arg-type] # None is documented
    for gold in golds:
        expected: list[Any] = math_verify.parse(f"\\boxed{{{gold}}}", config, parsing_timeout=None)  # type: ignore[arg-type] # None is documented
        if math_verify.verify(expected, said, timeout_seconds=None):
            return True
    return False
