"""`verl:`: reward files of verl 0.9.1 score the same here as in verl's reward manager."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import PluginError
from rlvr.records import Status
from tests.unit.verifiers.adapters.adapted import built, verdict_on, verl_file

TOOL = '<think>Look it up.</think>\n<tool_call>\n{"name": "find", "parameters": {"q": "a"}}\n</tool_call>'
RLLA = {"experiment_name": "qwen-tools", "index": 3}
CASES: dict[str, tuple[list[float], list[tuple[str, str]]]] = {
    "gsm8k": ([0, 1], [("2 + 2 = 4\n#### 4", "4"), ("#### 5", "4"), ("4", "4"), ("#### 1,000", "1000")]),
    "math_dapo": (
        [-1, 1],
        [("Answer: 4", "4"), ("Answer: $\\frac{1}{2}$", "\\frac{1}{2}"), ("\\boxed{4}", "4"), ("Answer: 5", "4")],
    ),
    "rlla": ([-3, 4], [(TOOL, TOOL), (TOOL.replace('"a"', '"b"'), TOOL), ("<think>", TOOL), (TOOL + "!", TOOL)]),
}


def function_of(path: Path) -> Any:
    """verl's `load_extern_object`: the file as a module, the function by name."""
    spec = importlib.util.spec_from_file_location(f"verl_file_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.compute_score


@pytest.mark.parametrize("name", CASES)
def test_equal_scores_at_home_and_here(name: str) -> None:
    path = verl_file(name)
    function = function_of(path)
    (low, high), cases = CASES[name]
    verifier = built(f"verl:{path}:compute_score", scores={"from": [low, high]})
    extra = {"data_source": "rlla", "extra_info": RLLA} if name == "rlla" else {}
    scores: list[float] = []
    for text, gold in cases:
        at_home = function(solution_str=text, ground_truth=gold, **extra)
        verdict = verdict_on(verifier, text, gold, **extra)
        score = at_home["score"] if isinstance(at_home, dict) else at_home
        assert verdict.score == pytest.approx((score - low) / (high - low))
        assert verdict.details.get("score", score) == score
        further = {key: value for key, value in at_home.items() if key != "score"} if isinstance(at_home, dict) else {}
        assert further.items() <= verdict.details.items()
        scores.append(score)
    assert min(scores) == low
    assert max(scores) == high


USER = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None, *, bonus=0.0):
    if data_source == "broken":
        return {"acc": 1.0}
    return {"score": float(solution_str == ground_truth) * 0.5 + bonus, "turns": extra_info["num_turns"],
            "from": data_source, "level": extra_info.get("level")}

def by_position(model_output, test_cases):
    return model_output in test_cases, {"cases": len(test_cases)}

def truth(solution_str, ground_truth):
    return solution_str == ground_truth

async def later(solution_str, ground_truth, **kwargs):
    return 1.0 if kwargs["data_source"] == "rows" else 0.0
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "user.py"
    path.write_text(USER)
    return path


def test_columns_and_arguments_reach_the_function(file: Path) -> None:
    verifier = built(f"verl:{file}:compute_score", arguments={"bonus": 0.25})
    verdict = verdict_on(verifier, "4", "4", data_source="mine", extra_info={"level": 2})
    assert (verdict.score, verdict.status) == (0.75, Status.FAIL)
    assert verdict.details == {"turns": 2, "from": "mine", "level": 2}
    other = built(f"verl:{file}:compute_score", arguments={"data_source": "other"})
    assert verdict_on(other, "4", "4", data_source="mine").details["from"] == "other"
    with pytest.raises(PluginError, match="returned a dict without 'score'; it has 'acc'"):
        verdict_on(verifier, "4", "4", data_source="broken")


def test_other_signatures_and_results(file: Path) -> None:
    by_position = built(f"verl:{file}:by_position")
    verdict = verdict_on(by_position, "4", ["4", "four"])
    assert (verdict.score, verdict.details) == (1.0, {"further": [{"cases": 2}]})
    assert verdict_on(built(f"verl:{file}:truth"), "4", "5").status is Status.FAIL
    assert verdict_on(built(f"verl:{file}:later"), "4", "5").passed


def test_a_file_with_neighbours_is_named_as_a_package(tmp_path: Path) -> None:
    path = tmp_path / "batch.py"
    path.write_text("from .gsm8k import compute_score\n")
    with pytest.raises(PluginError, match=r"ImportError.*name it verl:package\.module:function"):
        built(f"verl:{path}:compute_score")
