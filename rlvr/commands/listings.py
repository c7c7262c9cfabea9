"""The commands `rlvr recipes ...`, `rlvr verifiers ...` and `rlvr sandboxes ...`. Imports stay inside the commands."""

from pathlib import Path
from typing import Annotated

import typer

recipes_app = typer.Typer(help="List the recipes that come with rlvr.", invoke_without_command=True)
verifiers_app = typer.Typer(help="List verifiers, show one, or write a new one.", invoke_without_command=True)
sandboxes_app = typer.Typer(
    help="List sandboxes and this machine's support for them, show or serve one.", invoke_without_command=True
)


@recipes_app.callback()
def recipes(context: typer.Context) -> None:
    """List the recipes that come with rlvr."""
    if context.invoked_subcommand is None:
        from rlvr.config.load import list_recipes
        from rlvr.run.record.console import Console

        Console().table("recipes", [(r.name, r.description, "") for r in list_recipes()])


@recipes_app.command("show")
def recipes_show(name: str) -> None:
    """Print the resolved recipe, with the source of each value."""
    from rlvr.config.load import load_recipe

    print(load_recipe(name).to_yaml(), end="")


@recipes_app.command("explain")
def recipes_explain(key: Annotated[str, typer.Argument(metavar="[KEY]", help="a key or a section")] = "") -> None:
    """Explain a recipe key: meaning, values, default, whether it may change on resume; for a section, all its keys."""
    from rlvr.config.explain import explain
    from rlvr.run.record.console import Console

    Console().table(key or "a recipe", explain(key))


@verifiers_app.callback()
def verifiers(context: typer.Context) -> None:
    """List the installed verifiers, without importing them."""
    if context.invoked_subcommand is None:
        from rlvr.registry import SCHEMES, VERIFIERS, list_plugins
        from rlvr.run.record.console import Console

        console = Console()
        rows = [(p.name, f"{p.distribution} {p.version}", p.target) for p in list_plugins(VERIFIERS)]
        console.table("verifiers", rows)
        rows = [(f"{p.name}:", f"{p.distribution} {p.version}", p.target) for p in list_plugins(SCHEMES)]
        console.table("schemes for reward code of others", rows)


@verifiers_app.command("show")
def verifiers_show(name: str) -> None:
    """Show a verifier: what it does, its version, how it runs, its settings. For a scheme, show `trl:`."""
    import inspect

    from rlvr.registry import VERIFIERS, find, setting_rows
    from rlvr.run.record.console import Console
    from rlvr.verification.trial import load_tried

    source = find(VERIFIERS, name)
    loaded = load_tried(source)
    console = Console()
    console.note(inspect.getdoc(loaded) or "")
    rows = [("version", loaded.version, ""), ("runs", str(loaded.execution), "")]
    if source.argument:
        rows.append(("adapts", source.argument, f"sha256 {source.digest[:16]}" if source.digest else ""))
    rows += setting_rows(loaded.Config)
    console.table(f"verifier {loaded.name}", rows)


@verifiers_app.command("new")
def verifiers_new(
    name: str,
    is_package: Annotated[
        bool, typer.Option("--package", help="write a folder that can be installed, with an entry point")
    ] = False,
) -> None:
    """Write a verifier with its cases and tests into this folder, and show how to try, audit and use it."""
    from rlvr.commands.new_verifier.write import write_verifier
    from rlvr.run.record.console import Console

    written = write_verifier(name, folder=Path.cwd(), is_package=is_package)
    console = Console()
    console.note(f"wrote {', '.join(written.files)}")
    console.table("next", written.commands)


@sandboxes_app.callback()
def sandboxes(context: typer.Context) -> None:
    """List the installed sandboxes and their requirements on this machine."""
    if context.invoked_subcommand is None:
        from rlvr.commands.sandbox_report import listing_rows, probe_rows
        from rlvr.run.record.console import Console

        console = Console()
        console.table("sandboxes", listing_rows())
        console.table("this machine", probe_rows())


@sandboxes_app.command("show")
def sandboxes_show(name: str) -> None:
    """Show a sandbox: capabilities, settings, and its self-test here. Exit code 1 when that fails."""
    from rlvr.commands.sandbox_report import describe
    from rlvr.run.record.console import Console

    described = describe(name)
    console = Console()
    console.note(described.text)
    console.table(f"sandbox {name}", described.rows)
    if not described.is_usable:
        raise typer.Exit(1)


@sandboxes_app.command("serve")
def sandboxes_serve(
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="settings of the backend, such as slots=8")
    ] = None,
    socket: Annotated[
        str, typer.Option(help="path of the Unix socket; its folder is shared with the trainer's container alone")
    ] = "/run/rlvr-sandbox/socket",
    key_file: Annotated[
        str,
        typer.Option(
            help="file with the key that clients must have; made if missing (default: key next to the socket)"
        ),
    ] = "",
    backend: Annotated[str, typer.Option(help="auto, namespaces or landlock")] = "auto",
    group: Annotated[
        bool, typer.Option("--group", help="let the socket's group connect too (mode 660), not its user alone (600)")
    ] = False,
) -> None:
    """Serve a sandbox to the trainers of this machine (sandbox.backend=service) until SIGTERM.

    It belongs in a container of its own; sandboxes/README.md has the options.
    """
    import logging

    from rlvr.config.document.overrides import parse_settings
    from rlvr.registry import SANDBOXES, build_sandbox, find, load

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True)
    client = load(find(SANDBOXES, "service"))  # its class knows the other side
    served = build_sandbox(backend, parse_settings(settings or []))
    client.serve(served, socket=socket, key_file=key_file, mode=0o660 if group else 0o600)
