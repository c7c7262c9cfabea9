"""`rlvr cluster doctor`. Imports stay inside the command."""

from typing import Annotated

import typer

from rlvr.commands.cluster.hosts import InventoryOption, required_inventory


def cluster_doctor(
    recipe: Annotated[
        str, typer.Argument(metavar="[RECIPE]", help="a recipe: memory, disk, GPUs and model are checked for it")
    ] = "",
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="override any key of the recipe")
    ] = None,
    inventory: InventoryOption = None,
) -> None:
    """Say what is wrong with the hosts of a cluster and between them, each with its fix; exit code 1 if anything is."""
    from rlvr.deploy.cluster.tables import aligned
    from rlvr.deploy.doctor.examine import Examination
    from rlvr.deploy.doctor.machine import Needs

    hosts = required_inventory(inventory)
    needs = Needs()
    if recipe:
        from rlvr.deploy.doctor.needs import needs_of

        needs = needs_of(recipe, overrides or ())
    examination = Examination(hosts, needs)
    findings = examination.run()
    print(aligned(examination.table))
    for finding in findings:
        print(f"{finding.host}: {finding.what}. Fix: {finding.fix}")
    if findings:
        raise typer.Exit(1)
    print("nothing is wrong")
