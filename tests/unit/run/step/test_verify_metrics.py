"""What verdicts say of their verifier in metrics.jsonl."""

import math
from dataclasses import replace

import pytest

from rlvr.plugin import completion_from_text
from rlvr.records import Check, Group, Prompt, Role, Rollout, Status, Verdict
from rlvr.run.step.evaluation import summarize
from rlvr.run.step.metrics import check_metrics, rollout_metrics, verdict_metrics


def said(status: Status, extracted: str | None = "4", seconds: float = 0.0, **details: str) -> Verdict:
    score = float(status is Status.PASS) if status.has_score else None
    return Verdict(
        status=status,
        score=score,
        reason="a reason",
        verifier="math@2",
        seconds=seconds,
        extracted=extracted,
        details=details,
    )


def group(*verdicts: Verdict) -> Group:
    prompt = Prompt(prompt_id="p", text="?", checks=(Check(name="math", verifier="math"),), source="s")
    rollouts = tuple(
        Rollout(
            completion=completion_from_text("text", prompt_id="p"),
            verdicts={"math": verdict},
            reward=verdict.score,
            reward_parts={} if verdict.score is None else {"math": verdict.score},
        )
        for verdict in verdicts
    )
    return Group(group_id="0", prompt=prompt, rollouts=rollouts)


def test_shares_of_statuses_and_methods() -> None:
    found = verdict_metrics(
        [
            group(said(Status.PASS, method="number"), said(Status.PASS, method="numeric")),
            group(said(Status.FAIL, method="number"), said(Status.UNPARSED, None)),
        ]
    )
    assert (found["verifier/pass_rate"], found["verifier/fail_rate"]) == (0.5, 0.25)
    assert found["verifier/method_number_rate"] == 0.5
    assert found["verifier/method_numeric_rate"] == 0.25
    assert found["verifier/numeric_only_rate"] == 0.5


def test_the_second_opinion_is_a_share_of_those_that_were_given() -> None:
    verdicts = [said(Status.PASS, cross_check=c) for c in ("agrees", "agrees", "disagrees", "no verdict")]
    found = verdict_metrics([group(*verdicts, said(Status.PASS))])
    assert found["verifier/cross_checked"] == 3.0
    assert found["verifier/disagreement_rate"] == pytest.approx(1 / 3)
    assert "verifier/disagreement_rate" not in verdict_metrics([group(said(Status.PASS))])


def test_a_group_that_agrees_on_an_answer_of_another_form_is_suspected() -> None:
    other = said(Status.FAIL, "x > 3", method="structure", problem="other_form")
    unreadable = said(Status.FAIL, "3 units up", method="structure", problem="unreadable")
    number = said(Status.FAIL, "5", method="number")
    two = said(Status.FAIL, "5", method="structure", problem="ambiguous")
    passed = said(Status.PASS, "4", method="number")

    def rate(*verdicts: Verdict) -> float:
        return verdict_metrics([group(*verdicts)])["verifier/suspected_false_negative_rate"]

    assert rate(other, other, number) == 1.0
    assert rate(unreadable, unreadable) == 1.0
    assert rate(other, unreadable) == 0.0
    assert rate(number, number) == 0.0
    assert rate(two, two) == 0.0
    assert rate(other, other, passed) == 0.0
    half = verdict_metrics([group(other, other), group(number, number)])
    assert half["verifier/suspected_false_negative_rate"] == 0.5


def test_latencies_are_quantiles_of_all_verdicts() -> None:
    found = verdict_metrics([group(*(said(Status.FAIL, seconds=n / 100) for n in range(1, 101)))])
    assert found["time/verify_p50_s"] == 0.5
    assert found["time/verify_p99_s"] == 0.99


def test_a_verifier_that_names_no_method_gives_no_methods() -> None:
    found = verdict_metrics([group(said(Status.PASS), said(Status.FAIL))])
    assert not [name for name in found if "method" in name or "suspected" in name or "only" in name]
    assert verdict_metrics([]) == {}


def test_they_are_in_the_row_of_a_step() -> None:
    row = rollout_metrics([group(said(Status.PASS, method="string"))])
    assert row["verifier/method_string_rate"] == 1.0
    assert row["verifier/pass_rate"] == 1.0


