"""The contract of a verifier: its shape, its verdicts on given cases, and its behaviour on difficult texts."""

import asyncio
import contextlib
import inspect
import io
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pydantic import BaseModel, ValidationError

from rlvr.contracts.verifier_steps import step_problems
from rlvr.errors import PLUGIN_FAULTS, PluginError
from rlvr.plugin import FunctionVerifier, VerifierContext, completion_from_text
from rlvr.protocols import Execution, SupportsClose, SupportsParseReference, SupportsPrejudge, SupportsWarmUp, Verifier
from rlvr.records import Check, Json, Prompt, Status, Verdict
from rlvr.verification.steps import SupportsSteps

Case = tuple[Json, str]
_GRACE_S = 0.5  # for an asynchronous verifier to be cancelled in its own loop

HARD_TEXTS: Mapping[str, str] = {
    "an empty text": "",
    "white space": " \n\t ",
    "100 kB of text": "all work and no play. " * 4600,
    "100 kB of one bracket": "{" * 100_000,
    "a NUL character": "before\x00after",
    "a lone surrogate": "before\ud800after",
    "right-to-left and combining characters": "\u202eabc\u0301\u0301\u0301",
}


def check_verifier(
    verifier: type[Any] | FunctionVerifier[..., Any],
    *,
    passing: Iterable[Case],
    failing: Iterable[Case],
    settings: Mapping[str, Any] | None = None,
    deadline_s: float = 30.0,
) -> list[str]:
    """The ways in which a verifier breaks its contract, one sentence each; empty when there are
    none.

    Args:
        verifier: a class, or a function decorated with `rlvr.plugin.verifier`.
        passing: (reference, text of a completion) that must PASS; at least one.
        failing: (reference, text) that must be judged and must not PASS.
        settings: of the verifier, as in a recipe.
        deadline_s: wall-clock seconds for each call: reading the settings, building the verifier, `warm_up`, one
            answer, `close`. A call that takes longer is a problem and ends the check.

    Runs the verifier here, in a separate thread, so it also works inside a running event loop (a notebook). A thread
    cannot be killed: a verifier that hangs keeps running until the process ends.
    """
    try:
        loaded: Any = verifier.as_class() if isinstance(verifier, FunctionVerifier) else verifier
    except PluginError as error:
        return [str(error)]
    problems = _shape_problems(loaded)
    if problems:
        return problems
    passing, failing = list(passing), list(failing)
    if not passing:
        return ["no passing case was given; a verifier must accept its own reference"]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            asked = _build(loaded, settings or {}, deadline_s)
            problems += [*_case_problems(asked, passing, failing), *_close_problems(asked)]
            asked = _build(loaded, settings or {}, deadline_s)
            problems += [*_hard_text_problems(asked, passing[0][0]), *_close_problems(asked)]
    except ValidationError as error:
        return [f"settings={settings!r} do not fit Config: {error}"]
    except _Broken as error:
        return [*problems, str(error)]
    if printed.getvalue():
        problems.append(f"prints to standard output: {printed.getvalue()[:80]!r}; use logging")
    return problems


def _shape_problems(loaded: Any) -> list[str]:
    """Missing members, before anything runs."""
    problems: list[str] = []
    for member in ("name", "version"):
        value = getattr(loaded, member, None)
        if not isinstance(value, str) or not value or "@" in value:
            problems.append(f"{member}={value!r} must be a text that is not empty, without '@'")
    if not isinstance(getattr(loaded, "execution", None), Execution):
        problems.append(f"execution={getattr(loaded, 'execution', None)!r} is no Execution")
    config: Any = getattr(loaded, "Config", None)
    if not (isinstance(config, type) and issubclass(config, BaseModel)):
        problems.append(f"Config={config!r} is no pydantic model")
    elif config.model_config.get("extra") != "forbid":
        problems.append('Config must have model_config = ConfigDict(extra="forbid", frozen=True)')
    if not callable(getattr(loaded, "verify", None)):
        problems.append("there is no method verify(prompt, completion)")
    return problems


class _Broken(Exception):  # noqa: N818 - not a fault of this program
    """The check cannot go on: the verifier cannot be built or closed."""


class _Hangs(_Broken):
    """A verifier has not answered within the deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A verifier whose every call runs in a thread, until the deadline."""

    verifier: Verifier
    deadline_s: float

    def verify(self, what: str, reference: Json, text: str) -> Any:
        """The verifier's answer. Raises its exceptions, and _Hangs."""
        return self.call(what, partial(_ask, self.verifier, reference, text, self.deadline_s))

    def call(self, what: str, function: Callable[[], Any]) -> Any:
        """Returns or raises like `function`. Raises _Hangs, which names `what`, after the deadline."""
        advice = "a run would count it as FAIL and end a checker that often hangs"
        return _within(self.deadline_s, f"{what}: no answer", function, advice=advice)


def _build(loaded: Any, settings: Mapping[str, Any], deadline_s: float) -> _Asked:
    """The verifier, built and warmed up. Raises ValidationError for its settings, _Broken."""
    try:
        config = _within(deadline_s, "Config: no answer", lambda: loaded.Config(**settings))
        verifier: Verifier = _within(deadline_s, "it is not built", lambda: loaded(config, VerifierContext()))
        if isinstance(verifier, SupportsWarmUp):
            _within(deadline_s, "warm_up: no answer", verifier.warm_up)
    except (_Broken, ValidationError):
        raise
    except PLUGIN_FAULTS as error:
        raise _Broken(f"it cannot be built: raised {type(error).__name__}: {error}") from error
    return _Asked(verifier=verifier, deadline_s=deadline_s)


