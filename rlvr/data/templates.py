"""Rows become prompts: plain substitution into the source's formats, then chat messages or text."""

import re
from collections.abc import Mapping

from rlvr.config.recipe import DataSource, Template, source_name
from rlvr.data.sources import Row
from rlvr.errors import ConfigError, DataError
from rlvr.records import Check, Json, Message, Prompt

# DeepSeek-R1 (arXiv:2501.12948), table 1; the question stands for {prompt}.
R1_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
    "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, "
    "respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>.\n"
    "User: {prompt}\nAssistant:"
)
R1_ZERO_PREFIX = " <think>"

_NAME = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.]*)\}")


def substitute(text: str, values: Mapping[str, Json]) -> str:
    """`text` with each `{name}` that `values` knows replaced; all else, braces included, stays as
    it is.

    One pass, so braces inside a value are never read again.

    >>> substitute(r"{prompt} in \\boxed{} as {x}", {"prompt": "Say {x}", "y": 1})
    'Say {x} in \\\\boxed{} as {x}'
    """
    return _NAME.sub(lambda m: str(values[m[1]]) if m[1] in values else m[0], text)


def build_prompt(config: DataSource, row: Row) -> Prompt:
    """The prompt of one row, with every check of the source carrying the row's reference.

    The reference column cannot be named in a format, so it never reaches the policy.

    Raises:
        ConfigError: a format that names no column, or a system prompt where there is no chat.
        DataError: a row of chat messages in a source whose template is not chat.
    """
    _check_formats(config, row)
    name = source_name(config)
    checks = tuple(
        Check(
            name=check_name,
            verifier=check.verifier,
            settings=check.settings,
            reference=row.reference,
            role=check.role,
            weight=check.weight,
        )
        for check_name, check in config.all_checks.items()
    )
    question = row.question if isinstance(row.question, str) else row.question[-1]["content"]
    values = {**row.tags, "prompt": question}
    asked = substitute(config.prompt_format, values)
    prefix = substitute(config.assistant_prefix, values)
    messages: tuple[Message, ...] = ()
    text = ""
    if config.template is Template.CHAT:
        messages = _messages(config, row, asked)
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
        tags=row.tags,
    )


def _messages(config: DataSource, row: Row, asked: str) -> tuple[Message, ...]:
    earlier: list[Message] = []
    role = "user"
    if not isinstance(row.question, str):
        earlier = [Message(role=m["role"], content=m["content"]) for m in row.question[:-1]]
        role = row.question[-1]["role"]
    if config.system_prompt:
        earlier = [m for m in earlier if m.role != "system"]
        earlier.insert(0, Message(role="system", content=config.system_prompt))
    return (*earlier, Message(role=role, content=asked))


def _check_formats(config: DataSource, row: Row) -> None:
    known = {"prompt", *row.tags}
    if not any(name in known for name in _NAME.findall(config.prompt_format)):
        raise ConfigError(
            f"source {config.source!r}: prompt_format={config.prompt_format!r} names no column, so "
            "every prompt would "
            f"be the same; put {{prompt}} into it. Names there are: {', '.join(sorted(known))}"
        )
    if config.template is not Template.CHAT:
        if config.system_prompt:
            raise ConfigError(
                f"source {config.source!r}: system_prompt needs template 'chat', but it is "
                f"{config.template.value!r}; "
                "put the text into prompt_format"
            )
        if not isinstance(row.question, str):
            raise DataError(
                f"source {config.source!r}, row {row.row_id!r}: the prompt is a list of messages, "
                "which needs template "
                f"'chat', but it is {config.template.value!r}"
            )
