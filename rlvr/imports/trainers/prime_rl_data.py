"""prime-rl's sources: environments of verifiers, which become data with a check."""

import re
from typing import Any

from rlvr.imports.conversion import Conversion
from rlvr.imports.trainers.parts import DATA_MISSING

_TASKSET = "env.taskset"
_ROW_KEYS = {"dataset_name": "source", "dataset_subset": "subset", "dataset_split": "split"}
_DROPPED = {
    "env.agent": "rlvr generates each completion itself, in one turn",
    "env.player": "rlvr generates each completion itself, in one turn",
    "serve": "rlvr has no environment servers",
    "curriculum": "data.difficulty retires solved prompts and prefers those with a signal",
    "algo": "rlvr has one algorithm for all sources; the recipe has that of orchestrator.algo",
    "group_size": "rlvr has one group size for all sources (rollout.group_size)",
    "sampling": "rlvr has one setting of sampling for all sources (section rollout)",
    "interval": "rlvr has one interval for all sources (run.eval_every_steps)",
    "num_examples": "rlvr has one number for all sources (run.eval_prompts)",
}


def data(c: Conversion) -> None:
    """orchestrator.train.source and orchestrator.eval.source."""
    for part, ours in (("train", "data.train"), ("eval", "data.eval")):
        start = f"orchestrator.{part}.source"
        positions = {int(found[1]) for key in c.given if (found := re.match(rf"{re.escape(start)}\.(\d+)\.", key))}
        for index in sorted(positions):
            _source(c, f"{start}.{index}", f"{ours}.{index}")
        if not positions and part == "train":
            c.put(f"{ours}.0.source", DATA_MISSING, how="to set")
            c.put(f"{ours}.0.verifier", "my_checks.py:check", how="to set")
            c.ask("set data.train: the file has no [[orchestrator.train.source]]")
        c.leave(start, text="it is empty")


def _source(c: Conversion, theirs: str, ours: str) -> None:
    given = {key: key[len(theirs) + 1 :] for key in c.given if key.startswith(f"{theirs}.")}
    named: dict[str, Any] = {name: c.value(key) for key, name in given.items()}
    taskset = str(named.get(f"{_TASKSET}.id") or named.get("env.id") or "")
    id_key = f"{theirs}.{_TASKSET}.id" if f"{_TASKSET}.id" in named else f"{theirs}.env.id"
    has_rows = f"{_TASKSET}.dataset_name" in named
    if not has_rows:
        c.put(f"{ours}.source", DATA_MISSING, id_key, how="to set: the rows of this taskset")
        c.ask(
            f"write the rows of taskset {taskset!r} to a file with prompt and reference, and name it in {ours}.source"
        )
    for key, name in given.items():
        setting = name.removeprefix(f"{_TASKSET}.")
        if name.startswith(f"{_TASKSET}.") and setting in _ROW_KEYS:
            c.put(f"{ours}.{_ROW_KEYS[setting]}", named[name], key)
            c.exactly(key, ours=f"{ours}.{_ROW_KEYS[setting]}")
    if named.get("name"):
        c.put(f"{ours}.name", str(named["name"]), f"{theirs}.name")
    c.exactly(f"{theirs}.name", ours=f"{ours}.name")
    if "ratio" in named:
        c.put(f"{ours}.weight", float(named["ratio"]), f"{theirs}.ratio")
        c.exactly(f"{theirs}.ratio", ours=f"{ours}.weight")
    c.put(f"{ours}.columns.prompt", "prompt", how="to check: the column of the question", always=True)
    c.put(f"{ours}.columns.reference", "answer", how="to check: the column of the right answer")
    verifier = (
        f"reasoning_gym:{taskset.partition(':')[2]}"
        if taskset.startswith("reasoning") and ":" in taskset
        else f"verifiers:{taskset}"
    )
    c.put(f"{ours}.verifier", verifier, id_key)
    text = "rlvr runs no environment: it draws rows and judges the answer with the taskset's rubric"
    c.differently(id_key, ours=f"{ours}.verifier", text=text)
    for key, name in given.items():
        reason = next((why for begin, why in _DROPPED.items() if name == begin or name.startswith(f"{begin}.")), "")
        c.leave(key, text=reason or "a setting of the environment; check that the verifier and the rows have it")
