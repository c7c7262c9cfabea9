"""What a program is tested with: `{"kind": "stdio", ...}` and `{"kind": "function", ...}`, read and checked once.

All that cannot be judged is a ValueError here, at load, and not a FAIL of every program later.
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
from rlvr_verifiers.codecheck.formats import as_reference
from rlvr_verifiers.codecheck.literals import LiteralAssert, read_assert
from rlvr_verifiers.codecheck.names import (
    asked_names,
    bound_names,
    check_support,
    free_names,
    guess_entry_point,
    real_modules,
)

_STDIO_KEYS = {"kind", "tests", "checker", "limits"}
_FUNCTION_KEYS = {"kind", "entry_point", "asserts", "setup", "test", "prompt", "checker", "limits"}
_LIMITS = {
    "wall_s": float, "cpu_s": float, "memory_mb": int, "pids": int, "output_bytes": int, "file_bytes": int,
    "stderr_bytes": int,
}  # fmt: skip


class Style(StrEnum):
    """How the tests of a function are written."""

    ASSERTS = "asserts"  # a list of statements
    CHECK = "check"  # source that defines check(candidate)
    MODULE = "module"  # source with tests of its own: unittest, test functions, asserts


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """Numbers are equal within abs_tol, or within rel_tol of the expected one."""

    abs_tol: float
    rel_tol: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StdioTest:
    """What is fed to the program, and what it must print."""

    stdin: bytes
    stdout: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StdioReference:
    """Programs that read standard input and write standard output."""

    tests: tuple[StdioTest, ...]
    tolerance: Tolerance | None
    limits: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionReference:
    """Programs that define `entry_point`.

    tests: statements, or one source text. helpers: what the prompt has beside the function; where the tests use a
    helper it is part of their setup, because the program's own could say anything. names: what the tests use without
    defining it, which the program must or may define. modules: such names that mean a module (`math`, `np`); the tests
    get the real one, never the program's. literal_asserts: all tests, where all can be judged outside; else empty.
    is_setup_pure: the setup uses nothing of the program, so that its failure is the reference's.
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
    tolerance: Tolerance | None
    limits: Mapping[str, float]


Reference = StdioReference | FunctionReference


def read_reference(value: Json, *, modules: Sequence[str] = ("numpy",)) -> Reference:
    """The reference, checked; `modules` are what the tests may import beside the standard library.

    Raises: ValueError that says what is wrong with it.
    """
    data = as_reference(value)
    kind = data.get("kind") or ("stdio" if "tests" in data else "function")
    if kind == "stdio":
        return _read_stdio(data)
    if kind == "function":
        return _read_function(data, modules)
    raise ValueError(f"kind={kind!r} is not 'stdio' or 'function'")


def digest_of(value: Json) -> bytes:
    """What tells two references apart."""
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
    """The settings' limits with those of a reference."""
    return replace(limits, **cast("dict[str, Any]", dict(overrides))) if overrides else limits


def defines(code: str, name: str) -> bool:
    """Whether a program binds a name at its top level; read as text, because it need not be a program at all.

    >>> defines("def f(x):\\n    return x", "f"), defines("    return f(x)", "f")
    (True, False)
    """
    escaped = re.escape(name)
    pattern = (
        rf"(?:(?:async[ \t]+)?def[ \t]+|class[ \t]+){escaped}\b|{escaped}[ \t]*(?::[^=]+)?=(?!=)"
    )
    imported = rf"\b{escaped}\b"
    for line in code.split("\n"):
        if re.match(pattern, line):
            return True
        if line.startswith(("import ", "from ")) and re.search(imported, line):
            return True
    return False


def with_prompt(code: str, reference: FunctionReference) -> str:
    """The program to run: after the prompt that it continues, or after the prompt's imports and helpers."""
    prompt = reference.prompt
    if not prompt:
        return code
    if not defines(code, reference.entry_point):
        return f"{prompt.rstrip(' ')}{'' if prompt.endswith(chr(10)) else chr(10)}{code}"
    return f"{reference.helpers}\n{code}"


def _helpers(prompt: str, entry_point: str) -> str:
    """The imports and helpers of a prompt: all but the function to be written."""
    try:
        tree = ast.parse(prompt)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # a prompt that ends within the function: the text before it
        start = re.search(rf"^(?:async[ \t]+)?def[ \t]+{entry_point}\b", prompt, re.MULTILINE)
        return prompt[: start.start()] if start else ""
    kept = [node for node in tree.body if getattr(node, "name", None) != entry_point]
    return "\n".join(map(ast.unparse, kept))


def _read_stdio(data: Mapping[str, Json]) -> StdioReference:
    _refuse_unknown(data, _STDIO_KEYS)
    tests = data.get("tests")
    if not isinstance(tests, list) or not tests:
        raise ValueError("tests must be a list with at least one test")
    read: list[StdioTest] = []
    for index, test in enumerate(cast("list[Any]", tests)):
        given, wanted = _pair(test, index)
        read.append(StdioTest(stdin=given.encode("utf-8", "surrogatepass"), stdout=wanted))
    return StdioReference(
        tests=tuple(read), tolerance=_tolerance(data), limits=_read_limits(data.get("limits"))
    )


