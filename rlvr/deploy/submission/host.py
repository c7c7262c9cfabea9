"""What the head host does with submitted runs. It runs there, in the image or the virtual environment.

    python -m rlvr.deploy.submission.host ACTION SHARED [NAME]     request: JSON on standard input, for `submit` alone

    submit   checks the recipe with `rlvr train --dry-run`, then starts the run: {"name": ..., "output": ...}
    list     {"runs": [...]}
    stop     asks the run to save and to end, and waits
    suspend  the same for all runs, which then continue with the next `resume` without a name
    resume   continues NAME; without a name, all runs that did not end, or that were suspended
    row      NAME as `list` shows it
    follow   prints the run's output until it ends, and then `END`; its exit code is that of `rlvr train`

All but `follow` print one line of JSON; {"error": ..., "exit_code": N} when it was refused. What fails for one run of
several is in its row, as `problem`, and does not keep the others from being listed, continued or suspended.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rlvr.deploy.submission.run_folder import (
    Phase,
    RunFolder,
    Spec,
    State,
    has_begun,
    last_step,
    newest_checkpoint,
    run_folders,
)
from rlvr.deploy.submission.supervisor import accepts
from rlvr.errors import ClusterError, ConfigError, RlvrError
from rlvr.storage import atomic_files

FOLDER = "submitted"
_CHECK_S = 600.0
_START_S = 20.0
_POLL_S = 0.2
_FOLLOW_S, _BEAT_S = 0.5, 2.0
_MOST_FOLLOWED_S = 86400.0  # a container may never report that nobody reads
BEAT, END = b"\0", b"\4"  # not part of the output: somebody is there; all was shown


def submit(root: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Starts a run.

    Args: request: `spec`, and `recipe`, the text of an embedded recipe or "", for which `RECIPE` in the spec's words
        stands; `variables`: names that must be set here; `is_device_open`: train on GPUs if there are any.

    Raises: ClusterError when the cluster is not up; ConfigError when the run's name or directory is taken, or
        `rlvr train` would refuse the recipe here.
    """
    spec = Spec.from_json(request["spec"])
    folder = RunFolder(root / spec.name)
    require_head(spec)
    missing = [name for name in request.get("variables", ()) if name not in os.environ]
    if missing:
        raise ConfigError(
            f"cluster.env takes {', '.join(missing)} from the environment of the head's node, where it is not set; put "
            "it into `env` of the inventory if it is no secret and run `rlvr cluster up` again, or remove it from "
            "cluster.env"
        )
    if has_begun(Path(spec.run_dir)):
        raise ConfigError(f"run directory {spec.run_dir!r} holds a run already; choose another --run-dir")
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{str(folder.path)!r} cannot be created by user {os.geteuid()}: {error.strerror or error}; the shared "
            "folder must be mounted on the head host and writable there"
        ) from error
    is_free = False
    try:
        with folder.locked() as is_ours:
            if (folder.path / "run.json").exists():
                raise ConfigError(
                    f"a run named {spec.name!r} was submitted before; `rlvr cluster resume {spec.name}` continues it, "
                    "and another --run-dir gives a new one another name"
                )
            if not is_ours:
                raise ConfigError(f"a run named {spec.name!r} is being submitted; choose another --run-dir")
            is_free = True  # also a folder without run.json, which a `submit` left that was killed
            _write(folder, spec, request)
    except BaseException:
        if is_free:  # the lock was closed before: NFS removes no folder with an open file
            atomic_files.remove(folder.path)
        raise
    start_supervisor(folder)
    return {"name": spec.name, "run_dir": spec.run_dir, "output": str(folder.output)}


def _write(folder: RunFolder, spec: Spec, request: dict[str, Any]) -> None:
    """Checks the run and writes its files, run.json last. Raises ConfigError, ClusterError, OSError."""
    if request["recipe"]:
        folder.recipe.write_text(request["recipe"], encoding="utf-8")
        spec = replace(spec, train=(str(folder.recipe), *spec.train[1:]))
    if request.get("is_device_open") and _sees_gpus():
        spec = replace(spec, train=(*spec.train, "learner.device=cuda"))
    _require_valid(spec)
    folder.write_state(State())
    folder.write_spec(spec)


def require_head(spec: Spec) -> None:
    """Raises ClusterError when nothing listens where the cluster's head should."""
    if not accepts(spec.head):
        raise ClusterError(f"the cluster is not up: nothing accepts connections at {spec.head}; run `rlvr cluster up`")


