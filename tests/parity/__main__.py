"""`make parity`: the table on a terminal; `python -m tests.parity --json`: the rows. Exit code 1 when a claim fails."""

import argparse
import json
import sys

from rich.console import Console

from tests.parity.table import parity_rows, parity_table, summary


def main() -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    as_json = parser.parse_args().json
    rows = parity_rows()
    if as_json:
        sys.stdout.write(json.dumps([row.as_json() for row in rows], indent=1) + "\n")
    else:
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
        console.print(parity_table(rows))
        console.print(summary(rows))
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
