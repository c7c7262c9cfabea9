"""`reasoning_gym:TASK` as a verifier: the package's own scorer of the task judges the answer."""

import logging
from collections.abc import Mapping
from typing import Any, ClassVar, cast

from pydantic import BaseModel, ConfigDict, Field

from rlvr.adapted import Adapted
from rlvr.plugin import VerifierContext, verdict
from rlvr.protocols import Execution
from rlvr.records import Completion, Json, Prompt, Status, Verdict
from rlvr_verifiers.adapters.reasoning_gym.answers import AnswerForm, answer_in, right_answer
from rlvr_verifiers.adapters.reasoning_gym.known_flaws import require_sound, version_problem
from rlvr_verifiers.adapters.reasoning_gym.package_side import MIXED, PACKAGE, Scorers, version

logger = logging.getLogger(__name__)

_FULL = 1.0
_ROUNDING = 1e-9  # of scores that are sums: spell_backward gives 1.0000000000000002
# What may raise these is the machine or the installation, and not the answer.
_NOT_THE_ANSWER = (ImportError, OSError, MemoryError)


class ReasoningGymConfig(BaseModel):
    """Settings of `reasoning_gym:TASK`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    answer: AnswerForm = Field(
        default=AnswerForm.TAGGED,
        description="where the answer is: tagged (the last <answer> pair), last_line, or whole (the whole completion)",
    )
    allow_exploitable: bool = Field(
        default=False, description="accept a task whose scorer is known to be exploitable; see REASONING_GYM.md"
    )


class ReasoningGymVerifier:
    """A task of reasoning-gym: the package's own `score_answer` scores the answer. Use `composite` for several tasks.

    The reference is the entry: an object with `question`, `answer` and `metadata`, and, if needed, `task` and `config`.
    """

    name: ClassVar[str] = "reasoning_gym"
    version: ClassVar[str] = "1"
    execution: ClassVar[Execution] = Execution.JAILED
    is_graded: ClassVar[bool] = True
    adapted: ClassVar[Adapted]
    Config: ClassVar[type[BaseModel]] = ReasoningGymConfig

    def __init__(self, config: ReasoningGymConfig, context: VerifierContext) -> None:
        """Raises: PluginError for a task that can be exploited, unless that is allowed."""
        self._config = config
        self._task = self.adapted.argument
        self._scorers: Scorers | None = None
        require_sound([self._task], allow_exploitable=config.allow_exploitable)

    def warm_up(self) -> None:
        """Imports the package and makes the scorer of the task. Raises: ImportError; ValueError for an unknown task."""
        scorers = self._made()
        if self._task != MIXED:
            scorers.prepare(self._task, {})
        if problem := version_problem(version()):
            logger.warning("%s", problem)

    def parse_reference(self, reference: Json) -> None:
        """Raises ValueError for an entry that is incomplete, or whose own answer does not get the full score.

        Entries without an answer, of tasks that accept any solution, pass.
        """
        task, config, entry = self._parts(reference)
        answer = right_answer(entry)
        if answer is None:
            return
        score = self._made().score(task, config, answer, entry)
        if score < _FULL:
            raise ValueError(f"its own answer {answer!r:.200} gets the score {score:g} from reasoning-gym")

    def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
        """The scorer's score: PASS at 1. An answer on which the scorer raises is UNPARSED.

        Raises: ImportError, OSError and MemoryError of the scorer, which no answer causes; ValueError for a reference
            that cannot be used, or a score outside [0, 1].
        """
        task, config, entry = self._parts(prompt.reference)
        answer = answer_in(completion.text, self._config.answer)
        if answer is None:
            return verdict(self, Status.UNPARSED, f"no answer in the form {self._config.answer.value!r}")
        scorers = self._made()
        scorers.prepare(task, config)
        try:
            score = scorers.score(task, config, answer, entry)
        except _NOT_THE_ANSWER:
            raise
        except Exception as error:  # noqa: BLE001 - the scorers raise all kinds on answers that they cannot read
            name = type(error).__name__
            reason = f"the scorer raised {name}: {error}"
            return verdict(self, Status.UNPARSED, reason[:500], extracted=answer, details={"raised": name})
        if not -_ROUNDING <= score <= _FULL + _ROUNDING:
            raise ValueError(f"the scorer of {task!r} returned {score}, and a score is in [0, 1]")
        score = min(max(score, 0.0), _FULL)
        status = Status.PASS if score >= _FULL else Status.FAIL
        return verdict(self, status, f"{task} scored it {score:g}", score=score, extracted=answer)

    def _made(self) -> Scorers:
        """The scorers; the package is imported when they are first asked for."""
        if self._scorers is None:
            try:
                self._scorers = Scorers()
            except ImportError as error:
                raise ImportError(
                    f"reasoning-gym cannot be imported here ({error}); install it with `pip install {PACKAGE}`"
                ) from error
        return self._scorers

    def _parts(self, reference: Json) -> tuple[str, Mapping[str, Any], Mapping[str, Any]]:
        """(task, config, entry) of a reference. Raises ValueError."""
        if not isinstance(reference, dict):
            raise ValueError(f"it is {type(reference).__name__}, and an entry is an object with {_ENTRY}")
        fields = cast("dict[str, Any]", reference)
        missing = [key for key in _KEYS if key not in fields]
        if missing:
            raise ValueError(f"it has no {' and no '.join(missing)}; an entry has {_ENTRY}")
        task = str(fields.get("task", "" if self._task == MIXED else self._task))
        if self._task == MIXED:
            if not task:
                raise ValueError("it has no task, which `reasoning_gym:composite` needs in each row")
            require_sound([task], allow_exploitable=self._config.allow_exploitable)
        elif task != self._task:
            raise ValueError(f"its task is {task!r}, and the verifier is reasoning_gym:{self._task}")
        return task, fields.get("config") or {}, {key: fields[key] for key in _KEYS}


_KEYS = ("question", "answer", "metadata")
_ENTRY = ", ".join(_KEYS)
