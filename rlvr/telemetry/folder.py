"""The folder in which the processes of a run on one node leave their numbers for the node's endpoint.

A file per process, replaced whole every few seconds, so that a reader never waits for a writer and a dead process
leaves nothing but a file that grows old.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from rlvr.processes import watchdog
from rlvr.telemetry.families import FAMILIES, Family, Kind
from rlvr.telemetry.meters import Sample

STALE_S = 30.0  # older numbers are not shown: their process is dead or frozen
_OLD_S = 600.0  # then the file is removed
_MOST_BYTES = 8 << 20


class NumbersFolder:
    """`rlvr-metrics-ID-NODE` in shared memory, or in the folder for temporary files; closed to other users."""

    def __init__(self, run_id: str, node: str) -> None:
        shared = Path("/dev/shm")
        place = shared if shared.is_dir() and os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
        self.path = place / f"rlvr-metrics-{run_id}-{node.replace(':', '_').replace('/', '_')}"

    @classmethod
    def at(cls, path: Path) -> "NumbersFolder":
        """The folder with a known path."""
        found = cls.__new__(cls)
        found.path = path
        return found

    def make(self) -> None:
        """Creates the folder. Raises OSError when it cannot be created, or is a link or another user's."""
        with suppress(FileExistsError):
            self.path.mkdir(mode=0o700)
        descriptor = watchdog.open_own(self.path)
        if descriptor is None:
            raise OSError(f"{self.path} is a link, is not a folder, or belongs to another user")
        os.close(descriptor)

    def write(self, process: str, samples: Iterable[Sample]) -> None:
        """Replaces the numbers of a process. Raises OSError."""
        rows = [
            [s.family.name, s.labels, s.value, *(() if s.family.name in FAMILIES else (s.family.help,))]
            for s in samples
        ]
        draft = self.path / f".{process}.tmp"
        draft.write_text(json.dumps(rows), encoding="utf-8")
        os.replace(draft, self.path / f"{process}.json")

    def forget(self, process: str) -> None:
        """Removes the numbers of a process that ends."""
        with suppress(OSError):
            (self.path / f"{process}.json").unlink()

    def read(self) -> list[Sample]:
        """The numbers of all live processes; what cannot be read is left out."""
        found: list[Sample] = []
        for file in sorted(self.path.glob("*.json")):
            with suppress(OSError, ValueError, TypeError, LookupError):
                state = file.stat()
                age = time.time() - state.st_mtime
                if age > _OLD_S:
                    file.unlink()
                elif age <= STALE_S and state.st_size <= _MOST_BYTES:
                    found += [_sample(*row) for row in json.loads(file.read_text(encoding="utf-8"))]
        return found

    def remove(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.path, ignore_errors=True)


def _sample(name: str, labels: list[list[str]], value: float, meaning: str = "") -> Sample:
    given = tuple((label, text) for label, text in labels)
    family = FAMILIES.get(name) or Family(name, Kind.GAUGE, meaning, tuple(label for label, _ in given))
    return Sample(family, given, float(value))
