"""Turns rows into prompts: plain substitution into the source's formats, then chat messages or text."""

import copy
from collections.abc import Collection, Sequence

from rlvr.config.recipe import CheckConfig, DataSource, Template, source_name
from rlvr.data.placeholders import named, substitute, unknown_names
from rlvr.data.sources import MAX_SHOWN, FiniteRows, GeneratedRows, Row
from rlvr.errors import ConfigError, DataError
from rlvr.records import Check, Json, Message, Prompt

# DeepSeek-R1 (arXiv:2501.12948), table 1; the question replaces {prompt}.
R1_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
    "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, "
    "respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>.\n"
    "User: {prompt}\nAssistant:"
)
R1_ZERO_PREFIX = " <think>"


def build_prompt(config: DataSource, row: Row) -> Prompt:
    """The prompt of one row; each check that applies to the row carries its reference.

    Nothing in it is shared with the row. The reference column cannot be named in a format, so it never reaches the
    policy. `check_formats` has checked the names in the formats before.

    Raises: DataError for a row of chat messages in a source whose template is not chat, and for one whose
        `verifier_column` chooses no check.
    """
    if config.template is not Template.CHAT and not isinstance(row.question, str):
        raise DataError(
            f"source {config.source!r}, row {row.row_id!r}: the prompt is a list of messages, which needs template "
            f"'chat', but it is {config.template.value!r}"
        )
    name = source_name(config)
    reference = _own(row.reference)
    checks = tuple(
        Check(
            name=check_name,
            verifier=check.verifier,
            settings=check.settings,
            reference=reference,
            role=check.role,
            weight=check.weight,
            execution=check.execution,
            python=check.python,
            readable=tuple(check.readable),
        )
        for check_name, check in _applied(config, row).items()
    )
    question = row.question if isinstance(row.question, str) else row.question[-1]["content"]
    values = {**row.tags, "prompt": question}
    asked = substitute(config.prompt_format, values)
    prefix = substitute(config.assistant_prefix, values)
    messages: tuple[Message, ...] = ()
    text = ""
    if config.template is Template.CHAT:
        messages = _messages(row, asked, system=substitute(config.system_prompt, values))
    elif config.template is Template.PLAIN:
        text = asked
    else:
        text = substitute(R1_ZERO, {"prompt": asked})
        prefix = R1_ZERO_PREFIX + prefix
    return Prompt(
        prompt_id=f"{name}/{row.row_id}",
        checks=checks,
        source=name,
        messages=messages,
        text=text,
        assistant_prefix=prefix,
        chat_template_kwargs=config.chat_template_kwargs,
        tags={name: _own(value) for name, value in row.tags.items()},
    )


def _applied(config: DataSource, row: Row) -> dict[str, CheckConfig]:
    """The checks that apply to a row. Raises DataError."""
    checks = config.all_checks
    if not config.verifier_column:
        return checks
    value = row.tags.get(config.verifier_column)
    if str(value) not in config.chosen_values:
        raise DataError(
            f"source {config.source!r}, {row.where or row.row_id}: column {config.verifier_column!r} (verifier_column) "
            f"holds {value!r}, and no check has that `when`; there are {', '.join(sorted(config.chosen_values))}"
        )
    return {name: check for name, check in checks.items() if check.when in ("", str(value))}


def check_chosen_verifiers(config: DataSource, rows: FiniteRows | GeneratedRows) -> None:
    """Checks that `verifier_column` chooses a check in every row of a finite source.

    Raises: DataError that lists the first rows in which it does not.
    """
    problems: list[str] = []
    for row in rows.rows if config.verifier_column and isinstance(rows, FiniteRows) else ():
        try:
            _applied(config, row)
        except DataError as error:
            problems.append(str(error))
    if problems:
        more = f"\n... and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else ""
        raise DataError("\n".join(problems[:MAX_SHOWN]) + more)


def _own(value: Json) -> Json:
    """A copy, because sources and sets share rows, and a verifier in this process could change what it is given."""
    return copy.deepcopy(value) if isinstance(value, dict | list) else value


