"""The arguments of `rlvr audit`. Imports stay inside the command."""

import json
from pathlib import Path
from typing import Annotated

import typer


def audit_verifier(
    verifier: Annotated[
        str,
        typer.Argument(
            help="a verifier's name, package.module:attribute or file.py:attribute; without it, all of the recipe's",
            show_default=False,
        ),
    ] = "",
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="the verifier's settings")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="JSON Lines with prompt, reference and, if known, a completion that must pass")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="a recipe, whose own data and settings are used")] = None,
    cases: Annotated[
        Path | None,
        typer.Option(
            help="JSON Lines with prompt, reference, completion and must (pass or fail); my_checks.audit.jsonl is read "
            "by itself for a verifier in my_checks.py"
        ),
    ] = None,
    is_json: Annotated[bool, typer.Option("--json", help="print one JSON object per verifier")] = False,
    rows: Annotated[int, typer.Option(min=2, help="number of rows to attack, evenly spaced")] = 24,
    partial_credit: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="the score that wrong answers earn by design, for example for their format"
        ),
    ] = None,
    deadline_s: Annotated[float, typer.Option(min=0.01, help="seconds allowed for one completion")] = 5.0,
    time_limit_s: Annotated[
        float, typer.Option(min=0.1, help="seconds after which no further completion is tried")
    ] = 60.0,
    sandbox: Annotated[str, typer.Option(help="the sandbox for verifiers that run programs")] = "auto",
    sandbox_setting: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="a setting of the sandbox; repeatable")
    ] = None,
    is_jailed: Annotated[
        bool,
        typer.Option("--jailed", help="run the verifier inside the sandbox's jail, for code that you do not trust"),
    ] = False,
    python: Annotated[str, typer.Option(help="with --jailed: the path of another interpreter")] = "",
) -> None:
    """Attack a verifier with completions that solve nothing. Exit code 1 when something was found."""
    from rlvr.audit.report import as_json
    from rlvr.commands.audit import AuditChoice, audit_choice, show
    from rlvr.config.document.overrides import parse_settings
    from rlvr.config.load import load_recipe
    from rlvr.run.record.console import Console

    choice = AuditChoice(
        verifier=verifier,
        settings=parse_settings(settings or []),
        data=data,
        recipe=load_recipe(recipe, []).recipe if recipe is not None else None,
        cases=cases,
        num_rows=rows,
        partial_credit=partial_credit,
        deadline_s=deadline_s,
        time_limit_s=time_limit_s,
        sandbox=(sandbox, parse_settings(sandbox_setting or [])),
        is_jailed=is_jailed,
        python=python,
    )
    console = Console()
    is_sound = True
    try:
        for report in audit_choice(choice, tell=console.activity.begin):
            console.activity.end()
            if is_json:
                print(json.dumps(as_json(report)))
            else:
                show(report, console)
            is_sound = is_sound and report.is_sound
    finally:
        console.activity.end()
    if not is_sound:
        raise typer.Exit(1)
