"""`trl:`: TRL's own reward functions score the same here as in GRPOTrainer, and what cannot be the same is refused."""

from pathlib import Path

import pytest

from rlvr.errors import PluginError
from rlvr.plugin import NEEDS_TOKENS
from rlvr.records import Status
from tests.unit.verifiers.adapters.adapted import CHAT, built, prompt_of, stored, tokens, verdict_on

TEXTS = [
    r"<think>1/3 + 1/3 is 2/3.</think>\boxed{\frac{2}{3}}",
    r"<think>Let me see.</think>It is \boxed{\frac{1}{3}}",
    r"It is \boxed{\frac{2}{3}}",
    r"<think>\boxed{\frac{2}{3}}",
    "<think>a</think><think>b</think>",
    "",
]
GOLDS = [r"\frac{2}{3}", r"\frac{2}{3}", r"\frac{2}{3}", r"\frac{2}{3}", "no number", r"\frac{2}{3}"]


@pytest.mark.parametrize("name", ["accuracy_reward", "reasoning_accuracy_reward", "think_format_reward"])
def test_equal_scores_at_home_and_here(name: str) -> None:
    rewards = pytest.importorskip("trl.rewards", reason="TRL is not installed")
    function = getattr(rewards, name)
    conversations = [[{"role": "assistant", "content": text}] for text in TEXTS]
    at_home = function(  # the call of GRPOTrainer._calculate_rewards
        prompts=[[{"role": m.role, "content": m.content} for m in CHAT]] * len(TEXTS),
        completions=conversations,
        completion_ids=[[0]] * len(TEXTS),
        solution=GOLDS,
        trainer_state=None,
        log_extra=lambda *_: None,
        log_metric=lambda *_: None,
    )
    verifier = built(f"trl:trl.rewards.{name}")
    here = [verdict_on(verifier, text, gold) for text, gold in zip(TEXTS, GOLDS, strict=True)]
    assert [verdict.score for verdict in here] == at_home
    assert len(set(at_home)) > 1
    skipped = [verdict.status is Status.SKIPPED for verdict in here]
    assert skipped == [score is None for score in at_home]


def test_a_factory_with_arguments_and_scores_below_zero() -> None:
    rewards = pytest.importorskip("trl.rewards", reason="TRL is not installed")
    lengths = [10, 80, 85, 90, 100, 200]
    at_home = rewards.get_soft_overlong_punishment(100, 20)(completion_ids=[[1] * length for length in lengths])
    arguments = {"max_completion_len": 100, "soft_punish_cache": 20}
    verifier = built(
        "trl:trl.rewards.get_soft_overlong_punishment", arguments=arguments, scores={"from": [-1, 0]}, pass_score=-0.5
    )
    prompt = prompt_of(verifier)
    here = [verifier.verify(prompt, tokens("text", length)) for length in lengths]
    assert [verdict.details["score"] for verdict in here] == at_home == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]
    assert [verdict.score for verdict in here] == [1.0, 1.0, 0.75, 0.5, 0.0, 0.0]
    assert [verdict.passed for verdict in here] == [True, True, True, True, False, False]
    without_tokens = verdict_on(verifier, "text")
    assert (without_tokens.status, without_tokens.details) == (Status.ERROR, {"needs": NEEDS_TOKENS})


def test_columns_arrive_as_lists_and_completions_as_the_prompt_is(tmp_path: Path) -> None:
    path = stored("rewards.py", tmp_path)
    verifier = built(f"trl:{path}:keyword_reward", completions="text")
    assert verdict_on(verifier, "red and blue", keywords=["red", "green"]).score == 0.5
    assert verdict_on(built(f"trl:{path}:keyword_reward"), "red", text="?", keywords=["red"]).score == 1.0
    with pytest.raises(PluginError, match=r"needs 'keywords', and the row offers prompts, .*layout: trl"):
        verdict_on(verifier, "red")


def test_an_asynchronous_function_is_awaited(tmp_path: Path) -> None:
    verifier = built(f"trl:{stored('rewards.py', tmp_path)}:slow_exact_reward")
    assert [verdict_on(verifier, text, "4").score for text in ("4", "5")] == [1.0, 0.0]


def test_none_is_skipped_and_never_a_zero(tmp_path: Path) -> None:
    verifier = built(f"trl:{stored('rewards.py', tmp_path)}:math_only_reward", completions="text")
    assert verdict_on(verifier, "it is 4", "4", task="math").status is Status.PASS
    verdict = verdict_on(verifier, "it is 4", "4", task="poetry")
    assert (verdict.status, verdict.score) == (Status.SKIPPED, None)


def test_a_function_over_the_batch_is_refused(tmp_path: Path) -> None:
    verifier = built(f"trl:{stored('rewards.py', tmp_path)}:diversity_reward", completions="text")
    with pytest.raises(
        PluginError, match=r"1\.0 for a completion alone and 0\.5 .*compares the completions of a batch"
    ):
        verdict_on(verifier, "a")


def test_a_reward_that_depends_on_the_step_is_refused(tmp_path: Path) -> None:
    verifier = built(f"trl:{stored('rewards.py', tmp_path)}:curriculum_reward")
    with pytest.raises(PluginError, match=r"reads trainer_state\.global_step"):
        verdict_on(verifier, "a")


def test_what_a_function_logs_is_in_the_details(tmp_path: Path) -> None:
    verifier = built(f"trl:{stored('rewards.py', tmp_path)}:logging_reward", completions="text")
    assert verdict_on(verifier, "four").details == {"lengths": 4, "accuracy": 0.5}


def test_a_score_outside_proposes_the_line_that_states_its_range(tmp_path: Path) -> None:
    path = stored("rewards.py", tmp_path)
    with pytest.raises(PluginError, match=r"returned -16, .* settings: \{scores: \{from: \[-16, 1\]\}\}"):
        verdict_on(built(f"trl:{path}:length_reward", completions="text"), "four")
    verifier = built(f"trl:{path}:length_reward", completions="text", scores={"from": [-20, 0]})
    assert verdict_on(verifier, "four").score == pytest.approx(0.2)
    with pytest.raises(PluginError, match=r"returned -30, which is outside of scores.from, \[-20, 0\]"):
        verdict_on(verifier, "x" * 50)


def test_what_is_no_reward_function_says_why(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "THRESHOLD = 3\ndef make(length):\n    return 3\ndef scalar(completions):\n    return 1.0\n"
        "def two(completions):\n    return [1.0, 1.0]\nfrom . import other\n".replace("from . import other\n", "")
    )
    for name, problem in (
        ("THRESHOLD", "is a int, not a function"),
        ("make", r"has none of the parameters completion_ids.*settings\.arguments=\{\}: .*'length'"),
        ("missing", "has no attribute 'missing'"),
    ):
        with pytest.raises(PluginError, match=problem):
            built(f"trl:{path}:{name}")
    for name in ("scalar", "two"):
        with pytest.raises(PluginError, match="for 1 completion; a reward function of TRL returns a list with one"):
            verdict_on(built(f"trl:{path}:{name}"), "text")
    with pytest.raises(PluginError, match=r"No module named 'nowhere'\. Install it where the verifiers run, or name a"):
        built("trl:nowhere.rewards.short")
