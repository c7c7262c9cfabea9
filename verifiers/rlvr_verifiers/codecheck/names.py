"""What the tests of a function use: names of the program, modules, and what no box can serve."""

import ast
import builtins
import symtable
import sys
from collections.abc import Iterable, Sequence

_ALIASES = {"np": "numpy", "pd": "pandas", "plt": "matplotlib.pyplot", "sp": "scipy"}
_SOURCE_READERS = {"getsource", "getsourcelines", "getsourcefile"}


def guess_entry_point(trees: Sequence[ast.Module]) -> str:
    """The function that all asserts call, the outermost first; a built-in name only when there is no other."""
    free = set().union(*(free_names(ast.unparse(tree)) for tree in trees))
    passed = [
        name for name in free if not hasattr(builtins, name) and name not in sys.stdlib_module_names
    ]
    called = [
        [
            n.func.id
            for n in ast.walk(tree)
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        ]
        for tree in trees
    ]
    common = (
        [name for name in called[0] if all(name in names for names in called)] if called else []
    )
    own = [name for name in common if not hasattr(builtins, name)]
    if not own and len(passed) == 1:
        return passed[0]
    if not common:
        raise ValueError("there is no entry_point, and the tests do not all call one function")
    return (own or common)[0]


def check_support(trees: Sequence[ast.Module], modules: Sequence[str]) -> None:
    """Raises ValueError for tests that could never pass in a box of their own."""
    known = {*sys.stdlib_module_names, "solution", *modules}
    free = set().union(*(free_names(ast.unparse(tree)) for tree in trees))
    for node in (node for tree in trees for node in ast.walk(tree)):
        for module in _imported(node):
            if module.partition(".")[0] not in known:
                raise ValueError(
                    f"the tests import {module!r}, which is neither of the standard library nor among the setting "
                    f"modules={list(modules)}"
                )
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                if (
                    isinstance(base, ast.Name)
                    and base.id in free
                    and not hasattr(builtins, base.id)
                ):
                    raise ValueError(
                        f"the tests derive {node.name} from {base.id}, a class of the program; its objects live in "
                        "another box and cannot be a base here"
                    )
        if isinstance(node, ast.Attribute) and node.attr in _SOURCE_READERS:
            raise ValueError(
                f"the tests read the program's source ({node.attr}), which they cannot see"
            )


def _imported(node: ast.AST) -> Iterable[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level and node.module != "__future__":
        return [node.module or ""]
    return []


def asked_names(
    free: set[str], trees: Sequence[ast.Module], entry_point: str, *, must_be_used: bool
) -> tuple[str, ...]:
    """The names to ask the program for. Raises ValueError when the tests never use the entry point."""
    asked = {name for name in free if not hasattr(builtins, name)}
    used = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom) and node.module == "solution":
            asked |= {alias.name for alias in node.names if alias.name != "*"}
        if isinstance(node, ast.Attribute) and _is_name(node.value, "solution"):
            asked.add(node.attr)
    opened = _uses(trees)
    for name in sorted(asked - {entry_point}):
        if name in free and name not in opened:
            raise ValueError(
                f"the tests use {name!r}, which neither they nor their setup define; put it into the setup "
                "(MBPP has it in test_setup_code)"
            )
    if must_be_used and entry_point not in used | asked:
        raise ValueError(f"no test uses the entry point {entry_point!r}")
    return tuple(sorted(asked | {entry_point}))


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _uses(trees: Sequence[ast.Module]) -> set[str]:
    """The names that are called, opened by an attribute, caught or derived from: a program may bring those along."""
    found: set[str] = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        inner: ast.expr | None = None
        if isinstance(node, ast.Call):
            inner = node.func
            if isinstance(inner, ast.Name) and inner.id in ("isinstance", "issubclass", "callable"):
                found |= {
                    n.id for arg in node.args for n in ast.walk(arg) if isinstance(n, ast.Name)
                }
        elif isinstance(node, ast.Attribute):
            inner = node.value
        elif isinstance(node, ast.ExceptHandler) and node.type is not None:
            found |= {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)}
        if isinstance(inner, ast.Name):
            found.add(inner.id)
    return found


def real_modules(
    free: set[str], trees: Sequence[ast.Module], entry_point: str, modules: Sequence[str]
) -> dict[str, str]:
    """The free names that are modules, and which ones. Raises ValueError for one that the box does not have."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    called = {n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    opened = {
        n.value.id for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
    }
    found: dict[str, str] = {}
    for name in sorted((free & opened) - called - {entry_point}):
        module = _ALIASES.get(name, name)
        if module in sys.stdlib_module_names or module in modules:
            found[name] = module
        elif name in _ALIASES:
            raise ValueError(
                f"the tests use {name!r}, which means {module!r}; it is not among the setting modules={list(modules)}"
            )
    return found


def bound_names(source: str) -> set[str]:
    """The names that a source text binds at its top level."""
    top = symtable.symtable(source, "tests", "exec")
    bound = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    return bound | {child.get_name() for child in top.get_children()}


def free_names(source: str) -> set[str]:
    """The global names that a source text reads and never binds at its top level."""
    top = symtable.symtable(source, "tests", "exec")
    bound = bound_names(source)
    free: set[str] = set()
    tables = [top]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            is_local = table is not top and (symbol.is_local() or symbol.is_free())
            if symbol.is_referenced() and not is_local:
                free.add(symbol.get_name())
    return free - bound
