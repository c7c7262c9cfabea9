"""`verifiers:` with a stand-in for the package; tests/ecosystems/test_verifiers.py has the real one."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rlvr.errors import PluginError, VerifierError
from rlvr.plugin import completion_from_text
from rlvr.records import FinishReason, Message, Status
from tests.unit.verifiers.adapters.adapted import built, prompt_of, verdict_on

LOGGER = logging.getLogger("verifiers.rubrics.Rubric")


class State(dict[str, Any]):
    def __getitem__(self, key: str) -> Any:
        return self["input"][key] if key in ("prompt", "answer", "info") else super().__getitem__(key)


class Rubric:
    """As in verifiers: a weighted sum of functions, an exception counts as 0 and is logged."""

    has_group_rewards = False

    def __init__(self, *functions: Callable[[Any], float], weights: tuple[float, ...] = ()) -> None:
        self.functions = functions
        self.executor: Any = None
        self.rubrics: tuple[Any, ...] = ()
        self.weights = weights or (1.0,) * len(functions)

    async def score_rollout(self, state: Any) -> None:
        scores: list[float] = []
        for function in self.functions:
            try:
                scores.append(function(state))
            except Exception as error:  # noqa: BLE001 - what verifiers does
                LOGGER.error(f"Error calling reward function {function.__name__}: {error}")
                scores.append(0.0)
        state["metrics"] = {function.__name__: s for function, s in zip(self.functions, scores, strict=True)}
        state["reward"] = sum(score * weight for score, weight in zip(scores, self.weights, strict=True))


def correct(state: Any) -> float:
    return float(state["completion"][-1]["content"] == state["answer"])


def short(state: Any) -> float:
    return max(0.0, 1.0 - len(state["completion"][-1]["content"]) / state["info"]["most"])


def broken(state: Any) -> float:
    raise KeyError("x")


@pytest.fixture(autouse=True)
def rubrics(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package's modules that the adapter imports, and a module with rubrics."""
    types, utils, messages = (ModuleType(f"verifiers.{name}") for name in ("types", "utils", "utils.message_utils"))
    vars(types)["State"] = State
    vars(messages)["normalize_messages"] = list[Any]
    made = ModuleType("some_rubrics")
    modules = [ModuleType("verifiers"), types, utils, messages, made]
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    rubric = Rubric(correct, short, weights=(1.0, 0.5))
    vars(made).update(rubric=rubric, broken=Rubric(broken), number=1, environment=SimpleNamespace(rubric=rubric))
    return made


def test_the_reward_is_mapped_and_the_functions_scores_are_details() -> None:
    verifier = built("verifiers:some_rubrics:rubric", scores={"from": [0, 1.5]})
    verdict = verdict_on(verifier, "4", "4", info={"most": 2})
    assert verdict.details == {"score": 1.25, "correct": 1.0, "short": 0.5}
    assert verdict.score == pytest.approx(1.25 / 1.5)
    assert verdict.status is Status.FAIL
    assert verdict_on(verifier, "5", "4", info='{"most": 2}').details["score"] == 0.25


def test_a_reward_above_1_asks_for_the_range() -> None:
    with pytest.raises(PluginError, match=r"scores: \{from: \[0, 2\]\}"):
        verdict_on(built("verifiers:some_rubrics:rubric"), "4", "4", info={"most": 2})


