"""`verl:path/file.py:compute_score` and `verl:package.module:compute_score`: a reward function of verl, unchanged.

verl calls `compute_score(data_source=, solution_str=, ground_truth=, extra_info=)`, and its own files take
`(solution_str, ground_truth)`. The result is a number, a bool, a dict with "score", or a list that begins with it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from pydantic import BaseModel, Field

from rlvr.adapted import Adapted
from rlvr.errors import PluginError
from rlvr.plugin import VerifierContext
from rlvr.protocols import Execution
from rlvr.records import Completion, Json, Prompt, Verdict
from rlvr_verifiers.adapters.function import EXECUTION, RewardFunction
from rlvr_verifiers.adapters.scores import AdapterConfig, as_json, scored

_TURNS = {"num_turns": 2, "rollout_reward_scores": {}}  # what verl's reward manager adds for a single turn


class VerlConfig(AdapterConfig):
    """Settings of `verl:`."""

    arguments: dict[str, Json] = Field(
        default_factory=dict[str, Json],
        description="further arguments by name, as verl's custom_reward_function.reward_kwargs",
    )


class VerlVerifier:
    """A reward function of verl, such as `verl:rewards.py:compute_score` or `verl:my_package.rewards:compute_score`.

    It gets `solution_str` (the completion), `ground_truth` (the reference), and if it takes them `data_source` and
    `extra_info` (the columns of these names, which `layout: verl` keeps) and the setting `arguments`. A function
    without a parameter `solution_str` gets completion and reference as its first two arguments. Of a dict, "score" is
    the score and the other keys become details.
    """

    name: ClassVar[str] = "verl:"
    version: ClassVar[str] = "1"
    execution: ClassVar[Execution] = EXECUTION
    Config: ClassVar[type[BaseModel]] = VerlConfig
    adapted: ClassVar[Adapted]

    def __init__(self, config: VerlConfig, context: VerifierContext) -> None:
        self.config = config
        # any callable is the function: verl has no factories, and the names of the first two parameters vary
        self._function = RewardFunction(self.adapted, arguments=config.arguments, names=None)

    def warm_up(self) -> None:
        """Imports the function. Raises: PluginError with the cause."""
        self._function.load()

    def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
        """The function's score of one completion. Raises: PluginError, and whatever the function raises."""
        offered: dict[str, Any] = {
            "data_source": prompt.tags.get("data_source", prompt.source),
            "solution_str": completion.text,
            "ground_truth": prompt.reference,
            "extra_info": {**(prompt.tags.get("extra_info") or {}), **_TURNS},
        }
        positional: tuple[Any, ...] = ()
        if not self._function.takes("solution_str"):
            positional = (offered.pop("solution_str"), offered.pop("ground_truth"))
        return self._verdict(self._function.call(*positional, offered=offered))

    def _verdict(self, answer: object) -> Verdict:
        if isinstance(answer, Mapping):
            found = cast(Mapping[str, Any], answer)
            if "score" not in found:
                raise PluginError(
                    f"the function returned a dict without 'score'; it has {', '.join(map(repr, found)) or 'no keys'}"
                )
            details = {str(key): as_json(value) for key, value in found.items() if key != "score"}
            return scored(self, self.config, found["score"], details=details)
        if isinstance(answer, Sequence) and not isinstance(answer, str) and answer:
            rest = [as_json(value) for value in answer[1:]]
            return scored(self, self.config, answer[0], details={"further": rest} if rest else {})
        return scored(self, self.config, answer)
