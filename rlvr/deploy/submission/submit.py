"""Submitting a run from the user's machine, and what can be asked of submitted runs.

The recipe is checked here first, then on the head host (`host.py`), and only then is anything started.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from rlvr.config.load import load_recipe
from rlvr.deploy.cluster.inventory import Inventory
from rlvr.deploy.cluster.node_commands import in_node, python_of
from rlvr.deploy.cluster.remote import Remote, named
from rlvr.deploy.request import packaged_name, train_arguments
from rlvr.deploy.submission.host import BEAT, END
from rlvr.deploy.submission.run_folder import Spec
from rlvr.errors import ClusterError, ConfigError
from rlvr.ports import host_port

_RUNS = "runs"
_RECIPE = "RECIPE"  # replaced on the host by the path of the embedded recipe
_SUBMIT_S, _ASK_S = 900.0, 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A run that was started. run_dir, output: paths on the head host."""

    name: str
    run_dir: str
    output: str


class Runs:
    """The submitted runs of a cluster."""

    def __init__(self, inventory: Inventory, *, remote: Remote | None = None) -> None:
        self._inventory = inventory
        self._remote = remote or Remote(inventory.ssh_options)

    def submit(
        self, recipe: str, overrides: Sequence[str], *, run_dir: str = "", restarts_without_progress: int = 1
    ) -> Submitted:
        """Starts a run on the head host.

        Args: run_dir: a folder below the shared one, or relative to it; "": `runs/NAME`.

        Raises: ConfigError when the recipe or the directory is wrong; ClusterError when the cluster is not up or the
            host cannot be reached.
        """
        loaded = load_recipe(recipe, (*overrides, "cluster.backend=ray", "cluster.address=auto"))
        name, folder = self._place(loaded.recipe.name, run_dir)
        hosts = self._inventory.hosts
        # "auto" may mean no GPU; then the head host, where it is known, decides
        has_gpus = any(host.gpus not in (0, "auto") for host in hosts)
        train = train_arguments(loaded, tuple(overrides), _RECIPE, has_gpus=has_gpus)
        ports = self._inventory.ports
        spec = Spec(
            name=name,
            train=tuple(train),
            run_dir=folder,
            cwd=self._inventory.shared,
            head=self._inventory.head_address,
            node=host_port(hosts[0].address, ports.node_manager),
            steps=loaded.recipe.run.steps,
            restarts_without_progress=restarts_without_progress,
            grace_s=loaded.recipe.run.grace_s + 60,
        )
        taken = [variable for variable, value in loaded.recipe.cluster.env.items() if value is None]
        request = {
            "spec": asdict(spec),
            "recipe": "" if packaged_name(loaded) else loaded.to_yaml(),
            "variables": taken,
            "is_device_open": not has_gpus and loaded.recipe.learner.device == "auto" and hosts[0].gpus == "auto",
        }
        answer = self._ask("submit", stdin=json.dumps(request).encode(), deadline_s=_SUBMIT_S)
        return Submitted(name=answer["name"], run_dir=answer["run_dir"], output=answer["output"])

    def rows(self) -> list[dict[str, Any]]:
        """One row for each run, newest first; `host.listed` names the keys. Raises ClusterError."""
        return self._ask("list")["runs"]

    def stop(self, name: str) -> dict[str, Any]:
        """Asks a run to save and to end, and waits; returns its row. Raises ConfigError, ClusterError."""
        return self._ask("stop", name, deadline_s=3600.0)

    def resume(self, name: str) -> dict[str, Any]:
        """Continues a run that has ended before its last step; returns its row. Raises ConfigError, ClusterError."""
        return self._ask("resume", name)

    def suspend_all(self) -> list[dict[str, Any]]:
        """Asks all runs to save and to end, and waits; `resume_all` continues them. Returns their rows.

        What fails for a run is the `problem` in its row.

        Raises: ClusterError when the host does not answer.
        """
        return self._ask("suspend", deadline_s=3600.0)["runs"]

    def resume_all(self) -> list[dict[str, Any]]:
        """Continues the runs that were suspended, or lost their supervisor with the host. Returns their rows.

        What fails for a run is the `problem` in its row.

        Raises: ClusterError when the host does not answer.
        """
        return self._ask("resume", deadline_s=_SUBMIT_S)["runs"]

    def follow(self, name: str, *, show: Callable[[bytes], object]) -> int:
        """Shows a run's output until it ends; returns the exit code of `rlvr train`.

        Raises: ConfigError when there is no such run; ClusterError when the host cannot be reached, or the connection
            is lost before the run ends.
        """
        self._ask("row", name)  # what is wrong must not look like the run's output
        head = self._inventory.head
        process = self._remote.stream(head, self._words("follow", name))
        assert process.stdout is not None  # `stream` opens it
        last, is_whole = b"", False
        try:
            while text := process.stdout.read1():  # type: ignore[attr-defined] # a BufferedReader
                is_whole = is_whole or END in text
                if text := text.translate(None, BEAT + END):
                    last = (last + text)[-500:]
                    show(text)
            code = process.wait()
        finally:
            process.kill()
            process.wait()
        if not is_whole:
            line = last.decode(errors="replace").strip().rpartition("\n")[2]
            raise ClusterError(
                f"{named(head)}: the connection ended before the run did, with exit code {code} and the line {line!r}. "
                f"The run goes on if its host does: `rlvr cluster follow {name}` shows it again"
            )
        return code

    def _place(self, recipe_name: str, run_dir: str) -> tuple[str, str]:
        """(name of the run; its directory on the hosts). Raises ConfigError."""
        shared = PurePosixPath(self._inventory.shared)
        if not run_dir:
            name = f"{recipe_name}-{time.strftime('%Y-%m-%d_%H-%M-%S')}"
            return name, str(shared / _RUNS / name)
        folder = shared / run_dir
        if ".." in folder.parts or not folder.is_relative_to(shared) or folder == shared:
            raise ConfigError(
                f"--run-dir {run_dir!r} must be below the folder that the hosts share, {str(shared)!r}: its learner "
                "writes checkpoints that the driver reads"
            )
        return folder.name, str(folder)

    def _words(self, action: str, *names: str) -> Sequence[str]:
        module = "rlvr.deploy.submission.host"
        words = [python_of(self._inventory), "-m", module, action, self._inventory.shared, *names]
        return in_node(self._inventory, self._inventory.head, words)

    def _ask(self, action: str, *names: str, stdin: bytes = b"", deadline_s: float = _ASK_S) -> dict[str, Any]:
        head = self._inventory.head
        done = self._remote.run(head, self._words(action, *names), stdin=stdin, deadline_s=deadline_s)
        try:
            answer = done.json_line()
        except ClusterError:
            answer = None
        if not isinstance(answer, dict):
            raise ClusterError(
                f"{named(head)}: the node of the cluster did not answer: {done.reason}. Is the cluster up "
                "(`rlvr cluster status`), and does it run this release?"
            )
        if "error" in answer:
            kind = ConfigError if answer["exit_code"] == ConfigError.exit_code else ClusterError
            raise kind(answer["error"])
        return answer


def shown_run(row: dict[str, Any]) -> tuple[str, str, str]:
    """A table row: name, phase with progress, directory and remarks."""
    progress = row["phase"]
    if row["steps"]:
        progress += f", step {row['step']} of {row['steps']}"
    if row["restarts"]:
        progress += f", restarted {row['restarts']}x"
    return row["name"], progress, f"{row['run_dir']}{'  ' if row['message'] else ''}{row['message']}"


def runs_of(inventory: Inventory, *, remote: Remote | None = None) -> list[tuple[str, str, str]]:
    """Table rows of the submitted runs for `rlvr cluster status`. Raises ClusterError when the head does not answer."""
    return [shown_run(row) for row in Runs(inventory, remote=remote).rows()]
