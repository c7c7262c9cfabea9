"""The command group `rlvr cluster`. Imports stay inside the commands."""

from pathlib import Path
from typing import Annotated

import typer

from rlvr.commands.cluster.doctor import cluster_doctor
from rlvr.commands.cluster.hosts import (
    cluster_add,
    cluster_down,
    cluster_drain,
    cluster_firewall,
    cluster_restart,
    cluster_status,
    cluster_up,
)
from rlvr.commands.cluster.logs import cluster_logs
from rlvr.commands.cluster.runs import cluster_follow, cluster_resume, cluster_stop, cluster_submit
from rlvr.deploy.choices import Choices, Kind, Target

cluster_app = typer.Typer(help="A cluster of hosts, and deployment files for one.", no_args_is_help=True)
cluster_app.command("up")(cluster_up)
cluster_app.command("down")(cluster_down)
cluster_app.command("status")(cluster_status)
cluster_app.command("add")(cluster_add)
cluster_app.command("drain")(cluster_drain)
cluster_app.command("firewall")(cluster_firewall)
cluster_app.command("restart")(cluster_restart)
cluster_app.command("submit")(cluster_submit)
cluster_app.command("follow")(cluster_follow)
cluster_app.command("stop")(cluster_stop)
cluster_app.command("resume")(cluster_resume)
cluster_app.command("doctor")(cluster_doctor)
cluster_app.command("logs")(cluster_logs)


@cluster_app.callback()
def cluster() -> None:
    """A cluster of hosts, and deployment files for one."""


@cluster_app.command("render")
def cluster_render(
    recipe: Annotated[str, typer.Argument(help="a recipe's name or file")],
    target: Annotated[Target, typer.Option(help="what starts the cluster")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="override any key of the recipe")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="a folder for all files; default: the main one is printed")
    ] = None,
    gpus: Annotated[
        str,
        typer.Option(
            metavar="NODESxGPUSxMEMORY",
            help="the nodes that you have: 2x8x80GB is two with 8 GPUs of 80 GB; default: as many of 8 as needed",
        ),
    ] = "",
    is_cpu: Annotated[bool, typer.Option("--cpu", help="use no GPUs")] = False,
    parameters: Annotated[
        str, typer.Option(metavar="7B", help="the model's size, if its config.json is not on this machine")
    ] = "",
    max_restarts: Annotated[
        int | None, typer.Option(min=0, help="how often a run is continued (default 3); kuberay with --kind job, slurm")
    ] = None,
    image: Annotated[str, typer.Option(help="the image; kuberay, compose (default rlvr:gpu or rlvr:cpu)")] = "",
    kind: Annotated[Kind, typer.Option(help="kuberay: a RayJob, or a RayCluster that stays")] = Kind.JOB,
    namespace: Annotated[str, typer.Option(help="kuberay: the namespace of the objects")] = "",
    token_secret: Annotated[
        str, typer.Option(help="kuberay: a Secret with the key auth_token; default: KubeRay makes one")
    ] = "",
    container_image: Annotated[str, typer.Option(help="slurm: an image for pyxis")] = "",
    venv: Annotated[str, typer.Option(help="slurm: a virtual environment with rlvr and Ray, on all nodes")] = "",
    time: Annotated[str, typer.Option(help="slurm: the time limit, such as 24:00:00")] = "",
    sbatch: Annotated[
        list[str] | None, typer.Option(metavar="OPTION", help="slurm: one more option of sbatch; repeatable")
    ] = None,
) -> None:
    """Write what starts a Ray cluster for a recipe: a KubeRay manifest, a Slurm script or a compose file.

    No weights are read and no connection is opened. docker/README.md says how to use the files.
    """
    from rlvr.deploy.render import render, write_files
    from rlvr.run.record.stdout import tell

    files, notes = render(
        recipe,
        tuple(overrides or ()),
        target=target,
        choices=Choices(
            image=image,
            kind=kind,
            namespace=namespace,
            token_secret=token_secret,
            max_restarts=max_restarts,
            container_image=container_image,
            venv=venv,
            time=time,
            sbatch=tuple(sbatch or ()),
        ),
        gpus=gpus,
        is_cpu=is_cpu,
        parameters=parameters,
    )
    for note in notes:
        tell(f"rlvr: warning: {note}")
    if output is None:
        print(next(iter(files.values())), end="")
    else:
        for path in write_files(output, files):
            print(path)
