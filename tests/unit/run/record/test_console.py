"""The console: what a person reads, and that no text of a model can act on the terminal."""

import io
from dataclasses import dataclass, field

from rlvr.records import Completion, FinishReason, Rollout, Status, Verdict
from rlvr.run.record.console import Console


@dataclass(frozen=True)
class Evaluated:
    headline: float
    name: str = "sums"
    num_prompts: int = 150
    metrics: dict[str, float] = field(default_factory=lambda: {"eval/sums/pass@1": 0.0})

    @property
    def low(self) -> float:
        return self.headline - 0.05

    @property
    def high(self) -> float:
        return self.headline + 0.05


def made() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=80), file


def rollout(text: str, reason: str = "says 5, expected 4") -> Rollout:
    n = 1
    completion = Completion(
        completion_id="c",
        prompt_id="p",
        sample_index=0,
        prompt_token_ids=(1,),
        token_ids=(1,) * n,
        logprobs=(-1.0,) * n,
        sampled_mask=(True,) * n,
        text=text,
        finish_reason=FinishReason.STOP,
        policy_versions=(0,) * n,
    )
    verdict = Verdict(status=Status.FAIL, score=0.0, reason=reason, verifier="v@1", seconds=0.0)
    return Rollout(completion=completion, verdicts={"main": verdict}, reward=0.0, reward_parts={"main": 0.0})


def test_a_step_is_one_line_with_reward_trend_and_time_left() -> None:
    console, file = made()
    console.start(recipe_name="r", run_dir="runs/r", model="m", rows=[("a", "1", "b")], num_steps=10)
    file.truncate(0)
    file.seek(0)
    console.step(3, {"reward/mean": 0.25, "time/step_s": 2.0, "rollout/length_mean_tokens": 12.3})
    console.step(4, {"reward/mean": 0.75, "time/step_s": 4.0, "rollout/tokens_per_s": 1234.0})
    one, two = file.getvalue().splitlines()
    assert one.startswith("step  3/10  reward 0.250")
    assert "length 12" in one
    assert "left 14s" in one
    assert "0.750 ↑" in two
    assert "tok/s 1,234" in two
    assert "left 18s" in two


def test_the_start_shows_the_rows_aligned() -> None:
    console, file = made()
    rows = [("completions per step", "48", "6 x 8"), ("steps", "32", "")]
    console.start(recipe_name="quick", run_dir="runs/x", model="tiny (1 parameters)", rows=rows)
    text = file.getvalue()
    assert "quick" in text
    assert "  completions per step  48  6 x 8\n" in text
    assert "  steps                 32\n" in text


def test_a_sample_shows_text_as_it_is_without_markup_or_control_codes() -> None:
    console, file = made()
    console.rollout(5, "What is 2 + 2?", rollout("[red]five[/red] \x1b[31m\x07\r[/] :smile:"))
    text = file.getvalue()
    assert "[red]five[/red] [/] :smile:" in text
    assert "FAIL  main: says 5, expected 4" in text
    assert "reward 0" in text
    assert not {"\x1b", "\x07", "\r"} & set(text)


def test_without_a_terminal_there_are_no_control_codes_at_all() -> None:
    console, file = made()
    console.start(recipe_name="r", run_dir="d", model="m", rows=[])
    console.cold_start(1, 10, 0.5)
    console.step(1, {"reward/mean": 0.5, "verifier/error_rate": 0.1})
    console.evaluation(0, Evaluated(0.3))
    console.note("x")
    console.finish()
    assert "\x1b" not in file.getvalue()
    assert "verifier errors 10%" in file.getvalue()


def test_evaluations_show_interval_and_change_and_the_end_shows_the_curve() -> None:
    console, file = made()
    console.evaluation(0, Evaluated(0.3))
    console.evaluation(8, Evaluated(0.7))
    console.finish()
    text = file.getvalue()
    assert "sums pass@1 0.300  [0.250, 0.350]  n=150  step 0\n" in text
    assert "0.700  [0.650, 0.750]  n=150  step 8  +0.400 since step 0\n" in text
    assert "sums pass@1  0.300 -> 0.700  (+0.400; now [0.650, 0.750])\n" in text
    assert "  step 8  0.700  " + "█" * 28 + "\n" in text


def test_long_lines_are_not_broken() -> None:
    console, file = made()
    console.note("x" * 300)
    assert file.getvalue() == "x" * 300 + "\n"


def test_a_stream_that_knows_only_ascii_gets_ascii() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    console = Console(file=file, width=80)
    console.step(1, {"reward/mean": 0.5})
    console.rollout(1, "é", rollout("ü"))
    console.evaluation(0, Evaluated(0.5))
    console.finish()
    file.flush()
    assert b"reward 0.500" in raw.getvalue()


def test_the_cold_start_reports_progress_in_tenths() -> None:
    console, file = made()
    for step in range(1, 101):
        console.cold_start(step, 100, 1.0)
    assert len(file.getvalue().splitlines()) == 11


def test_metrics_that_are_missing_are_left_out() -> None:
    console, file = made()
    console.step(1, {})
    assert file.getvalue() == "step    1\n"


def test_a_step_without_signal_or_with_most_completions_cut_is_highlighted() -> None:
    def shown(**metrics: float) -> str:
        file = io.StringIO()
        console = Console(file=file, width=80, is_terminal=True)
        console.step(1, {name.replace("__", "/"): value for name, value in metrics.items()})
        return file.getvalue()

    bold_yellow = "\x1b[1;33m"
    assert f"{bold_yellow}100%" in shown(reward__zero_variance_rate=1.0)
    assert f"{bold_yellow}75%" in shown(rollout__truncated_rate=0.75)
    assert bold_yellow not in shown(reward__zero_variance_rate=0.9, rollout__truncated_rate=0.5)


def test_a_warning_is_one_plain_line_in_a_log() -> None:
    console, file = made()
    console.warning("step 5: alarm zero_reward: " + "x" * 200)
    assert file.getvalue() == "step 5: alarm zero_reward: " + "x" * 200 + "\n"
