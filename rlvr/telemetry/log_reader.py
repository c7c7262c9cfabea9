"""The log records of a run on this machine: files of its processes, and what the run says about lost ones.

    python -m rlvr.telemetry.log_reader RUN_DIR QUERY [--follow] [--node-only RUN_ID]

prints JSON lines for `rlvr cluster logs` on another machine: {"run_id", "actors"}, and then the records.
"""

import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rlvr.storage.ages import by_age
from rlvr.telemetry.log_query import LEARNER, LogQuery, parse_record
from rlvr.telemetry.places import FOLDER, LOG_ENDING, RUN_FILE, state_roots

_POLL_S = 0.5
_BEAT_S = 2.0
_MOST_FOLLOWED_S = 86400.0  # on another host, where a container may never notice that nobody reads its output
_EVENTS = "events.jsonl"
_WORKERS = ("engine", "verifier")


@dataclass(frozen=True, slots=True)
class RunLogs:
    """The logs of a run on this machine. run_id: if "", it is read from the run directory."""

    run_dir: Path
    run_id: str = ""
    is_node_only: bool = False

    def identity(self) -> str:
        """The random id of the run's latest start; "" when it is not known."""
        if self.run_id:
            return self.run_id
        with suppress(OSError, ValueError, KeyError):
            return str(json.loads((self.run_dir / FOLDER / RUN_FILE).read_text(encoding="utf-8"))["run_id"])
        return ""

    def files(self) -> list[Path]:
        """Its log files, rotated ones included, oldest first."""
        folders = [] if self.is_node_only else [self.run_dir / FOLDER]
        if run_id := self.identity():
            folders += [root / FOLDER / f"{self.run_dir.name}-{run_id}" for root in state_roots()]
        return by_age(file for folder in folders for file in folder.glob(f"*{LOG_ENDING}*"))

    def records(self, query: LogQuery) -> list[dict[str, Any]]:
        """The wanted records in order of time."""
        rows = [row for file in self.files() for row in _rows(file, query)]
        if query.actor and not self.is_node_only:
            rows += [row for row in self.events() if query.takes(row)]
        return sorted(rows, key=lambda row: row["time"])[-query.last :]

    def actors(self) -> dict[str, str]:
        """The roles of the run's processes; the value says how and when one was lost, "" if it was not."""
        found = dict.fromkeys(sorted({file.name.partition(".")[0] for file in self.files()}), "")
        for row in [] if self.is_node_only else self.events():
            names = [row["about"]] if row["about"] != LEARNER else [n for n in found if n.startswith(LEARNER)]
            if row["is_loss"] or row["is_start"]:
                found |= dict.fromkeys(names, f"lost at {row['time']}" if row["is_loss"] else "")
        return found

    def events(self) -> list[dict[str, Any]]:
        """Events of the run about one of its processes, as records; `about` names the process."""
        try:
            lines = (self.run_dir / _EVENTS).read_bytes().splitlines()
        except OSError:
            return []
        return [row for line in lines if (row := _about_process(line)) is not None]

    def follow(self, query: LogQuery) -> Iterator[dict[str, Any]]:
        """The wanted records, and then each new one as it is written; ends when the caller stops asking."""
        tails: dict[Path, _Tail] = {}
        yield from self._from_start(query, tails)
        while True:
            time.sleep(_POLL_S)
            yield from sorted(self._fresh(query, tails), key=lambda row: row["time"])

    def _from_start(self, query: LogQuery, tails: "dict[Path, _Tail]") -> list[dict[str, Any]]:
        fresh = list(self._fresh(query, tails))
        if query.actor and not self.is_node_only:
            fresh += [row for row in self.events() if query.takes(row)]
        return sorted(fresh, key=lambda row: row["time"])

    def _fresh(self, query: LogQuery, tails: "dict[Path, _Tail]") -> Iterator[dict[str, Any]]:
        is_first = not tails
        for file in self.files():
            if not is_first and file not in tails and not file.name.endswith(LOG_ENDING):
                continue  # a file that was rotated since was read under its own name
            tail = tails.setdefault(file, _Tail(file))
            yield from _wanted(tail.lines(), query)


