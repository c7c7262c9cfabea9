"""The tests of a program that reads standard input; tolerances and limits of all references."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from rlvr.records import Json

_STDIO_KEYS = {"kind", "tests", "checker", "limits", "white_space", "usual_imports"}
_LIMITS = {
    "wall_s": float,
    "cpu_s": float,
    "memory_mb": int,
    "pids": int,
    "output_bytes": int,
    "file_bytes": int,
    "stderr_bytes": int,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """Numbers are equal within abs_tol, or within rel_tol of the expected one."""

    abs_tol: float
    rel_tol: float


class WhiteSpace(StrEnum):
    """Which white space of an output counts. Blanks at the end of a line and blank lines around the whole never do."""

    LAYOUT = "layout"  # blank lines, and blanks if the expected output uses them for layout
    WORDS = "words"  # none: only the words of each line
    EXACT = "exact"  # all of it


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckerProgram:
    """A program that checks outputs. It runs as `main.py input.txt output.txt answer.txt`; exit code 0 accepts, 1 or 2
    rejects, and anything else is the reference's fault."""

    language: str
    code: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StdioTest:
    """The input of the program, and the output that it must print: `stdout`, or one of `others`."""

    stdin: bytes
    stdout: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StdioReference:
    """Programs that read standard input and write standard output.

    is_loose: the verifier's tolerance applies, because the reference specifies no comparison.
    """

    tests: tuple[StdioTest, ...]
    checker: CheckerProgram | None
    white_space: WhiteSpace
    is_loose: bool
    usual_imports: bool
    tolerance: Tolerance | None
    limits: Mapping[str, float]


def read_stdio(data: Mapping[str, Json]) -> StdioReference:
    """The reference. Raises ValueError."""
    refuse_unknown(data, _STDIO_KEYS)
    tests = data.get("tests")
    if not isinstance(tests, list) or not tests:
        raise ValueError("tests must be a list with at least one test")
    white_space = data.get("white_space") or WhiteSpace.LAYOUT
    if white_space not in tuple(WhiteSpace):
        raise ValueError(f"white_space={white_space!r} is not one of {', '.join(WhiteSpace)}")
    program = _checker_program(data.get("checker"))
    read = [
        _read_test(test, index, needs_output=program is None) for index, test in enumerate(cast("list[Any]", tests))
    ]
    return StdioReference(
        tests=tuple(read),
        checker=program,
        white_space=WhiteSpace(str(white_space)),
        is_loose=not data.get("checker"),
        usual_imports=bool(data.get("usual_imports")),
        tolerance=None if program else tolerance_of(data),
        limits=read_limits(data.get("limits")),
    )


def _read_test(test: Any, index: int, *, needs_output: bool) -> StdioTest:
    if not isinstance(test, dict):
        raise ValueError(f"tests[{index}] is a {type(test).__name__}; it must be an object")
    row = cast("dict[str, Any]", test)
    given, wanted = row.get("stdin", row.get("input", "")), row.get("stdout", row.get("output"))
    accepted = _texts_of(wanted, needs_output=needs_output)
    if not isinstance(given, str) or not accepted:
        raise ValueError(
            f"tests[{index}] needs `stdin` and `stdout` as text, or as `stdout` a list of all accepted texts"
        )
    unknown = row.keys() - {"stdin", "stdout", "input", "output", "testtype"}
    if unknown:
        raise ValueError(f"tests[{index}] has unknown keys {', '.join(sorted(unknown))}")
    stdin = given.encode("utf-8", "surrogatepass")
    return StdioTest(stdin=stdin, stdout=accepted[0], others=tuple(accepted[1:]))


def _texts_of(wanted: Any, *, needs_output: bool) -> list[str]:
    """The accepted outputs; none if the value is not an output."""
    if wanted is None and not needs_output:
        return [""]
    if isinstance(wanted, str):
        return [wanted]
    items = cast("list[Any]", wanted) if isinstance(wanted, list) else []
    return (
        [item for item in items if isinstance(item, str)]
        if items and all(isinstance(item, str) for item in items)
        else []
    )


def _checker_program(checker: Json) -> CheckerProgram | None:
    if not isinstance(checker, dict):
        return None
    fields = cast("dict[str, Any]", checker)
    if fields.get("type") != "program":
        return None
    code, language = fields.get("code"), fields.get("language", "python")
    if fields.keys() - {"type", "code", "language"} or not isinstance(code, str) or not code.strip():
        raise ValueError('a checker is {"type": "program", "code": "...", "language": "python"}')
    if language not in ("python", "cpp"):
        raise ValueError(f"checker.language={language!r} is not 'python' or 'cpp'")
    if language == "python":
        try:
            ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"the checker does not parse: {error}") from error
    return CheckerProgram(language=str(language), code=code.encode("utf-8", "surrogatepass"))


def text_of(data: Mapping[str, Json], key: str) -> str:
    """The text of a key; "" if it is missing. Raises ValueError."""
    value = data.get(key) or ""
    if not isinstance(value, str):
        raise ValueError(f"{key} is a {type(value).__name__}; it must be text")
    return value


def tolerance_of(data: Mapping[str, Json]) -> Tolerance | None:
    """The tolerance that the reference asks for. Raises ValueError."""
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
            '{"type": "float", "abs_tol": 1e-6, "rel_tol": 1e-6}, {"type": "exact"}, or for stdio '
            '{"type": "program", "code": "..."}'
        )
    found = Tolerance(abs_tol=float(settings.get("abs_tol", 1e-6)), rel_tol=float(settings.get("rel_tol", 1e-6)))
    if not (0 <= found.abs_tol < 1e9 and 0 <= found.rel_tol < 1):
        raise ValueError(f"checker={checker!r}: tolerances are at least 0, and rel_tol is below 1")
    return found


def read_limits(limits: Json) -> dict[str, float]:
    """The limits of a reference. Raises ValueError."""
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


def refuse_unknown(data: Mapping[str, Json], known: set[str]) -> None:
    """Raises ValueError for keys that are not known."""
    unknown = data.keys() - known
    if unknown:
        raise ValueError(
            f"unknown keys {', '.join(sorted(unknown))}; a reference of this kind has {', '.join(sorted(known))}"
        )