def checked_group() -> Group:
    """Two completions, of which a reward, a gate and a shadow say different things."""
    checks = (
        Check(name="main", verifier="math"),
        Check(name="tags", verifier="v", role=Role.GATE),
        Check(name="watch", verifier="v", role=Role.SHADOW),
    )
    prompt = Prompt(prompt_id="p", text="?", checks=checks, source="s")
    partial = Verdict(status=Status.FAIL, score=0.5, reason="half", verifier="v@1", seconds=0.0)
    verdicts = (
        {"main": said(Status.PASS), "tags": said(Status.UNPARSED, None), "watch": said(Status.ERROR)},
        {"main": partial, "tags": said(Status.PASS), "watch": said(Status.ERROR)},
    )
    rollouts = tuple(
        Rollout(
            completion=completion_from_text("text", prompt_id="p"),
            verdicts=given,
            reward=reward,
            reward_parts={"main": reward},
        )
        for given, reward in zip(verdicts, (0.0, 0.5), strict=True)
    )
    return Group(group_id="0", prompt=prompt, rollouts=rollouts)


def test_each_check_has_its_own_metrics_gates_and_shadows_too() -> None:
    found = rollout_metrics([checked_group()])
    own = {name: value for name, value in found.items() if name.startswith("check/")}
    assert math.isnan(own.pop("check/watch/mean_score"))  # an error is not a zero
    assert own == {
        "check/main/pass_rate": 0.5,
        "check/main/mean_score": 0.75,
        "check/main/error_rate": 0.0,
        "check/main/unparsed_rate": 0.0,
        "check/main/reward_mean": 0.25,
        "check/tags/pass_rate": 0.5,
        "check/tags/mean_score": 0.5,
        "check/tags/error_rate": 0.0,
        "check/tags/unparsed_rate": 0.5,
        "check/watch/pass_rate": 0.0,
        "check/watch/error_rate": 1.0,
        "check/watch/unparsed_rate": 0.0,
    }


def test_the_share_that_gates_veto_is_of_judged_rollouts_with_a_gate() -> None:
    assert rollout_metrics([checked_group(), group(said(Status.FAIL))])["reward/gated_rate"] == 0.5
    assert "reward/gated_rate" not in rollout_metrics([group(said(Status.PASS))])


def test_a_skipped_verdict_has_a_share_of_its_own_and_vetoes_nothing() -> None:
    found = rollout_metrics([group(said(Status.PASS), said(Status.SKIPPED))])
    assert (found["check/math/skipped_rate"], found["verifier/skipped_rate"]) == (0.5, 0.5)
    assert (found["check/math/mean_score"], found["reward/unjudged_rate"]) == (1.0, 0.5)
    assert "check/math/skipped_rate" not in rollout_metrics([group(said(Status.PASS))])
    gated = checked_group()
    rollout = replace(gated.rollouts[1], verdicts={**gated.rollouts[1].verdicts, "tags": said(Status.SKIPPED)})
    assert rollout_metrics([replace(gated, rollouts=(rollout,))])["reward/gated_rate"] == 0.0


def test_an_evaluation_whose_rows_choose_their_check_names_each() -> None:
    def of(name: str, status: Status) -> Group:
        prompt = Prompt(prompt_id=name, text="?", checks=(Check(name=name, verifier="math"),), source="s")
        score = float(status is Status.PASS)
        rollout = Rollout(
            completion=completion_from_text("text", prompt_id=name),
            verdicts={name: said(status)},
            reward=score,
            reward_parts={name: score},
        )
        return Group(group_id=name, prompt=prompt, rollouts=(rollout,))

    found = summarize("held", [of("sums", Status.PASS), of("words", Status.FAIL)], is_greedy=True).metrics
    assert (found["eval/held/check/sums/reward_mean"], found["eval/held/check/words/reward_mean"]) == (1.0, 0.0)


def test_an_evaluation_names_each_check_where_there_are_several() -> None:
    found = summarize("held", [checked_group()], is_greedy=False).metrics
    assert found["eval/held/check/main/mean_score"] == 0.75
    assert found["eval/held/check/watch/error_rate"] == 1.0
    alone = summarize("held", [group(said(Status.PASS))], is_greedy=True).metrics
    assert not any("/check/" in name for name in alone)


def test_a_step_without_verdicts_has_no_check_metrics() -> None:
    assert check_metrics([]) == {}


def test_an_answer_that_cannot_be_read_is_not_formatted() -> None:
    answers = (
        said(Status.PASS),
        said(Status.FAIL),
        said(Status.FAIL, problem="other_form"),
        said(Status.FAIL, problem="unreadable"),
        said(Status.UNPARSED, None),
    )
    found = summarize("held", [group(*answers)], is_greedy=False).metrics
    assert found["eval/held/format_rate"] == 0.6
    assert found["eval/held/score_given_format"] == pytest.approx(1 / 3)
