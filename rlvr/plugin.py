"""The API for plugin authors: `@verifier`, `VerifierContext`, `verdict`. No torch is imported here.

The shortest verifier is a function. Its first parameters are taken by name from the list below; every keyword-only
parameter with a default becomes a setting of the recipe, validated before the run starts.

    text        the completion's text                 reference   the gold answer of this check
    completion  the whole `Completion` record         prompt      the `Prompt`, narrowed to this check; the row's other
                                                                  columns are `prompt.tags`

The function may be `async def`. It judges one completion of a single turn, without tools.

>>> @verifier(version="1")
... def ends_with(text: str, reference: str, *, ignore_case: bool = False) -> bool:
...     '''The completion ends with the reference.'''
...     if ignore_case:
...         text, reference = text.lower(), reference.lower()
...     return text.strip().endswith(reference)
>>> ends_with.name, ends_with.version
('ends_with', '1')
>>> ends_with("so it is 4", "4")
True
"""

import dis
import functools
import inspect
import math
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Real
from typing import Any, ClassVar, Generic, ParamSpec, Protocol, TypeVar, cast

from pydantic import BaseModel, ConfigDict, create_model

from rlvr.errors import PluginError
from rlvr.peer_arguments import peer_argument
from rlvr.protocols import Execution, Sandbox
from rlvr.records import Completion, FinishReason, Json, Prompt, Status, Verdict

NEEDS_TOKENS = "token_ids"  # `details["needs"]` of an ERROR on a completion that has only text
_NAMES = ("text", "reference", "completion", "prompt")
_BRING_OVER = (
    "shift and scale every return value alike, such as (r + 1) / 2 for -1 to 1 or r / 10 for 0 to 10: advantages that "
    "are normalised in the group stay the same. A penalty is a check of its own; what a check counts is its `weight`"
)
StepsFunction = Callable[[Prompt, Completion, Sequence[tuple[int, int]]], Sequence[float]]
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierContext:
    """What the recipe gives a verifier in addition to its settings.

    deadline_s: wall-clock seconds that one item may take. sandbox: set when the recipe names one.
    cache: lives as long as the verifier; a plugin may keep parsed references in it.
    """

    deadline_s: float = 5.0
    sandbox: Sandbox | None = None
    cache: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRow:
    """One question of a data source with its reference.

    row_id: unique in its source. question: text, or chat messages as {"role", "content"}. completion: a right one for
    `rlvr audit`, never shown to the policy; None if unknown. tags: other columns.
    """

    row_id: str
    question: str | Sequence[Mapping[str, str]]
    reference: Json = field(repr=False)
    completion: str | None = field(default=None, repr=False)
    tags: Mapping[str, Json] = field(default_factory=dict[str, Json])


class RowSource(Protocol):
    """A data source that a recipe names by a scheme, as in `source: reasoning_gym:chain_sum`.

    Registered under the scheme in the entry-point group `rlvr.sources`; built as `SourceClass(config)`, with `config`
    made from the source's `settings`. A verifier of the same name can be audited on its rows.
    """

    Config: ClassVar[type[BaseModel]]

    def rows(self, name: str, *, split: str, seed: int) -> Sequence[SourceRow]:
        """The rows of what follows the scheme; equal arguments give equal rows, and no two splits share a problem.

        Args: split: train, dev or test. seed: that of the run.

        Raises: ConfigError, DataError, PluginError.
        """
        ...


