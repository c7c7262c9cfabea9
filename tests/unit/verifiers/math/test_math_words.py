"""Answers in words: letters, phrases, times, dates."""

import pytest

from rlvr_verifiers.mathcheck.compare.compare import compare, read_gold
from rlvr_verifiers.mathcheck.values.words import Choice, Clock, Date, choice, clock, date, number_word, phrase


@pytest.mark.parametrize(
    ("gold", "answer", "is_equal"),
    [
        ("B", r"\text{(B)}", True), ("B", "(b)", True), ("B", "B.", True), ("B", "B) 12", True),
        ("B", "B, C", False), ("B", "A and B", False),
        ("C", "**C**", True), ("C", "Option C", True), ("ACD", "A, C, D", True), ("A, C", "AC", True),
        ("ACD", "A, C", False), ("B", "12", False),
        (r"\text{Tuesday}", "tuesday", True), (r"\text{Monday}", "Sunday", False),
        (r"\text{the red ball}", "red ball", True), (r"\text{odd}", "oddd", False),
        ("abc", "abC", False), ("E", "E'", False), (r"\text{yes}", "True", True), ("Yes", "No", False),
        (r"\emptyset", "no real solutions", True),
        (r"\emptyset", r"\{\}", True), (r"\emptyset", r"\{\emptyset\}", False), ("DNE", "does not exist", True),
        (r"\infty", "infinity", True),
        (r"\infty", r"-\infty", False), ("5", r"\text{five}", True), (r"4:30\text{ p.m.}", "16:30", True),
        (r"4:30\text{ p.m.}", "4:30 a.m.", False),
        (r"4:30\text{ p.m.}", "4:30", True), (r"7{:}45\text{ a.m.}", "07:45", True), ("12:00", "1:00", False),
        ("8:15", "16:30", False),
        ("July 4, 1776", "4th of July 1776", True), ("July 4", "July 5", False), ("3:2", "6:4", True),
        ("3:2", "2:3", False), ("5:8", r"\frac58", True),
        ("3:5", r"3\text{ to }5", True), ("1011_2", r"1011_{\text{two}}", True), ("1011_2", "1011_3", False),
        ("110_2", "6", False), ("1101_2", "01101_2", True),
    ],
)  # fmt: skip
def test_answers_in_words_compare(gold: str, answer: str, is_equal: bool) -> None:
    assert compare(read_gold(gold), answer, bounded=True).result is is_equal


def test_words_are_read_as_what_they_are() -> None:
    assert phrase("x^2") is None
    assert choice("AB") == Choice(frozenset("AB"), is_bare=True)
    assert choice("BA") is None
    assert clock("4.30") is None
    assert clock("25:00") is None
    assert clock("12:05 a.m.") == Clock(5, has_half=True)
    assert date("2024-02-29") == Date(2024, 2, 29)
    assert number_word("ninety nine") == 99
