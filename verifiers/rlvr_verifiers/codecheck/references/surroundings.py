"""What online judges provide for the programs in their data sets: imported names, and a class or a function.

LeetCode, LiveCodeBench, APPS, TACO and their successors run a program after a page of imports, and accept `Solution` or
a plain function, whichever it defines. Only names that a program uses and does not define are imported here, which
costs nothing and shadows none of its own names.
"""

import ast
import builtins
import importlib
from functools import cache

from rlvr_verifiers.codecheck.references.names import free_names

RECURSION_LIMIT = 50_000
# later modules win, as with star imports
_STARRED = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "random", "statistics", "operator",
    "math", "itertools", "functools", "fractions", "decimal", "io", "typing",
)  # fmt: skip
_MODULES = (
    *_STARRED, "sys", "os", "json", "time", "array", "queue", "threading", "dataclasses", "enum", "abc", "cmath",
    "traceback", "textwrap", "numbers", "contextlib", "hashlib", "secrets", "calendar",
)  # fmt: skip
_MORE = {
    "np": "import numpy as np",
    "numpy": "import numpy",
    "dataclass": "from dataclasses import dataclass",
    "field": "from dataclasses import field",
    "Enum": "from enum import Enum",
    "PriorityQueue": "from queue import PriorityQueue",
    "Queue": "from queue import Queue",
}
# names of a module and of something in it: the use decides which one is meant
_BOTH = {"datetime", "bisect", "copy", "random", "time", "array"}
_MAX_CHARS = 200_000
_NODES = """class ListNode:
    def __init__(self, val=0, next=None):
        self.val, self.next = val, next
class TreeNode:
    def __init__(self, val=0, left=None, right=None):
        self.val, self.left, self.right = val, left, right
"""


def with_usual_imports(code: str) -> str:
    """The program preceded by the imports that it relies on; unchanged if it cannot be parsed.

    >>> print(with_usual_imports("def f(x: List[int]):\\n    return gcd(*x)").splitlines()[0])
    __import__('sys').setrecursionlimit(50000); from math import gcd; from typing import List
    """
    if len(code) > _MAX_CHARS:
        return code
    try:
        tree = ast.parse(code)
        free = free_names(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return code
    lines = [f"__import__('sys').setrecursionlimit({RECURSION_LIMIT})"]
    lines += sorted({_import_of(name, tree) for name in free if not hasattr(builtins, name)} - {""})
    nodes = _NODES if free & {"ListNode", "TreeNode"} else ""
    return _insert(code, tree, "; ".join(lines) + "\n" + nodes)


def with_either_form(code: str, name: str) -> str:
    """The program with `Solution` and the function `name` both defined, where it defines one of them.

    >>> "Solution().f" in with_either_form("class Solution:\\n    def f(self): return 1\\n", "f")
    True
    """
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return code
    classes = [n for n in body if isinstance(n, ast.ClassDef) and n.name == "Solution"]
    bound = {getattr(node, "name", "") for node in body} | {
        target.id
        for node in body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    if classes and name not in bound:
        return f"{code}\ndef {name}(*args, **named):\n    return Solution().{name}(*args, **named)\n"
    if not classes and name in bound:
        return f"{code}\nclass Solution:\n    {name} = staticmethod({name})\n"
    return code


def _insert(code: str, tree: ast.Module, text: str) -> str:
    """Inserts the text before the program, but after what must come first in a file."""
    futures = [
        node.end_lineno or node.lineno
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "__future__"
    ]
    if not futures:
        return text + code
    lines = code.split("\n")
    return "\n".join([*lines[: max(futures)], text + "\n".join(lines[max(futures) :])])


def _import_of(name: str, tree: ast.Module) -> str:
    if name in _MORE:
        return _MORE[name]
    if name in _BOTH and not _is_opened_as_module(name, tree):
        return f"from {name} import {name}"
    if name in _MODULES:
        return f"import {name}"
    module = _homes().get(name)
    return f"from {module} import {name}" if module else ""


def _is_opened_as_module(name: str, tree: ast.Module) -> bool:
    """Whether an attribute of the name is used that only the module has."""
    module = importlib.import_module(name)
    inner = getattr(module, name, None)
    used = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name
    ]
    return any(not hasattr(inner, attribute) for attribute in used)


@cache
def _homes() -> dict[str, str]:
    """Which module each name of the starred imports is from."""
    found: dict[str, str] = {}
    for module in _STARRED:
        loaded = importlib.import_module(module)
        public = getattr(loaded, "__all__", [n for n in vars(loaded) if not n.startswith("_")])
        found.update((name, module) for name in public)
    return found
