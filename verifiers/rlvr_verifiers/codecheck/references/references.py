"""Test references: `{"kind": "stdio", ...}` and `{"kind": "function", ...}`, read and checked once.

A reference that cannot be tested is a ValueError here, at load, instead of a FAIL for every program later.
"""

import ast
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, cast

from rlvr.protocols import Limits
from rlvr.records import Json
from rlvr_verifiers.codecheck.references.formats import as_reference
from rlvr_verifiers.codecheck.references.literals import LiteralAssert, read_assert
from rlvr_verifiers.codecheck.references.names import (
    asked_names,
    bound_names,
    check_support,
    free_names,
    guess_entry_point,
    real_modules,
)
from rlvr_verifiers.codecheck.references.stdio_tests import (
    CheckerProgram,
    StdioReference,
    StdioTest,
    Tolerance,
    WhiteSpace,
    read_limits,
    read_stdio,
    refuse_unknown,
    text_of,
    tolerance_of,
)
from rlvr_verifiers.codecheck.references.surroundings import with_either_form, with_usual_imports

__all__ = [
    "CheckerProgram", "FunctionReference", "Reference", "StdioReference", "StdioTest", "Style", "Tolerance",
    "WhiteSpace", "apply_limits", "defines", "digest_of", "names_of", "program_of", "read_reference", "with_prompt",
    "without_first",
]  # fmt: skip

_FUNCTION_KEYS = {
    "kind", "entry_point", "asserts", "setup", "test", "prompt", "checker", "limits", "usual_imports", "is_json",
    "function_name",
}  # fmt: skip


class Style(StrEnum):
    """How the tests of a function are written."""

    ASSERTS = "asserts"  # a list of statements
    CHECK = "check"  # source that defines check(candidate)
    MODULE = "module"  # source with tests of its own: unittest, test functions, asserts


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionReference:
    """Programs that define `entry_point`.

    Attributes:
        tests: statements, or one source text.
        helpers: the prompt without the function to write. A helper that the tests use is part of their setup, because
            the program's version cannot be trusted.
        names: the names that the tests use without defining them; the program must or may define them.
        modules: those names that are modules (`math`, `np`); the tests get the real one, never the program's.
        literal_asserts: all tests, if all can be evaluated outside the sandbox; else empty.
        is_setup_pure: the setup uses nothing of the program, so a failure is the reference's fault.
        usual_imports: the program may rely on common modules being imported.
        is_json: arguments and results were JSON, in which a tuple is a list and 2.0 is 2.
        function_name: a name that the program may define as a function or as a method of `Solution`; "" if fixed.
    """

    entry_point: str
    style: Style
    setup: str
    tests: tuple[str, ...]
    prompt: str
    helpers: str
    names: tuple[str, ...]
    modules: Mapping[str, str]
    literal_asserts: tuple[LiteralAssert, ...]
    is_setup_pure: bool
    usual_imports: bool
    is_json: bool
    function_name: str
    tolerance: Tolerance | None
    limits: Mapping[str, float]


Reference = StdioReference | FunctionReference


def read_reference(value: Json, *, modules: Sequence[str] = ("numpy",), loose: float = 1e-6) -> Reference:
    """The reference, checked.

    Args:
        modules: what the tests may import besides the standard library.
        loose: the allowed error of a number in a JSON result, if the reference sets none.

    Raises:
        ValueError: the reference is invalid; the message says why.
    """
    data = as_reference(value)
    kind = data.get("kind") or ("stdio" if "tests" in data else "function")
    if kind == "stdio":
        return read_stdio(data)
    if kind == "function":
        return _read_function(data, modules, loose)
    raise ValueError(f"kind={kind!r} is not 'stdio' or 'function'")


def digest_of(value: Json) -> bytes:
    """A digest that distinguishes references."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()


def without_first(reference: Reference, count: int) -> Reference:
    """The reference without its first tests, unless there are no others. Tests in one source text stay as they are."""
    if len(reference.tests) <= count:
        return reference
    if isinstance(reference, StdioReference):
        return replace(reference, tests=reference.tests[count:])
    literal_asserts = reference.literal_asserts[count:]
    return replace(reference, tests=reference.tests[count:], literal_asserts=literal_asserts)


def apply_limits(limits: Limits, overrides: Mapping[str, float]) -> Limits:
    """The limits of the settings, overridden by those of the reference."""
    return replace(limits, **cast("dict[str, Any]", dict(overrides))) if overrides else limits


def defines(code: str, name: str) -> bool:
    """Whether a text binds a name at its top level; it need not be a valid program.

    >>> defines("def f(x):\\n    return x", "f"), defines("    return f(x)", "f")
    (True, False)
    """
    escaped = re.escape(name)
    pattern = rf"(?:(?:async[ \t]+)?def[ \t]+|class[ \t]+){escaped}\b|{escaped}[ \t]*(?::[^=]+)?=(?!=)"
    imported = rf"\b{escaped}\b"
    for line in code.split("\n"):
        if re.match(pattern, line):
            return True
        if line.startswith(("import ", "from ")) and re.search(imported, line):
            return True
    return False


def names_of(reference: Reference) -> tuple[str, ...]:
    """The names by which the tests may call a program; none if it reads standard input."""
    if not isinstance(reference, FunctionReference):
        return ()
    either = (reference.function_name, "Solution") if reference.function_name else ()
    return tuple(dict.fromkeys((reference.entry_point, *either)))


def program_of(code: str, reference: Reference) -> str:
    """The Python program to run, with everything that its online judge would provide."""
    if isinstance(reference, FunctionReference):
        if reference.function_name:
            code = with_either_form(code, reference.function_name)
        code = with_prompt(code, reference)
    return with_usual_imports(code) if reference.usual_imports else code


def with_prompt(code: str, reference: FunctionReference) -> str:
    """The program to run: after the prompt that it continues, or after the prompt's imports and helpers."""
    prompt = reference.prompt
    if not prompt:
        return code
    if not defines(code, reference.entry_point):
        return f"{prompt.rstrip(' ')}{'' if prompt.endswith(chr(10)) else chr(10)}{code}"
    return f"{reference.helpers}\n{code}"