@dataclass(slots=True)
class _Tail:
    """A file that grows, and is rotated."""

    path: Path
    _file: IO[bytes] | None = None
    _rest: bytes = b""

    def lines(self) -> list[bytes]:
        """The whole lines since the last call: of the file that was open, even if it was rotated, then of the next."""
        found = self._more()
        with suppress(OSError):
            if self._file is None or os.fstat(self._file.fileno()).st_ino != self.path.stat().st_ino:
                found += self._more()  # what was written before it was rotated
                fresh = self.path.open("rb")
                if self._file is not None:
                    self._file.close()
                self._file, self._rest = fresh, b""
                found += self._more()
        return found

    def _more(self) -> list[bytes]:
        if self._file is None:
            return []
        *whole, self._rest = (self._rest + self._file.read()).split(b"\n")
        return whole


def _rows(file: Path, query: LogQuery) -> list[dict[str, Any]]:
    try:
        return list(_wanted(file.read_bytes().split(b"\n"), query))
    except OSError:  # it was rotated away meanwhile
        return []


def _wanted(lines: Iterable[bytes], query: LogQuery) -> Iterator[dict[str, Any]]:
    for line in lines:
        row = parse_record(line) if line else None
        if row is not None and query.takes(row):
            yield row


def _about_process(line: bytes) -> dict[str, Any] | None:
    """An event about an engine, a verifier pool or the learner, as a record."""
    try:
        event = json.loads(line)
        kind, moment = str(event["kind"]), str(event["time"])
    except (ValueError, KeyError, TypeError):
        return None
    worker, _, what = kind.partition("_")
    is_end = kind == "stopped" and event.get("error") == "LearnerLost"
    is_loss = what in ("lost", "not_started") or is_end
    if kind == "learner_restart" or is_end:
        about, message = LEARNER, str(event.get("message", ""))
    elif worker in _WORKERS and worker in event:
        about, message = str(event[worker]), str(event.get("reason", ""))
    else:
        return None
    place = str(event.get("place", ""))
    node = re.match(r"node (\S+),", place)
    return {
        "time": moment.replace("Z", ".000Z"),
        "level": "WARNING" if is_loss or about == LEARNER else "INFO",
        "role": "driver",
        "about": about,
        "node": node[1] if node else "",
        "is_loss": is_loss,
        "is_start": what in ("restarted", "joined", "restart"),
        "step": event.get("step"),
        "message": f"{about}: {(what or kind).replace('_', ' ')}"
        + (f" ({place})" if place else "")
        + (f": {message}" if message else ""),
    }


def main() -> None:
    """Prints the run's id and actors, and then the records that a query wants."""
    run_dir, text, *options = sys.argv[1:]
    is_node_only = "--node-only" in options
    run_id = options[options.index("--node-only") + 1] if is_node_only else ""
    logs, query = RunLogs(Path(run_dir), run_id, is_node_only), LogQuery.from_text(text)
    _print(json.dumps({"run_id": logs.identity(), "actors": logs.actors()}))
    if "--follow" in options:
        threading.Thread(target=_beat, daemon=True).start()
        for row in logs.follow(query):
            _print(json.dumps(row))
    else:
        _print("\n".join(map(json.dumps, logs.records(query))))


def _beat() -> None:
    """Prints an empty line now and then: the write fails when nobody reads, and the program ends."""
    until = time.monotonic() + _MOST_FOLLOWED_S
    while time.monotonic() < until:
        time.sleep(_BEAT_S)
        _print("")
    os._exit(0)


def _print(line: str) -> None:
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except OSError:  # the other end has gone
        os._exit(0)


if __name__ == "__main__":
    main()
