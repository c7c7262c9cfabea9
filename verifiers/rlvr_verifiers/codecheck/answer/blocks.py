"""Finds the solution among several fenced blocks; it is often followed by a usage example or the model's own tests.

For function tests it is the last block that defines the entry point, for stdio the last one that reads standard input.
Earlier blocks are prepended if they define names that it needs.
"""

import ast
import builtins
import re
from collections.abc import Sequence

from rlvr_verifiers.codecheck.references.names import bound_names, free_names

_MAX_CHARS = 100_000
_MAX_JOINED = 8
_MAX_BLOCKS = 100  # only the last ones are considered
_READS = re.compile(
    r"\binput\s*\(|\bstdin\b|\bopen\s*\(\s*(?:0\b|['\"]/dev/stdin)|\bfileinput\b|\bos\.read\s*\(\s*0\b"
    r"|\b(?:cin|scanf|getchar|fgets|gets|getline|fread|read)\b"
)
_MAIN = re.compile(r"\bmain\s*\(")


def solution_of(codes: Sequence[str], language: str, names: Sequence[str]) -> str:
    r"""The program that the blocks of one language form together.

    Args:
        names: the names that the tests may call; none for programs that read standard input.

    >>> solution_of(["def f(x):\n    return x\n", "print(f(1))\n"], "python", ["f"])
    'def f(x):\n    return x\n'
    >>> solution_of(["def g(x):\n    return x\n", "def f(x):\n    return g(x)\n"], "python", ["f"])
    'def g(x):\n    return x\n\ndef f(x):\n    return g(x)\n'
    """
    if len(codes) == 1:
        return codes[0]
    codes = codes[-_MAX_BLOCKS:]
    chosen = _index_of(codes, language, names)
    if language != "python":
        return codes[chosen]
    return _with_needed(codes, chosen)


def _index_of(codes: Sequence[str], language: str, names: Sequence[str]) -> int:
    last = len(codes) - 1
    if names:
        found = [i for i, code in enumerate(codes) if any(_defines(code, n) for n in names)]
    elif language == "cpp":
        found = [i for i, code in enumerate(codes) if _MAIN.search(code)]
    else:
        found = [i for i, code in enumerate(codes) if _READS.search(code)]
    return found[-1] if found else last


def _defines(code: str, name: str) -> bool:
    """Whether a block contains the definition; tests only import it."""
    escaped = re.escape(name)
    return bool(
        re.search(
            rf"^(?:(?:async[ \t]+)?def[ \t]+|class[ \t]+){escaped}\b|^{escaped}[ \t]*(?::[^=\n]+)?=(?!=)",
            code,
            re.MULTILINE,
        )
    )


def _with_needed(codes: Sequence[str], chosen: int) -> str:
    """The chosen block, preceded by the earlier ones that define names it needs."""
    try:
        parts = [codes[chosen]]
        needed = _needs(codes[chosen])
        for code in reversed(codes[max(0, chosen - _MAX_JOINED) : chosen]):
            bound = _binds(code)
            if needed & bound:
                parts.insert(0, code)
                needed = (needed - bound) | _needs(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return codes[chosen]
    return "\n".join(parts)


def _needs(code: str) -> set[str]:
    if len(code) > _MAX_CHARS:
        return set()
    return {name for name in free_names(code) if not hasattr(builtins, name)}


def _binds(code: str) -> set[str]:
    """The names that an earlier block binds; none for text that is not a program."""
    if len(code) > _MAX_CHARS:
        return set()
    try:
        ast.parse(code)
        return bound_names(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
