"""Exceptions in the tests' box: those that end a conversation, and local ones for those that the candidate raised."""

import builtins
from typing import Any


class Dead(BaseException):
    """The candidate is gone or broke the protocol. No `except Exception` in the tests may catch this."""


class CannotSend(TypeError):  # noqa: N818 - a finding about the tests
    """The tests pass an object that cannot be transferred."""


def local_exception(names: Any) -> type[Exception]:
    """A class that an `except` clause of the tests can name."""
    for name in names[1:]:
        base = getattr(builtins, name, None)
        if isinstance(base, type) and issubclass(base, Exception):
            return type(names[0], (base,), {})
    return type(names[0], (Exception,), {})


def with_args(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """An exception with these arguments, whatever its constructor expects."""
    error = kind.__new__(kind, *args[:1])
    error.args = args
    return error
