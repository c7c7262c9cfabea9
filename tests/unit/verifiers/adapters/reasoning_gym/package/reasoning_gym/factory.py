"""The tasks of the stand-in."""

import sys
from dataclasses import dataclass
from random import Random
from typing import Any


@dataclass
class Config:
    """Parameters that all tasks share."""

    size: int = 500
    seed: int = 0
    low: int = 0
    high: int = 999

    def validate(self) -> None:
        """Raises: AssertionError."""
        assert self.low < self.high, "low must be below high"


class Sums:
    """Adds two numbers; an answer that contains the right one earns the share of its length."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __getitem__(self, index: int) -> dict[str, Any]:
        draws = Random(self.config.seed + index)
        a, b = (draws.randint(self.config.low, self.config.high) for _ in range(2))
        return self.entry(a, b)

    def entry(self, a: int, b: int) -> dict[str, Any]:
        """The entry of two numbers."""
        return {"question": f"{a} + {b} = ?", "answer": str(a + b), "metadata": {"difficulty": {"range": (0, 999)}}}

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        """1 for the right answer."""
        if not answer or entry["answer"] not in answer:
            return 0.0
        return len(entry["answer"]) / len(answer)


class Grids(Sums):
    """Scores only entries whose metadata has kept its types."""

    def entry(self, a: int, b: int) -> dict[str, Any]:
        """An entry with a tuple and a dictionary with numbers as keys."""
        return super().entry(a, b) | {"metadata": {"cells": ((a, b), (b, a)), "by_number": {a: "first"}}}

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        """As sums, or 0.1 for an entry that JSON has changed."""
        cells, by_number = entry["metadata"]["cells"], entry["metadata"]["by_number"]
        is_whole = isinstance(cells, tuple) and isinstance(cells[0], tuple) and by_number[cells[0][0]] == "first"
        return super().score_answer(answer, entry) if is_whole else 0.1


class Raises(Sums):
    """Reads a number, and raises on any other text."""

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        """Raises: ValueError."""
        return float(int(answer or "") == int(entry["answer"]))


class PaysAll(Sums):
    """Pays for any text."""

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        """1 for any text."""
        return float(bool(answer))


class Rounds(Sums):
    """Adds its score up, which goes a little above 1; gives 2 for the text `two`."""

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        """Up to 1.0000000000000002, or 2."""
        return 2.0 if answer == "two" else super().score_answer(answer, entry) * 1.0000000000000002


class Executes(Sums):
    """Evaluates the answer."""

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        """1 for an expression with the right value. Raises: all kinds of errors."""
        return float(eval(answer or "0") == int(entry["answer"]))


class NoGold(Sums):
    """Has an example in place of a gold answer."""

    def entry(self, a: int, b: int) -> dict[str, Any]:
        """An entry without an answer."""
        return super().entry(a, b) | {"answer": None, "metadata": {"example_answer": str(a + b)}}

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        """1 for the sum."""
        return float(answer == entry["metadata"]["example_answer"])


class BadGold(Sums):
    """Does not accept its own answer."""

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        """Always one half."""
        return 0.5


class Prints(Sums):
    """Writes to standard output while it draws and scores, as some tasks do."""

    def entry(self, a: int, b: int) -> dict[str, Any]:
        """Writes."""
        sys.stdout.write("drawing\n")
        return super().entry(a, b)

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        """Writes."""
        sys.stdout.write("scoring\n")
        return super().score_answer(answer, entry)


DATASETS = {
    "sums": (Sums, Config),
    "grids": (Grids, Config),
    "raises": (Raises, Config),
    "pays_all": (PaysAll, Config),
    "rounds": (Rounds, Config),
    "executes": (Executes, Config),
    "no_gold": (NoGold, Config),
    "bad_gold": (BadGold, Config),
    "prints": (Prints, Config),
}


def create_dataset(name: str, **parameters: Any) -> Any:
    """A data set by name. Raises: ValueError for an unknown name."""
    if name not in DATASETS:
        raise ValueError(f"Dataset '{name}' not registered")
    kind, config = DATASETS[name]
    made = config(**parameters)
    made.validate()
    return kind(made)
