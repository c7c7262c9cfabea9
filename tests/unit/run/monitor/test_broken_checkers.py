"""A checker that breaks on nearly every completion, and what does not count against a deadline."""

import textwrap
from pathlib import Path

import pytest

from rlvr.commands.evaluate import _require_judged
from rlvr.errors import VerifierError
from rlvr.plugin import completion_from_text
from rlvr.records import Check, Group, Prompt, Role, Rollout, Status, Verdict
from rlvr.run.monitor.broken_checkers import CheckerWatch, broken_checkers
from rlvr.run.step.evaluation import Evaluation, summarize
from rlvr.verification.service import VerifierService
from rlvr.verification.worker_process import WorkerLost, WorkerProcess

LOST = {
    "hang": {"cause": "timeout", "ending": "signal SIGKILL"},
    "exit": {"cause": "crash", "ending": "exit code 3"},
    "memory": {"cause": "crash", "ending": "out of memory"},
    "no verdict": {"problem": "no_verdict", "votes": [""]},
}


def group_of(causes: list[str], *, role: Role = Role.REWARD) -> Group:
    check = Check(name="main", verifier="slow", reference="4", role=role)
    prompt = Prompt(prompt_id="p", text="?", checks=(check,), source="s")
    rollouts = tuple(
        Rollout(
            completion=completion_from_text("4", prompt_id="p"),
            verdicts={
                "main": Verdict(
                    status=Status.FAIL if cause else Status.PASS,
                    score=0.0 if cause else 1.0,
                    reason="checking this completion took longer than 5 s" if cause else "equal",
                    verifier="slow@1",
                    seconds=0.1,
                    details=LOST.get(cause, {}),
                )
            },
            reward=0.0 if cause else 1.0,
            reward_parts={"main": 0.0 if cause else 1.0},
        )
        for cause in causes
    )
    return Group(group_id="0", prompt=prompt, rollouts=rollouts)


def watch_of(events: list[dict[str, object]], *, max_error_rate: float = 0.2) -> CheckerWatch:
    def tell(kind: str, **fields: object) -> None:
        events.append({"kind": kind, **fields})

    return CheckerWatch(tell, max_error_rate=max_error_rate, patience_steps=3)


