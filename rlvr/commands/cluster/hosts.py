"""`rlvr cluster up | down | status | add | drain | restart`. Imports stay inside the commands."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlvr.deploy.choices import Firewall
from rlvr.errors import ConfigError

if TYPE_CHECKING:
    from rlvr.deploy.cluster.fleet import Fleet
    from rlvr.deploy.cluster.inventory import Inventory
    from rlvr.deploy.submission.submit import Runs

InventoryOption = Annotated[
    Path | None, typer.Option("--inventory", help="the inventory of the hosts; default: cluster.yaml, if it exists")
]
Name = Annotated[str, typer.Argument(metavar="HOST", help="a host's name in the inventory")]


def cluster_up(
    recipe: Annotated[
        str, typer.Argument(help="without an inventory: the recipe to run in containers on this machine")
    ] = "",
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    inventory: InventoryOption = None,
    firewall: Annotated[
        Firewall | None, typer.Option(help="the program that loads the firewall rule; default: nft")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="a file for the firewall rule; default: it is printed")] = None,
) -> None:
    """Start the nodes that do not run yet, on the hosts of an inventory over ssh, or on this machine by compose.

    Prints the hosts, the ports with who listens on them, and a firewall rule for every host.
    """
    from rlvr.deploy.cluster.firewall import rule
    from rlvr.deploy.cluster.tables import ports_table, status

    fleet = _fleet_or_none(inventory)
    if fleet is None:
        from rlvr.deploy.cluster.one_machine import up

        if firewall or output:
            raise ConfigError(
                "--firewall and --output need an inventory: the containers of one machine open no ports of the host"
            )
        up(recipe, tuple(overrides or ()))
        return
    if recipe:
        words = [recipe, *(overrides or ()), *(["--inventory", str(inventory)] if inventory else [])]
        raise ConfigError(
            "with an inventory `up` takes no recipe; after `up` without one, start the run with "
            f"`rlvr cluster submit {shlex.join(words)}`"
        )
    text = rule(fleet.inventory, firewall or Firewall.NFT)
    if output is not None:  # before anything is started
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--output {str(output)!r} cannot be written: {error.strerror or error}") from error
    fleet.up()
    _continue_runs(fleet)
    print(status(fleet)[0])
    print(f"\n{ports_table(fleet.inventory)}\n")
    if output is None:
        print(text, end="")
    else:
        print(output)


def cluster_down(
    inventory: InventoryOption = None,
    is_forced: Annotated[
        bool, typer.Option("--force", help="stop even while a run uses the cluster; submitted runs save first")
    ] = False,
) -> None:
    """Stop all nodes, and remove what was put on the hosts. Runs and models in the shared folder stay.

    Submitted runs continue with the next `rlvr cluster up`.
    """
    if _is_one_machine(inventory):
        from rlvr.deploy.cluster.one_machine import down

        down()
        return
    fleet = _fleet(inventory)
    if is_forced:
        _suspend_runs(fleet)
    fleet.down(is_forced=is_forced)


def cluster_status(
    inventory: InventoryOption = None,
    is_for_prometheus: Annotated[
        bool, typer.Option("--prometheus", help="print the hosts as targets of Prometheus instead; contacts no host")
    ] = False,
) -> None:
    """Show every host and whether its node has joined, and the submitted runs; exit code 1 if a node has not."""
    if is_for_prometheus:
        from rlvr.deploy.prometheus import scrape_targets

        print(scrape_targets(_fleet(inventory).inventory), end="")
        return
    if _is_one_machine(inventory):
        from rlvr.deploy.cluster.one_machine import status as show

        show()
        return
    from rlvr.deploy.cluster.tables import status

    fleet = _fleet(inventory)
    found = status(fleet)
    print(found.text)
    if found.has_head:
        _print_runs(fleet)
    if not found.is_complete:
        raise typer.Exit(1)


def cluster_firewall(
    inventory: InventoryOption = None,
    firewall: Annotated[Firewall, typer.Option("--firewall", help="the program that loads the rule")] = Firewall.NFT,
) -> None:
    """Print the firewall rule for the hosts of an inventory; contacts no host."""
    from rlvr.deploy.cluster.firewall import rule

    print(rule(_fleet(inventory).inventory, firewall), end="")


def cluster_add(name: Name, inventory: InventoryOption = None) -> None:
    """Start the node of a host that was added to the inventory, also during a run."""
    fleet = _fleet(inventory)
    host = fleet.inventory.host(name)
    fleet.say(f"hosts with a firewall rule let {name} join after they have loaded the new one: rlvr cluster firewall")
    fleet.up([host])


def cluster_drain(
    name: Name,
    inventory: InventoryOption = None,
    limit_s: Annotated[float, typer.Option("--timeout", min=0, help="seconds to wait for a run's work there")] = 600.0,
    is_forced: Annotated[bool, typer.Option("--force", help="stop the node when the time is over")] = False,
) -> None:
    """Take a host out of the cluster: nothing more is placed there, and its node is stopped when it is idle.

    The host stays in the inventory: remove its line, or `rlvr cluster up` starts it again.
    """
    fleet = _fleet(inventory)
    fleet.drain(fleet.inventory.host(name), limit_s=limit_s, is_forced=is_forced)


def cluster_restart(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[HOST]...", help="hosts; default: all but the head")
    ] = None,
    inventory: InventoryOption = None,
    drain_s: Annotated[
        float, typer.Option("--drain", min=0, help="seconds in which a run may move its work off a host")
    ] = 60.0,
) -> None:
    """Restart one host after another, each after the one before has rejoined.

    Without names the head is left alone, because a run ends with it; name it to restart it too.
    """
    fleet = _fleet(inventory)
    hosts = [fleet.inventory.host(name) for name in names] if names else fleet.inventory.hosts[1:]
    if not hosts:
        raise ConfigError(f"only the head, {fleet.inventory.head.name}, is in the inventory; name it to restart it")
    fleet.restart(hosts, drain_s=drain_s)


def _continue_runs(fleet: "Fleet") -> None:
    _each_run(fleet, lambda runs: runs.resume_all(), done=lambda row: f"continuing run {row['name']}", verb="continued")


def _suspend_runs(fleet: "Fleet") -> None:
    def done(row: dict[str, Any]) -> str:
        if row["phase"] == "suspended" and row["exit_code"] in (0, 130):
            return f"run {row['name']} has saved; it continues with the next `rlvr cluster up`"
        return f"run {row['name']}: {row['phase']}{': ' if row['message'] else ''}{row['message']}"

    fleet.say("asking submitted runs to save")
    _each_run(fleet, lambda runs: runs.suspend_all(), done=done, verb="suspended")


def _each_run(
    fleet: "Fleet", ask: Callable[["Runs"], list[dict[str, Any]]], *, done: Callable[[dict[str, Any]], str], verb: str
) -> None:
    """Says of each run what was done, or why it was not: the nodes are started and stopped all the same."""
    from rlvr.deploy.submission.submit import Runs
    from rlvr.errors import RlvrError

    try:
        rows = ask(Runs(fleet.inventory, remote=fleet.remote))
    except RlvrError as error:
        fleet.say(f"submitted runs were not {verb}: {error}")
        return
    for row in rows:
        fleet.say(f"run {row['name']} was not {verb}: {row['problem']}" if row["problem"] else done(row))


def _print_runs(fleet: "Fleet") -> None:
    from rlvr.deploy.submission.submit import runs_of
    from rlvr.errors import ClusterError, RlvrError

    try:
        rows = runs_of(fleet.inventory, remote=fleet.remote)
    except ClusterError:  # the table of hosts says what is wrong with the head
        return
    except RlvrError as error:
        fleet.say(f"submitted runs cannot be listed: {error}")
        return
    for row in rows:
        print("  ".join(row))


def _is_one_machine(path: Path | None) -> bool:
    """Whether the command is for containers that `up RECIPE` started here, because there is no inventory."""
    from rlvr.deploy.cluster.inventory import DEFAULT_FILE
    from rlvr.deploy.cluster.one_machine import is_started

    return path is None and not DEFAULT_FILE.exists() and is_started()


def required_inventory(path: Path | None) -> "Inventory":
    """The inventory in the file, or in the default one. Raises ConfigError when there is none, or it is wrong."""
    from rlvr.deploy.cluster.inventory import DEFAULT_FILE, read_inventory

    if path is None and not DEFAULT_FILE.exists():
        raise ConfigError(f"there is no {DEFAULT_FILE} here; name the inventory with --inventory FILE")
    return read_inventory(path or DEFAULT_FILE)


def _fleet(path: Path | None) -> "Fleet":
    from rlvr.deploy.cluster.fleet import Fleet
    from rlvr.deploy.cluster.remote import Remote
    from rlvr.run.record.stdout import tell

    inventory = required_inventory(path)
    return Fleet(inventory, lambda text: tell(f"rlvr: {text}"), remote=Remote(inventory.ssh_options))


def _fleet_or_none(path: Path | None) -> "Fleet | None":
    """The nodes of the inventory; None if none is named and the default file does not exist."""
    from rlvr.deploy.cluster.inventory import DEFAULT_FILE

    return None if path is None and not DEFAULT_FILE.exists() else _fleet(path)
