"""Which log records are wanted, and a record that was found."""

import json
import logging
import re
from dataclasses import asdict, dataclass
from typing import Any

from rlvr.errors import ConfigError

LEARNER = "learner"  # all of its ranks
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    """The wanted records.

    actor: the role of a process; "" all of them. host: of the process; "" all. since: UTC text as in records; "" from
    the start. step: -1 all. level: the lowest one. last: how many of the newest; 0 all.
    """

    actor: str = ""
    host: str = ""
    since: str = ""
    step: int = -1
    level: str = "INFO"
    last: int = 0

    def takes(self, row: dict[str, Any]) -> bool:
        """Whether a record is wanted, whatever its number."""
        return (
            (not self.actor or self.actor == row["role"] or _is_about(row.get("about", ""), self.actor))
            and (not self.host or self.host in (row.get("host"), row.get("node")))
            and row["time"] >= self.since
            and self.step in (-1, row.get("step"))
            and _number(row["level"]) >= _number(self.level)
        )

    def to_text(self) -> str:
        """For a command line on another host."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "LogQuery":
        """What `to_text` gave."""
        return cls(**json.loads(text))


def read_level(text: str) -> str:
    """The level of a name, whatever its case.

    Raises: ConfigError.

    >>> read_level("warning")
    'WARNING'
    """
    names = ("DEBUG", "INFO", "WARNING", "ERROR")
    if text.upper() not in names:
        raise ConfigError(f"--level {text!r} is none of {', '.join(name.lower() for name in names)}")
    return text.upper()


def read_duration(text: str) -> float:
    """The seconds of a duration such as 90s, 10m, 2h or 1d.

    Raises: ConfigError.

    >>> read_duration("10m")
    600.0
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhd]?)", text.strip())
    if found is None:
        raise ConfigError(f"--since {text!r} must be a duration such as 90s, 10m, 2h or 1d")
    return float(found[1]) * _UNITS[found[2] or "s"]


def parse_record(line: bytes | str) -> dict[str, Any] | None:
    """The record of a line of a log file; None for a line that is incomplete or not ours."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_record = isinstance(row, dict) and all(isinstance(row.get(k), str) for k in ("time", "level", "role", "message"))
    return row if is_record else None


def shown_record(row: dict[str, Any]) -> str:
    """A record as text for a terminal, without control codes.

    >>> shown_record({"time": "T", "level": "INFO", "role": "driver", "host": "a", "step": 3, "message": "m"})
    'T INFO    driver@a step 3: m'
    """
    step = "" if row.get("step") is None else f" step {row['step']}"
    host = f"@{row['host']}" if row.get("host") else ""
    text = f"{row['time']} {row['level']:<7} {row['role']}{host}{step}: {row['message']}"
    if row.get("error"):
        text += "\n" + str(row["error"]).rstrip()
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def _is_about(about: str, actor: str) -> bool:
    """Whether an event about a process, or about the learner as a whole, is about this one."""
    return about == actor or (about == LEARNER and actor.startswith(LEARNER))


def _number(level: str) -> int:
    found = logging.getLevelNamesMapping().get(level)
    return logging.INFO if found is None else found