def _helpers(prompt: str, entry_point: str) -> str:
    """The imports and helpers of a prompt: everything except the function to write."""
    try:
        tree = ast.parse(prompt)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # the prompt ends inside the function: keep the text before it
        start = re.search(rf"^(?:async[ \t]+)?def[ \t]+{entry_point}\b", prompt, re.MULTILINE)
        return prompt[: start.start()] if start else ""
    kept = [node for node in tree.body if getattr(node, "name", None) != entry_point]
    return "\n".join(map(ast.unparse, kept))


def _read_function(data: Mapping[str, Json], modules: Sequence[str], loose: float) -> FunctionReference:
    asserts, test = data.get("asserts"), data.get("test")
    if (asserts is None) == (test is None):
        raise ValueError("a function reference needs exactly one of `asserts` and `test`")
    if test is not None:  # a whole row of a data set
        data = {key: value for key, value in data.items() if key in _FUNCTION_KEYS}
    refuse_unknown(data, _FUNCTION_KEYS)
    setup = text_of(data, "setup").replace("\r\n", "\n")
    if test is not None:
        tests = (text_of(data, "test"),)
    else:
        tests = _assert_list(asserts)
    trees = [_parse(source, "the setup" if i == 0 else f"test {i - 1}") for i, source in enumerate((setup, *tests))]
    entry_point = text_of(data, "entry_point") or guess_entry_point(trees[1:])
    if not entry_point.isidentifier():
        raise ValueError(f"entry_point={entry_point!r} is no name")
    style = Style.ASSERTS if test is None else _style_of(trees[1])
    helpers = _helpers(text_of(data, "prompt"), entry_point)
    if bound_names(helpers) & free_names("\n".join((setup, *tests))):
        setup = f"{helpers}\n{setup}"
        trees[0] = ast.parse(setup)
    check_support(trees, modules)
    free = free_names("\n".join((setup, *tests)))
    real = real_modules(free, trees, entry_point, modules)
    names = asked_names(free - real.keys(), trees, entry_point, must_be_used=style is not Style.CHECK)
    tolerance = tolerance_of(data)
    if tolerance is None and data.get("is_json") and loose:
        # 1e-5 is LeetCode's own; the relative part is for noise in large numbers
        tolerance = Tolerance(abs_tol=10 * loose, rel_tol=1e-3 * loose)
    pair = (tolerance.abs_tol, tolerance.rel_tol) if tolerance else None
    literal: tuple[LiteralAssert, ...] = ()
    if style is Style.ASSERTS and _only_imports(trees[0]):
        is_json = bool(data.get("is_json"))
        read = [read_assert(s, entry_point, tolerance=pair, is_json=is_json) for s in tests]
        found = tuple(item for item in read if item is not None)
        literal = found if len(found) == len(tests) else ()
    return FunctionReference(
        entry_point=entry_point,
        style=style,
        setup=setup,
        tests=tests,
        prompt=text_of(data, "prompt"),
        helpers=helpers,
        names=names,
        modules=real,
        literal_asserts=literal,
        is_setup_pure=not free_names(setup) & set(names),
        usual_imports=bool(data.get("usual_imports")) or entry_point == "Solution",
        is_json=bool(data.get("is_json")),
        function_name=text_of(data, "function_name") or _method_of(entry_point, trees[1:]),
        tolerance=tolerance,
        limits=read_limits(data.get("limits")),
    )


def _assert_list(asserts: Any) -> tuple[str, ...]:
    items = cast("list[Any]", asserts) if isinstance(asserts, list) else []
    if not items or not all(isinstance(item, str) and item.strip() for item in items):
        raise ValueError("asserts must be a list of statements, at least one")
    return tuple(item.replace("\r\n", "\n") for item in items)


def _parse(source: str, what: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{what} does not parse: {error}") from error


def _style_of(tree: ast.Module) -> Style:
    is_check = any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body)
    return Style.CHECK if is_check else Style.MODULE


def _method_of(entry_point: str, trees: Sequence[ast.Module]) -> str:
    """The one method of `Solution()` that all tests call, when that is how they are written."""
    if entry_point != "Solution":
        return ""
    names = {
        node.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "Solution"
    }
    return names.pop() if len(names) == 1 else ""


def _only_imports(tree: ast.Module) -> bool:
    return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in tree.body)