def check_formats(config: DataSource, rows: FiniteRows | GeneratedRows) -> None:
    """Checks the source's formats against its columns, in every row.

    Raises:
        ConfigError: a format names no column, or one that does not exist; a chat's settings where there is no chat.
        DataError: a format names a column that some rows do not have; with the places of those rows.
    """
    is_finite = isinstance(rows, FiniteRows)
    checked = rows.rows if is_finite else [rows.row(0)]
    known = {"prompt": None, **dict.fromkeys(name for row in checked for name in row.tags)}
    there = {*known, *(rows.columns if is_finite else ())}
    where = f"source {config.source!r}"
    if config.template is not Template.CHAT:
        for key in ("system_prompt", "chat_template_kwargs"):
            if getattr(config, key):
                raise ConfigError(
                    f"{where}: {key} needs template 'chat', but it is {config.template.value!r}; "
                    + ("put the text into prompt_format" if key == "system_prompt" else "remove it")
                )
    for key in ("prompt_format", "system_prompt", "assistant_prefix"):
        text: str = getattr(config, key)
        for name, close in unknown_names(text, there):
            raise ConfigError(f"{where}: {key} names {_no_column(config, name, close, known)}")
        for name in dict.fromkeys(named(text, there)):
            _require_filled(config, key, name, checked, is_known=name in known)
    if not named(config.prompt_format, known):
        raise ConfigError(
            f"{where}: prompt_format={config.prompt_format!r} names no column, so every prompt would be the same; put "
            f"{{prompt}} into it. Names there are: {', '.join(sorted(known))}"
        )


def _no_column(config: DataSource, name: str, close: str, known: Collection[str]) -> str:
    """What to do about a placeholder that is not a column, or one that a format may not show."""
    if name in ("reference", config.columns.get("reference")):
        return f"{{{name}}}, which is the reference: the policy must not see it"
    if name == config.columns.get("prompt", "prompt"):
        return f"{{{name}}}, which is the question itself; write {{prompt}} for it"
    hint = f"; did you mean {{{close}}}?" if close else "."
    return (
        f"{{{name}}}, which is no column of any row{hint} Names there are: {', '.join(sorted(known))}. To show "
        f"{{{name}}} itself, write {{{{{name}}}}}"
    )


def _require_filled(config: DataSource, key: str, name: str, rows: Sequence[Row], *, is_known: bool) -> None:
    """Raises DataError or ConfigError when a named column has no value in some row."""
    if name == "prompt":
        return
    empty = [row for row in rows if _is_missing(row.tags.get(name))]
    if not empty:
        return
    where = f"source {config.source!r}: {key} names {{{name}}}"
    if not is_known:
        raise ConfigError(
            f"{where}, which holds no text, number or truth value in any row; where it holds lists or objects, name "
            f'it in `columns`, such as {{"{name}": "{name}"}}, or a part of it: {{"{name}": "{name}.0"}}'
        )
    shown = "\n".join(f"  {row.where or row.row_id}" for row in empty[:MAX_SHOWN])
    more = f"\n  ... and {len(empty) - MAX_SHOWN} more" if len(empty) > MAX_SHOWN else ""
    raise DataError(
        f"{where}, which is null or missing in {len(empty)} of {len(rows)} rows; fill it there, remove those rows, or "
        f"take it out of {key}:\n{shown}{more}"
    )


def _is_missing(value: Json) -> bool:
    return value is None or value != value  # many tables use NaN for null


def _messages(row: Row, asked: str, *, system: str) -> tuple[Message, ...]:
    earlier: list[Message] = []
    role = "user"
    if not isinstance(row.question, str):
        earlier = [Message(role=m["role"], content=m["content"]) for m in row.question[:-1]]
        role = row.question[-1]["role"]
    if system:
        earlier = [m for m in earlier if m.role != "system"]
        earlier.insert(0, Message(role="system", content=system))
    return (*earlier, Message(role=role, content=asked))
