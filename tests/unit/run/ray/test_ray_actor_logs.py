"""The last lines of a dead actor's log, and the error that ends with them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")
from ray import exceptions as ray_errors
from ray._raylet import ActorID  # type: ignore[attr-defined] # compiled, without a stub

from rlvr.errors import LearnerError, RankLost
from rlvr.run.ray import calls
from rlvr.run.ray.actor_logs import NUM_LINES, read_log
from rlvr.run.ray.calls import Calls
from rlvr.run.ray.watch import WaitBoard
from rlvr.run.ray.workers.engine_member import EngineLost
from rlvr.run.step.failures import LearnerLost

JOB = "01000000"


def write(folder: Path, ending: str, text: str, *, process: int = 42) -> Path:
    file = folder / f"worker-0f{process}-{JOB}-{process}.{ending}"
    file.write_text(text)
    return file


def test_the_errors_of_the_actors_own_process_are_read_without_rays_marks(tmp_path: Path):
    lines = [f"line {number}" for number in range(50)]
    file = write(tmp_path, "err", ":job_id:01000000\n:actor_name:EngineActor\n" + "\n\n".join(lines) + "\n")
    write(tmp_path, "out", "something else\n")
    write(tmp_path, "err", "another worker\n", process=43)
    assert read_log(tmp_path, job_id=JOB, process=42) == (str(file), lines[-NUM_LINES:])


def test_output_is_read_when_there_are_no_errors_and_nothing_is_fine_too(tmp_path: Path):
    write(tmp_path, "err", ":actor_name:EngineActor\n")
    file = write(tmp_path, "out", "torch.OutOfMemoryError\n")
    assert read_log(tmp_path, job_id=JOB, process=42) == (str(file), ["torch.OutOfMemoryError"])
    assert read_log(tmp_path, job_id=JOB, process=7) == ("", [])


def caller() -> Calls:
    actor: Any = SimpleNamespace(_actor_id=ActorID.from_hex("0" * 32))
    return Calls(actor, name="engine-1", owner="the fleet", board=WaitBoard(), lost=EngineLost)


def test_the_error_of_a_dead_actor_ends_with_its_log(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calls, "last_lines", lambda actor_id: f"the end of the log of {actor_id[:4]}:\n  CUDA error")
    said = str(caller().meaning(ray_errors.ActorDiedError()))
    assert said.splitlines() == [
        "The actor died unexpectedly before finishing this task.",
        "the end of the log of 0000:",
        "  CUDA error",
    ]


def test_an_actor_that_the_run_itself_killed_shows_no_log(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calls, "last_lines", lambda actor_id: "must not be read")
    error = ray_errors.ActorDiedError()
    error.error_msg = "The actor is dead because it was killed by `ray.kill`."
    assert str(caller().meaning(error)) == "The actor is dead because it was killed by `ray.kill`."


def test_a_lost_rank_is_a_lost_learner_from_which_a_run_restarts_and_other_errors_stay():
    def raised(cause: Exception) -> Exception:
        return caller().meaning(ray_errors.RayTaskError("call", "Traceback", cause))

    lost = raised(RankLost("rank 1 of 2 ended (signal SIGKILL)"))
    assert isinstance(lost, LearnerLost)
    assert str(lost) == "rank 1 of 2 ended (signal SIGKILL)"
    failed = LearnerError("rank 1 of 2 failed with OutOfMemoryError")
    assert raised(failed) is failed
