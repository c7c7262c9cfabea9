"""`rlvr train --dry-run`: all that can be checked without weights; creates nothing and moves nothing."""

from dataclasses import dataclass

from rlvr.config.derived import derived_table
from rlvr.config.recipe import Recipe
from rlvr.data.load import summary
from rlvr.errors import ConfigError
from rlvr.run.launch.preflight import OpenedData, opened
from rlvr.run.record.console import Console


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """rows: the derived table and the data. prompts: one of each source, as the policy sees it. notes: a line each."""

    rows: tuple[tuple[str, str, str], ...]
    prompts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def dry_run(recipe: Recipe) -> DryRun:
    """What a start would begin with, after every check. Raises what a real start would raise.

    Where the tokenizer is not here and cannot be had, a note says what was not checked.
    """
    with opened(recipe) as (_, data):
        from rlvr.models.policy import load_tokenizer
        from rlvr.run.launch.prompt_check import check_prompts, rendered

        rows = (*derived_table(recipe), *data_rows(data))
        try:
            load_tokenizer(recipe.model)
        except ConfigError as error:
            what = "prompts were not rendered, and what depends on the tokenizer was not checked"
            return DryRun(rows=rows, notes=(f"{what}: {error}",))
        report = check_prompts(recipe, data)
        return DryRun(
            rows=rows, prompts=tuple(rendered(data, report.tokenizer)), notes=report.notes
        )


def show_dry_run(recipe: Recipe, console: Console) -> None:
    """Prints it. Raises what `dry_run` raises."""
    tried = dry_run(recipe)
    console.table(f"{recipe.name}: nothing was started", tried.rows)
    for text in (*tried.prompts, *tried.notes):
        console.note(text)


def data_rows(data: OpenedData) -> list[tuple[str, str, str]]:
    """How many prompts each source has."""
    counts = summary(data.stream, data.evals)
    return [(f"data {part}: {name}", count, "prompts") for name, part, count, _ in counts]
