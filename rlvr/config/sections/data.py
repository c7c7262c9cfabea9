"""The data section: sources of prompts, how their answers are checked, and which prompts are drawn."""

import re
from enum import StrEnum
from typing import Annotated, Any, cast

from pydantic import Field, JsonValue, model_validator

from rlvr.config.sections.section import Fraction, NonNegative, NonNegativeInt, Positive, PositiveInt, Section
from rlvr.records import Execution, Role
from rlvr.registry import short_name

GENERATOR = "generator:"
# Arguments of `apply_chat_template` that rlvr sets itself, or that would change more than the prompt.
_RESERVED = frozenset(
    {
        "conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt",
        "continue_final_message", "tokenize", "tokenizer_kwargs", "padding", "truncation", "max_length",
        "return_tensors", "return_dict", "return_assistant_tokens_mask",
    }
)  # fmt: skip


class Template(StrEnum):
    """How a question becomes the policy's prompt."""

    CHAT = "chat"  # the tokenizer's chat template
    PLAIN = "plain"  # the question as it is
    R1_ZERO = "r1_zero"  # a conversation with <think> and <answer> tags, for base models


class Layout(StrEnum):
    """Whose rows a source has; the columns of prompt and reference that this implies are in `LAYOUT_COLUMNS`."""

    PLAIN = "plain"  # columns that hold lists and objects are kept only if `columns` names them
    TRL = "trl"  # every column is kept, whatever it holds
    VERL = "verl"  # every column is kept, whatever it holds


LAYOUT_COLUMNS: dict[Layout, dict[str, str]] = {
    Layout.TRL: {"prompt": "prompt", "reference": "solution"},
    Layout.VERL: {"prompt": "prompt", "reference": "reward_model.ground_truth"},
}


class CheckConfig(Section):
    """One check: its verifier, the verifier's settings, and the role of its verdict.

    when: applies the check only to rows whose `verifier_column` holds this value; empty applies it to every row.
    execution: process; or jailed, inside the sandbox's jail, for code that you do not trust. Null: as the verifier
        declares.
    python: the interpreter of a jailed verifier, such as envs/scorers/bin/python, whose packages it then has.
    readable: files and folders that a jailed verifier may read besides its own package; it can import from the folders.
    """

    verifier: str
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    role: Role = Role.REWARD
    weight: NonNegative = 1.0
    when: str = ""
    execution: Execution | None = None
    python: str = ""
    readable: list[str] = Field(default_factory=list[str])

    @model_validator(mode="after")
    def _can_be_chosen(self) -> "CheckConfig":
        require_execution(self.execution, self.python, self.readable)
        return self

    @property
    def is_jailed(self) -> bool:
        """Whether the recipe has its verifier jailed; its code is then never imported outside."""
        return self.execution is Execution.JAILED or bool(self.python)


def require_execution(execution: Execution | None, python: str, readable: list[str]) -> None:
    """Raises ValueError for an execution that a recipe cannot choose, or keys of jailed verifiers without a jail."""
    if execution is not None and not execution.is_pooled:
        raise ValueError(
            f"execution: {execution.value} is for verifiers that declare it; a recipe chooses process or jailed, or "
            "leaves it to the verifier"
        )
    if execution is Execution.PROCESS and (python or readable):
        raise ValueError("python and readable are for execution: jailed, but execution is process")