class EmptyConfig(BaseModel):
    """The Config of a verifier without settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def verdict(
    verifier: type[Any] | Any,
    status: Status,
    reason: str,
    *,
    score: float | None = None,
    extracted: str | None = None,
    seconds: float = 0.0,
    details: Mapping[str, Json] | None = None,
) -> Verdict:
    """A Verdict stamped with `name@version`; the score follows from the status.

    PASS is 1, FAIL and UNPARSED are 0, ERROR and SKIPPED (the check does not apply to the row) have none.

    Raises: ValueError when the score contradicts the status.
    """
    if score is None and status.has_score:
        score = 1.0 if status is Status.PASS else 0.0
    return Verdict(
        status=status,
        score=score,
        reason=reason,
        verifier=f"{verifier.name}@{verifier.version}",
        seconds=seconds,
        extracted=extracted,
        details=details or {},
    )


def completion_from_text(text: str, *, prompt_id: str) -> Completion:
    """A finished completion with only its text."""
    return Completion(
        completion_id=f"{prompt_id}/0",
        prompt_id=prompt_id,
        sample_index=0,
        prompt_token_ids=(),
        token_ids=(),
        logprobs=(),
        sampled_mask=(),
        text=text,
        finish_reason=FinishReason.STOP,
        policy_versions=(),
    )


class FunctionVerifier(Generic[P, R]):
    """The result of `@verifier`: callable like the function, and a verifier class by `build`."""

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str,
        version: str,
        execution: Execution,
        pass_score: float,
        partial_credit: float = 0.0,
        parse_reference: Callable[[Any], object] | None = None,
        verify_steps: StepsFunction | None = None,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = name
        self.version = version
        self.execution = execution
        self.pass_score = pass_score
        self.partial_credit = partial_credit
        self.optional_methods: Mapping[str, Callable[..., Any] | None] = {
            "parse_reference": parse_reference,
            "verify_steps": verify_steps,
        }
        self.argument_names, self.Config = _read_signature(function, name)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def as_class(self) -> type[Any]:
        """A class that fulfils `rlvr.protocols.Verifier`.

        Raises: PluginError when the function returns a constant that is not a score, so that it fails before a run.
        """
        outer = self
        for line, score in _constant_scores(self.function):
            if not 0.0 <= score <= 1.0:
                raise PluginError(_out_of_range(self.name, score, f" (line {line})"))

        class Built:
            __doc__ = outer.__doc__
            name: ClassVar[str] = outer.name
            version: ClassVar[str] = outer.version
            execution: ClassVar[Execution] = outer.execution
            partial_credit: ClassVar[float] = outer.partial_credit
            Config: ClassVar[type[BaseModel]] = outer.Config

            def __init__(self, config: BaseModel, context: VerifierContext) -> None:
                self.settings = {key: getattr(config, key) for key in type(config).model_fields}
                self.context = context

            def verify(self, prompt: Prompt, completion: Completion) -> Verdict | Awaitable[Verdict]:
                offered = {
                    "text": completion.text,
                    "reference": prompt.reference,
                    "completion": completion,
                    "prompt": prompt,
                }
                arguments = {key: offered[key] for key in outer.argument_names}
                start = time.perf_counter()
                answer: Any = cast(Any, outer.function)(**arguments, **self.settings)
                if inspect.isawaitable(answer):
                    return _later(outer, answer, start)
                return _as_verdict(outer, answer, start)

        for key, method in outer.optional_methods.items():
            if method is not None:  # absent otherwise: `Supports...` protocols look for the name
                setattr(Built, key, staticmethod(method))
        Built.__name__ = Built.__qualname__ = outer.name
        return Built


async def _later(outer: "FunctionVerifier[Any, Any]", answer: Awaitable[Any], start: float) -> Verdict:
    """Waits for an asynchronous verifier function; its caller cancels it at the deadline."""
    return _as_verdict(outer, await answer, start)


def _as_verdict(outer: "FunctionVerifier[Any, Any]", answer: Any, start: float) -> Verdict:
    """A bool, a score in [0, 1] or a Verdict, as a Verdict. Raises PluginError on anything else."""
    seconds = time.perf_counter() - start
    if isinstance(answer, Verdict):
        return answer
    plain = _plain(answer)
    if isinstance(plain, bool):
        status = Status.PASS if plain else Status.FAIL
        return verdict(outer, status, f"{outer.name} returned {plain}", seconds=seconds)
    if isinstance(plain, float):
        if not 0.0 <= plain <= 1.0:
            raise PluginError(_out_of_range(outer.name, plain, _place(outer.function)))
        status = Status.PASS if plain >= outer.pass_score else Status.FAIL
        reason = f"{outer.name} returned {plain:g} (PASS from {outer.pass_score:g})"
        return verdict(outer, status, reason, score=plain, seconds=seconds)
    shape = getattr(answer, "shape", None)
    of_shape = "" if shape is None else f" and shape {tuple(shape)}"
    raise PluginError(
        f"verifier {outer.name!r}{_place(outer.function)} returned {answer!r:.200} of type "
        f"{type(answer).__name__}{of_shape}; return one bool, one score in [0, 1] or a rlvr.records.Verdict"
        + (", on every path" if answer is None else "")
    )


def _place(function: Callable[..., Any]) -> str:
    """ " (my_checks.py:7)", where a function is defined; "" if it was not written in Python."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""


def _plain(answer: Any) -> object:
    """Scalars, including numpy's and torch's, as a bool or a float; anything else unchanged."""
    if getattr(answer, "ndim", None) == 0 and callable(getattr(answer, "item", None)):
        answer = answer.item()
    if type(answer) is bool:
        return answer
    return float(answer) if isinstance(answer, Real | Decimal) else cast(object, answer)


def _out_of_range(name: str, score: float, where: str = "") -> str:
    """The message for a number that is not a valid score."""
    if not math.isfinite(score):
        return (
            f"verifier {name!r}{where} returned {score}, which is not a score; return a number in [0, 1], False where "
            "nothing could be read, or raise an exception where the check itself failed"
        )
    return f"verifier {name!r}{where} returned {score:g}, but a score must be in [0, 1]; {_BRING_OVER}"


