"""Small sets of rows for audits, by kind of reference."""

import json
from pathlib import Path
from typing import Any

_NUMBERS = ("42", "7", "-15", "128", "1000", "3", "56", "91", "12", "60", "-4", "365")
_WORDS = (
    "Paris", "green turtle", "photosynthesis", "New York City", "oxygen", "Leonardo da Vinci", "the red house",
    "copper", "Tuesday", "binary search", "Jupiter", "black coffee",
)  # fmt: skip
_ANIMALS = ("a, b, c", "cat, dog", "x, y", "red, blue, green", "1, 2", "p, q, r", "up, down", "7, 8, 9")
REFERENCES: dict[str, list[Any]] = {
    "numbers": list(_NUMBERS),
    "decimals": ["3.14", "0.5", "12.75", "-2.5", "100.25", "7.125", "42", "0.333", "1.5", "88.8"],
    "letters": list("ABCDBADCCABD"),
    "words": list(_WORDS),
    "latex": [r"\frac{1}{2}", "x+3", "7", r"\sqrt{5}", "2x^2", r"(1,2)", "12", r"\frac{3}{7}", "5", "x^2+1"],
    "separated": ["1,200", "15", "3,450", "7", "12,000", "88"],
    "lists": list(_ANIMALS),
    "yes_no": ["yes", "no", "yes", "yes", "no", "no", "yes", "no"],
    "units": ["5 km", "12 cm", "7 kg", "30 m", "250 g", "18 s"],
    "dates": ["1969-07-20", "1989-11-09", "1492-10-12", "2001-01-01", "1776-07-04", "1945-05-08"],
    "objects": [{"name": "Ada", "age": 36}, {"a": [1, 2]}, {"ok": True}, {"city": "Oslo"}, {"n": 7}, {"k": "v"}],
    "code": [f"assert add(2, {n}) == {n + 2}\nassert add(0, 0) == 0" for n in range(3, 9)],
}
_QUESTIONS = {
    "letters": "Which of these is right? A) one B) two C) three D) four",
    "code": "Write a function add(a, b) that returns the sum.",
}
_SOLUTION = "Here it is.\n```python\ndef add(a, b):\n    return a + b\n```"


def rows_of(kind: str) -> list[dict[str, Any]]:
    """Rows of `prompt`, `reference` and, for code, `completion`."""
    question = _QUESTIONS.get(kind, "Question")
    rows = [{"prompt": f"{question} (number {n} of the list)?", "reference": r} for n, r in enumerate(REFERENCES[kind])]
    if kind == "code":
        rows = [row | {"completion": _SOLUTION} for row in rows]
    return rows


def write_rows(path: Path, kind: str) -> Path:
    """Writes the rows as JSON Lines, and returns the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(kind)), encoding="utf-8")
    return path
