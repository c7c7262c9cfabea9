"""Where the processes of a run write their logs.

RUN_DIR/logs/ROLE.HOST-PID.jsonl           where the process sees the run directory (RUN_DIR/logs/run.json says so)
STATE/logs/RUN-ID/ROLE.HOST-PID.jsonl      elsewhere: STATE is RLVR_STATE_DIR, else ~/.rlvr, else a temporary folder
"""

import json
import os
import shutil
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from rlvr.storage import atomic_files
from rlvr.storage.ages import by_age, last_write
from rlvr.telemetry.facts import RunFacts

FOLDER = "logs"
RUN_FILE = "run.json"
LOG_ENDING = ".jsonl"
MOST_PROCESSES = 8  # of one role whose files are kept
_MOST_RUNS = 20  # of the state folder
_LIVE_S = 86400.0  # a run whose logs were written to in this time is never removed


def mark_run_dir(facts: RunFacts) -> Path:
    """Creates the run directory's folder of logs, and the file by which other processes recognise it.

    Raises: OSError.
    """
    folder = Path(facts.run_dir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    atomic_files.write_text(folder / RUN_FILE, json.dumps({"run_id": facts.run_id, "run": facts.run}) + "\n")
    return folder


def log_folder(facts: RunFacts) -> Path:
    """The folder for this process's log; it exists. Raises OSError when none can be created."""
    shared = Path(facts.run_dir) / FOLDER
    with suppress(OSError, ValueError):
        is_same = json.loads((shared / RUN_FILE).read_text(encoding="utf-8"))["run_id"] == facts.run_id
        if is_same and os.access(shared, os.W_OK):
            return shared
    for root in state_roots():
        with suppress(OSError):
            folder = root / FOLDER / f"{facts.run}-{facts.run_id}"
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _remove_old_runs(folder.parent, keep=folder)
            return folder
    raise OSError("no folder for logs can be created; set RLVR_STATE_DIR to a folder that this user can write to")


def state_roots() -> list[Path]:
    """Folders for what is not in a run directory, in order of preference."""
    own = os.environ.get("RLVR_STATE_DIR")
    if own:
        return [Path(own).expanduser().absolute()]
    return [Path("~/.rlvr").expanduser(), Path(tempfile.gettempdir()) / f"rlvr-{os.getuid()}"]


def log_file(folder: Path, role: str) -> Path:
    """The file of this process; older files of the same role beyond `MOST_PROCESSES` are removed."""
    earlier = by_age(folder.glob(f"{role}.*{LOG_ENDING}"))
    for old in earlier[: max(0, len(earlier) - MOST_PROCESSES + 1)]:
        for part in folder.glob(f"{old.name}*"):
            with suppress(OSError):  # it is gone, or belongs to another user
                part.unlink()
    return folder / f"{role}.{socket.gethostname()}-{os.getpid()}{LOG_ENDING}"


def _remove_old_runs(place: Path, *, keep: Path) -> None:
    times = {folder: last_write(folder) for folder in place.iterdir() if folder != keep}
    oldest = sorted(times, key=lambda folder: times[folder])[: max(0, len(times) - _MOST_RUNS + 1)]
    for folder in oldest:
        if times[folder] < time.time() - _LIVE_S:
            shutil.rmtree(folder, ignore_errors=True)