class DataSource(Section):
    """One source of prompts.

    source: a file (.jsonl, .json, .csv, .tsv, each also .gz; .parquet), a pattern such as `data/train-*.parquet`, a
        folder of them (also a clone of a hub data set), a hub name, generator:NAME, or reasoning_gym:TASK.
    name: its name in metrics (`eval/<name>/...`); the default is derived from source.
    split: which part of a hub data set, or of generated rows: train, dev and test never share a problem.
    columns: the columns of prompt, reference and id. `a.b` reaches into an object, `a.0` into a list, and `*` is
        the whole row. All other columns with plain values are kept as `prompt.tags`, which verifiers read and formats
        may name; a column that you list here under another name is kept whatever it holds, including lists and objects.
    layout: trl or verl for rows in their form. The default of `columns` is then {prompt: prompt, reference: solution}
        or {prompt: prompt, reference: reward_model.ground_truth}, and all other columns are kept as `prompt.tags`,
        including lists, objects and nulls, because reward functions of these trainers get them.
    reference_pattern: a regular expression; its first group, searched in the reference column, is the reference.
    prompt_format: text around the question. {prompt} and any column may appear in it, and in system_prompt and
        assistant_prefix; {{name}} is the text {name}, and the braces of LaTeX and JSON need no escape.
    assistant_prefix: text with which the policy's answer begins. Messages that end in an assistant turn are rejected.
    chat_template_kwargs: further arguments of the chat template, such as {enable_thinking: false}.
    verifier_column: a column whose value in each row chooses the checks with that `when`; checks without `when` apply
        to every row.
    execution, python, readable: of `verifier`, as in `checks`.
    settings: settings of generator:NAME or reasoning_gym:TASK. limit: number of rows to use (0 = all).
    """

    source: str
    name: str = ""
    subset: str = ""
    split: str = "train"
    layout: Layout = Layout.PLAIN
    columns: dict[str, str] = Field(default_factory=lambda: {"prompt": "prompt", "reference": "reference"})
    reference_pattern: str = ""
    template: Template = Template.CHAT
    system_prompt: str = ""
    prompt_format: str = "{prompt}"
    assistant_prefix: str = ""
    chat_template_kwargs: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    verifier: str = ""
    verifier_settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    execution: Execution | None = None
    python: str = ""
    readable: list[str] = Field(default_factory=list[str])
    checks: dict[str, CheckConfig] = Field(default_factory=dict[str, CheckConfig])
    verifier_column: str = ""
    weight: Positive = 1.0
    limit: NonNegativeInt = 0

    @model_validator(mode="before")
    @classmethod
    def _with_columns_of_layout(cls, given: Any) -> Any:
        """Writes the columns of a layout out, so that the stored recipe says which they are."""
        if not isinstance(given, dict):
            return given
        source = cast(dict[str, Any], given)
        for layout, columns in LAYOUT_COLUMNS.items():
            if source.get("layout") == layout and isinstance(source.get("columns", {}), dict):
                return {**source, "columns": columns | source.get("columns", {})}
        return source

    @model_validator(mode="after")
    def _one_way(self) -> "DataSource":
        if not self.source.strip():
            raise ValueError(
                "source is empty: name a file (.jsonl, .json, .parquet), a folder of them, a hub name, or "
                "generator:NAME; a single dot is the current folder"
            )
        if bool(self.verifier) == bool(self.checks):
            raise ValueError(
                f"source {self.source!r} needs `verifier:` (one check) or `checks:` (several), exactly one"
            )
        if self.verifier_settings and not self.verifier:
            raise ValueError(
                f"source {self.source!r}: verifier_settings go with `verifier:`; in `checks:` use settings"
            )
        if self.checks and (self.execution is not None or self.python or self.readable):
            raise ValueError(
                f"source {self.source!r}: execution, python and readable go with `verifier:`; in `checks:` they belong "
                "to each check"
            )
        require_execution(self.execution, self.python, self.readable)
        if reserved := _RESERVED.intersection(self.chat_template_kwargs):
            raise ValueError(
                f"source {self.source!r}: chat_template_kwargs: {', '.join(sorted(reserved))} cannot be set; only "
                "arguments that the template itself reads can, such as enable_thinking"
            )
        roles = {check.role for check in self.all_checks.values()}
        if Role.REWARD not in roles:
            raise ValueError(f"source {self.source!r} has no check with role reward, so nothing would be rewarded")
        if bool(self.verifier_column) != bool(self.chosen_values):
            raise ValueError(
                f"source {self.source!r}: verifier_column and `when` of a check go together: the value in the column "
                f"chooses the checks with that `when`; verifier_column={self.verifier_column!r}, and `when` is "
                f"{', '.join(sorted(self.chosen_values)) or 'not set'}"
            )
        for value in sorted(self.chosen_values):
            if not any(c.role is Role.REWARD and c.when in ("", value) for c in self.checks.values()):
                raise ValueError(
                    f"source {self.source!r}: rows whose {self.verifier_column!r} is {value!r} have no check with role "
                    "reward, so nothing would be rewarded"
                )
        return self

    @property
    def all_checks(self) -> dict[str, CheckConfig]:
        """The checks by name; `verifier:` is shorthand for one check named after the verifier."""
        if self.checks:
            return dict(self.checks)
        check = CheckConfig(
            verifier=self.verifier,
            settings=self.verifier_settings,
            execution=self.execution,
            python=self.python,
            readable=self.readable,
        )
        return {short_name(self.verifier): check}

    @property
    def chosen_values(self) -> frozenset[str]:
        """The values of `verifier_column` for which there is a check."""
        return frozenset(check.when for check in self.checks.values() if check.when)


class DifficultyConfig(Section):
    """Sampling by each prompt's running solve rate, which only prompts of finite sources have.

    retire_solve_rate: a prompt solved at this rate or above leaves the pool (0 = never).
    min_attempts: judged rollouts before a solve rate is used.
    prefer_signal: a drawn prompt with solve rate p is accepted with probability max(floor, 4 p (1 - p)).
    """

    retire_solve_rate: Fraction = 0.0
    min_attempts: PositiveInt = 8
    prefer_signal: bool = False
    floor: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1


class DataConfig(Section):
    """Where prompts come from. Train prompts longer than max_prompt_tokens are dropped and counted, never truncated."""

    train: list[DataSource] = Field(min_length=1)
    eval: list[DataSource] = Field(default_factory=list[DataSource])
    max_prompt_tokens: PositiveInt = 1024
    shuffle: bool = True
    difficulty: DifficultyConfig = DifficultyConfig()


def source_name(source: DataSource) -> str:
    """The name of a source in metrics and prompt ids: `name`, or the last part of `source` without endings."""
    if source.name:
        return source.name
    last = re.sub(r"^\w+:", "", source.source.rstrip("/").rpartition("/")[2])
    return re.sub(r"[*?\[\]]+", "", last.partition(".")[0]).strip("-_") or "data"