@pytest.mark.parametrize(
    ("cause", "advice"),
    [("hang", "verifier_deadline_s"), ("exit", "os._exit"), ("memory", "4 GB"), ("no verdict", "more capable judge")],
)
def test_a_checker_broken_for_three_steps_ends_the_run(
    cause: str, advice: str, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[dict[str, object]] = []
    watch = watch_of(events)
    groups = [group_of([cause] * 4), group_of([cause] * 4)]
    assert watch.observe(1, groups) is None
    assert watch.observe(2, groups) is None
    error = watch.observe(3, groups)
    assert error is not None
    for part in ("'slow@1'", "'main'", cause, advice, "rlvr verify slow --explain"):
        assert part in str(error)
    assert [event["step"] for event in events] == [1, 2, 3]
    assert {event["kind"] for event in events} == {"broken_checker"}
    assert {event["cause"] for event in events} == {cause}
    assert len(caplog.records) == 1
    assert advice in caplog.text


def test_some_lost_completions_are_their_own_fault() -> None:
    events: list[dict[str, object]] = []
    watch = watch_of(events)
    for step in range(1, 6):
        assert watch.observe(step, [group_of(["hang"] * 7 + [""])]) is None
    assert events == []
    assert broken_checkers([group_of(["hang", "", "", ""])])[0].rate == 0.25


def test_a_step_in_between_begins_the_patience_anew() -> None:
    watch = watch_of([])
    broken, whole = [group_of(["exit"] * 4)], [group_of([""] * 4)]
    for step, groups in enumerate([broken, broken, whole, broken, broken], start=1):
        assert watch.observe(step, groups) is None
    assert watch.observe(6, broken) is not None


def test_a_broken_shadow_check_is_reported_and_stops_nothing() -> None:
    events: list[dict[str, object]] = []
    watch = watch_of(events)
    for step in range(1, 6):
        assert watch.observe(step, [group_of(["hang"] * 4, role=Role.SHADOW)]) is None
    assert len(events) == 5


def test_no_rate_is_too_high_where_all_errors_are_allowed() -> None:
    watch = watch_of([], max_error_rate=1.0)
    for step in range(1, 6):
        assert watch.observe(step, [group_of(["hang"] * 4)]) is None


def evaluation_of(causes: list[str]) -> Evaluation:
    return summarize("held", [group_of(causes)], is_greedy=False)


def test_a_broken_checker_of_an_evaluation_is_reported_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    events: list[dict[str, object]] = []
    watch = watch_of(events)
    for step in range(4):
        watch.observe_evaluations(step, [evaluation_of(["hang"] * 4)])
    watch.observe_evaluations(5, [evaluation_of(["hang", ""])])
    assert [(event["evaluation"], event["step"]) for event in events] == [("held", step) for step in range(4)]
    assert len(caplog.records) == 1
    assert "evaluation 'held'" in caplog.text


def test_an_evaluation_without_any_judged_completion_has_no_figures(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(VerifierError, match=r"none of 4 completions could be judged.*longer than 5 s"):
        _require_judged([evaluation_of(["hang"] * 4)])
    assert "evaluation 'held'" in caplog.text
    _require_judged([evaluation_of(["hang"] * 4), evaluation_of(["hang", ""])])


SLOW_IMPORT = """
import time
for part in range({count}):
    time.sleep({pause_s})
    try:
        import {missing}_that_is_not_there
    except ImportError:
        pass
"""
PLUGIN = '''
import time
from rlvr.plugin import verifier

@verifier(version="1")
def lazy(text: str, reference: str) -> bool:
    """A first-use import longer than the deadline, and a hang for completions that ask for one."""
    import sys
    sys.path.insert(0, {folder!r})
    import heavy_part_one, heavy_part_two
    if text == "hang":
        time.sleep(60)
    return text == reference
'''


def test_an_import_on_first_use_does_not_count_and_a_hang_does(tmp_path: Path) -> None:
    for name in ("one", "two"):
        body = SLOW_IMPORT.format(count=4, pause_s=0.3, missing=name)
        (tmp_path / f"heavy_part_{name}.py").write_text(body, encoding="utf-8")
    path = tmp_path / "lazy.py"
    path.write_text(textwrap.dedent(PLUGIN).format(folder=str(tmp_path)), encoding="utf-8")
    check = Check(name="main", verifier=f"{path}:lazy", reference="yes")
    prompt = Prompt(prompt_id="p", text="?", checks=(check,), source="test")
    service = VerifierService(workers=1, deadline_s=1.0)
    try:
        pairs = [(prompt, completion_from_text(text, prompt_id="p")) for text in ("yes", "hang")]
        right, hanging = [answer["main"] for answer in service.verify_batch(pairs)]
    finally:
        service.close()
    assert right.passed
    assert (hanging.status, hanging.details["cause"]) == (Status.FAIL, "timeout")


def test_time_without_a_processor_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = WorkerProcess.start(memory_bytes=4 << 30)
    try:
        worker.wait_ready(60)
        readings = iter([0.0, 0.4, 0.4, 0.4, 0.4])
        monkeypatch.setattr(worker, "_starved_s", lambda: next(readings))
        with pytest.raises(WorkerLost, match="no answer") as lost:
            worker.receive(0.2)
        assert lost.value.cause == "timeout"
        assert next(readings) == 0.4  # it was asked at the first deadline and at the one after it
    finally:
        worker.kill()
        worker.close_pipes()


@pytest.mark.parametrize("allowed", [0.2, 1.0])
def test_a_short_run_that_judged_nothing_ends_with_an_error(allowed: float) -> None:
    watch = watch_of([], max_error_rate=allowed)
    groups = [group_of(["hang"] * 4)]
    for step in (1, 2):
        assert watch.observe(step, groups) is None
    error = watch.nothing_judged(groups)
    assert error is not None
    assert "none of the run's 8 completions could be judged" in str(error)
    assert "took longer than 5 s" in str(error)


def test_one_judged_completion_is_enough_for_a_run_to_be_done() -> None:
    watch = watch_of([])
    watch.observe(1, [group_of(["hang"] * 3 + [""])])
    watch.observe(2, [group_of(["hang"] * 4)])
    assert watch.nothing_judged([group_of(["hang"] * 4)]) is None


def test_a_lost_shadow_check_does_not_invalidate_a_verdict() -> None:
    watch = watch_of([])
    shadow = [group_of(["hang"] * 4, role=Role.SHADOW)]
    watch.observe(1, shadow)
    assert watch.nothing_judged(shadow) is None
