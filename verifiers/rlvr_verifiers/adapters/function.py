"""Someone's reward function, imported in the worker process, with the arguments that it takes by name."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, cast

from rlvr.adapted import Adapted
from rlvr.errors import PluginError
from rlvr.protocols import Execution
from rlvr.records import Json

EXECUTION = Execution.JAILED  # of all adapters of Python functions: their code is not trusted


class RewardFunction:
    """A reward function that is imported by `load`, at the latest when it is first called."""

    def __init__(self, adapted: Adapted, *, arguments: Mapping[str, Json], names: frozenset[str] | None) -> None:
        """Imports nothing.

        Args:
            arguments: bound to the function by name, before anything that a call offers; a factory is called with them
                and returns the function.
            names: parameters by which a function is recognised; a callable with none of them is a factory. None: there
                are no factories.
        """
        self._adapted = adapted
        self._arguments = dict(arguments)
        self._names = names
        self._function: Callable[..., Any] | None = None
        self._parameters: Mapping[str, inspect.Parameter] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def load(self) -> Callable[..., Any]:
        """The function, imported once. Raises: PluginError with the cause and what to do."""
        if self._function is None:
            self._function = self._made()
            self._parameters = _parameters_of(self._function)
        return self._function

    def takes(self, name: str) -> bool:
        """Whether the function has a parameter of that name, or any by `**kwargs`."""
        return self.names_parameter(name) or self.takes_any

    def names_parameter(self, name: str) -> bool:
        """Whether the signature itself has the parameter."""
        self.load()
        return self._parameters is not None and name in self._parameters

    @property
    def takes_any(self) -> bool:
        """Whether the function has `**kwargs`, or a signature that cannot be read."""
        self.load()
        kinds = [parameter.kind for parameter in (self._parameters or {}).values()]
        return self._parameters is None or inspect.Parameter.VAR_KEYWORD in kinds

    def call(self, *args: Any, offered: Mapping[str, Any], advice: str = "") -> Any:
        """The function's answer, awaited if needed, from those of the offered arguments that it takes.

        Args: advice: what to do when the function needs an argument that is not offered.

        Raises: PluginError for such an argument; whatever the function raises.
        """
        function = self.load()
        given = {n: value for n, value in offered.items() if n not in self._arguments and self.takes(n)}
        missing = [name for name in self._required()[len(args) :] if name not in given]
        if missing:
            raise PluginError(
                f"the function needs {', '.join(map(repr, missing))}, and the row offers "
                f"{', '.join(offered)}. {advice}".rstrip()
            )
        answer = function(*args, **given)
        return self._awaited(answer) if inspect.isawaitable(answer) else answer

    def _required(self) -> list[str]:
        """The parameters without a default."""
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return [
            name
            for name, parameter in (self._parameters or {}).items()
            if parameter.default is inspect.Parameter.empty
            and parameter.kind in (*kinds, inspect.Parameter.KEYWORD_ONLY)
        ]

    def _awaited(self, answer: Awaitable[Any]) -> Any:
        """The result of a coroutine, in the one event loop of this process, to which a function's clients belong."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()

        async def wait() -> Any:
            return await answer

        return self._loop.run_until_complete(wait())

    def _made(self) -> Callable[..., Any]:
        name = self._adapted.name
        try:
            found = self._adapted.load()
        except Exception as error:  # an import runs other people's code, which may raise anything
            raise PluginError(f"{name} cannot be imported: {_cause(self._adapted, error)}") from error
        if not callable(found):
            raise PluginError(f"{name} is a {type(found).__name__}, not a function")
        if self._names is None or not _is_factory(found, self._names):
            return partial(found, **self._arguments) if self._arguments else found
        why = (
            f"{name} has none of the parameters {', '.join(sorted(self._names))}, so it was called to make the function"
        )
        try:
            made = found(**self._arguments)
        except TypeError as error:
            raise PluginError(f"{why}, with settings.arguments={self._arguments}: {error}") from error
        if not callable(made):
            raise PluginError(f"{why}, and made a {type(made).__name__}")
        return cast(Callable[..., Any], made)


def _is_factory(found: Callable[..., Any], names: frozenset[str]) -> bool:
    """Whether a callable makes reward functions: a class, or a function with none of the names and no `**kwargs`."""
    parameters = _parameters_of(found)
    if inspect.isclass(found) or parameters is None:
        return inspect.isclass(found)
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return not takes_any and not names.intersection(parameters)


def _parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """The parameters by name; None if a signature cannot be read, as of some built-in functions."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None


def _cause(adapted: Adapted, error: Exception) -> str:
    """The error of an import, with the remedy."""
    what = f"{type(error).__name__}: {error}"
    if adapted.source and isinstance(error, ImportError):
        return (
            f"{what}. A file is sent to the workers alone, without the files around it: install its package and name "
            f"it {adapted.scheme}:package.module:function"
        )
    if isinstance(error, ModuleNotFoundError):
        return f"{what}. Install it where the verifiers run, or name a file: {adapted.scheme}:path/file.py:function"
    return what
