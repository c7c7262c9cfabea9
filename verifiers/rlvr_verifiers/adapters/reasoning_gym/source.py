"""The data source `reasoning_gym:TASK`: the interpreter that has the package draws the rows once, into a file."""

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from rlvr.errors import ConfigError, DataError, PluginError
from rlvr.plugin import SourceRow
from rlvr.storage.atomic_files import write_text
from rlvr_verifiers.adapters.reasoning_gym.answers import AnswerForm, fill, right_answer
from rlvr_verifiers.adapters.reasoning_gym.known_flaws import known_flaws, require_sound, version_problem
from rlvr_verifiers.adapters.reasoning_gym.package_side import MIXED, PACKAGE

logger = logging.getLogger(__name__)

_SCRIPT = Path(__file__).with_name("package_side.py")
_FORMAT = 1  # of the cached files; raise it when rows are drawn in another way
_ERROR_LINES = 5


class Instructions(StrEnum):
    """What a system message asks for.

    TAGGED: to think first, and to give only the answer in answer tags. LAST_LINE: to end with the answer on a line of
    its own. NONE: no system message.
    """

    TAGGED = "tagged"
    LAST_LINE = "last_line"
    NONE = "none"


_SYSTEM = {
    Instructions.TAGGED: "Solve the problem step by step. Then give the final answer, and nothing else, between "
    "<answer> and </answer>, in the format that the problem asks for.",
    Instructions.LAST_LINE: "Solve the problem step by step. Then write the final answer, and nothing else, as the "
    "last line, in the format that the problem asks for.",
}


class TaskShare(BaseModel):
    """One task of a mixture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: PositiveFloat = 1.0
    config: dict[str, Any] = Field(default_factory=dict[str, Any])


class ReasoningGymSourceConfig(BaseModel):
    """Settings of the data source `reasoning_gym:TASK`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: PositiveInt = Field(default=1000, description="number of rows; fewer if the task has fewer questions")
    seed: int | Literal["run"] = Field(default="run", description="of the draws; `run`: the seed of the recipe")
    config: dict[str, Any] = Field(
        default_factory=dict[str, Any], description="parameters of the task, such as {min_terms: 3}"
    )
    tasks: dict[str, TaskShare] = Field(
        default_factory=dict[str, TaskShare],
        description="for reasoning_gym:composite: each task's weight and config, such as {chain_sum: {weight: 2}}",
    )
    instructions: Instructions = Field(
        default=Instructions.TAGGED, description="the system message: tagged, last_line or none"
    )
    answer: AnswerForm = Field(
        default=AnswerForm.TAGGED, description="the form of the right completions that `rlvr audit` uses"
    )
    python: str = Field(
        default="",
        description="the interpreter that has the package; empty: `python` of the source, or else rlvr's own",
    )
    allow_exploitable: bool = Field(
        default=False, description="accept a task whose scorer is known to be exploitable; see REASONING_GYM.md"
    )


