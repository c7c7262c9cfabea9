"""`trl:module.function` and `trl:path/file.py:function`: a reward function of TRL's GRPOTrainer, unchanged.

TRL calls `function(prompts=, completions=, completion_ids=, trainer_state=, log_extra=, log_metric=, **columns)` with
lists over a batch. Here each list has one element, so a function that compares the completions of a batch has another
meaning and is refused where that is noticed (see `_require_independence`).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar

from pydantic import BaseModel, Field

from rlvr.adapted import Adapted
from rlvr.errors import PluginError
from rlvr.plugin import NEEDS_TOKENS, VerifierContext, verdict
from rlvr.protocols import Execution
from rlvr.records import Completion, Json, Prompt, Status, Verdict
from rlvr_verifiers.adapters.function import EXECUTION, RewardFunction
from rlvr_verifiers.adapters.scores import AdapterConfig, as_json, as_number, scored

_NOT_COLUMNS = frozenset({"prompt", "completion", "completion_ids"})  # TRL does not pass these columns either
_OTHER_COMPLETION = "I do not know."


class CompletionForm(StrEnum):
    """How completions are passed."""

    AUTO = "auto"  # as the prompt: messages for chat messages, text for plain text
    MESSAGES = "messages"
    TEXT = "text"


class TrlConfig(AdapterConfig):
    """Settings of `trl:`."""

    arguments: dict[str, Json] = Field(
        default_factory=dict[str, Json],
        description="bound to the function by name; a factory such as get_soft_overlong_punishment is called with them",
    )
    reference: str = Field(
        default="solution", description="the name under which the function gets the reference, unless a column has it"
    )
    completions: CompletionForm = Field(
        default=CompletionForm.AUTO,
        description="messages, text, or auto: messages if the prompt is chat messages, as in TRL",
    )


class TrlVerifier:
    """A reward function of TRL, such as `trl:trl.rewards.accuracy_reward` or `trl:rewards.py:length_reward`.

    It is called with one completion at a time, as `function(prompts=[...], completions=[...], completion_ids=[...],
    trainer_state=..., **columns)`, and may be async. The other columns of the row are passed under their names, the
    reference as `solution` (setting `reference`). None becomes SKIPPED: the check does not count for that row.
    """

    name: ClassVar[str] = "trl:"
    version: ClassVar[str] = "1"
    execution: ClassVar[Execution] = EXECUTION
    Config: ClassVar[type[BaseModel]] = TrlConfig
    adapted: ClassVar[Adapted]

    def __init__(self, config: TrlConfig, context: VerifierContext) -> None:
        self.config = config
        self._function = RewardFunction(
            self.adapted, arguments=config.arguments, names=frozenset({"completions", "completion_ids", "prompts"})
        )
        self._is_tried = False

    def warm_up(self) -> None:
        """Imports the function. Raises: PluginError with the cause."""
        self._function.load()

    def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
        """The function's reward for one completion. Raises: PluginError, and whatever the function raises."""
        if not completion.token_ids and completion.text and self._function.names_parameter("completion_ids"):
            what = "the function reads completion_ids, and this completion has only text: it is judged in a run alone"
            return verdict(self, Status.ERROR, what, details={"needs": NEEDS_TOKENS})
        log = _Log()
        reward = self._rewards(prompt, [completion], log)[0]
        if not completion.token_ids and not self._is_tried:  # not in training: it would cost further calls
            self._is_tried = True
            self._require_independence(prompt, completion, reward)
        return scored(self, self.config, reward, details=log.details)

    def _rewards(self, prompt: Prompt, completions: list[Completion], log: "_Log") -> list[Any]:
        """The function's rewards for completions of one prompt, in one call."""
        size = len(completions)
        columns = {self.config.reference: prompt.reference, **prompt.tags}
        asked: object = [{"role": m.role, "content": m.content} for m in prompt.messages] or prompt.text
        offered: dict[str, Any] = {
            "prompts": [asked] * size,
            "completions": [self._form(prompt, completion.text) for completion in completions],
            "completion_ids": [list(completion.token_ids) for completion in completions],
            **{name: [value] * size for name, value in columns.items() if name not in _NOT_COLUMNS},
            "trainer_state": _NoTrainerState(),
            "log_extra": log.extra,
            "log_metric": log.metric,
        }
        answer = self._function.call(
            offered=offered,
            advice="Columns that hold lists or objects are kept with `layout: trl`; if it is the reference, write "
            "settings: {reference: NAME}",
        )
        found = answer.tolist() if callable(getattr(answer, "tolist", None)) else answer
        if isinstance(found, str | Mapping) or not hasattr(found, "__len__") or len(found) != size:
            raise PluginError(
                f"the function returned {answer!r:.200} for {size} completion{'s' * (size > 1)}; a reward function of "
                "TRL returns a list with one reward for each"
            )
        return list(found)

    def _form(self, prompt: Prompt, text: str) -> object:
        is_text = self.config.completions is CompletionForm.TEXT
        if self.config.completions is CompletionForm.AUTO:
            is_text = not prompt.messages
        return text if is_text else [{"role": "assistant", "content": text}]

    def _require_independence(self, prompt: Prompt, completion: Completion, reward: object) -> None:
        """Raises PluginError if a completion gets another reward in a batch with other completions of the prompt.

        Functions that differ on two equal calls, or that cannot be called with several completions, are left alone.
        """
        other = Completion(
            completion_id=f"{completion.completion_id}-other",
            prompt_id=completion.prompt_id,
            sample_index=completion.sample_index + 1,
            prompt_token_ids=(),
            token_ids=(),
            logprobs=(),
            sampled_mask=(),
            text=_OTHER_COMPLETION if completion.text != _OTHER_COMPLETION else _OTHER_COMPLETION * 2,
            finish_reason=completion.finish_reason,
            policy_versions=(),
        )
        try:
            again = self._rewards(prompt, [completion], _Log())[0]
            batch = self._rewards(prompt, [completion, other, completion], _Log())
        except Exception:  # noqa: BLE001 - the trial decides nothing about the function's own verdict
            return
        if as_number(again) == as_number(reward) != as_number(batch[0]):
            raise PluginError(
                f"the function returned {reward!r} for a completion alone and {batch[0]!r} for the same completion in "
                "a batch with others: it compares the completions of a batch. rlvr judges one completion at a time, "
                "so such a function has no meaning here; leave it out"
            )


class _Log:
    """What the function reports by `log_extra` and `log_metric`, kept in the verdict's details."""

    def __init__(self) -> None:
        self.details: dict[str, Json] = {}

    def extra(self, column: str, values: list[Any]) -> None:
        """TRL's `log_extra`: a value for each completion."""
        self.details[str(column)] = as_json(values[0] if len(values) == 1 else values)

    def metric(self, name: str, value: float) -> None:
        """TRL's `log_metric`: a number of the batch."""
        self.details[str(name)] = as_json(value)


class _NoTrainerState:
    """Passed as `trainer_state`; reading it is an error, because a verdict must not depend on the step."""

    def __getattr__(self, name: str) -> Any:
        raise PluginError(
            f"the reward function reads trainer_state.{name}: its reward would depend on the step, and a verdict of "
            "rlvr depends only on the prompt and the completion"
        )
