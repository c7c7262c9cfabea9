"""What the head host does with submitted runs. It runs there, in the image or the virtual environment.

    python -m rlvr.deploy.submission.host ACTION SHARED [NAME]     request: JSON on standard input, for `submit` alone

    submit   checks the recipe with `rlvr train --dry-run`, then starts the run: {"name": ..., "output": ...}
    list     {"runs": [...]}
    stop     asks the run to save and to end, and waits
    suspend  the same for all runs, which then continue with the next `resume` without a name
    resume   continues NAME; without a name, all runs that did not end, or that were suspended
    follow   prints the run's output until it ends; its exit code is that of `rlvr train`

All but `follow` print one line of JSON; {"error": ..., "exit_code": N} when it was refused.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
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
        folder.path.mkdir(parents=True)
    except FileExistsError as error:
        raise ConfigError(
            f"a run named {spec.name!r} was submitted before; `rlvr cluster resume {spec.name}` continues it, and "
            "another --run-dir gives a new one another name"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{str(folder.path)!r} cannot be created by user {os.geteuid()}: {error.strerror or error}; the shared "
            "folder must be mounted on the head host and writable there"
        ) from error
    try:
        if request["recipe"]:
            folder.recipe.write_text(request["recipe"], encoding="utf-8")
            spec = replace(spec, train=(str(folder.recipe), *spec.train[1:]))
        if request.get("is_device_open") and _sees_gpus():
            spec = replace(spec, train=(*spec.train, "learner.device=cuda"))
        _require_valid(spec)
        folder.write_spec(spec)
    except BaseException:
        atomic_files.remove(folder.path)
        raise
    folder.write_state(State())
    start_supervisor(folder)
    return {"name": spec.name, "run_dir": spec.run_dir, "output": str(folder.output)}


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
    """Starts a supervisor that outlives this process. Raises ClusterError when it does not begin."""
    with (folder.path / "supervisor.err").open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "rlvr.deploy.submission.supervisor", str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    until = time.monotonic() + _START_S
    while not folder.is_supervised() and process.poll() is None:
        if time.monotonic() > until:
            raise ClusterError(f"the supervisor of {folder.path.name} did not begin within {_START_S:g} s")
        time.sleep(_POLL_S)
    if process.poll():
        text = (folder.path / "supervisor.err").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise ClusterError(f"the supervisor of {folder.path.name} ended: {text[-1] if text else process.returncode}")


def listed(root: Path) -> dict[str, Any]:
    """The submitted runs, newest first."""
    return {"runs": [_row(folder) for folder in run_folders(root)]}


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
    if not folder.state().phase.is_final:
        folder.stop.touch()
        _wait_for_end(folder)
        if not folder.state().phase.is_final:  # nothing supervised it
            folder.write_state(replace(folder.state(), phase=Phase.STOPPED, message="on request"))
    return _row(folder)


def suspend(root: Path) -> dict[str, Any]:
    """Asks all runs to save and to end, and waits. They continue with `resume_all`. Raises ClusterError."""
    live = [folder for folder in run_folders(root) if folder.is_supervised()]
    for folder in live:
        folder.suspend.touch()
    for folder in live:
        _wait_for_end(folder)
    return {"runs": [_row(folder) for folder in live]}


def _wait_for_end(folder: RunFolder) -> None:
    deadline_s = folder.spec().grace_s + 30
    until = time.monotonic() + deadline_s
    while folder.is_supervised():
        if time.monotonic() > until:
            raise ClusterError(f"{folder.path.name} has not ended within {deadline_s:g} s; see {folder.output}")
        time.sleep(_POLL_S)


def resume(folder: RunFolder) -> dict[str, Any]:
    """Continues a run, whatever ended it. Raises ConfigError when it is done or runs already; ClusterError."""
    state = folder.state()
    if folder.is_supervised():
        raise ConfigError(f"{folder.path.name} runs already ({state.phase.value})")
    if state.phase is Phase.DONE:
        raise ConfigError(f"{folder.path.name} is done; there is nothing left to train")
    require_head(folder.spec())
    _resume(folder, replace(state, phase=Phase.WAITING, from_same=0, restart_step=-1, message=""))
    return _row(folder)


def resume_all(root: Path) -> dict[str, Any]:
    """Continues every run that is not final and has no supervisor. Raises ClusterError."""
    waiting = [f for f in run_folders(root) if not f.state().phase.is_final and not f.is_supervised()]
    for folder in waiting:
        _resume(folder, folder.state())
    return {"runs": [_row(folder) for folder in waiting]}


def _resume(folder: RunFolder, state: State) -> None:
    folder.stop.unlink(missing_ok=True)
    folder.suspend.unlink(missing_ok=True)
    folder.write_state(state)
    start_supervisor(folder)


def follow(folder: RunFolder, *, show: Callable[[bytes], object]) -> int:
    """Shows the output until no supervisor is left; returns the exit code of `rlvr train`, 1 if there is none."""
    place = 0
    while True:
        is_live = folder.is_supervised()
        if folder.output.exists():
            with folder.output.open("rb") as file:
                file.seek(place)
                while text := file.read(1 << 16):
                    show(text)
                place = file.tell()
        if not is_live:
            state = folder.state()
            code = 0 if state.phase is Phase.DONE else state.exit_code
            return 1 if code is None else code if code >= 0 else 128 - code
        time.sleep(_POLL_S)


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
    return {"stop": stop, "resume": resume}[action](named(root, names[0]))


def _show(text: bytes) -> None:
    sys.stdout.buffer.write(text)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
