"""`rlvr cluster logs`. Imports stay inside the command."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rlvr.deploy.cluster.inventory import Inventory
    from rlvr.telemetry.log_query import LogQuery

_OF_NODES = ("head", "node")


def cluster_logs(
    run: Annotated[
        str, typer.Argument(metavar="[RUN]", help="a run directory, or a name below SHARED/runs; default: the newest")
    ] = "",
    actor: Annotated[
        str, typer.Option(help="engine-1, learner-0, verifier-0, driver; head or node: Ray itself on the hosts")
    ] = "",
    host: Annotated[str, typer.Option(help="only of this host: its name in the inventory, or as records show it")] = "",
    since: Annotated[str, typer.Option(metavar="10m", help="only of this last time: 90s, 10m, 2h, 1d")] = "",
    step: Annotated[int, typer.Option(help="only of this step", show_default=False)] = -1,
    level: Annotated[str, typer.Option(help="the lowest level to show: debug, info, warning, error")] = "info",
    lines: Annotated[int, typer.Option(min=0, help="how many of the last records to show; 0: all")] = 200,
    follow: Annotated[bool, typer.Option("--follow", help="show new records as they come, until Ctrl-C")] = False,
    inventory: Annotated[
        Path | None, typer.Option(help="the file that lists the hosts; default: cluster.yaml, if there is one")
    ] = None,
) -> None:
    """Show the logs of a run's processes, on this machine or on all hosts of a cluster, also of those that died."""
    from rlvr.deploy.cluster.inventory import DEFAULT_FILE, read_inventory
    from rlvr.telemetry.log_query import LogQuery, read_duration, read_level
    from rlvr.telemetry.logs import ago

    query = LogQuery(
        actor=actor,
        host=host,
        since=ago(read_duration(since)) if since else "",
        step=step,
        level=read_level(level),
        last=lines,
    )
    is_local = inventory is None and (not DEFAULT_FILE.is_file() or Path(run or "-").is_dir())
    if is_local:
        _show_local(run, query, follow=follow)
    else:
        _show_cluster(read_inventory(inventory or DEFAULT_FILE), run, query, follow=follow, since=since)


def _show_local(run: str, query: "LogQuery", *, follow: bool) -> None:
    from rlvr.errors import ConfigError
    from rlvr.run.record.directory import RunDirectory
    from rlvr.telemetry.log_reader import RunLogs

    if query.actor in _OF_NODES:
        raise ConfigError(
            f"--actor {query.actor} needs an inventory: without one there are no nodes but this machine, whose private "
            "Ray leaves its logs in RUN_DIR/faults/ray when a run fails"
        )
    folder = Path(run or "runs/latest").expanduser().resolve()
    try:
        RunDirectory(folder).require_begun()
    except ConfigError as error:
        missing = str(folder) if run else "runs/latest, and no cluster.yaml here"
        raise ConfigError(
            f"there is no run in {missing}; name a run directory, or the inventory of a cluster with --inventory FILE"
        ) from error
    logs = RunLogs(folder)
    _require_actor(query.actor, logs.actors(), run=str(folder))
    if follow:
        _print_all(logs.follow(query))
    else:
        _print_all(logs.records(query))


def _show_cluster(inventory: "Inventory", run: str, query: "LogQuery", *, follow: bool, since: str) -> None:
    from dataclasses import replace

    from rlvr.deploy.cluster.logs import ClusterLogs
    from rlvr.run.record.stdout import tell

    logs = ClusterLogs(inventory)
    names = [host.name for host in inventory.hosts]
    if query.actor in _OF_NODES:
        if query.actor == "head":
            hosts = [inventory.head]
        else:
            hosts = [inventory.host(query.host)] if query.host else list(inventory.hosts)
        for line in logs.node_output(hosts, num_lines=query.last or 1_000_000, since=since):
            print(line)
        return
    if query.host in names:
        query = replace(query, host=inventory.host(query.host).address)
    run_dir = logs.run_dir(run)
    found = logs.read(run_dir, query)
    for problem in found.problems:
        tell(f"rlvr: warning: {problem}")
    _require_actor(query.actor, found.actors, run=run_dir)
    if follow:
        _print_all(logs.follow(run_dir, query, run_id=found.run_id))
    else:
        _print_all(found.records[-query.last :])


def _require_actor(actor: str, actors: Mapping[str, str], *, run: str) -> None:
    """Raises ConfigError for a name that no process of the run has or had, with those that there are."""
    from rlvr.config.messages.suggestions import close, did_you_mean
    from rlvr.errors import ConfigError

    if not actor or actor in actors:
        return
    listed = ", ".join(f"{name} ({how})" if how else name for name, how in actors.items())
    raise ConfigError(
        f"{actor!r} is no process of {run}, which has {listed or 'no logs'}{did_you_mean(close(actor, list(actors)))}"
    )


def _print_all(rows: Iterable[dict[str, Any]]) -> None:
    from rlvr.telemetry.log_query import shown_record

    try:
        for row in rows:
            print(shown_record(row), flush=True)
    except KeyboardInterrupt:
        return
