"""`verifiers:module:attribute`: a rubric of Prime Intellect's package verifiers (0.3), unchanged.

The attribute is a `Rubric`, an `Environment` with one, or a function or class that makes either, such as
`load_environment`. The rubric gets a state like that of a single-turn environment after its rollout, and its reward is
the weighted sum of its functions. verifiers itself turns an exception of a reward function into the score 0; here it is
an error, because a broken function is not a wrong answer.
"""

import asyncio
import importlib
import json
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any, ClassVar, cast

from pydantic import BaseModel, Field

from rlvr.adapted import Adapted
from rlvr.errors import PluginError, VerifierError
from rlvr.plugin import VerifierContext
from rlvr.protocols import Execution
from rlvr.records import Completion, FinishReason, Json, Prompt, Verdict
from rlvr_verifiers.adapters.scores import AdapterConfig, as_json, scored

_SWALLOWED = "Error calling reward function"
_INSTALL = (
    "install verifiers (`pip install 'verifiers==0.3.*'`) in the interpreter that runs this check, which may be one of "
    "its own"
)


class RubricConfig(AdapterConfig):
    """Settings of `verifiers:`."""

    arguments: dict[str, Json] = Field(
        default_factory=dict[str, Json],
        description="passed by name to load_environment, or to the function or class that makes the rubric",
    )


