"""One requested run, and the memory files that it reads and writes."""

import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass

from rlvr.protocols import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One run: validated argv and files, limits, stdin."""

    argv: tuple[str, ...]
    files: Mapping[str, bytes]
    limits: Limits
    stdin: bytes = b""

    def __post_init__(self) -> None:
        if not self.argv:
            raise ValueError("a program needs at least one word, like ('python', 'main.py')")
        for word in self.argv:
            if "\0" in word:
                raise ValueError(f"program word {word!r} holds a NUL")
        for name in self.files:
            parts = name.split("/")
            if not name or "\0" in name or ".." in parts or "" in parts or len(name) > 255:
                raise ValueError(
                    f"file name {name!r}: expected a relative name below the working directory, like 'src/main.py'"
                )

    @property
    def cpu_s(self) -> float:
        """The CPU limit: `wall_s` + 1 unless given."""
        return self.limits.cpu_s or self.limits.wall_s + 1


@dataclass(slots=True)
class Output:
    """The memory files of one run."""

    stdin: int
    stdout: int
    stderr: int

    @classmethod
    def create(cls, stdin: bytes) -> "Output":
        """Three files; stdin is rewound to its start. Appending, so that a reopened stdout cannot overwrite."""
        output = cls(-1, -1, -1)
        try:
            output.stdin = os.memfd_create("stdin", os.MFD_CLOEXEC)
            output.stdout = os.memfd_create("stdout", os.MFD_CLOEXEC)
            output.stderr = os.memfd_create("stderr", os.MFD_CLOEXEC)
            view = memoryview(stdin)
            while view:
                view = view[os.write(output.stdin, view) :]
            if stdin:
                os.lseek(output.stdin, 0, os.SEEK_SET)
            fcntl.fcntl(output.stdout, fcntl.F_SETFL, os.O_APPEND)
            fcntl.fcntl(output.stderr, fcntl.F_SETFL, os.O_APPEND)
        except BaseException:
            output.close()
            raise
        return output

    def close(self) -> None:
        """Closes them; a second call does nothing."""
        numbers = (self.stdin, self.stdout, self.stderr)
        self.stdin = self.stdout = self.stderr = -1
        for number in numbers:
            if number >= 0:
                os.close(number)