def _pair(test: Any, index: int) -> tuple[str, str]:
    if not isinstance(test, dict):
        raise ValueError(f"tests[{index}] is a {type(test).__name__}; it must be an object")
    row = cast("dict[str, Any]", test)
    given, wanted = row.get("stdin", row.get("input", "")), row.get("stdout", row.get("output"))
    if not isinstance(given, str) or not isinstance(wanted, str):
        raise ValueError(f"tests[{index}] needs `stdin` and `stdout` as text")
    unknown = row.keys() - {"stdin", "stdout", "input", "output", "testtype"}
    if unknown:
        raise ValueError(f"tests[{index}] has unknown keys {', '.join(sorted(unknown))}")
    return given, wanted


def _read_function(data: Mapping[str, Json], modules: Sequence[str]) -> FunctionReference:
    asserts, test = data.get("asserts"), data.get("test")
    if (asserts is None) == (test is None):
        raise ValueError("a function reference needs exactly one of `asserts` and `test`")
    if test is not None:  # a row of a data set may be given as it is
        data = {key: value for key, value in data.items() if key in _FUNCTION_KEYS}
    _refuse_unknown(data, _FUNCTION_KEYS)
    setup = _text(data, "setup").replace("\r\n", "\n")
    if test is not None:
        tests = (_text(data, "test"),)
    else:
        tests = _assert_list(asserts)
    trees = [
        _parse(source, "the setup" if i == 0 else f"test {i - 1}")
        for i, source in enumerate((setup, *tests))
    ]
    entry_point = _text(data, "entry_point") or guess_entry_point(trees[1:])
    if not entry_point.isidentifier():
        raise ValueError(f"entry_point={entry_point!r} is no name")
    style = Style.ASSERTS if test is None else _style_of(trees[1])
    helpers = _helpers(_text(data, "prompt"), entry_point)
    if bound_names(helpers) & free_names("\n".join((setup, *tests))):
        setup = f"{helpers}\n{setup}"
        trees[0] = ast.parse(setup)
    check_support(trees, modules)
    free = free_names("\n".join((setup, *tests)))
    real = real_modules(free, trees, entry_point, modules)
    names = asked_names(
        free - real.keys(), trees, entry_point, must_be_used=style is not Style.CHECK
    )
    tolerance = _tolerance(data)
    pair = (tolerance.abs_tol, tolerance.rel_tol) if tolerance else None
    literal: tuple[LiteralAssert, ...] = ()
    if style is Style.ASSERTS and _only_imports(trees[0]):
        read = [read_assert(source, entry_point, tolerance=pair) for source in tests]
        found = tuple(item for item in read if item is not None)
        literal = found if len(found) == len(tests) else ()
    return FunctionReference(
        entry_point=entry_point,
        style=style,
        setup=setup,
        tests=tests,
        prompt=_text(data, "prompt"),
        helpers=helpers,
        names=names,
        modules=real,
        literal_asserts=literal,
        is_setup_pure=not free_names(setup) & set(names),
        tolerance=tolerance,
        limits=_read_limits(data.get("limits")),
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


def _only_imports(tree: ast.Module) -> bool:
    return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in tree.body)


def _text(data: Mapping[str, Json], key: str) -> str:
    value = data.get(key) or ""
    if not isinstance(value, str):
        raise ValueError(f"{key} is a {type(value).__name__}; it must be text")
    return value


def _tolerance(data: Mapping[str, Json]) -> Tolerance | None:
    checker = data.get("checker")
    if not checker:
        return None
    settings: dict[str, Any] = {"type": checker} if isinstance(checker, str) else dict(checker)
    kind = settings.pop("type", None)
    if kind == "exact" and not settings:
        return None
    if kind != "float" or settings.keys() - {"abs_tol", "rel_tol"}:
        raise ValueError(
            f"checker={checker!r} is not known; expected "
            '{"type": "float", "abs_tol": 1e-6, "rel_tol": 1e-6} or {"type": "exact"}'
        )
    found = Tolerance(
        abs_tol=float(settings.get("abs_tol", 1e-6)), rel_tol=float(settings.get("rel_tol", 1e-6))
    )
    if not (0 <= found.abs_tol < 1e9 and 0 <= found.rel_tol < 1):
        raise ValueError(f"checker={checker!r}: tolerances are at least 0, and rel_tol is below 1")
    return found


def _read_limits(limits: Json) -> dict[str, float]:
    if limits is None:
        return {}
    if not isinstance(limits, dict):
        raise ValueError(f"limits={limits!r} must be an object")
    found: dict[str, float] = {}
    for key, value in cast("dict[str, Any]", limits).items():
        if key not in _LIMITS:
            raise ValueError(f"limits.{key} is not known; there are {', '.join(_LIMITS)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise ValueError(f"limits.{key}={value!r} must be a number above 0")
        found[key] = _LIMITS[key](value)
    return found


def _refuse_unknown(data: Mapping[str, Json], known: set[str]) -> None:
    unknown = data.keys() - known
    if unknown:
        raise ValueError(
            f"unknown keys {', '.join(sorted(unknown))}; a reference of this kind has {', '.join(sorted(known))}"
        )