def test_the_state_is_that_of_a_finished_rollout(rubrics: Any) -> None:
    seen: list[Any] = []
    rubrics.spy = Rubric(lambda state: float(not seen.append(state)))
    verifier = built("verifiers:some_rubrics:spy")
    completion = completion_from_text("4", prompt_id="p")
    object.__setattr__(completion, "finish_reason", FinishReason.LENGTH)
    question = (Message(role="system", content="Be short."), Message(role="user", content="2 + 2?"))
    verifier.verify(prompt_of(verifier, "4", messages=question, level=3), completion)
    state = seen[0]
    asked = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "2 + 2?"}]
    answer = [{"role": "assistant", "content": "4"}]
    assert (state["prompt"], state["completion"], state["answer"], state["info"]) == (asked, answer, "4", {})
    assert state["input"]["level"] == state["task"]["level"] == 3
    assert [(step["prompt"], step["completion"]) for step in state["trajectory"]] == [(asked, answer)]
    assert state["is_truncated"] is True
    verifier.verify(prompt_of(verifier, "4", text="2 + 2?"), completion_from_text("4", prompt_id="p"))
    assert seen[1]["prompt"] == [{"role": "user", "content": "2 + 2?"}]
    assert seen[1]["is_truncated"] is False


@pytest.mark.parametrize("name", ["environment", "load_environment", "Kind", "make"])
def test_rubrics_come_from_environments_functions_and_classes(name: str, rubrics: Any) -> None:
    rubrics.load_environment = lambda: rubrics.environment
    rubrics.make = lambda: rubrics.rubric

    class Kind(Rubric):
        def __init__(self) -> None:
            super().__init__(correct)

    rubrics.Kind = Kind
    verifier = built(f"verifiers:some_rubrics:{name}", scores={"from": [0, 2]})
    assert verdict_on(verifier, "4", "4", info={"most": 100}).details["correct"] == 1.0


def test_arguments_are_passed(rubrics: Any) -> None:
    rubrics.load_environment = lambda weight: Rubric(correct, weights=(weight,))
    verifier = built("verifiers:some_rubrics:load_environment", arguments={"weight": 3.0}, scores={"from": [0, 3]})
    assert verdict_on(verifier, "4", "4").details["score"] == 3.0


def test_an_exception_of_a_function_is_an_error_and_no_zero() -> None:
    verifier = built("verifiers:some_rubrics:broken")
    for _ in range(2):
        with pytest.raises(VerifierError, match="Error calling reward function broken: 'x'"):
            verdict_on(verifier, "4", "4")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "cannot be imported: AttributeError"),
        ("number", "is a int; it must be a rubric, an environment, or a function"),
        ("fails", "was called with settings.arguments=.*OSError: no network. If it loads data from a network"),
        ("nothing", "made a NoneType, which is no rubric and has none"),
        ("of_group", "functions over a group of rollouts"),
    ],
)
def test_what_is_no_rubric_is_refused_with_the_cause(name: str, message: str, rubrics: Any) -> None:
    def fails() -> Any:
        raise OSError("no network")

    of_group = Rubric(correct)
    of_group.has_group_rewards = True
    vars(rubrics).update(fails=fails, nothing=lambda: None, of_group=of_group)
    with pytest.raises(PluginError, match=message):
        built(f"verifiers:some_rubrics:{name}")


def test_without_the_package_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "verifiers.types", None)
    with pytest.raises(PluginError, match=r"needs the package verifiers: .*pip install 'verifiers==0\.3\.\*'"):
        built("verifiers:some_rubrics:rubric")


def test_process_pools_of_rubrics_are_not_used(rubrics: Any) -> None:
    """A pool that was made before a jailed worker is forked would keep its items waiting."""

    async def pooled(state: Any) -> None:
        loop = asyncio.get_running_loop()
        pid = await loop.run_in_executor(rubrics.inner.executor, os.getpid)
        with pytest.raises(KeyError):
            await loop.run_in_executor(rubrics.inner.executor, broken, state)
        state["metrics"], state["reward"] = {}, float(pid == os.getpid())

    rubrics.inner = Rubric(correct)
    rubrics.inner.executor = ProcessPoolExecutor(max_workers=1)
    rubrics.inner.score_rollout = pooled
    rubrics.outer = Rubric(correct)
    rubrics.outer.rubrics = (rubrics.inner,)
    rubrics.outer.score_rollout = pooled
    assert verdict_on(built("verifiers:some_rubrics:outer"), "4", "4").passed
