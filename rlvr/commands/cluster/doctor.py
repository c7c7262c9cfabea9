"""`rlvr cluster doctor`. Imports stay inside the command."""

from typing import Annotated

import typer

from rlvr.commands.cluster.hosts import required_inventory
from rlvr.commands.cluster.runs import InventoryFile


def cluster_doctor(
    recipe: Annotated[
        str, typer.Argument(metavar="[RECIPE]", help="a recipe: memory, disk, GPUs and model are checked for it")
    ] = "",
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="override any key of the recipe")
    ] = None,
    inventory: InventoryFile = None,
) -> None:
    """Say what is wrong with the hosts of a cluster and between them, each with its fix; exit code 1 if anything is."""
    from rlvr.deploy.doctor.examine import Examination
    from rlvr.deploy.doctor.machine import Needs

    hosts = required_inventory(inventory)
    needs = Needs()
    if recipe:
        from rlvr.deploy.doctor.needs import needs_of

        needs = needs_of(recipe, overrides or ())
    examination = Examination(hosts, needs)
    findings = examination.run()
    _show(examination.table)
    for finding in findings:
        print(f"{finding.host}: {finding.what}. Fix: {finding.fix}")
    if findings:
        raise typer.Exit(1)
    print("nothing is wrong")


def _show(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
