"""A run of a few kilobytes as it is left behind, ways to damage its files, and what a resume makes of it."""

import io
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from rlvr.batch import Learner
from rlvr.config.load import LoadedRecipe, load_recipe
from rlvr.errors import RlvrError
from rlvr.records import Check, Completion, FinishReason, Group, Prompt, Rollout
from rlvr.run.record.checkpoints import write_checkpoint
from rlvr.run.record.console import Console
from rlvr.run.record.directory import RunDirectory
from rlvr.run.record.journal import EventsFile, MetricsFile, RolloutWriter
from rlvr.run.record.ledger import Ledger
from rlvr.run.record.lineage import lineage_of
from rlvr.run.record.recipe_file import signed, write_recipe
from rlvr.run.record.recorder import Recorder
from rlvr.run.record.resume import find_resume
from rlvr.run.record.resume_choice import ResumeChoice

PROMPTS_A_STEP = 2
INPUTS = {"data.train.0 (rows.jsonl)": "2 rows, sha256 00", "verifier a.py:b": "version 1"}
CHANGES = ("run.steps=20", "learner.dtype=float32", "rollout.engine_dtype=shared")


class BytesLearner:
    """Saves the step as its weights and its optimiser."""

    def __init__(self, step: int) -> None:
        self._step = step

    def start_save(self, folder: Path) -> None:
        for name in ("model.safetensors", "optimizer.pt", "learner.json", "tokenizer.json"):
            (folder / name).write_bytes(f"{name} of step {self._step} ".encode() * 40)
        (folder / "adapter").mkdir()
        (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"adapter" * 40)

    def is_saved(self, *, waits: bool) -> bool:
        return True


@lru_cache
def recipe() -> LoadedRecipe:
    return load_recipe("tiny", CHANGES)


def a_group() -> Group:
    completion = Completion(
        completion_id="c",
        prompt_id="p",
        sample_index=0,
        prompt_token_ids=(1, 2),
        token_ids=(3,),
        logprobs=(-0.5,),
        sampled_mask=(True,),
        text="4",
        finish_reason=FinishReason.STOP,
        policy_versions=(0,),
    )
    prompt = Prompt(
        prompt_id="p", text="2 + 2 =", checks=(Check(name="main", verifier="v", reference="4"),), source="sums"
    )
    rollout = Rollout(completion=completion, verdicts={}, reward=1.0, reward_parts={"main": 1.0})
    return Group(group_id="0", prompt=prompt, rollouts=(rollout,))


def make_run(path: Path, *, steps: int = 8, every: int = 3, has_digests: bool = True) -> RunDirectory:
    """A run that was killed in step `steps`, with a checkpoint at every third one and a torn last line."""
    run = RunDirectory.create(path, "tiny")
    text = recipe().to_yaml()
    write_recipe(run, text)
    metrics, events = MetricsFile(run.metrics), EventsFile(run.events)
    rollouts, ledger = RolloutWriter(run.rollouts), Ledger(run.ledger)
    events.write("start", recipe="tiny")
    metrics.write(0, time_s=0.0, metrics={"eval/sort/pass@1": 0.25})
    for step in range(1, steps + 1):
        first = (step - 1) * PROMPTS_A_STEP
        issues = list(range(first, first + PROMPTS_A_STEP))
        for issue in issues:
            ledger.issue(issue, prompt_id=f"p/{issue}", group_id=str(issue), issued_version=step - 1)
            ledger.complete(issue)
        ledger.trained(issues, step=step)
        rollouts.write(step, groups=[a_group()], prompt_texts={})
        metrics.write(step, time_s=float(step), metrics={"reward/mean": step / 10, "policy/loss": 0.125})
        ledger.commit()
        if step % every == 0:
            lineage = lineage_of(run, step, settled=ledger.settled(step))
            state: dict[str, Any] = {
                "step": step,
                "elapsed_s": float(step),
                "stream": {},
                "governor": {},
                "solve_rates": None,
                "inputs": INPUTS,
                "lineage": lineage,
            }
            learner = cast(Learner, BytesLearner(step))
            folder = run.checkpoint(step)
            write_checkpoint(folder, learner=learner, run_state=state, recipe=signed(text))
            events.write("checkpoint", step=step)
            if not has_digests:
                (folder / "complete.json").write_text("{}\n")
    for part in (metrics, events, ledger):
        part.close()
    with run.metrics.open("a") as file:
        file.write('{"step": 9, "tim')
    return run


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of a resume: what the run's record is now, and what was said; or the error that ended it."""

    step: int = -1
    record: tuple[Any, ...] = ()
    warnings: tuple[str, ...] = ()
    error: str = ""


def resume(path: Path, *, choice: ResumeChoice | None = None, inputs: dict[str, str] = INPUTS) -> Outcome:
    """Goes on as the command line does, up to where the learner would be built. Any other exception is a fault."""
    try:
        run = RunDirectory.open_existing(path)
        found = find_resume(run, recipe(), inputs=inputs, choice=choice or ResumeChoice()).resume
        assert found is not None
        recorder = Recorder(
            run,
            console=Console(file=io.StringIO()),
            sinks=(),
            prompt_text=lambda _: "",
            keep_checkpoints=3,
            show_rollout_every_steps=0,
        )
        recorder.rewind(found.step, next_issue=found.step * PROMPTS_A_STEP)
        recorder.close()
    except RlvrError as error:
        return Outcome(error=f"{type(error).__name__}: {error}")
    return Outcome(step=found.step, record=record_of(run, found.folder), warnings=found.warnings)


def record_of(run: RunDirectory, checkpoint: Path) -> tuple[Any, ...]:
    """Metrics, ledger, rollouts and the checkpoint's files, to be compared."""
    with sqlite3.connect(run.ledger) as ledger:
        issues = ledger.execute("SELECT * FROM issues ORDER BY issue_index").fetchall()
    files = {f.name: f.read_bytes() for f in checkpoint.rglob("*") if f.is_file()}
    names = sorted((f.name, f.stat().st_size) for f in run.rollouts.iterdir())
    return run.metrics.read_bytes(), issues, names, files


def cut(file: Path, share: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])


def flip(file: Path, share: float) -> None:
    data = bytearray(file.read_bytes())
    if data:
        data[int(len(data) * share)] ^= 1 << int(share * 8)
    file.write_bytes(data)


def delete(file: Path, share: float) -> None:
    file.unlink()


def zero(file: Path, share: float) -> None:
    file.write_bytes(b"\0" * file.stat().st_size)


def replace_by_folder(file: Path, share: float) -> None:
    file.unlink()
    file.mkdir()


DAMAGES: dict[str, Callable[[Path, float], None]] = {
    damage.__name__: damage for damage in (cut, flip, delete, zero, replace_by_folder)
}


def copied(run: RunDirectory, to: Path) -> Path:
    """Replaces what is at `to` with a copy of the run."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(run.path, to)
    return to


def files_of(run: RunDirectory) -> list[str]:
    """Every file, relative to the run directory."""
    return sorted(os.path.relpath(file, run.path) for file in run.path.rglob("*") if file.is_file())


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