class RubricVerifier:
    """A rubric of verifiers, such as `verifiers:my_env:load_environment` or `verifiers:rewards.py:rubric`.

    `answer` is the reference, `info` and further columns are those of the row, `prompt` and `completion` are messages.
    The single functions' scores become details. Functions over a group of rollouts are refused.
    """

    name: ClassVar[str] = "verifiers:"
    version: ClassVar[str] = "1"
    execution: ClassVar[Execution] = Execution.JAILED
    Config: ClassVar[type[BaseModel]] = RubricConfig
    adapted: ClassVar[Adapted]

    def __init__(self, config: RubricConfig, context: VerifierContext) -> None:
        self.config = config
        self._rubric: Any = None
        self._types: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._errors = _Errors()

    def warm_up(self) -> None:
        """Imports verifiers and the rubric. Raises: PluginError with the cause."""
        if self._rubric is None:
            try:
                self._types = importlib.import_module("verifiers.types")
            except ImportError as error:
                raise PluginError(f"{self.adapted.name} needs the package verifiers: {error}; {_INSTALL}") from error
            _stop_progress_bars()
            self._rubric = self._made()
            _run_here(self._rubric)
            logging.getLogger("verifiers").addHandler(self._errors)

    def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
        """The rubric's reward for one completion.

        Raises: PluginError; VerifierError when a reward function raises; whatever else the rubric raises.
        """
        self.warm_up()
        state = self._state(prompt, completion)
        self._errors.found.clear()
        self._wait(self._rubric.score_rollout(state))
        if self._errors.found:
            raise VerifierError(f"{self._errors.found[0]} (verifiers itself would count it as 0)")
        metrics = cast(Mapping[str, Any], state.get("metrics") or {})
        details = {str(key): as_json(value) for key, value in metrics.items()}
        return scored(self, self.config, state["reward"], details=details)

    def _made(self) -> Any:
        """The rubric that the name stands for. Raises: PluginError."""
        name, found = self.adapted.name, self._loaded()
        if not _is_rubric(found) or isinstance(found, type):
            if not callable(found) and not hasattr(found, "rubric"):
                raise PluginError(
                    f"{name} is a {type(found).__name__}; it must be a rubric, an environment, or a function that "
                    "makes one, such as load_environment"
                )
            try:
                made = found if hasattr(found, "rubric") else found(**self.config.arguments)
            except Exception as error:  # the function is other people's code, which may raise anything
                raise PluginError(
                    f"{name} was called with settings.arguments={self.config.arguments} to make the rubric: "
                    f"{type(error).__name__}: {error}. If it loads data from a network, name the rubric itself"
                ) from error
            found = made if _is_rubric(made) else getattr(made, "rubric", None)
            if not _is_rubric(found):
                raise PluginError(f"{name} made a {type(made).__name__}, which is no rubric and has none")
        if getattr(found, "has_group_rewards", False) or getattr(found, "has_advantages", False):
            raise PluginError(
                f"{name} has reward functions over a group of rollouts (states, completions, ...). rlvr judges one "
                "completion at a time, so they have no meaning here; leave them out"
            )
        return found

    def _loaded(self) -> Any:
        try:
            return self.adapted.load()
        except Exception as error:  # an import runs other people's code, which may raise anything
            raise PluginError(
                f"{self.adapted.name} cannot be imported: {type(error).__name__}: {error}. Install it where the "
                "verifiers run, or name a file: verifiers:path/file.py:rubric"
            ) from error

    def _state(self, prompt: Prompt, completion: Completion) -> Any:
        """The state of a finished single-turn rollout."""
        messages = [{"role": m.role, "content": m.content} for m in prompt.messages]
        info: Any = prompt.tags.get("info") or {}
        row: dict[str, Any] = {
            **prompt.tags,
            "prompt": self._messages(messages or [{"role": "user", "content": prompt.text}]),
            "answer": "" if prompt.reference is None else prompt.reference,
            "info": json.loads(info) if isinstance(info, str) else info,
            "example_id": prompt.tags.get("example_id", 0),
        }
        state = self._types.State(input=row)
        flatten = getattr(self._types, "flatten_task_input", dict)
        state["task"] = flatten(row)
        answer = self._messages([{"role": "assistant", "content": completion.text}])
        step: dict[str, Any] = {"prompt": state["prompt"], "completion": answer, "response": None, "tokens": None}
        step |= {"reward": None, "advantage": None, "is_truncated": False, "trajectory_id": "", "extras": {}}
        given: dict[str, Any] = {"completion": answer, "trajectory": [step], "tool_defs": [], "error": None}
        given |= {"reward": None, "metrics": None, "is_completed": True, "stop_condition": None}
        given["is_truncated"] = step["is_truncated"] = completion.finish_reason is not FinishReason.STOP
        if timing := getattr(self._types, "RolloutTiming", None):
            given["timing"] = timing()
        for key, value in given.items():
            state[key] = value
        return state

    def _messages(self, messages: list[dict[str, str]]) -> Any:
        return importlib.import_module("verifiers.utils.message_utils").normalize_messages(messages)

    def _wait(self, scoring: Coroutine[Any, Any, None]) -> None:
        """Runs in the one event loop of this process, to which the rubric's clients and locks belong."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(scoring)


class _Errors(logging.Handler):
    """The exceptions of reward functions, which verifiers logs and turns into 0."""

    def __init__(self) -> None:
        super().__init__(level=logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith(_SWALLOWED):
            self.found.append(message)


def _stop_progress_bars() -> None:
    """Keeps tqdm, with which environments load data, from starting a thread: a jailed worker is forked afterwards."""
    try:
        bar = importlib.import_module("tqdm").tqdm
    except ImportError:
        return
    bar.monitor_interval = 0


class _Here(Executor):
    """Runs each call at once in the calling thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """The finished call."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - handed to the caller, as every executor does
            future.set_exception(error)
        return future


def _run_here(rubric: Any) -> None:
    """Replaces the process pools of rubrics, such as MathRubric's: a worker is a process with a deadline already.

    Within the jail a pool that was made before the worker is forked would keep its items waiting.
    """
    for name, value in list(vars(rubric).items()):
        if isinstance(value, ProcessPoolExecutor):
            setattr(rubric, name, _Here())
    for inner in cast(Sequence[Any], getattr(rubric, "rubrics", ())):
        _run_here(inner)


def _is_rubric(found: object) -> bool:
    return callable(getattr(found, "score_rollout", None))
