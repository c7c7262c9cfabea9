"""Raw rows from files, folders and hub data sets, each with its place for error messages."""

import csv
import difflib
import glob
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.data.bounded import open_text, parquet_rows, parse_json
from rlvr.errors import ConfigError, DataError
from rlvr.storage.input_files import is_file, is_folder, other_kind

SUFFIXES = (
    ".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz",
)  # fmt: skip
SPLIT_WORDS = frozenset({"train", "training", "test", "dev", "val", "valid", "validation", "eval"})
_NO_ROWS = frozenset({"dataset_infos.json", "dataset_info.json", "state.json"})  # about the data
_TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
_HUB_FOLDER = "data"  # where the hub's own layout has the files


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """One stored row; `fault` says why it could not be read, and is then the only other field set.

    where: its place for error messages, such as `train.jsonl:12`.
    """

    where: str
    columns: Mapping[str, Any]
    fault: str = ""


def read_rows(source: str, *, subset: str, split: str, limit: int) -> list[RawRow]:
    """The rows of a file, a pattern, a folder of files, a saved data set or a hub data set; at most `limit` (0 = all).

    A folder whose files are named after splits (`train.jsonl`, `test-00000.parquet`) yields only those of `split`; so
    does a pattern (`data/*.parquet`) that matches files of several splits. A folder that contains no data files itself
    is read as a clone of a hub data set: files in `data/`, or in the folder of the subset.

    Raises:
        DataError: nothing is there, or a file cannot be read as a whole.
        ConfigError: the `datasets` package is needed and missing.
    """
    path = _expanded(source)
    if is_folder(path):
        if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
            return _read_saved(path, split=split, limit=limit)
        files = _files_of(_data_folder(path, subset=subset), split=split)
    elif is_file(path):
        if not path.name.endswith(SUFFIXES):
            raise DataError(f"source {source!r} has an unsupported ending; expected one of {', '.join(SUFFIXES)}")
        files = [path]
    elif kind := other_kind(path):
        raise DataError(f"source {_brief(source)} is {kind}, and a source is a file, a folder of files or a hub name")
    elif glob.has_magic(source):
        files = _matching(str(path), split=split)
    elif _looks_like_file(source):
        raise DataError(_missing(source, path))
    else:
        return _read_hub(source, subset=subset, split=split, limit=limit)
    rows: list[RawRow] = []
    for file in files:
        for row in _read_file(file):
            rows.append(row)
            if limit and len(rows) >= limit:
                return rows
    return rows


def _expanded(source: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError as error:  # `~name` of a user that does not exist
        raise DataError(f"source {_brief(source)}: {error}") from error


def _brief(source: str) -> str:
    return repr(source if len(source) <= 200 else f"{source[:100]}...")


def _looks_like_file(source: str) -> bool:
    is_hub_name = re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", source) is not None
    return source.endswith(SUFFIXES) or not is_hub_name


def _missing(source: str, path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        here = str(Path.cwd())
        return f"source {source!r} does not exist, nor does its folder {str(parent)!r} (working directory: {here!r})"
    names = sorted(p.name for p in parent.iterdir() if p.name.endswith(SUFFIXES) or p.is_dir())
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {str(parent / close[0])!r}?" if close else ""
    held = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "no data files"
    return f"source {source!r} does not exist. Its folder holds: {held}.{hint}"


def _data_files(folder: Path) -> list[Path]:
    """The data files of a folder; .csv and .tsv only if there are no others, because they are often notes."""
    found = sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and path.name.endswith(SUFFIXES) and path.name not in _NO_ROWS
    )
    return [path for path in found if not path.name.endswith(_TABLES)] or found


def _data_folder(folder: Path, *, subset: str) -> Path:
    """The folder of the files: `folder` itself, or a subfolder in the hub's layout. Raises DataError."""
    if subset and (folder / subset).is_dir():
        return folder / subset
    if _data_files(folder):
        return folder
    if (folder / _HUB_FOLDER).is_dir():
        return _data_folder(folder / _HUB_FOLDER, subset=subset)
    inner = sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] not in "._")
    inner = [path for path in inner if _data_files(path)]
    if len(inner) == 1 and not subset:
        return inner[0]
    held = ", ".join(path.name for path in inner[:12])
    raise DataError(
        f"folder {str(folder)!r} holds no data file; expected {', '.join(SUFFIXES)}"
        + (f". Its folders with data are: {held}; set subset to one of them, or name it as the source" if inner else "")
    )


def _matching(pattern: str, *, split: str) -> list[Path]:
    """The data files that a pattern matches; if of several splits, those of `split`. Raises DataError."""
    found = sorted(Path(name) for name in glob.glob(pattern, recursive=True))
    files = [p for p in found if p.is_file() and p.name.endswith(SUFFIXES)]
    if not files:
        why = f"only files with other endings than {', '.join(SUFFIXES)}" if found else "no file"
        raise DataError(f"source {pattern!r} matches {why} (working directory: {str(Path.cwd())!r})")
    words = {word for file in files for word in _words(file) & SPLIT_WORDS}
    return files if len(words) < 2 else _of_split(files, split=split, where=f"source {pattern!r}")


