"""What the tests of a function use: names of the program, modules, and features that no box supports."""

import ast
import builtins
import symtable
import sys
from collections.abc import Iterable, Sequence

from rlvr_verifiers.codecheck.inside.pytest_shim import ATTRIBUTES

_ALIASES = {"np": "numpy", "pd": "pandas", "plt": "matplotlib.pyplot", "sp": "scipy"}
_REDIRECTS = ("redirect_stdout", "redirect_stderr")
_PATCHERS = {"unittest.mock": ("patch",), "mock": ("patch",), "contextlib": _REDIRECTS, "pytest": ("MonkeyPatch",)}
_STREAMS = {"sys.stdin", "sys.stdout", "sys.stderr", "builtins.input", "builtins.print"}
_FIXTURES = {"monkeypatch", "capsys", "capfd", "mocker"}
_SOURCE_READERS = {"getsource", "getsourcelines", "getsourcefile"}


def guess_entry_point(trees: Sequence[ast.Module]) -> str:
    """The function that all asserts call, preferring the outermost; a built-in name only if there is no other."""
    free = set[str]().union(*(free_names(ast.unparse(tree)) for tree in trees))
    passed = [name for name in free if not hasattr(builtins, name) and name not in sys.stdlib_module_names]
    called = [
        [n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
        for tree in trees
    ]
    common = [name for name in called[0] if all(name in names for names in called)] if called else []
    own = [name for name in common if not hasattr(builtins, name)]
    if not own and len(passed) == 1:
        return passed[0]
    if not common:
        raise ValueError("there is no entry_point, and the tests do not all call one function")
    return (own or common)[0]


def check_support(trees: Sequence[ast.Module], modules: Sequence[str]) -> None:
    """Raises ValueError for tests that cannot work in a separate box."""
    known = {*sys.stdlib_module_names, "solution", "pytest", *modules}
    _check_pytest(trees)
    _check_passed_objects(trees)
    free = set[str]().union(*(free_names(ast.unparse(tree)) for tree in trees))
    for node in (node for tree in trees for node in ast.walk(tree)):
        for module in _imported(node):
            if module.partition(".")[0] not in known:
                raise ValueError(
                    f"the tests import {module!r}, which is neither of the standard library nor among the setting "
                    f"modules={list(modules)}"
                )
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                if isinstance(base, ast.Name) and base.id in free and not hasattr(builtins, base.id):
                    raise ValueError(
                        f"the tests derive {node.name} from {base.id}, a class of the program; its objects live in "
                        "another box and cannot be a base here"
                    )
        if _reaches_over(node):
            raise ValueError(
                f"the tests patch, capture or feed the program's surroundings ({_reaches_over(node)}), which are in "
                "another box"
            )
        if isinstance(node, ast.Attribute) and node.attr in _SOURCE_READERS:
            raise ValueError(f"the tests read the program's source ({node.attr}), which they cannot see")


def _check_pytest(trees: Sequence[ast.Module]) -> None:
    """Raises ValueError for features of pytest that the stand-in lacks, and for undefined test arguments."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    used = [n.attr for n in nodes if isinstance(n, ast.Attribute) and _is_name(n.value, "pytest")]
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module == "pytest":
            used += [alias.name for alias in node.names]
    missing = sorted(set(used) - set(ATTRIBUTES))
    if missing:
        raise ValueError(f"the tests use pytest.{missing[0]}; of pytest there is {', '.join(ATTRIBUTES)}")
    tests = [n for n in nodes if isinstance(n, ast.FunctionDef) and n.name.startswith("test")]
    if not used:
        return
    marks = [ast.unparse(mark) for node in nodes for mark in getattr(node, "decorator_list", ())]
    given = {n.name for n in nodes if isinstance(n, ast.FunctionDef)} | {"self", "cls"}
    for test in tests:
        for argument in test.args.args[: len(test.args.args) - len(test.args.defaults)]:
            is_row = any("parametrize" in mark and argument.arg in mark for mark in marks)
            if argument.arg not in given and not is_row:
                raise ValueError(f"{test.name} asks for the fixture {argument.arg!r}, which is not there")


def _check_passed_objects(trees: Sequence[ast.Module]) -> None:
    """Raises ValueError if the program is passed objects of the tests' own classes, which cannot be transferred."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    own = {n.name for n in nodes if isinstance(n, ast.ClassDef) and not n.bases}
    defined = own | {n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    for node in nodes:
        if not isinstance(node, ast.Call) or _root_of(node.func) in defined | set(vars(builtins)):
            continue
        for part in (inner for argument in node.args for inner in ast.walk(argument)):
            if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id in own:
                raise ValueError(
                    f"the tests pass an object of their own class {part.func.id} to the program, which lives in "
                    "another box; let the program define the class, or pass plain data"
                )


def _root_of(node: ast.expr) -> str:
    """The name that a called expression begins with: `Solution` of `Solution().run`; "self" does not count."""
    while isinstance(node, (ast.Attribute, ast.Call)):
        node = node.value if isinstance(node, ast.Attribute) else node.func
    name = node.id if isinstance(node, ast.Name) else "len"
    return "len" if name in ("self", "np", "math", "json", "pytest", "copy") else name


def _reaches_over(node: ast.AST) -> str:
    """What a node of the tests does to its own process, assuming that the program runs there too; "" for nothing.

    Patches, replaced streams and captured output would affect only the tests' box, and correct programs would fail.
    """
    if isinstance(node, ast.ImportFrom) and node.module in _PATCHERS:
        return next((alias.name for alias in node.names if alias.name in _PATCHERS[node.module]), "")
    if isinstance(node, ast.Attribute):
        is_mock = isinstance(node.value, (ast.Name, ast.Attribute))
        owner = getattr(node.value, "id", getattr(node.value, "attr", "")) if is_mock else ""
        return f"{owner}.{node.attr}" if node.attr in _PATCHERS.get(owner, ()) else ""
    if isinstance(node, ast.Assign):
        streams = [ast.unparse(target) for target in node.targets]
        return next((name for name in streams if name in _STREAMS), "")
    if isinstance(node, ast.arg):
        return node.arg if node.arg in _FIXTURES else ""
    return ""


def _imported(node: ast.AST) -> Iterable[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level and node.module != "__future__":
        return [node.module or ""]
    return []


def asked_names(
    free: set[str], trees: Sequence[ast.Module], entry_point: str, *, must_be_used: bool
) -> tuple[str, ...]:
    """The names to request from the program. Raises ValueError if the tests never use the entry point."""
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
                found |= {n.id for arg in node.args for n in ast.walk(arg) if isinstance(n, ast.Name)}
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
    """The free names that are modules, and which ones. Raises ValueError for a module that the box lacks."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    called = {n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    opened = {n.value.id for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)}
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
