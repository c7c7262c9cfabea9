"""The arguments of `rlvr import`. Imports stay inside the command."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

TRAINERS = ("trl", "verl", "prime-rl")


def complete_trainer(start: str) -> list[str]:
    """The trainers whose names begin so, for the shell."""
    return [name for name in TRAINERS if name.startswith(start)]


def import_config(
    trainer: Annotated[str, typer.Argument(help=" or ".join(TRAINERS), autocompletion=complete_trainer)],
    config: Annotated[
        Path,
        typer.Argument(
            help="trl: YAML, JSON or a script with GRPOConfig(...); verl: YAML, a shell script or a file of "
            "overrides; prime-rl: TOML. Nothing in it is executed"
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="keys of that trainer, which take precedence over the file's"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="the recipe's file, which must not exist; without it the recipe goes to standard output"),
    ] = None,
    is_json: Annotated[bool, typer.Option("--json", help="print the report and the recipe as one JSON object")] = False,
) -> None:
    """Write a recipe from a configuration of TRL, verl or prime-rl, and explain each difference in meaning."""
    from rlvr.commands.import_config.write import require_new, write_recipe
    from rlvr.imports.importing import import_config as import_
    from rlvr.imports.report import as_json, tables
    from rlvr.run.record.console import Console

    if output is not None:
        require_new(output)
    imported = import_(trainer, config, overrides or [])
    if output is not None:
        write_recipe(imported.recipe, output)
    if is_json:
        print(json.dumps(as_json(imported)))
        return
    if output is None:
        print(imported.recipe, end="")
    console = Console(file=sys.stderr if output is None else None)
    for title, rows in tables(imported):
        console.table(title, rows)
    if output is not None:
        console.table("next", [(f"rlvr check {output}", "memory and time of the recipe")])
