"""Reads data files in bounded memory: a small archive may unpack to any size, and a line may have any length.

Rows and data sets are held in memory as a whole; reading stops with an error at these limits:

    MAX_LINE_BYTES     of one row (a line of JSON Lines, a row of Parquet)
    MAX_JSON_BYTES     of a .json file, which can only be read whole
    MAX_RATIO          of unpacked bytes to packed ones, once RATIO_FROM_BYTES are unpacked
    most_bytes()       of a file in all: an eighth of this machine's memory, at least 1 GiB
"""

import gzip
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from rlvr.errors import DataError

MAX_LINE_BYTES = 64 << 20
MAX_JSON_BYTES = 256 << 20
MAX_RATIO = 200
RATIO_FROM_BYTES = 32 << 20
MAX_JSON_DEPTH = 100
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_BATCH_BYTES = 4 << 20  # of Parquet rows that are unpacked at once


def most_bytes() -> int:
    """Unpacked bytes of a data file that is read whole."""
    return max(1 << 30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8)


def open_lines(path: Path) -> IO[bytes]:
    """A file of lines as bytes, unpacked if it ends in .gz; of any length, for callers that do not keep what they read.

    Reading raises DataError at MAX_LINE_BYTES, and OSError, EOFError and zlib.error.
    """
    return _open(path, most=None, has_lines=True)


def open_text(path: Path, *, has_lines: bool, newline: str | None = None) -> IO[str]:
    """A file of UTF-8 text, unpacked if it ends in .gz; a byte order mark is skipped.

    Args:
        has_lines: whether its rows are lines; otherwise it is one value and is read whole.
        newline: as of `open`.

    Reading raises DataError at a limit, and OSError, EOFError, zlib.error and UnicodeDecodeError.
    """
    most = most_bytes() if has_lines else MAX_JSON_BYTES
    packed = _open(path, most=most, has_lines=has_lines)
    return io.TextIOWrapper(packed, encoding="utf-8-sig", newline=newline)


def _open(path: Path, *, most: int | None, has_lines: bool) -> io.BufferedReader:
    raw = path.open("rb")
    unpacked: Any = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
    bounded = _BoundedBytes(unpacked, raw, name=str(path), most=most, has_lines=has_lines)
    return io.BufferedReader(bounded, 1 << 16)


class _BoundedBytes(io.RawIOBase):
    """The unpacked bytes of a file, counted while they are read. most: None if the caller does not keep them."""

    def __init__(self, unpacked: IO[bytes], raw: IO[bytes], *, name: str, most: int | None, has_lines: bool) -> None:
        self._unpacked = unpacked
        self._raw = raw
        self._name = name
        self._has_lines = has_lines
        self._most = most
        self._num_bytes = self._line_bytes = 0

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes. Raises DataError at a limit."""
        data = self._unpacked.read(len(buffer))
        buffer[: len(data)] = data
        self._num_bytes += len(data)
        if self._most is not None:
            self._check_total(self._most)
        if self._has_lines:
            self._check_line(data)
        return len(data)

    def close(self) -> None:
        """Closes the file."""
        if not self.closed:
            self._unpacked.close()
            self._raw.close()
        super().close()

    def _check_total(self, most: int) -> None:
        if self._num_bytes > most:
            advice = (
                ", and data is held in memory: set limit, or use fewer rows"
                if self._has_lines
                else "; a .json file is read whole: write one object per line to a .jsonl file"
            )
            raise DataError(f"{self._name}: more than {most >> 20:,} MiB{advice}")
        if self._unpacked is not self._raw:
            require_ratio(self._num_bytes, self._raw.tell(), name=self._name)

    def _check_line(self, data: bytes) -> None:
        first = data.find(b"\n")
        longest = self._line_bytes + (len(data) if first < 0 else first)
        self._line_bytes = longest if first < 0 else len(data) - data.rfind(b"\n") - 1
        if longest > MAX_LINE_BYTES:
            raise DataError(f"{self._name}: a line of more than {MAX_LINE_BYTES >> 20} MiB; a row is one line")


def require_ratio(num_unpacked: int, num_packed: int, *, name: str) -> None:
    """Raises DataError when a file unpacks to an implausible size (a decompression bomb)."""
    if num_unpacked > RATIO_FROM_BYTES and num_unpacked > MAX_RATIO * num_packed:
        raise DataError(
            f"{name}: {num_packed:,} bytes of it unpack to more than {num_unpacked >> 20:,} MiB; if you want these "
            "rows, unpack them into a .jsonl file"
        )


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises: ValueError with the reason: bad JSON, too deep, a number with too many digits, half a surrogate pair.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}"
        raise ValueError(f"not JSON ({error.msg}, {place})") from error
    except RecursionError as error:
        raise ValueError(f"nested deeper than {MAX_JSON_DEPTH} levels") from error
    except ValueError as error:  # Python parses integers of at most 4,300 digits
        raise ValueError("a number of more than 4,300 digits") from error
    if text.count("[") + text.count("{") > MAX_JSON_DEPTH and _depth(value) > MAX_JSON_DEPTH:
        raise ValueError(f"nested deeper than {MAX_JSON_DEPTH} levels")
    if _ESCAPED_SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start])
            raise ValueError(f"{half} is half of a surrogate pair, not a character") from error
    return value


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level:
        inner = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        level = [item for items in inner for item in items]
        depth += bool(inner)
    return depth


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, a few MiB unpacked at a time.

    Raises: DataError when it is not Parquet, damaged, or unpacks beyond a limit.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield from _rows(file, path)
    except (pa.ArrowException, ValueError, OverflowError, OSError) as error:
        raise DataError(f"cannot read {str(path)!r} as Parquet: {error}") from error


def _rows(file: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Raises DataError at a limit, and the errors of pyarrow."""
    name, size, most = str(path), path.stat().st_size, most_bytes()
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    mean_bytes = max([1, *(g.total_byte_size // g.num_rows for g in groups if g.num_rows > 0)])
    if mean_bytes > MAX_LINE_BYTES:
        raise DataError(f"{name}: rows of more than {MAX_LINE_BYTES >> 20} MiB")
    batch_size = min(1024, max(16, _BATCH_BYTES // mean_bytes))
    total = 0
    for batch in file.iter_batches(batch_size=batch_size):
        total += batch.nbytes + 64 * batch.num_rows
        if total > most:
            raise DataError(
                f"{name}: more than {most >> 20:,} MiB, and data is held in memory: set limit, or use fewer rows"
            )
        require_ratio(total, size, name=name)
        yield from batch.to_pylist()