def _read_signature(function: Callable[..., Any], name: str) -> tuple[tuple[str, ...], type[BaseModel]]:
    """The names a function takes and a pydantic Config of its keyword-only settings."""
    arguments: list[str] = []
    settings: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            stars = "**" if parameter.kind is inspect.Parameter.VAR_KEYWORD else "*"
            raise PluginError(
                f"verifier {name!r}: {stars}{parameter.name} would always be empty; remove it, and name what the "
                f"function needs of {', '.join(_NAMES)} (other columns of the row are in prompt.tags)"
            )
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            if parameter.default is inspect.Parameter.empty:
                raise PluginError(f"verifier {name!r}: setting {parameter.name!r} needs a default value")
            annotation: Any = parameter.annotation
            if annotation is inspect.Parameter.empty or isinstance(annotation, str):
                annotation = cast(Any, type(parameter.default))
            settings[parameter.name] = (annotation, parameter.default)
        elif parameter.name in _NAMES:
            arguments.append(parameter.name)
        elif peer := peer_argument(parameter.name):
            raise PluginError(f"verifier {name!r}: {peer}: def {name}(text, reference, prompt)")
        else:
            raise PluginError(
                f"verifier {name!r}: parameter {parameter.name!r} is not one of {', '.join(_NAMES)}; "
                f"settings come after a `*` and have defaults (def {name}(text, reference, *, {parameter.name}=...))"
            )
    if not arguments:
        raise PluginError(
            f"verifier {name!r} takes none of {', '.join(_NAMES)}, so every answer would get the same verdict; write "
            f"def {name}(text, reference)"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise PluginError(f"verifier {name!r} yields; a verifier returns one bool, score or Verdict")
    config = create_model(f"{name}_config", __config__=ConfigDict(extra="forbid", frozen=True), **settings)
    return tuple(arguments), config


def _constant_scores(function: Callable[..., Any]) -> Iterator[tuple[int, float]]:
    """(line, number) of each `return` of a constant number in a function; it may be a branch of a conditional."""
    code = getattr(function, "__code__", None)
    steps = list(dis.get_instructions(code)) if code is not None else []
    returns = {step.offset for step in steps if step.opname == "RETURN_VALUE"}
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        is_last = step.opname == "RETURN_CONST"
        if step.opname in ("LOAD_CONST", "LOAD_SMALL_INT") and after is not None:
            goes_to = after.argval if after.opname == "JUMP_FORWARD" else after.offset
            is_last = goes_to in returns
        if is_last and isinstance(step.argval, int | float):
            yield (step.positions and step.positions.lineno) or 0, float(step.argval)


def verifier(
    function: Callable[..., Any] | None = None,
    /,
    *,
    version: str = "",
    name: str | None = None,
    execution: Execution = Execution.PROCESS,
    pass_score: float = 1.0,
    partial_credit: float = 0.0,
    parse_reference: Callable[[Any], object] | None = None,
    verify_steps: StepsFunction | None = None,
) -> Callable[[Callable[P, R]], FunctionVerifier[P, R]]:
    """Makes a verifier from a function, plain or `async`, that returns a bool, a score in [0, 1] or a Verdict.

    Args:
        function: do not pass it; it only gives `@verifier` without parentheses a helpful error.
        version: required; change it with the meaning; it is stored with every verdict and keys the caches.
        name: default is the function's name.
        pass_score: a returned score of at least this is a PASS; a lower score still counts in the reward.
        partial_credit: the score in [0, 1] that a wrong answer may earn by design, for example for its format;
            `rlvr audit` subtracts it.
        parse_reference: called with every reference of the data before a run; raises ValueError on one that cannot be
            used.
        verify_steps: scores the steps of a completion; see `rlvr.verification.steps.SupportsSteps`.
        Raises: PluginError, at import, when the signature is not supported.
    """
    if function is not None or not version:
        raise PluginError(
            f"{getattr(function, '__name__', 'a verifier')}: a verifier needs a version, which is stored with every "
            'verdict; write @verifier(version="1") above the function'
        )
    if not re.fullmatch(r"[\w.+-]+", version):
        raise PluginError(f"verifier version={version!r} should be like '1' or '2.0.1'")
    if not 0.0 <= partial_credit <= 1.0:
        raise PluginError(f"verifier partial_credit={partial_credit!r} must be in [0, 1], like the scores")

    def wrap(function: Callable[P, R]) -> FunctionVerifier[P, R]:
        label = name or getattr(function, "__name__", "verifier")
        return FunctionVerifier(
            function,
            name=label,
            version=version,
            execution=execution,
            pass_score=pass_score,
            partial_credit=partial_credit,
            parse_reference=parse_reference,
            verify_steps=verify_steps,
        )

    return wrap
