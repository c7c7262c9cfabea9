"""The moving line: on a terminal it moves, in a log file there is nothing of it."""

import io

from rich.console import Console as RichConsole

from rlvr.run.activity import Activity
from rlvr.run.record.console import Console


def test_the_line_moves_while_one_activity_goes_on():
    activity = Activity(RichConsole(file=io.StringIO()))
    activity.begin("generating: groups", total=6)
    activity.advance()
    start = activity._since
    first, later = activity.line(start + 0.1), activity.line(start + 2.4)
    assert first == "| generating: groups 1/6, 0s"
    assert later[1:] == " generating: groups 1/6, 2s"
    assert len({activity.line(start + i / 4) for i in range(4)}) == 4


def test_a_new_activity_begins_at_zero_and_counts_no_further_than_its_total():
    activity = Activity(RichConsole(file=io.StringIO()))
    activity.begin("generating: groups", total=2)
    for _ in range(3):  # replacements of dropped groups come on top
        activity.advance()
    assert " 2/2," in activity.line(activity._since)
    activity.begin("training")
    assert activity.line(activity._since) == "| training, 0s"


def test_a_terminal_shows_it_and_is_left_as_it_was():
    file = io.StringIO()
    console = Console(file=file, width=80, is_terminal=True)
    console.activity.begin("loading the policy")
    console.note("a line of its own")
    console.activity.end()
    console.activity.end()
    shown = file.getvalue()
    assert "loading the policy" in shown
    assert "a line of its own" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is hidden and comes back


def test_a_log_file_holds_nothing_of_it():
    file = io.StringIO()
    console = Console(file=file, width=80)
    console.activity.begin("loading the policy")
    console.activity.advance()
    console.note("a line")
    console.activity.end()
    assert file.getvalue() == "a line\n"
