"""Runs in the tests' box: executes the asserts, calls the candidate by proxy, and reports the outcome of each test.

The first frame is the task:

    {"setup": source, "tests": [source], "style": "asserts" | "check" | "module", "entry_point": name,
     "names": {name: value of the candidate}, "tolerance": [abs_tol, rel_tol] | null, "is_complete": bool,
     "is_json": bool}

Then this side sends REQUEST, and ANSWER to a CALLBACK, and reports OUTCOME {"i", "ok", "why"} for each test and DONE
at the end. Every comparison happens here, on exact built-in values; a candidate's object that is not plain is a
`Remote`, which never equals a test's value, whatever its class says.
"""

import _ast
import builtins
import importlib
import math
import operator
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from rlvr_verifiers.codecheck.inside.failures import Dead
from rlvr_verifiers.codecheck.inside.proxies import Link, Remote
from rlvr_verifiers.codecheck.inside.pytest_shim import cases_of, install
from rlvr_verifiers.codecheck.inside.wire import DONE, OUTCOME, REPLY, Decoder, WireError, dump, parse

SHOWN_CHARS = 120
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")  # fields of a statement that contain others
COMPARE = {
    _ast.Eq: "==", _ast.NotEq: "!=", _ast.Lt: "<", _ast.LtE: "<=", _ast.Gt: ">", _ast.GtE: ">=", _ast.Is: "is",
    _ast.IsNot: "is not", _ast.In: "in", _ast.NotIn: "not in",
}  # fmt: skip
DO_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    "is": operator.is_, "is not": operator.is_not, "in": lambda a, b: a in b, "not in": lambda a, b: a not in b,
}  # fmt: skip


class Mismatch(AssertionError):  # noqa: N818 - an assertion with its two sides
    """An assert over one comparison failed."""


def shown(value: Any) -> str:
    """A value for messages, shortened to one line; a candidate's object is never converted to text."""
    if isinstance(value, Remote):
        return "an object of the program"
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - a repr of the tests' own classes may raise anything
        text = "a " + type(value).__name__ + " whose repr raised " + type(error).__name__
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "…"


def is_close(left: Any, right: Any, abs_tol: float, rel_tol: float) -> bool:
    """Whether two values are equal, with numbers within a tolerance, at any depth of lists, tuples and dicts."""
    kind: type = type(left)  # pyright: ignore[reportUnknownVariableType]  # of any value
    numbers = (int, float)
    if type(left) in numbers and type(right) in numbers:
        if float not in (type(left), type(right)):
            return left == right
        return left == right or math.isclose(left, right, abs_tol=abs_tol, rel_tol=rel_tol)
    if type(left) is type(right) and type(left) in (list, tuple):
        pairs = zip(left, right, strict=False)
        return len(left) == len(right) and all(is_close(a, b, abs_tol, rel_tol) for a, b in pairs)
    if kind is dict and type(right) is dict:
        same = left.keys() == right.keys()
        return same and all(is_close(left[key], right[key], abs_tol, rel_tol) for key in left)
    return left == right


def as_lists(value: Any) -> Any:
    """The value with lists in place of its tuples, at any depth of exact lists, tuples and dicts."""
    kind: type = type(value)  # pyright: ignore[reportUnknownVariableType]  # of any value
    if kind in (list, tuple):
        return [as_lists(item) for item in value]
    if kind is dict:
        return {key: as_lists(item) for key, item in value.items()}
    return value


def rewrite_asserts(body: Any) -> None:
    """Turns `assert a == b` into a call that receives both sides, at any depth of statements."""
    for index, node in enumerate(body):
        if type(node) is _ast.Assert:
            test = node.test
            if type(test) is _ast.Compare and len(test.ops) == 1:
                body[index] = _checked(node, test)
            continue
        for field in _BLOCKS:
            rewrite_asserts(getattr(node, field, ()))


def _checked(node: Any, test: Any) -> Any:
    place = {name: getattr(node, name) for name in node._attributes}
    function = _ast.Name("__rlvr_assert__", _ast.Load(), **place)
    sign = _ast.Constant(COMPARE[type(test.ops[0])], None, **place)
    call = _ast.Call(function, [sign, test.left, test.comparators[0]], [], **place)
    return _ast.Expr(call, **place)


