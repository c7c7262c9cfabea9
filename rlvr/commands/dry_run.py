"""`rlvr train --dry-run`: every check that needs no weights; creates and changes no file."""

from dataclasses import dataclass

from rlvr.config.derived import derived_table
from rlvr.config.recipe import Recipe
from rlvr.data.load import summary
from rlvr.errors import ConfigError
from rlvr.run.launch.preflight import OpenedData, opened
from rlvr.run.record.console import Console


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """rows: derived values and data. prompts: one per source, as the policy sees it. notes: one line each."""

    rows: tuple[tuple[str, str, str], ...]
    prompts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def dry_run(recipe: Recipe) -> DryRun:
    """Runs every check and returns what a real start would show. Raises the errors of a real start.

    If the tokenizer is unavailable, a note says what was not checked.
    """
    with opened(recipe) as (_, data):
        from rlvr.models.policy import load_tokenizer
        from rlvr.run.launch.prompt_check import check_prompts, rendered

        rows = (*derived_table(recipe), *data_rows(data))
        try:
            load_tokenizer(recipe.model)
        except ConfigError as error:
            what = "prompts were not rendered, and checks that need the tokenizer were skipped"
            return DryRun(rows=rows, notes=(f"{what}: {error}",))
        report = check_prompts(recipe, data)
        return DryRun(rows=rows, prompts=tuple(rendered(data, report.tokenizer)), notes=report.notes)


def show_dry_run(recipe: Recipe, console: Console) -> None:
    """Prints the dry run. Raises the errors of `dry_run`."""
    tried = dry_run(recipe)
    console.table(f"{recipe.name}: nothing was started", tried.rows)
    for text in (*tried.prompts, *tried.notes):
        console.note(text)


def data_rows(data: OpenedData) -> list[tuple[str, str, str]]:
    """The number of prompts of each source."""
    counts = summary(data.stream, data.evals)
    return [(f"data {part}: {name}", count, "prompts") for name, part, count, _ in counts]
