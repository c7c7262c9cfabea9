"""The commands `rlvr recipes ...`. Imports stay inside the commands."""

from typing import Annotated

import typer

recipes_app = typer.Typer(help="List the recipes that come with rlvr.", invoke_without_command=True)


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
def recipes_explain(
    key: Annotated[str, typer.Argument(metavar="[KEY]", help="a key or a section")] = "",
) -> None:
    """Explain a recipe key: meaning, values, default, whether it may change on resume; for a section, all its keys."""
    from rlvr.config.explain import explain
    from rlvr.run.record.console import Console

    Console().table(key or "a recipe", explain(key))