class Tests:
    """The tests of one task, run in order in one namespace."""

    def __init__(self, link: Link, task: dict[str, Any]) -> None:
        self.link = link
        self.task = task
        self.tolerance = task["tolerance"]
        self.names: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins, "__rlvr_assert__": self.check}

    def check(self, sign: str, left: Any, right: Any) -> None:
        """An assert over one comparison. Raises Mismatch."""
        if self.task["is_json"]:
            left = as_lists(left)
        if sign == "==" and self.tolerance and not isinstance(left, Remote):
            is_true = is_close(left, right, *self.tolerance)
        elif sign == "in" and self.task["is_json"]:
            tolerance = self.tolerance or (0.0, 0.0)
            is_true = any(is_close(left, item, *tolerance) for item in right)
        else:
            is_true = DO_COMPARE[sign](left, right)
        if not is_true:
            if sign == "==":
                raise Mismatch("expected " + shown(right) + ", got " + shown(left))
            raise Mismatch(shown(left) + " " + sign + " " + shown(right) + " does not hold")

    def execute(self, source: str, name: str) -> None:
        """Runs source text of the tests."""
        tree: Any = compile(source, name, "exec", _ast.PyCF_ONLY_AST, dont_inherit=True)
        rewrite_asserts(tree.body)
        exec(compile(tree, name, "exec", dont_inherit=True, optimize=0), self.names)

    def bind(self) -> None:
        """Binds the candidate's names, and the standard modules that the tests use without importing them."""
        try:
            for name, data in self.task["names"].items():
                self.names[name] = Decoder(self.link.resolve).decode(data)
        except (WireError, RecursionError) as error:
            raise self.link.died("the program sent what cannot be read") from error
        for name, module in self.task["modules"].items():
            self.names[name] = importlib.import_module(module)
        module = types.ModuleType("solution")
        module.__dict__.update((name, self.names[name]) for name in self.task["names"])
        sys.modules["solution"] = module

    def steps(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """(description, function that runs it) for each test, in order."""
        if self.task["style"] == "asserts":
            for source in self.task["tests"]:
                yield (" ".join(source.split())[:SHOWN_CHARS], lambda s=source: self.execute(s, "test"))
            return
        if self.task["style"] == "check":
            yield "check", lambda: self.names["check"](self.names[self.task["entry_point"]])
            return
        for name, value in sorted(self.names.items(), key=lambda pair: _line_of(pair[1])):
            if name.startswith("test") and isinstance(value, types.FunctionType):
                for arguments in cases_of(value, self.names):
                    yield name, lambda test=value, given=arguments: test(**given())
            elif isinstance(value, type) and value.__module__ == "tests":
                yield from _methods(value, self.names)

    def run(self) -> None:
        """Runs all, and reports each outcome."""
        try:
            self.bind()
            if any("pytest" in source for source in (self.task["setup"], *self.task["tests"])):
                install()
            self.execute(self.task["setup"], "setup")
            if self.task["style"] != "asserts":
                self.execute(self.task["tests"][0], "test")
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the outcome
            self.report(-1, "setup", error)
            return
        is_first_missing = True
        for index, (label, step) in enumerate(self.steps()):
            is_first_missing = False
            error = self.attempt(step)
            self.report(index, label, error)
            if self.link.dead or self.link.fault or (error and not self.task["is_complete"]):
                return
        if is_first_missing and self.task["style"] == "module":
            self.report(0, "module", None)  # the asserts at the top of the module hold

    def attempt(self, step: Callable[[], Any]) -> BaseException | None:
        """The exception that a step raised, or None."""
        try:
            step()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the outcome
            return error
        return Dead(self.link.dead) if self.link.dead else None

    def report(self, index: int, label: str, error: BaseException | None) -> None:
        """Sends one outcome."""
        why = ""
        if error is not None:
            text = _text_of(error)
            is_own = isinstance(error, (Mismatch, Dead))
            why = text if is_own else type(error).__name__ + (": " + text if text else "")
        outcome = {"i": index, "ok": error is None, "label": label, "why": why}
        links = {"fault": self.link.fault, "dead": self.link.dead}
        # if each test counts, none may be lost because a later one hangs
        send = self.link.send if self.task["is_complete"] else self.link.send_later
        send(OUTCOME, dump({**outcome, **links}))


def _text_of(error: BaseException) -> str:
    try:
        return str(error)[:300]
    except BaseException:  # noqa: BLE001 - the text may come from the candidate
        return ""


def _line_of(value: Any) -> int:
    code = getattr(value, "__code__", None)
    if code is None and isinstance(value, type):
        lines = [_line_of(v) for v in vars(value).values() if isinstance(v, types.FunctionType)]
        return min(lines, default=0)
    return code.co_firstlineno if code is not None else 0


def _methods(kind: Any, names: dict[str, Any]) -> Iterator[tuple[str, Callable[[], None]]]:
    """The tests of a class: unittest's or plain ones."""
    is_case = any(base.__name__ == "TestCase" for base in kind.__mro__)
    if not is_case and not kind.__name__.startswith("Test"):
        return
    if is_case:
        kind.setUpClass()
    members: dict[str, Any] = vars(kind)  # pyright: ignore[reportUnknownVariableType]  # of any value
    for name, method in list(members.items()):  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]  # of any value
        if not (name.startswith("test") and isinstance(method, types.FunctionType)):
            continue

        for arguments in cases_of(method, names):
            yield kind.__name__ + "." + name, _step(kind, name, arguments, is_case)


def _step(kind: Any, name: str, arguments: Callable[[], dict[str, Any]], is_case: bool) -> Callable[[], None]:
    def step() -> None:
        case = kind(name) if is_case else kind()
        before, after = ("setUp", "tearDown") if is_case else ("setup_method", "teardown_method")
        for part in (before, name, after):
            if part == name:
                getattr(case, part)(**arguments())
            elif hasattr(case, part):
                getattr(case, part)()

    return step


class _Echo(Link):
    """A candidate that replies 2 to every request."""

    def send(self, kind: bytes, body: bytes) -> None:
        """Drops one frame."""

    def receive(self) -> tuple[bytes, bytes]:
        """The answer."""
        return REPLY, dump({"v": 2})


def rehearse() -> None:
    """Runs some tests, so that the interpreter has specialised this code before it is forked for each run."""
    task: dict[str, Any] = {
        "setup": "n = 0", "tests": ["assert f([1]) == 2", "assert f(n, 'a') in (1, 2)"], "style": "asserts",
        "entry_point": "f", "names": {"f": ["o", 0, "f", "function"]}, "modules": {}, "tolerance": None,
        "is_complete": False, "is_json": False,
    }  # fmt: skip
    for _ in range(20):
        Tests(_Echo(), parse(dump(task))).run()
    del sys.modules["solution"]


def main() -> None:
    """Reads the task, runs it, reports the end, and exits immediately."""
    sys.setrecursionlimit(5000)
    link = Link()
    _, body = link.receive()
    Tests(link, parse(body)).run()
    link.send(DONE, b"")
    os._exit(0)


if __name__ == "__main__":
    main()
