"""`rlvr verify`: verifies stored completions, row by row, in bounded memory and in input order.

reader -> blocks of BLOCK_ROWS, their references parsed -> at most WINDOW_ROWS open rows -> writer
                                                           a full window waits for its oldest row
"""

import asyncio
import gzip
import itertools
import json
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from rlvr.data.bounded import open_lines
from rlvr.errors import ConfigError, DataError
from rlvr.plugin import completion_from_text
from rlvr.records import Check, Completion, Json, Message, Prompt, Status, Verdict
from rlvr.report.agreement import Judged, agreement_rows, read_label
from rlvr.storage.input_files import is_file, other_kind
from rlvr.verification.dispatcher import error_of
from rlvr.verification.jailed.jail import jailed_check
from rlvr.verification.service import VerifierService
from rlvr.verification.steps import step_spans

WINDOW_ROWS = 1024
BLOCK_ROWS = 256
MAX_ERRORS_SHOWN = 3
_CHECK = "main"
_OWN_COLUMNS = frozenset({"id", "completion", "reference", "prompt"})  # any other column is a tag
_NO_QUESTION = "(no prompt given)"


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineReport:
    """The outcome of `verify_file`; the `num_malformed` rows could not be read and count among the errors.

    first_errors: id and reason of the first rows with status ERROR. traceback: the verifier's frames of the first that
        has them. judged: the verdicts on rows with a label; num_unjudged of these rows got ERROR.
    """

    num_rows: int
    num_malformed: int
    counts: Mapping[Status, int]
    first_errors: tuple[str, ...] = ()
    traceback: str = ""
    judged: tuple[Judged, ...] = ()
    num_unjudged: int = 0

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """Table rows: the number of input rows with each status, then the first errors."""
        counted = [
            (status.name, str(count), "")
            for status, count in self.counts.items()
            if count or status is not Status.SKIPPED
        ]
        agreed = agreement_rows(self.judged, num_unjudged=self.num_unjudged) if self.is_labelled else []
        return [*counted, *(("", "", error) for error in self.first_errors), *agreed]

    @property
    def is_labelled(self) -> bool:
        """Whether a row had a label."""
        return bool(self.judged or self.num_unjudged)

    @property
    def had_errors(self) -> bool:
        """Whether any row got ERROR; the command line then returns 1."""
        return self.counts[Status.ERROR] > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One line of the input: a pair to verify, or the problem with it."""

    row_id: Json
    prompt: Prompt | None = None
    completion: Completion | None = None
    problem: str = ""
    label: bool | None = None


def verify_file(
    verifier: str,
    input_path: str | Path,
    output_path: str | Path,
    settings: Mapping[str, Any],
    workers: int,
    deadline_s: float,
    sandbox: tuple[str, Mapping[str, Any]] = ("auto", {}),
    *,
    is_jailed: bool = False,
    python: str = "",
    label_column: str = "",
) -> OfflineReport:
    """Verifies each row of a JSON Lines file and writes its verdict; either file may end in .gz.

    Reads {"id"?, "completion", "reference", "prompt"?}, and all other columns as `prompt.tags`; writes {"id",
    "status", "score", "extracted", "reason", "seconds", "verifier"}, one line for each line read that is not blank.
    A row without id gets its line number, from 1. The output appears under its name once it is complete.

    Args:
        verifier: as in a recipe: a registered name, package.module:attribute or
            path/file.py:attribute.
        deadline_s: wall-clock seconds allowed for one row.
        sandbox: the backend for jailed verifiers and those that run programs, and its settings.
        is_jailed, python: has the verifier jailed, in this interpreter if it is given.
        label_column: the column with each row's right verdict (`rlvr.report.agreement.read_label`), with which the
            verdicts are compared; "": none.

    Raises: PluginError for the verifier or its settings; SandboxError when the sandbox does not start; DataError when
        a file cannot be opened.
    """
    source, target = Path(input_path), Path(output_path)
    _require_input(source)
    if target.exists() and target.samefile(source):
        raise ConfigError(
            f"--input and --output are one file, {str(source)!r}: its rows would be lost; choose another output"
        )
    service = VerifierService(workers=workers, deadline_s=deadline_s, sandbox=sandbox)
    try:
        check = Check(name=_CHECK, verifier=verifier, settings=settings)
        check = jailed_check(check, is_jailed=is_jailed, python=python)
        service.preflight([check])
        is_plain_file = not target.exists() or target.is_file()
        part = target.with_name(target.name + ".part") if is_plain_file else target
        try:
            with _open(part, "wb", is_gzip=target.suffix == ".gz") as sink:
                report = asyncio.run(_verify_rows(service, check, _read(source, check, label_column), sink))
        except OSError as error:
            raise DataError(f"output file {str(target)!r} cannot be written: {error}") from error
        if part != target:
            part.replace(target)
        return report
    finally:
        service.close()


def explain(
    verifier: str,
    *,
    completion: str,
    reference: Json,
    settings: Mapping[str, Any],
    deadline_s: float,
    question: Json = None,
    sandbox: tuple[str, Mapping[str, Any]] = ("auto", {}),
    has_steps: bool = False,
    is_jailed: bool = False,
    python: str = "",
) -> tuple[Verdict, list[tuple[str, str]]]:
    """The verdict on one pair, and rows of (name, value) that explain it.

    Args:
        question: text, or chat messages as in an input file.
        has_steps: adds a row for each line of the completion with its score from `verify_steps`.
        is_jailed, python: has the verifier jailed, in this interpreter if it is given.

    Raises: PluginError for the verifier or its settings; DataError for the reference; VerifierError when the lines get
        no scores.
    """
    service = VerifierService(workers=1, deadline_s=deadline_s, sandbox=sandbox)
    try:
        check = Check(name=_CHECK, verifier=verifier, settings=settings, reference=reference)
        check = jailed_check(check, is_jailed=is_jailed, python=python)
        service.preflight([check])
        text, messages = _question(question)
        prompt = Prompt(prompt_id="pair", checks=(check,), source="offline", text=text, messages=messages)
        service.check_references([prompt])
        pair = (prompt, completion_from_text(completion, prompt_id="pair"))
        verdict = service.verify_batch([pair])[0][_CHECK]
        scores = service.verify_steps(*pair) if has_steps else []
    finally:
        service.close()
    rows = [("status", verdict.status.name)]
    if verdict.extracted is not None:
        rows.append(("extracted", verdict.extracted))
    rows += [(key.replace("_", " "), str(value)) for key, value in verdict.details.items()]
    rows += [("reason", verdict.reason), ("verifier", verdict.verifier)]
    spans = step_spans(completion) if has_steps else []
    rows += [(f"step {score:g}", completion[start:end]) for score, (start, end) in zip(scores, spans, strict=True)]
    return verdict, rows


def given_pair(
    completion: str | None, reference: str | None, question: str, path: Path | None
) -> tuple[str, Json, Json]:
    """(completion, reference, question) as given, else from a file with one row.

    Raises: ConfigError, DataError.
    """
    if completion is not None and reference is not None:
        return completion, reference, question
    if path is None:
        raise ConfigError(
            "rlvr verify --explain needs --completion TEXT and --reference TEXT, or --input FILE with one row"
        )
    _require_input(path)
    rows = list(itertools.islice(_read(path, Check(name=_CHECK, verifier="")), 2))
    if len(rows) != 1:
        raise DataError(
            f"{str(path)!r} has {'more than one row' if rows else 'no row'}; one pair is explained at a time"
        )
    row = rows[0]
    if row.prompt is None or row.completion is None:
        raise DataError(f"{str(path)!r}: {row.problem}")
    messages: list[Json] = [{"role": m.role, "content": m.content} for m in row.prompt.messages]
    return row.completion.text, row.prompt.reference, row.prompt.text or messages


def _require_input(path: Path) -> None:
    """Raises DataError when it is not a file."""
    if not is_file(path):
        raise DataError(f"input file {str(path)!r} {f'is {kind}' if (kind := other_kind(path)) else 'does not exist'}")


async def _verify_rows(service: VerifierService, check: Check, rows: Iterator[_Row], sink: IO[bytes]) -> OfflineReport:
    """Verifies all rows; waits for each block's references and, when the window is full, for the oldest open row."""
    label = service.label(check)
    statuses: Counter[Status] = Counter(dict.fromkeys(Status, 0))
    num_malformed = 0
    errors: list[str] = []
    traceback = ""
    judged: list[Judged] = []
    num_unjudged = 0
    window: deque[tuple[_Row, asyncio.Task[Verdict] | Verdict]] = deque()

    async def write_oldest() -> None:
        nonlocal traceback, num_unjudged
        row, pending = window.popleft()
        row_id = row.row_id
        verdict = await pending if isinstance(pending, asyncio.Task) else pending
        statuses[verdict.status] += 1
        if verdict.status is Status.ERROR and len(errors) < MAX_ERRORS_SHOWN:
            errors.append(verdict.reason if row_id is None else f"row {row_id!r}: {verdict.reason}")
        traceback = traceback or str(verdict.details.get("traceback", ""))
        if row.label is not None and verdict.score is not None:
            logit = verdict.details.get("logit")
            judged.append(
                Judged(
                    label=row.label,
                    passed=verdict.passed,
                    score=verdict.score,
                    logit=logit if isinstance(logit, float) else None,
                )
            )
        elif row.label is not None:
            num_unjudged += 1
        sink.write(_line(row_id, verdict))

    while block := list(itertools.islice(rows, BLOCK_ROWS)):
        problems = await asyncio.to_thread(_reference_problems, service, block)
        for row, problem in zip(block, problems, strict=True):
            if row.prompt is None or row.completion is None:
                num_malformed += 1
                window.append((row, error_of(label, row.problem)))
            elif problem:
                reason = f"the reference cannot be used: {problem}"
                window.append((row, error_of(label, reason)))
            elif settled := service.prejudge(row.prompt, row.completion):
                window.append((row, settled[_CHECK]))
            else:
                task = asyncio.create_task(_verify_one(service, row.prompt, row.completion))
                window.append((row, task))
            while len(window) >= WINDOW_ROWS or (window and _is_done(window[0][1])):
                await write_oldest()
    while window:
        await write_oldest()
    return OfflineReport(
        num_rows=statuses.total(),
        num_malformed=num_malformed,
        counts=dict(statuses),
        first_errors=tuple(errors),
        traceback=traceback,
        judged=tuple(judged),
        num_unjudged=num_unjudged,
    )


