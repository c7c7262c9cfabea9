"""The commands `rlvr recipes ...`, `rlvr verifiers ...` and `rlvr sandboxes ...`. Imports stay inside the commands."""

import keyword
from pathlib import Path
from typing import Annotated

import typer

from rlvr.errors import ConfigError

recipes_app = typer.Typer(help="List the recipes that come with rlvr.", invoke_without_command=True)
verifiers_app = typer.Typer(help="List verifiers, show one, or write a skeleton.", invoke_without_command=True)
sandboxes_app = typer.Typer(
    help="List sandboxes and this machine's support for them, or show one.", invoke_without_command=True
)


_SKELETON = '''"""A verifier. In a recipe: `verifier: {name}.py:{name}`.

Try it on stored completions: `rlvr verify {name}.py:{name} --input FILE --output FILE`.
"""

from rlvr.plugin import verifier


@verifier(version="1")
def {name}(text: str, reference: str, *, ignore_case: bool = False) -> bool:
    """The completion ends with the reference.

    Return a bool, a score in [0, 1], or rlvr.plugin.verdict(...) with a readable reason. An exception is an ERROR,
    which is left out of the loss and raises an alarm; a wrong answer is False.
    """
    if ignore_case:
        text, reference = text.lower(), reference.lower()
    return text.strip().endswith(reference)
'''


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
        from rlvr.registry import VERIFIERS, list_plugins
        from rlvr.run.record.console import Console

        rows = [(p.name, f"{p.distribution} {p.version}", p.target) for p in list_plugins(VERIFIERS)]
        Console().table("verifiers", rows)


@verifiers_app.command("show")
def verifiers_show(name: str) -> None:
    """Show a verifier: what it does, its version, how it runs, its settings."""
    import inspect

    from rlvr.registry import VERIFIERS, find, setting_rows
    from rlvr.run.record.console import Console
    from rlvr.verification.trial import load_tried

    loaded = load_tried(find(VERIFIERS, name))
    console = Console()
    console.note(inspect.getdoc(loaded) or "")
    rows = [("version", loaded.version, ""), ("runs", str(loaded.execution), "")]
    rows += setting_rows(loaded.Config)
    console.table(f"verifier {loaded.name}", rows)


@verifiers_app.command("new")
def verifiers_new(name: str) -> None:
    """Write NAME.py, a verifier skeleton, into this folder."""
    from rlvr.run.record.console import Console

    path = _write_skeleton(name, folder=Path.cwd())
    Console().note(f"wrote {path.name}; use it as `verifier: {path.name}:{path.stem}`")


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


def _write_skeleton(name: str, *, folder: Path) -> Path:
    """Writes a one-file verifier skeleton and returns its path.

    Raises: ConfigError if the name is not a Python name or the file exists.
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ConfigError(f"{name!r} is not a Python name; use letters, digits and underscores")
    path = folder / f"{name}.py"
    if path.exists():
        raise ConfigError(f"{path.name} exists already; choose another name")
    path.write_text(_SKELETON.format(name=name), encoding="utf-8")
    return path
