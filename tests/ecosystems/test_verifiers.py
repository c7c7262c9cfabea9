"""Rubrics of the package verifiers score the same in its own environments and through `verifiers:`."""

import asyncio
import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from rlvr.errors import PluginError, VerifierError
from tests.unit.verifiers.adapters.adapted import built, verdict_on

vf = pytest.importorskip("verifiers")
GOLD = "4"
TEXTS = [
    "<think>2 + 2 is 4.</think>\n<answer>4</answer>",
    "<think>Is it 5?</think>\n<answer>5</answer>",
    "<answer>4</answer>",
    r"It is \boxed{4}.",
    r"<think>\boxed{5}</think>It is \boxed{\frac{8}{2}}.",
    r"\boxed{5}",
    "4",
    "",
    "x" * 300,
]
PARSER = vf.XMLParser(["think", "answer"], answer_field="answer")


async def correct(completion: Any, answer: str, parser: Any) -> float:
    """As in the package's examples: asynchronous, with the parser."""
    await asyncio.sleep(0)
    return 1.0 if parser.parse_answer(completion) == answer else 0.0


def short(completion: Any, prompt: Any, info: dict[str, Any], state: Any, **kwargs: Any) -> float:
    """Reads all that a function may ask for."""
    assert prompt[-1]["role"] == "user"
    assert state["trajectory"][-1]["completion"][-1].content == completion[-1]["content"]
    assert kwargs["task"]
    return max(0.0, 1.0 - len(completion[-1]["content"]) / info["most"])


def level_of(level: int) -> float:
    """A column of the row by its name."""
    return float(level)


def rubrics() -> dict[str, Any]:
    functions = [correct, short, PARSER.get_format_reward_func(), level_of]
    own = vf.Rubric(funcs=functions, weights=[1.0, 0.25, 0.5, -0.1], parser=PARSER)
    return {"own": own, "math": vf.MathRubric(), "group": vf.RubricGroup(rubrics=[own, vf.MathRubric()])}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An importable module with the rubrics."""
    made = types.ModuleType("some_rubrics")
    for name, rubric in rubrics().items():
        setattr(made, name, rubric)
    monkeypatch.setitem(sys.modules, "some_rubrics", made)
    return made


def scripted(text: str) -> Any:
    """A client that answers with the text."""
    package = importlib.import_module("verifiers.types")

    class Scripted(vf.Client):
        async def get_response(self, *_: Any, **__: Any) -> Any:
            message = package.ResponseMessage(role="assistant", content=text, finish_reason="stop", is_truncated=False)
            return package.Response(id="1", created=0, model="m", message=message)

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(name)

    Scripted.__abstractmethods__ = frozenset()
    return Scripted(None)


ROW = {"answer": GOLD, "info": {"most": 100}, "level": 3}


def reward_at_home(rubric: Any, text: str) -> float:
    """The reward after a rollout of the package's own single-turn environment."""
    from datasets import Dataset

    row = {"prompt": [{"role": "user", "content": "What is 2 + 2?"}], "example_id": 0, **ROW}
    environment = vf.SingleTurnEnv(dataset=Dataset.from_list([row]), rubric=rubric)

    async def run() -> float:
        state = await environment.rollout(row, scripted(text), "m")
        await rubric.score_rollout(state)
        return state["reward"]

    return asyncio.run(run())


@pytest.mark.parametrize("name", ["own", "math", "group"])
def test_equal_scores_at_home_and_here(name: str, module: Any, record_property: Callable[[str, object], None]) -> None:
    at_home = [reward_at_home(rubrics()[name], text) for text in TEXTS]
    verifier = built(f"verifiers:some_rubrics:{name}", scores={"from": [-1, 4]})
    here = [verdict_on(verifier, text, GOLD, info=ROW["info"], level=ROW["level"]) for text in TEXTS]
    assert [verdict.details["score"] for verdict in here] == at_home
    assert len(set(at_home)) > 1
    record_property("equal_scores", len(TEXTS))


def test_an_environment_is_loaded_with_arguments(module: Any, record_property: Callable[[str, object], None]) -> None:
    def load_environment(weight: float) -> Any:
        from datasets import Dataset

        rows = [{"question": "What is 2 + 2?", "answer": GOLD}]
        return vf.SingleTurnEnv(
            dataset=Dataset.from_list(rows), rubric=vf.Rubric(funcs=[correct], weights=[weight], parser=PARSER)
        )

    module.load_environment = load_environment
    verifier = built("verifiers:some_rubrics:load_environment", arguments={"weight": 2.0}, scores={"from": [0, 2]})
    home = load_environment(2.0).rubric
    rewards = [reward_at_home(home, text) for text in TEXTS]
    found = [verdict_on(verifier, text, GOLD) for text in TEXTS]
    assert [verdict.details["score"] for verdict in found] == rewards
    record_property("equal_scores", len(TEXTS))


def test_what_verifiers_hides_or_cannot_be_the_same_is_an_error(module: Any) -> None:
    def broken(completion: Any) -> float:
        raise KeyError("x")

    def compare(completions: Any, states: Any) -> list[float]:
        return [0.0 for _ in completions]

    module.broken, module.compare = vf.Rubric(funcs=[broken]), vf.Rubric(funcs=[compare])
    assert reward_at_home(module.broken, "4") == 0.0
    with pytest.raises(VerifierError, match="Error calling reward function broken: 'x'"):
        verdict_on(built("verifiers:some_rubrics:broken"), "4", GOLD)
    with pytest.raises(PluginError, match="functions over a group of rollouts"):
        built("verifiers:some_rubrics:compare")