def _reference_problems(service: VerifierService, rows: Sequence[_Row]) -> list[str]:
    """Why each row's reference cannot be used; "" if it can, or if the row is malformed."""
    readable = [row.prompt.checks[0] for row in rows if row.prompt is not None]
    problems = iter(service.reference_problems(readable))
    return ["" if row.prompt is None else next(problems) for row in rows]


async def _verify_one(service: VerifierService, prompt: Prompt, completion: Completion) -> Verdict:
    return (await service.verify(prompt, completion, settled={}))[_CHECK]


def _is_done(pending: asyncio.Task[Verdict] | Verdict) -> bool:
    return not isinstance(pending, asyncio.Task) or pending.done()


def _read(path: Path, check: Check, label_column: str = "") -> Iterator[_Row]:
    """The rows of the file; a truncated file ends with a malformed row, so that the loss is
    reported.
    """
    number = 0
    try:
        with open_lines(path) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _parse(line, number, check, label_column)
    except (OSError, EOFError, zlib.error, DataError) as error:
        problem = f"line {number + 1}: the file cannot be read further: {error}"
        yield _Row(row_id=None, problem=problem)


def _parse(line: bytes, number: int, check: Check, label_column: str) -> _Row:
    row_id: Json = None
    try:
        row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        if not isinstance(row, dict):
            raise ValueError(f"a row is an object, not {type(row).__name__}")
        row_id = row.get("id", number)
        needed = ["completion", "reference", *([label_column] if label_column else [])]
        missing = [key for key in needed if key not in row]
        if missing:
            raise ValueError(f"the row lacks {', '.join(missing)}; it has {', '.join(map(str, row)) or 'no columns'}")
        if not isinstance(row["completion"], str):
            raise ValueError(f"completion is {type(row['completion']).__name__}, not text")
        prompt_id = str(row_id) or f"line-{number}"
        text, messages = _question(row.get("prompt"))
        prompt = Prompt(
            prompt_id=prompt_id,
            checks=(_with_reference(check, row["reference"]),),
            source="offline",
            text=text,
            messages=messages,
            tags={key: value for key, value in row.items() if key not in {*_OWN_COLUMNS, label_column}},
        )
        completion = completion_from_text(row["completion"], prompt_id=prompt_id)
        label = read_label(row[label_column]) if label_column else None
        return _Row(row_id=row_id, prompt=prompt, completion=completion, label=label)
    except json.JSONDecodeError as error:
        problem = f"line {number}: not JSON ({error}); --input must be JSON Lines, one object per line"
        return _Row(row_id=row_id, problem=problem)
    except (ValueError, RecursionError) as error:  # bad UTF-8 is a ValueError
        return _Row(row_id=row_id, problem=f"line {number}: {error}")


