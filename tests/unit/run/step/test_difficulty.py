"""Running solve rates, and the draws that follow from them."""

import json

import pytest

from rlvr.config.recipe import DifficultyConfig
from rlvr.data.order import Choice
from rlvr.records import Check, Completion, FinishReason, Group, Prompt, Rollout, Status, Verdict
from rlvr.run.step.difficulty import SolveRates, signal_chance


def prompt(name: str, source: str = "rows") -> Prompt:
    check = Check(name="main", verifier="v", reference="4")
    return Prompt(prompt_id=name, text="?", source=source, checks=(check,))


def group(name: str, outcomes: str, *, source: str = "rows") -> Group:
    """One rollout a letter: + solved, - not, ? unjudged, / passed but worth nothing (cut off)."""
    rollouts: list[Rollout] = []
    for i, letter in enumerate(outcomes):
        completion = Completion(
            completion_id=f"{name}#{i}",
            prompt_id=name,
            sample_index=i,
            prompt_token_ids=(1,),
            token_ids=(2,),
            logprobs=(0.0,),
            sampled_mask=(True,),
            text="",
            finish_reason=FinishReason.STOP,
            policy_versions=(0,),
        )
        status = {"+": Status.PASS, "-": Status.FAIL, "?": Status.ERROR, "/": Status.PASS}[letter]
        score = {"+": 1.0, "-": 0.0, "?": None, "/": 1.0}[letter]
        verdict = Verdict(status=status, score=score, reason="r", verifier="v@1", seconds=0.0)
        reward = None if letter == "?" else float(letter == "+")
        parts = {} if reward is None else {"main": reward}
        rollouts.append(Rollout(completion=completion, verdicts={"main": verdict}, reward=reward, reward_parts=parts))
    return Group(group_id="g", prompt=prompt(name, source), rollouts=tuple(rollouts))


def rates(**config: object) -> SolveRates:
    settings = DifficultyConfig(**config)  # type: ignore[arg-type] # a test builder
    return SolveRates(settings, sources=["rows"], run_seed=0)


def test_there_is_no_rate_before_enough_judged_attempts():
    found = rates(min_attempts=4)
    found.observe([group("a", "+-?"), group("b", "+++-")])
    assert found.rate("a") is None
    assert found.rate("b") == 0.75
    found.observe([group("a", "+/")])
    assert found.rate("a") == 0.5  # a pass that earned nothing is not solved


def test_the_rate_follows_the_policy_and_forgets_old_groups():
    found = rates(min_attempts=4)
    for outcomes in ("----", "--++", "++++"):
        found.observe([group("a", outcomes)])
    assert found.rate("a") == 1.0
    found.observe([group("a", "-+")])  # the newest groups with four attempts: "-+" and "++++"
    assert found.rate("a") == pytest.approx(5 / 6)


def test_a_prompt_retires_at_the_bound_and_stays_retired():
    found = rates(min_attempts=4, retire_solve_rate=0.75)
    found.observe([group("a", "++--"), group("b", "+++-")])
    assert found.choose(prompt("a"), 0) is Choice.TAKE
    assert found.choose(prompt("b"), 0) is Choice.RETIRE
    found.observe([group("b", "----")])  # a group that was in flight
    assert found.choose(prompt("b"), 1) is Choice.RETIRE
    assert found.metrics() == {"data/retired_prompts": 1.0, "data/mean_solve_rate": 0.25}


def test_prompts_of_endless_sources_have_no_rate():
    found = rates(min_attempts=2, retire_solve_rate=0.5)
    found.observe([group("a", "++", source="generator")])
    assert found.rate("a") is None
    assert found.metrics() == {"data/retired_prompts": 0.0}


def test_nothing_retires_at_the_default():
    found = rates(min_attempts=2)
    found.observe([group("a", "++")])
    assert found.choose(prompt("a"), 0) is Choice.TAKE


@pytest.mark.parametrize(("outcomes", "chance"), [("++++", 0.1), ("+++-", 0.75), ("++--", 1.0)])
def test_a_drawn_prompt_is_accepted_in_proportion_to_its_signal(outcomes: str, chance: float):
    found = rates(min_attempts=4, prefer_signal=True)
    found.observe([group("a", outcomes)])
    choices = [found.choose(prompt("a"), draw) for draw in range(4000)]
    share = choices.count(Choice.TAKE) / 4000
    assert set(choices) <= {Choice.TAKE, Choice.PASS}
    assert share == pytest.approx(chance, abs=4 * (0.25 / 4000) ** 0.5)
    assert choices == [found.choose(prompt("a"), draw) for draw in range(4000)]


def test_a_prompt_without_a_rate_is_always_accepted():
    found = rates(min_attempts=4, prefer_signal=True)
    assert {found.choose(prompt("a"), draw) for draw in range(50)} == {Choice.TAKE}


def test_the_floor_keeps_solved_and_hopeless_prompts_in_sight():
    assert signal_chance(0.0, floor=0.05) == signal_chance(1.0, floor=0.05) == 0.05
    assert signal_chance(0.5, floor=0.05) == 1.0


def test_rates_survive_a_restart():
    first = rates(min_attempts=4, retire_solve_rate=1.0, prefer_signal=True)
    first.observe([group("a", "++++"), group("b", "+-+-"), group("c", "+-")])
    second = rates(min_attempts=4, retire_solve_rate=1.0, prefer_signal=True)
    second.restore(json.loads(json.dumps(first.state())))
    for one in (first, second):
        one.observe([group("c", "--"), group("b", "----")])
    assert second.metrics() == first.metrics()
    assert second.state() == first.state()
    for name in "abc":
        assert [second.choose(prompt(name), i) for i in range(20)] == [first.choose(prompt(name), i) for i in range(20)]
