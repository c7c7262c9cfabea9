"""The rows that a verifier is audited on, and plugin authors' own cases; JSON Lines."""

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from rlvr.data.bounded import open_text, parquet_rows, parse_json
from rlvr.data.row_sources import plugin_rows
from rlvr.errors import DataError
from rlvr.records import Check, Json, Message, Prompt
from rlvr.storage.input_files import is_file, other_kind

CHECK = "main"
_NO_QUESTION = "(no prompt given)"
_COLUMNS = {"prompt", "reference", "completion", "id", "must", "verifier"}
CASES_SUFFIX = ".audit.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the data.

    prompt: with one check, which has the reference. completion: an answer that must pass. place: "rows.jsonl:3".
    """

    prompt: Prompt
    completion: str | None = None
    place: str = ""

    @property
    def question(self) -> str:
        """The text of the question; of a chat, the last message."""
        return self.prompt.text or self.prompt.messages[-1].content


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A completion whose verdict the author of a verifier demands."""

    row: Row
    text: str
    must_pass: bool


def read_rows(path: Path, check: Check) -> list[Row]:
    """The rows of a file of `prompt`, `reference` and, where given, `completion`.

    JSON Lines, a JSON list or Parquet; other columns become the prompt's tags.

    Raises: DataError with the line of a row that cannot be used.
    """
    rows = [_row(fields, place, check) for fields, place in _read(path)]
    if not rows:
        raise DataError(f"{path} has no rows; write one JSON object per line, with prompt, reference and completion")
    return rows


def read_cases(path: Path, check: Check, attribute: str) -> list[Case]:
    """The cases of a file: `prompt`, `reference`, `completion` and `must`, which is "pass" or "fail".

    Args: attribute: the name of the verifier in its file; cases whose `verifier` is another are left out.

    Raises: DataError with the line of a case that cannot be used.
    """
    cases: list[Case] = []
    for fields, place in _read(path):
        if fields.get("verifier", attribute) != attribute:
            continue
        must = fields.get("must")
        if must not in ("pass", "fail"):
            raise DataError(f'{place}: must={must!r}; a case says "pass" or "fail"')
        row = _row(fields, place, check)
        if row.completion is None:
            raise DataError(f"{place}: the case has no completion")
        cases.append(Case(row=replace(row, completion=None), text=row.completion, must_pass=must == "pass"))
    return cases


def rows_of_source(settings: Mapping[str, Any], check: Check) -> list[Row]:
    """The training rows of the data source that has the verifier's name, drawn with seed 0.

    Raises: ConfigError, DataError, PluginError.
    """
    found: list[Row] = []
    for row in plugin_rows(check.verifier, settings, split="train", seed=0):
        text, messages = _question(row.question if isinstance(row.question, str) else list(row.question))
        prompt = Prompt(
            prompt_id=row.row_id,
            checks=(replace(check, reference=row.reference),),
            source="audit",
            text=text,
            messages=messages,
            tags=row.tags,
        )
        found.append(Row(prompt=prompt, completion=row.completion, place=row.row_id))
    return found


def cases_beside(file: str) -> Path | None:
    """The file of cases that belongs to a verifier's file: `my_checks.audit.jsonl` for `my_checks.py`."""
    path = Path(file).with_suffix(CASES_SUFFIX) if file else None
    return path if path is not None and path.is_file() else None


def _row(fields: Mapping[str, Json], place: str, check: Check) -> Row:
    if "reference" not in fields:
        has = ", ".join(map(str, fields)) or "no columns"
        raise DataError(
            f"{place}: the row has no reference, and has {has}; rename the column that holds the gold answer"
        )
    completion = fields.get("completion")
    if completion is not None and not isinstance(completion, str):
        raise DataError(f"{place}: completion is {type(completion).__name__}, not text")
    try:
        text, messages = _question(fields.get("prompt"))
    except ValueError as error:
        raise DataError(f"{place}: {error}") from error
    prompt = Prompt(
        prompt_id=place,
        checks=(replace(check, reference=fields["reference"]),),
        source="audit",
        text=text,
        messages=messages,
        tags={key: value for key, value in fields.items() if key not in _COLUMNS},
    )
    return Row(prompt=prompt, completion=completion, place=place)


def _question(prompt: Json) -> tuple[str, tuple[Message, ...]]:
    """(text, messages) of a row's prompt, which may be text, chat messages or absent. Raises ValueError."""
    if isinstance(prompt, list) and prompt:
        turns = cast("list[Any]", prompt)
        try:
            return "", tuple(Message(role=str(turn["role"]), content=str(turn["content"])) for turn in turns)
        except (TypeError, KeyError) as error:
            raise ValueError("prompt is a list, but not of {role, content} messages") from error
    if prompt and not isinstance(prompt, str):
        raise ValueError(f"prompt is {type(prompt).__name__}, not text or a list of messages")
    return str(prompt or _NO_QUESTION), ()


def _read(path: Path) -> Iterator[tuple[dict[str, Json], str]]:
    """(columns, place) of each row. Raises DataError."""
    if not is_file(path):
        kind = other_kind(path)
        raise DataError(f"file {str(path)!r} {f'is {kind}, not a file' if kind else 'does not exist'}")
    if path.suffix == ".parquet":
        for number, row in enumerate(parquet_rows(path), start=1):
            yield row, f"{path.name}:{number}"
        return
    try:
        if path.name.endswith((".json", ".json.gz")):
            with open_text(path, has_lines=False) as file:
                found = parse_json(file.read())
            if not isinstance(found, list):
                raise DataError(f"{path} is not a list of rows; write one JSON object per line to a .jsonl file")
            for number, row in enumerate(cast("list[Any]", found), start=1):
                yield _checked(row, f"{path.name}:{number}"), f"{path.name}:{number}"
            return
        with open_text(path, has_lines=True) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    place = f"{path.name}:{number}"
                    yield _checked(_parsed(line, place), place), place
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _parsed(line: str, place: str) -> Any:
    try:
        return parse_json(line)
    except ValueError as error:
        raise DataError(f"{place}: {error}; write one JSON object per line") from error


def _checked(row: Any, place: str) -> dict[str, Json]:
    if not isinstance(row, dict):
        raise DataError(f"{place}: a row is an object, not {type(row).__name__}")
    fields = cast("dict[str, Json]", row)
    try:
        json.dumps(fields)
    except (TypeError, ValueError) as error:
        raise DataError(f"{place}: {error}") from error
    return fields