def _question(prompt: Json) -> tuple[str, tuple[Message, ...]]:
    """(text, messages) of a row's prompt, which may be text, chat messages or absent."""
    if isinstance(prompt, list) and prompt:
        try:
            return "", tuple(Message(role=str(message["role"]), content=str(message["content"])) for message in prompt)
        except (TypeError, KeyError) as error:
            raise ValueError("prompt is a list, but not of {role, content} messages") from error
    if prompt and not isinstance(prompt, str):
        raise ValueError(f"prompt is {type(prompt).__name__}, not text or a list of messages")
    return str(prompt or _NO_QUESTION), ()


def _with_reference(check: Check, reference: Json) -> Check:
    return replace(check, reference=reference)


def _open(path: Path, mode: str, *, is_gzip: bool) -> IO[bytes]:
    opened: Any = gzip.open(path, mode) if is_gzip else path.open(mode)  # noqa: SIM115
    return opened


def _line(row_id: Json, verdict: Verdict) -> bytes:
    """One output line in ASCII, so that a lone surrogate in an answer cannot break the file."""
    row = {
        "id": row_id,
        "status": verdict.status.name,
        "score": verdict.score,
        "extracted": verdict.extracted,
        "reason": verdict.reason,
        "seconds": round(verdict.seconds, 6),
        "verifier": verdict.verifier,
    }
    return json.dumps(row).encode("ascii") + b"\n"