class ReasoningGymSource:
    """Rows of a task, or of `composite`, a weighted mixture of several."""

    Config: ClassVar[type[BaseModel]] = ReasoningGymSourceConfig

    def __init__(self, config: ReasoningGymSourceConfig) -> None:
        self._config = config

    def rows(self, name: str, *, split: str, seed: int) -> Sequence[SourceRow]:
        """The rows. A question belongs to one split by a hash of its text, and occurs once.

        Raises: PluginError when the task is refused or the package cannot be run; ConfigError for settings of another
            kind of source; DataError when the package cannot draw the rows.
        """
        config = self._config
        tasks = self._tasks(name)
        require_sound(tasks, allow_exploitable=config.allow_exploitable)
        for task in tasks:
            if remark := known_flaws().remarks.get(task):
                logger.info("reasoning_gym:%s: %s", task, remark)
        python = config.python or sys.executable
        request = {
            "op": "draw",
            "tasks": {task: share.model_dump() for task, share in tasks.items()},
            "seed": seed if config.seed == "run" else config.seed,
            "split": split,
            "size": config.size,
        }
        found = _drawn(python, request, what=f"reasoning_gym:{name}")
        if len(found) < config.size:
            logger.warning(
                "source reasoning_gym:%s: %d of %d rows, because its questions begin to repeat (split %s)",
                name, len(found), config.size, split,
            )  # fmt: skip
        return [self._row(row) for row in found]

    def _tasks(self, name: str) -> dict[str, TaskShare]:
        config = self._config
        if name == MIXED:
            if not config.tasks or config.config:
                raise ConfigError(
                    "source reasoning_gym:composite needs settings.tasks, such as {chain_sum: {weight: 2}, gcd: {}}, "
                    "and no settings.config: each task has its own"
                )
            return config.tasks
        if config.tasks:
            raise ConfigError(f"source reasoning_gym:{name}: settings.tasks are for reasoning_gym:composite")
        return {name: TaskShare(config=config.config)}

    def _row(self, row: Mapping[str, Any]) -> SourceRow:
        entry = row["entry"]
        question: str | list[dict[str, str]] = entry["question"]
        if self._config.instructions is not Instructions.NONE:
            system = {"role": "system", "content": _SYSTEM[self._config.instructions]}
            question = [system, {"role": "user", "content": entry["question"]}]
        reference = {"task": row["task"], **({"config": row["config"]} if row["config"] else {}), **entry}
        answer = right_answer(entry)
        return SourceRow(
            row_id=row["id"],
            question=question,
            reference=reference,
            completion=None if answer is None else fill(answer, self._config.answer),
            tags={"task": row["task"]},
        )


def cache_folder() -> Path:
    """Where drawn rows are kept: `rlvr/reasoning_gym` in $XDG_CACHE_HOME, or else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlvr" / "reasoning_gym"


def _drawn(python: str, request: Mapping[str, Any], *, what: str) -> list[dict[str, Any]]:
    """The rows of a request, from the file of an earlier one if there is one."""
    installed = json.loads(_run(python, {"op": "version"}, what=what))["version"]
    if not installed:
        raise PluginError(
            f"{what}: {python} does not have the package; install it with `{python} -m pip install {PACKAGE}`, or name "
            "an interpreter that has it: `python:` in the recipe, --python on the command line"
        )
    if problem := version_problem(installed):
        logger.warning("%s", problem)
    text = json.dumps([_FORMAT, installed, request], sort_keys=True)
    file = cache_folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.jsonl"
    if not file.is_file():
        logger.info("drawing %d rows of %s, which are kept in %s", request["size"], what, file)
        drawn = _run(python, request, what=what)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, drawn)
        except OSError as error:
            raise DataError(f"{what}: the rows cannot be kept in {file}: {error}; set XDG_CACHE_HOME") from error
    *rows, end = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    if end != {"num_rows": len(rows)}:
        raise DataError(f"{what}: the file {file} is damaged; remove it")
    return rows


def _run(python: str, request: Mapping[str, Any], *, what: str) -> str:
    """What the package's side answers. Raises: PluginError, DataError."""
    environment = {**os.environ, "PYTHONHASHSEED": "0"}  # a few tasks iterate over sets
    if python != sys.executable:
        environment.pop("PYTHONPATH", None)
    try:
        answer = subprocess.run(
            [python, "-P", str(_SCRIPT)],
            input=json.dumps(request),
            capture_output=True,
            encoding="utf-8",
            env=environment,
            check=False,
        )
    except OSError as error:
        raise PluginError(f"{what}: the interpreter {python!r} cannot be run: {error}") from error
    if answer.returncode:
        last = "\n".join(answer.stderr.strip().splitlines()[-_ERROR_LINES:])
        failed = (
            "rows could not be drawn" if request["op"] == "draw" else "the version of the package could not be read"
        )
        raise DataError(f"{what}: {failed} by {python}:\n{last}")
    return answer.stdout