def _sees_gpus() -> bool:
    """Whether there are GPUs here. A run that is resumed before all nodes are back would choose cores."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and b"GPU 0" in done.stdout


def _require_valid(spec: Spec) -> None:
    """Raises ConfigError with what `rlvr train` would refuse here: plugins, data, references, the run directory."""
    words = [sys.executable, "-m", "rlvr.cli", "train", *spec.train, "--run-dir", spec.run_dir, "--dry-run"]
    try:
        done = subprocess.run(
            words, cwd=spec.cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_CHECK_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"`rlvr train --dry-run` did not end within {_CHECK_S:g} s on the head host") from error
    except OSError as error:
        raise ConfigError(
            f"{spec.cwd!r} cannot be used on the head host: {error.strerror}; is the shared folder mounted there?"
        ) from error
    if done.returncode:
        text = done.stderr.strip().removeprefix("rlvr: ") or f"exit code {done.returncode}"
        kind = ConfigError if done.returncode == ConfigError.exit_code else ClusterError
        raise kind(f"the run cannot start on the head host: {text}")


def start_supervisor(folder: RunFolder) -> None:
    """Starts a supervisor that outlives this process, and waits until one holds the run's lock.

    Raises: ClusterError when it does not begin; OSError.
    """
    with (folder.path / "supervisor.err").open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "rlvr.deploy.submission.supervisor", str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    until = time.monotonic() + _START_S
    while True:
        code = process.poll()  # before the lock is asked for: who has ended does not take it later
        if folder.is_supervised() or code == 0:  # 0: it did its work already, as when the run was stopped at once
            return
        if code is not None:
            text = (folder.path / "supervisor.err").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            reason = text[-1] if text else f"exit code {code}"
            raise ClusterError(f"the supervisor of {folder.path.name} ended: {reason}")
        if time.monotonic() > until:
            raise ClusterError(f"the supervisor of {folder.path.name} did not begin within {_START_S:g} s")
        time.sleep(_POLL_S)


def listed(root: Path) -> dict[str, Any]:
    """The submitted runs, newest first."""
    return {"runs": [row_of(folder) for folder in run_folders(root)]}


def row_of(
    folder: RunFolder, work: Callable[[RunFolder], object] | None = None, *, problem: str = ""
) -> dict[str, Any]:
    """The run's row, after `work` unless there is a problem already.

    Its key `problem` says what failed, "" if nothing did; that replaces the row's message.
    """
    if work is not None and not problem:
        try:
            work(folder)
        except (RlvrError, OSError) as error:
            problem = str(error)
    try:
        row = _row(folder)
    except (RlvrError, OSError) as error:
        problem = problem or str(error)
        numbers = dict.fromkeys(("step", "steps", "checkpoint", "restarts"), 0)
        row = {"name": folder.path.name, "phase": "unreadable", **numbers, "exit_code": None}
        row |= {"run_dir": "", "output": str(folder.output)}
    return {**row, "message": problem or row["message"], "problem": problem}


def _row(folder: RunFolder) -> dict[str, Any]:
    spec, state = folder.spec(), folder.state()
    run_dir = Path(spec.run_dir)
    is_orphan = not state.phase.is_final and not folder.is_supervised()
    return {
        "name": spec.name,
        "phase": "suspended" if is_orphan else state.phase.value,
        "step": last_step(run_dir),
        "steps": spec.steps,
        "checkpoint": newest_checkpoint(run_dir),
        "restarts": state.restarts,
        "exit_code": state.exit_code,
        "message": state.message or ("no supervisor runs; `rlvr cluster up` continues the run" if is_orphan else ""),
        "run_dir": spec.run_dir,
        "output": str(folder.output),
    }


def stop(folder: RunFolder) -> dict[str, Any]:
    """Asks a run to save and to end, and waits until it has. Raises ConfigError, ClusterError."""
    if folder.is_supervised() or not folder.state().phase.is_final:
        folder.stop.touch()
        _wait_for_end(folder, begun=time.monotonic())
        if not folder.state().phase.is_final:  # nothing supervised it
            folder.write_state(replace(folder.state(), phase=Phase.STOPPED, message="on request"))
    return _row(folder)


def suspend(root: Path) -> dict[str, Any]:
    """Asks all runs to save and to end, and waits for each. They continue with `resume_all`.

    A run that could not be asked, or did not end in time, has a `problem` in its row.
    """

    def is_asked(folder: RunFolder) -> bool:
        if not folder.is_supervised():
            return False
        folder.suspend.touch()
        return True

    asked = _chosen(root, is_asked)
    wait = partial(_wait_for_end, begun=time.monotonic())
    return {"runs": [row_of(folder, wait, problem=problem) for folder, problem in asked]}


def _chosen(root: Path, is_meant: Callable[[RunFolder], bool]) -> list[tuple[RunFolder, str]]:
    """The runs that are meant, each with ""; and with the reason those for which `is_meant` fails."""
    found: list[tuple[RunFolder, str]] = []
    for folder in run_folders(root):
        try:
            if is_meant(folder):
                found.append((folder, ""))
        except (RlvrError, OSError) as error:
            found.append((folder, str(error)))
    return found


def _wait_for_end(folder: RunFolder, *, begun: float) -> None:
    """Waits until no supervisor is left. Args: begun: when the run was asked, on the monotonic clock.

    Raises: ClusterError when the run has not ended in time.
    """
    deadline_s = folder.spec().grace_s + 30
    while _may_be_supervised(folder):
        if time.monotonic() > begun + deadline_s:
            raise ClusterError(f"{folder.path.name} has not ended within {deadline_s:g} s; see {folder.output}")
        time.sleep(_POLL_S)


def _may_be_supervised(folder: RunFolder) -> bool:
    """Whether a supervisor holds the lock; True while the shared folder does not say."""
    try:
        return folder.is_supervised()
    except OSError:
        return True


def resume(folder: RunFolder) -> dict[str, Any]:
    """Continues a run, whatever ended it. Raises ConfigError when it is done or runs already; ClusterError."""
    state = folder.state()
    if folder.is_supervised():
        raise ConfigError(f"{folder.path.name} runs already ({state.phase.value})")
    if state.phase is Phase.DONE:
        raise ConfigError(f"{folder.path.name} is done; there is nothing left to train")
    require_head(folder.spec())
    folder.write_state(replace(state, phase=Phase.WAITING, from_same=0, restart_step=-1, message=""))
    _continue(folder)
    return _row(folder)


def resume_all(root: Path) -> dict[str, Any]:
    """Continues every run that is not final and has no supervisor; one that cannot be has a `problem` in its row."""
    waiting = _chosen(root, lambda folder: not folder.is_supervised() and not folder.state().phase.is_final)
    return {"runs": [row_of(folder, _continue, problem=problem) for folder, problem in waiting]}


def _continue(folder: RunFolder) -> None:
    folder.stop.unlink(missing_ok=True)
    folder.suspend.unlink(missing_ok=True)
    start_supervisor(folder)


def follow(folder: RunFolder, *, show: Callable[[bytes], object]) -> int:
    """Shows the output until no supervisor is left, then `END`; returns the exit code of `rlvr train`, 1 without one.

    Shows `BEAT` now and then: the write fails when nobody reads, and the program ends.
    """
    place, begun = 0, time.monotonic()
    beaten = begun
    while True:
        is_live = _may_be_supervised(folder)
        while text := _read(folder.output, place):
            place += len(text)
            show(text.translate(None, BEAT + END))
        if not is_live:
            state = folder.state()
            show(END)
            code = 0 if state.phase is Phase.DONE else state.exit_code
            return 1 if code is None else code if code >= 0 else 128 - code
        now = time.monotonic()
        if now - begun > _MOST_FOLLOWED_S:
            raise ClusterError(f"the output was shown for {_MOST_FOLLOWED_S / 3600:g} h, which is the limit")
        if now - beaten > _BEAT_S:
            beaten = now
            show(BEAT)
        time.sleep(_FOLLOW_S)


def _read(file: Path, place: int) -> bytes:
    """The next bytes of a file; none where it ends, and while the shared folder refuses it."""
    try:
        with file.open("rb") as opened:
            opened.seek(place)
            return opened.read(1 << 16)
    except OSError:
        return b""


def named(root: Path, name: str) -> RunFolder:
    """The run's folder. Raises ConfigError when there is none, with the names of the last ones."""
    folder = RunFolder(root / name)
    if "/" in name or not (folder.path / "run.json").is_file():
        names = [found.path.name for found in run_folders(root)]
        known = f"the newest are {', '.join(names[:5])}" if names else "none was submitted yet"
        raise ConfigError(f"there is no submitted run {name!r}; {known}")
    return folder


def main() -> int:
    """Does what the command line asks for; the module's docstring says what is printed."""
    action, root, names = sys.argv[1], Path(sys.argv[2]) / FOLDER, sys.argv[3:]
    try:
        if action == "follow":
            return follow(named(root, names[0]), show=_show)
        answer = _answer(action, root, names)
    except RlvrError as error:
        answer = {"error": str(error), "exit_code": error.exit_code}
    except OSError as error:
        answer = {"error": f"{error.filename or root}: {error.strerror or error}", "exit_code": 1}
    if action == "follow":
        sys.stderr.write(f"{answer['error']}\n")
        return int(answer["exit_code"])
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def _answer(action: str, root: Path, names: list[str]) -> dict[str, Any]:
    if action == "submit":
        return submit(root, json.load(sys.stdin))
    if action == "list":
        return listed(root)
    if action == "suspend":
        return suspend(root)
    if action == "resume" and not names:
        return resume_all(root)
    return {"row": row_of, "stop": stop, "resume": resume}[action](named(root, names[0]))


def _show(text: bytes) -> None:
    try:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
    except OSError:  # the other end has gone
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
