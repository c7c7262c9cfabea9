"""`rlvr train --dry-run`: all that can be checked without weights; creates nothing and moves nothing."""

from rlvr.config.derived import derived_table
from rlvr.config.recipe import Recipe
from rlvr.data.load import summary
from rlvr.run.preflight import OpenedData, opened


def dry_run_rows(recipe: Recipe) -> list[tuple[str, str, str]]:
    """The derived table and the data, after every check. Raises what a real start would raise."""
    with opened(recipe) as (_, data):
        return [*derived_table(recipe), *data_rows(data)]


def data_rows(data: OpenedData) -> list[tuple[str, str, str]]:
    """How many prompts each source has."""
    counts = summary(data.stream, data.evals)
    return [(f"data {part}: {name}", count, "prompts") for name, part, count, _ in counts]
