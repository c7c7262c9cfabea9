"""docker/README.md: every command on it was run, or the page says that it was not."""

import re
from pathlib import Path

PAGE = (Path(__file__).resolve().parents[3] / "docker" / "README.md").read_text(encoding="utf-8")
_COMMAND = re.compile(r"    +((?:\(umask|docker|podman|rlvr|ray|hf|python3?|rclone|export|curl) .*)")
_NOT_RUN = "not run: "


def commands() -> list[str]:
    """The command lines of the indented blocks, without the remarks behind them."""
    found = [match[1] for line in PAGE.splitlines() if (match := _COMMAND.fullmatch(line))]
    return [re.split(r"\s{2,}", line)[0] for line in found]


def results() -> dict[str, str]:
    """What the table "Commands of this page" says of the commands that begin with its first column."""
    _, _, table = PAGE.partition("### Commands of this page\n")
    rows = re.findall(r"^\| `(.+?)` \| (.+) \|$", table, re.MULTILINE)
    return dict(rows)


def test_every_command_of_the_page_is_in_the_table_of_what_was_run() -> None:
    table = results()
    assert len(commands()) > 15
    missing = [line for line in commands() if not any(line.startswith(start) for start in table)]
    assert missing == []


def test_the_table_names_commands_that_are_on_the_page_with_a_date_or_a_reason() -> None:
    for start, result in results().items():
        assert any(line.startswith(start) for line in commands()), start
        assert re.match(r"20\d\d-\d\d-\d\d: \S", result) or result.startswith(_NOT_RUN), (start, result)