def _within(deadline_s: float, late: str, function: Callable[[], Any], *, advice: str = "no run could start") -> Any:
    """Returns or raises like `function`, which runs in a thread. Raises _Hangs after the deadline."""
    result: Future[Any] = Future()
    context = copy_context()

    def answer() -> None:
        try:
            result.set_result(context.run(function))
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            result.set_exception(error)

    threading.Thread(target=answer, name="rlvr-check-verifier", daemon=True).start()
    try:
        return result.result(timeout=deadline_s + _GRACE_S)
    except (_Hangs, FutureTimeout) as error:
        if result.done() and not isinstance(result.exception(), _Hangs):
            raise
        raise _Hangs(f"{late} within {deadline_s:g} s; {advice}") from error


def _close_problems(asked: _Asked) -> list[str]:
    """How `close` fails. Raises _Hangs."""
    if not isinstance(asked.verifier, SupportsClose):
        return []
    try:
        _within(asked.deadline_s, "close: no answer", asked.verifier.close, advice="the run would not end")
    except _Hangs:
        raise
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything; reported to its author
        return [f"close: raised {type(error).__name__}: {error}"]
    return []


def _case_problems(asked: _Asked, passing: list[Case], failing: list[Case]) -> list[str]:
    problems: list[str] = []
    verifier = asked.verifier
    for index, (reference, text) in enumerate((*passing, *failing)):
        what = f"reference {reference!r}, text {text[:60]!r}"
        try:
            if isinstance(verifier, SupportsParseReference):
                asked.call(what, partial(verifier.parse_reference, reference))
            first, second = asked.verify(what, reference, text), asked.verify(what, reference, text)
            quick = asked.call(what, partial(_prejudge, verifier, reference, text))
            problems += [f"{what}: {problem}" for problem in _step_problems(asked, what, reference, text)]
        except _Hangs:
            raise
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; reported to its author
            problems.append(f"{what}: raised {type(error).__name__}: {error}")
            continue
        if not isinstance(first, Verdict):
            problems.append(f"{what}: returned {type(first).__name__} and not a Verdict")
            continue
        problems += [f"{what}: {problem}" for problem in _verdict_problems(verifier, first)]
        if _content(first) != _content(second):
            problems.append(f"{what}: two runs gave different verdicts: {first} and {second}")
        if quick is not None and _content(quick) != _content(first):
            problems.append(f"{what}: prejudge says {quick} and verify says {first}")
        if index < len(passing) and first.status is not Status.PASS:
            problems.append(f"{what}: must PASS and is {first.status}: {first.reason}")
        if index >= len(passing) and first.status in (Status.PASS, Status.ERROR):
            problems.append(f"{what}: must not PASS and is {first.status}: {first.reason}")
    return problems


def _hard_text_problems(asked: _Asked, reference: Json) -> list[str]:
    problems: list[str] = []
    verifier = asked.verifier
    for what, text in HARD_TEXTS.items():
        try:
            answer = asked.verify(what, reference, text)
            asked.call(what, partial(_prejudge, verifier, reference, text))
            problems += [f"{what}: {problem}" for problem in _step_problems(asked, what, reference, text)]
        except _Hangs:
            raise
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; reported to its author
            problems.append(f"{what}: raised {type(error).__name__}: {error}")
            continue
        if not isinstance(answer, Verdict):
            problems.append(f"{what}: returned {type(answer).__name__} and not a Verdict")
            continue
        problems += [f"{what}: {problem}" for problem in _verdict_problems(verifier, answer)]
        if answer.status is Status.PASS and not text.strip():
            problems.append(f"{what}: must not PASS")
    return problems


def _verdict_problems(verifier: Verifier, verdict: Verdict) -> list[str]:
    problems: list[str] = []
    label = f"{verifier.name}@{verifier.version}"
    if verdict.verifier != label:
        problems.append(f"the verdict names {verdict.verifier!r} and not {label!r}")
    if not verdict.reason.strip():
        problems.append("the verdict has no reason")
    try:
        json.dumps([verdict.extracted, verdict.reason, dict(verdict.details)])
    except (TypeError, ValueError) as error:
        problems.append(f"the verdict is not JSON: {error}")
    return problems


def _content(verdict: Verdict) -> Verdict:
    """The verdict without the time it took."""
    return replace(verdict, seconds=0.0)


def _step_problems(asked: _Asked, what: str, reference: Json, text: str) -> list[str]:
    verifier = asked.verifier
    if not isinstance(verifier, SupportsSteps):
        return []
    completion = completion_from_text(text, prompt_id="contract/0")
    return step_problems(verifier, _prompt(verifier.name, reference), completion, partial(asked.call, what))


def _prompt(verifier: str, reference: Json) -> Prompt:
    check = Check(name="main", verifier=verifier, reference=reference)
    return Prompt(prompt_id="contract/0", text="?", checks=(check,), source="contract")


def _ask(verifier: Verifier, reference: Json, text: str, deadline_s: float) -> Any:
    completion = completion_from_text(text, prompt_id="contract/0")
    answer: Any = verifier.verify(_prompt(verifier.name, reference), completion)
    if inspect.isawaitable(answer):
        return asyncio.run(_result(answer, deadline_s))
    return answer


async def _result(answer: Any, deadline_s: float) -> Any:
    """Waits for an asynchronous verifier, which is cancelled at the deadline."""
    task = asyncio.ensure_future(answer)
    done, _ = await asyncio.wait({task}, timeout=deadline_s)
    if not done:
        task.cancel()
        raise _Hangs
    return task.result()


def _prejudge(verifier: Verifier, reference: Json, text: str) -> Verdict | None:
    if not isinstance(verifier, SupportsPrejudge):
        return None
    return verifier.prejudge(reference, completion_from_text(text, prompt_id="contract/0"))
