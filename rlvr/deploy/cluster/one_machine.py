"""A cluster of containers on this machine: compose runs the file that is rendered from a recipe.

The file and the token are in the cluster's state folder. Compose takes the token from its environment and passes it on
to the containers; it is on no command line.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rlvr.config.load import load_recipe
from rlvr.deploy.choices import Choices, Target
from rlvr.deploy.cluster.inventory import DEFAULT_FILE, ONE_MACHINE, state_folder
from rlvr.deploy.cluster.shared_token import forget_token, token_of
from rlvr.deploy.render import render
from rlvr.errors import ClusterError, ConfigError

_FILE = "compose.yaml"
_PROGRAMS = (("docker", "compose"), ("podman", "compose"))  # podman-compose takes no secret from a variable


def up(recipe: str, overrides: Sequence[str]) -> None:
    """Renders the compose file of a recipe, and starts its containers, the run among them.

    The containers use cores alone where `nvidia-smi` is not installed, or the recipe says `learner.device: cpu`.

    Raises: ConfigError without a recipe, when one machine is not enough, or while containers of another recipe are
        here; ClusterError when compose fails.
    """
    if not recipe:
        raise ConfigError(
            f"there is no {DEFAULT_FILE} here: give an inventory with --inventory FILE to start several hosts, or a "
            "recipe to start it on this machine, such as `rlvr cluster up quickstart-cluster`"
        )
    is_cpu = load_recipe(recipe, tuple(overrides)).recipe.learner.device == "cpu" or shutil.which("nvidia-smi") is None
    files, _ = render(recipe, tuple(overrides), target=Target.COMPOSE, choices=Choices(), is_cpu=is_cpu)
    path, text = _file(), files[_FILE]
    if is_started() and (before := _project(_read(path))) != _project(text):
        raise ConfigError(
            f"containers of {before or 'another recipe'} were started on this machine; run `rlvr cluster down` first"
        )
    program, token = _program(), token_of(ONE_MACHINE)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ClusterError(f"{path} cannot be written: {error.strerror or error}") from error
    _compose(program, ["up", "-d"], token=token)


def is_started() -> bool:
    """Whether containers were started here, and not stopped with `down`."""
    return _file().is_file()


def status() -> None:
    """Shows the containers. Raises ClusterError when none were started from here."""
    _compose(_program(), ["ps"], token=token_of(ONE_MACHINE, is_made=False))


def down() -> None:
    """Stops the containers; a run saves before it ends. The volumes with runs and models stay.

    Raises: ClusterError when none were started from here, or when compose fails.
    """
    _compose(_program(), ["down"], token=token_of(ONE_MACHINE, is_made=False))
    try:
        _file().unlink(missing_ok=True)
    except OSError as error:
        raise ClusterError(f"{_file()} cannot be removed: {error.strerror or error}") from error
    forget_token(ONE_MACHINE)


def _file() -> Path:
    return state_folder(ONE_MACHINE) / _FILE


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"{path} cannot be read: {error}") from error


def _project(text: str) -> str:
    """The name of compose's project, which all containers of the file share; "" if there is none."""
    found = re.search(r"^name: *(\S+)$", text, re.MULTILINE)
    return found.group(1) if found else ""


def _program() -> tuple[str, ...]:
    """The words that start compose.

    Raises: ClusterError when none of the programs is installed.
    """
    for words in _PROGRAMS:
        if shutil.which(words[0]) is None:
            continue
        with suppress(OSError):  # it does not start
            if subprocess.run([*words, "version"], capture_output=True, check=False).returncode == 0:
                return words
    raise ClusterError(
        "neither `docker compose` nor `podman compose` works here; install one, or write an inventory with "
        "`runtime: host`"
    )


def _compose(program: Sequence[str], words: Sequence[str], *, token: str) -> None:
    environment = {**os.environ, "RAY_AUTH_TOKEN": token}
    try:
        done = subprocess.run([*program, "-f", str(_file()), *words], env=environment, check=False)
    except OSError as error:
        raise ClusterError(f"{program[0]} does not start: {error.strerror or error}") from error
    if done.returncode:
        raise ClusterError(f"`{' '.join([*program, *words])}` failed with exit code {done.returncode}")
