"""What a run writes: whole lines, whole files, and nothing beyond the step that is resumed."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rlvr.errors import StorageError
from rlvr.records import Check, Completion, FinishReason, Group, Prompt, Role, Rollout, Status, Verdict
from rlvr.run.record.journal import MAX_REFERENCE_CHARACTERS, EventsFile, MetricsFile, RolloutWriter
from rlvr.run.step.shaping import Shaped


def group() -> Group:
    checks = (
        Check(name="watch", verifier="v", reference="4", role=Role.SHADOW),
        Check(name="main", verifier="v", reference="4"),
    )
    prompt = Prompt(prompt_id="sums/0", text="2 + 2 =", checks=checks, source="sums")

    def rollout(index: int, status: Status, score: float | None) -> Rollout:
        completion = Completion(
            completion_id=f"c{index}",
            prompt_id="sums/0",
            sample_index=index,
            prompt_token_ids=(1, 2),
            token_ids=(3, 4),
            logprobs=(-0.5, -1.5),
            sampled_mask=(True, True),
            text="4",
            finish_reason=FinishReason.STOP,
            policy_versions=(0, 1),
        )
        verdict = Verdict(
            status=status,
            score=score,
            reason="because",
            verifier="v@1",
            seconds=0.1,
            extracted="4",
            details={"ratio": math.inf},
        )
        watch = Verdict(status=Status.FAIL, score=0.0, reason="watching", verifier="v@1", seconds=0.0)
        parts = {} if score is None else {"main": score}
        return Rollout(
            completion=completion, verdicts={"watch": watch, "main": verdict}, reward=score, reward_parts=parts
        )

    rollouts = (rollout(0, Status.PASS, 1.0), rollout(1, Status.ERROR, None))
    return Group(group_id="g0", prompt=prompt, rollouts=rollouts)


def test_a_number_that_is_not_finite_becomes_null_and_is_counted(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "m.jsonl")
    metrics.write(1, time_s=0.5, metrics={"a/b": math.nan, "a/c": math.inf, "a/d": 2.0})
    assert read_metrics(tmp_path / "m.jsonl") == [{"step": 1, "time_s": 0.5, "a/b": None, "a/c": None, "a/d": 2.0}]
    assert metrics.num_nonfinite == 2
    metrics.close()


def read_metrics(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_reason_with_a_unicode_line_separator_survives_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    first = EventsFile(path)
    first.write("verifier_error", reason="one\u2028two\u0085three")
    first.close()
    EventsFile(path).close()
    assert json.loads(path.read_text())["reason"] == "one\u2028two\u0085three"


def test_resuming_cuts_later_rows_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    first = MetricsFile(path)
    for step in range(5):
        first.write(step, time_s=step, metrics={"x/y": step})
    first.close()
    with path.open("a") as file:
        file.write('{"step": 5, "ti')
    second = MetricsFile(path)
    assert second.truncate_after(2) == 3
    second.write(3, time_s=9, metrics={})
    second.close()
    assert [row["step"] for row in read_metrics(path)] == [0, 1, 2, 3]
    assert list(tmp_path.iterdir()) == [path]


def test_events_carry_their_kind_and_survive_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text('{"time": "t", "kind": "start"}\n{"ti')
    events = EventsFile(path)
    events.write("alarm", step=3, value=math.nan, ids=["a"])
    events.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["start", "alarm"]
    assert (rows[1]["value"], rows[1]["ids"]) == (None, ["a"])


def test_rollouts_are_read_back_as_they_were(tmp_path: Path) -> None:
    writer = RolloutWriter(tmp_path)
    shaped = Shaped(reward=0.7, overlong_penalty=0.2, kl_penalty=0.1, advantage=0.5)
    path = writer.write(12, groups=[group()], prompt_texts={"sums/0": "<user>2 + 2 ="}, shaped={"c0": shaped})
    assert path.name == "step_000012.parquet"
    one, two = pq.read_table(path).to_pylist()
    assert (one["step"], one["group_id"], one["source"], one["purpose"]) == (12, "g0", "sums", "train")
    assert (one["prompt_text"], one["completion"], one["finish_reason"]) == ("<user>2 + 2 =", "4", "stop")
    assert (one["token_ids"], one["prompt_token_ids"]) == ([3, 4], [1, 2])
    assert (one["logprobs"], one["policy_versions"]) == ([-0.5, -1.5], [0, 1])
    assert (one["reward"], one["advantage"], json.loads(one["reward_parts"])) == (1.0, 0.5, {"main": 1.0})
    assert (one["status"], one["reason"], one["extracted"]) == ("pass", "because", "4")
    verdicts = {v["check"]: v for v in json.loads(one["verdicts"])}
    assert verdicts["watch"]["status"] == "fail"
    assert verdicts["main"]["details"] == {"ratio": None}
    assert (one["shaped_reward"], one["overlong_penalty"], one["kl_penalty"]) == (0.7, 0.2, 0.1)
    assert (two["reward"], two["advantage"], two["status"]) == (None, None, "error")
    assert (two["shaped_reward"], two["overlong_penalty"], two["kl_penalty"]) == (None, None, None)


def test_rollouts_hold_the_reference_and_the_role_of_every_verdict(tmp_path: Path) -> None:
    row = pq.read_table(RolloutWriter(tmp_path).write(1, groups=[group()], prompt_texts={})).to_pylist()[0]
    assert row["reference"] == "4"
    roles = {v["check"]: v["role"] for v in json.loads(row["verdicts"])}
    assert roles == {"watch": "shadow", "main": "reward"}


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        (["a", {"b": 1}], '["a", {"b": 1}]'),
        ("\ud800", "?"),
        ("x" * 5_000, "x" * MAX_REFERENCE_CHARACTERS + "... (5,000 characters)"),
    ],
)
def test_any_reference_can_be_written(tmp_path: Path, reference: object, expected: str) -> None:
    before = group()
    checks = tuple(replace(check, reference=reference) for check in before.prompt.checks)
    changed = replace(before, prompt=replace(before.prompt, checks=checks))
    path = RolloutWriter(tmp_path).write(1, groups=[changed], prompt_texts={})
    assert pq.read_table(path).to_pylist()[0]["reference"] == expected


def test_log_probs_that_are_not_finite_are_written_as_they_are(tmp_path: Path) -> None:
    one = group().rollouts[0]
    completion = replace(one.completion, logprobs=(math.nan, -math.inf))
    path = RolloutWriter(tmp_path).write(
        1, groups=[replace(group(), rollouts=(replace(one, completion=completion),))], prompt_texts={}
    )
    (row,) = pq.read_table(path).to_pylist()
    assert math.isnan(row["logprobs"][0])
    assert row["logprobs"][1] == -math.inf


def test_evaluations_have_their_own_files_with_the_same_columns(tmp_path: Path) -> None:
    writer = RolloutWriter(tmp_path)
    train = writer.write(1, groups=[group()], prompt_texts={})
    evaluation = writer.write(1, groups=[], prompt_texts={}, purpose="eval:sums")
    assert evaluation.name == "step_000001.eval-sums.parquet"
    assert pq.read_schema(train) == pq.read_schema(evaluation)


def test_resuming_removes_rollouts_of_later_steps(tmp_path: Path) -> None:
    writer = RolloutWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, groups=[group()], prompt_texts={})
    writer.write(3, groups=[group()], prompt_texts={}, purpose="eval:x")
    (tmp_path / "step_000002.parquet.tmp").touch()
    assert writer.truncate_after(2) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_000001.parquet", "step_000002.parquet"]
    writer.flush()  # of what is still there


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    metrics = MetricsFile(Path("/dev/full"))
    with pytest.raises(StorageError, match="/dev/full cannot be read or written: No space left"):
        metrics.write(1, time_s=1.0, metrics={})
    with pytest.raises(StorageError):
        metrics.close()


def test_a_missing_folder_of_rollouts_is_named(tmp_path: Path) -> None:
    rollouts = RolloutWriter(tmp_path / "rollouts")
    (tmp_path / "rollouts").rmdir()
    with pytest.raises(StorageError, match=r"rollouts/step_000001\.parquet cannot be"):
        rollouts.write(1, groups=[group()], prompt_texts={})


@pytest.mark.parametrize("line", [b'{"step": "x"}', b'{"step": {}}', b"[" * 100_000, b"\xff\xfe", b"3"])
def test_a_line_that_is_no_row_is_cut_and_the_others_stay_to_the_byte(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "m.jsonl"
    good = '{"step": 1, "text": "\u2028 \u00e9"}\n'.encode()
    path.write_bytes(good + line + b"\n" + b'{"step": 5}\n')
    metrics = MetricsFile(path)
    assert metrics.truncate_after(4) == 2
    metrics.close()
    assert path.read_bytes() == good
