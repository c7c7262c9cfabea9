"""`rlvr cluster submit | follow | stop | resume`. Imports stay inside the commands."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlvr.commands.cluster.hosts import InventoryOption, required_inventory

if TYPE_CHECKING:
    from rlvr.deploy.submission.submit import Runs

RunName = Annotated[str, typer.Argument(metavar="RUN", help="the run's name; `rlvr cluster status` lists them")]


def cluster_submit(
    recipe: Annotated[str, typer.Argument(help="a recipe's name or file")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="override any key of the recipe")
    ] = None,
    inventory: InventoryOption = None,
    run_dir: Annotated[
        str, typer.Option(help="the folder for the run's files, below the shared folder; default: runs/NAME there")
    ] = "",
    restarts_without_progress: Annotated[
        int, typer.Option(min=0, help="how often in succession the run is restarted from the same checkpoint")
    ] = 1,
    is_followed: Annotated[bool, typer.Option("--follow", help="show the run's output until it ends")] = False,
) -> None:
    """Start a run on the cluster; it continues by itself when its cluster or its process was lost."""
    from rlvr.run.record.stdout import tell

    runs = _runs(inventory)
    started = runs.submit(
        recipe, tuple(overrides or ()), run_dir=run_dir, restarts_without_progress=restarts_without_progress
    )
    option = f" --inventory {inventory}" if inventory is not None else ""
    print(started.name)
    tell(f"run directory  {started.run_dir}")
    tell(f"output         {started.output}")
    for action, meaning in (("follow", "watch"), ("stop", "save and end"), ("resume", "continue")):
        tell(f"{meaning:<14} rlvr cluster {action} {started.name}{option}")
    if is_followed:
        _follow(runs, started.name)


def cluster_follow(run: RunName, inventory: InventoryOption = None) -> None:
    """Show a run's output until it ends. The exit code is that of the run; Ctrl-C does not stop it."""
    _follow(_runs(inventory), run)


def cluster_stop(run: RunName, inventory: InventoryOption = None) -> None:
    """Ask a run to save and to end, and wait until it has."""
    from rlvr.deploy.submission.submit import shown_run

    print("  ".join(shown_run(_runs(inventory).stop(run))))


def cluster_resume(run: RunName, inventory: InventoryOption = None) -> None:
    """Continue a run from its newest checkpoint, after it was stopped or has failed."""
    from rlvr.deploy.submission.submit import shown_run

    print("  ".join(shown_run(_runs(inventory).resume(run))))


def _runs(inventory: Path | None) -> "Runs":
    from rlvr.deploy.submission.submit import Runs

    return Runs(required_inventory(inventory))


def _follow(runs: "Runs", name: str) -> None:
    import codecs
    import sys

    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a character may come in two parts

    def show(text: bytes) -> None:
        sys.stdout.write(decoder.decode(text))
        sys.stdout.flush()

    code = runs.follow(name, show=show)
    if code:
        raise typer.Exit(code)