def _files_of(folder: Path, *, split: str) -> list[Path]:
    return _of_split(_data_files(folder), split=split, where=f"folder {str(folder)!r}")


def _words(file: Path) -> set[str]:
    return set(re.split(r"[^a-z]+", file.name.lower()))


def _of_split(files: list[Path], *, split: str, where: str) -> list[Path]:
    """The files named after `split`; all files if none is named after a split."""
    if not any(_words(file) & SPLIT_WORDS for file in files):
        return files
    kept = [file for file in files if split.lower() in _words(file)]
    if not kept:
        raise DataError(
            f"{where} has files named after splits, but none for split={split!r}: "
            f"{', '.join(file.name for file in files[:12])}; set split, or name one file as the "
            "source"
        )
    return kept


def _read_file(path: Path) -> Iterator[RawRow]:
    try:
        if path.name.endswith(".parquet"):
            yield from _read_parquet(path)
        elif path.name.endswith((".jsonl", ".jsonl.gz")):
            yield from _read_lines(path)
        elif path.name.endswith(_TABLES):
            yield from _read_table(path)
        else:
            yield from _read_json(path)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise DataError(
            f"cannot read {str(path)!r}: {error}; is it complete, UTF-8 and of the type that its ending says?"
        ) from error


def _read_table(path: Path) -> Iterator[RawRow]:
    """Rows of text keyed by the names in the first line; an empty cell is a missing value."""
    # Characters; some tests of programs exceed the default of 131,072.
    csv.field_size_limit(1 << 28)
    with open_text(path, has_lines=True, newline="") as lines:
        reader = csv.reader(lines, delimiter="\t" if ".tsv" in path.suffixes else ",")
        names = next(reader, [])
        for cells in reader:
            if not cells:
                continue
            where = f"{path}:{reader.line_num}"
            if len(cells) != len(names):
                fault = f"the line has {len(cells)} cells, and the first line names {len(names)} columns"
                yield RawRow(where=where, columns={}, fault=fault)
                continue
            values = (cell or None for cell in cells)
            yield _row(where, dict(zip(names, values, strict=True)))


def _read_lines(path: Path) -> Iterator[RawRow]:
    with open_text(path, has_lines=True) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                value = parse_json(line.rstrip())
            except ValueError as error:
                yield RawRow(where=where, columns={}, fault=str(error))
                continue
            yield _row(where, value)


def _read_json(path: Path) -> Iterator[RawRow]:
    with open_text(path, has_lines=False) as file:
        text = file.read()
    try:
        value = parse_json(text)
    except ValueError as error:
        raise DataError(f"{path}: {error}; if it holds one object a line, name it .jsonl") from error
    if isinstance(value, dict):
        lists = [inner for inner in value.values() if isinstance(inner, list)]
        value = lists[0] if len(lists) == 1 else value
    if not isinstance(value, list):
        raise DataError(f"{path}: expected a list of objects, found {type(value).__name__}")
    for number, item in enumerate(value, start=1):
        yield _row(f"{path} row {number}", item)


def _read_parquet(path: Path) -> Iterator[RawRow]:
    for number, item in enumerate(parquet_rows(path), start=1):
        yield _row(f"{path} row {number}", item)


def _row(where: str, value: object) -> RawRow:
    if not isinstance(value, dict):
        return RawRow(where=where, columns={}, fault=f"expected an object, found {type(value).__name__}")
    return RawRow(where=where, columns=value)


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            "data sets by hub name or saved by `datasets` need the package `datasets`, which is "
            "not installed; "
            'run `make setup`, or `pip install "rlvr[hub]"`'
        ) from error
    return datasets


def _read_saved(path: Path, *, split: str, limit: int) -> list[RawRow]:
    datasets = _datasets()
    try:
        data = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the saved data set {str(path)!r}: {error}") from error
    if isinstance(data, dict):
        if split not in data:
            raise DataError(f"saved data set {str(path)!r} has no split {split!r}; it has: {', '.join(map(str, data))}")
        data = data[split]
    return _from_dataset(data, name=str(path), limit=limit)


def _read_hub(name: str, *, subset: str, split: str, limit: int) -> list[RawRow]:
    datasets = _datasets()
    try:
        data = datasets.load_dataset(name, subset or None, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"cannot load {name!r} (subset {subset!r}, split {split!r}): {error}; no file or "
            "folder of that name is "
            "here either. Check the name, the subset and the split, or the network"
        ) from error
    return _from_dataset(data, name=name, limit=limit)


def _from_dataset(data: Any, *, name: str, limit: int) -> list[RawRow]:
    count = min(len(data), limit) if limit else len(data)
    return [_row(f"{name} row {i + 1}", data[i]) for i in range(count)]
