"""The side that imports reasoning-gym: scores answers and draws rows. Imports only the standard library and that.

It runs in the interpreter that has the package, which need not be rlvr's, so it must not import rlvr. As a script it
reads one request as JSON from standard input and writes lines of JSON to standard output:

    {"op": "version"}                                                   -> {"version"}
    {"op": "draw", "tasks": {name: {"weight", "config"}}, "seed", "split", "size"}
                                                -> rows, as `draw` yields them, and {"num_rows"} at the end
"""

import bisect
import hashlib
import importlib
import importlib.metadata
import itertools
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

PACKAGE = "reasoning-gym"
_MODULE = "reasoning_gym"
MIXED = "composite"  # reasoning-gym's own name for a mixture of its tasks; the mixture here is ours
TEST_SHARE = 0.20
DEV_SHARE = 0.16
# Entry i of a data set is drawn with the seed `seed + i`, and a few tasks also depend on the size of their data set. So
# draw n is entry n % _CHUNK of a data set of this size whose seed is higher by n - n % _CHUNK.
_CHUNK = 1000
_MAX_MISSES = 200  # draws of known questions in a row, after which a task counts as used up
_SEED_RANGE = 2**31
_PAIRS, _TUPLE, _FRACTION = "$pairs", "$tuple", "$fraction"
_MARKS = (_PAIRS, _TUPLE, _FRACTION)


def encode(value: Any) -> Any:
    """A value as JSON from which `decode` restores it: tuples, fractions and keys that are not text are marked.

    Raises: TypeError for a type that would not come back equal.

    >>> encode({"range": (1, 2), "colours": {0: "red"}})
    {'range': {'$tuple': [1, 2]}, 'colours': {'$pairs': [[0, 'red']]}}
    """
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value) and value.keys().isdisjoint(_MARKS):
            return {str(key): encode(item) for key, item in value.items()}
        return {_PAIRS: [[encode(key), encode(item)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [encode(item) for item in value]}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, Fraction):
        return {_FRACTION: [value.numerator, value.denominator]}
    if isinstance(value, str):
        return str(value)  # numpy's subclass too
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"the number {value} has no form in JSON")
        return float(value)
    if value is None or isinstance(value, bool | int):
        return value
    if getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None)):
        return encode(value.item())  # a scalar of numpy equals its plain value
    raise TypeError(f"a value of type {type(value).__module__}.{type(value).__name__} has no form in JSON")


def decode(value: Any) -> Any:
    """The value that `encode` was given.

    >>> decode({"range": {"$tuple": [1, 2]}, "colours": {"$pairs": [[0, "red"]]}})
    {'range': (1, 2), 'colours': {0: 'red'}}
    """
    if isinstance(value, dict):
        if value.keys() == {_TUPLE}:
            return tuple(decode(item) for item in value[_TUPLE])
        if value.keys() == {_FRACTION}:
            return Fraction(*value[_FRACTION])
        if value.keys() == {_PAIRS}:
            return {decode(key): decode(item) for key, item in value[_PAIRS]}
        return {key: decode(item) for key, item in value.items()}
    return [decode(item) for item in value] if isinstance(value, list) else value


class Scorers:
    """The package's scorers by task and config, made when they are first asked for."""

    def __init__(self) -> None:
        """Raises: ImportError when the package is not there."""
        self._package: Any = importlib.import_module(_MODULE)
        self._made: dict[tuple[str, str], Callable[[str | None, dict[str, Any]], float]] = {}

    def prepare(self, task: str, config: Mapping[str, Any]) -> None:
        """Makes a scorer. Raises: ValueError for an unknown task; whatever the package raises on its config."""
        key = (task, json.dumps(config, sort_keys=True))
        if key not in self._made:
            made = self._package.create_dataset(task, **{"size": 1, "seed": 0, **decode(dict(config))})
            self._made[key] = made.score_answer

    def score(self, task: str, config: Mapping[str, Any], answer: str, entry: Mapping[str, Any]) -> float:
        """The package's score of an answer; the entry is that of a row, still encoded.

        Raises: whatever the scorer raises.
        """
        self.prepare(task, config)
        scorer = self._made[task, json.dumps(config, sort_keys=True)]
        return float(scorer(answer, decode(dict(entry))))


def version() -> str:
    """The version of the package; "" when it is not there."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return ""


def split_of(task: str, question: str) -> str:
    """The split of a question, a function of its text alone: 64 % train, 16 % dev, 20 % test."""
    share = _hash("split", task, question) / 2**64
    if share < TEST_SHARE:
        return "test"
    return "dev" if share < TEST_SHARE + DEV_SHARE else "train"


def draw(tasks: Mapping[str, Mapping[str, Any]], *, seed: int, split: str, size: int) -> Iterator[dict[str, Any]]:
    """Distinct questions of one split, each with its encoded entry; fewer than `size` when the tasks have no more.

    Args: tasks: by name, the `weight` of a task among the rows, and the `config` of its data set.

    Raises: ValueError for an unknown task; whatever the package raises on a config.
    """
    drawers = {name: _questions(name, given["config"], seed=seed, split=split) for name, given in tasks.items()}
    number = 0
    for pick in itertools.count():
        if number >= size or not drawers:
            return
        names = list(drawers)
        upto = list(itertools.accumulate(tasks[name]["weight"] for name in names))
        place = _hash("task", seed, split, pick) / 2**64 * upto[-1]
        name = names[min(bisect.bisect_right(upto, place), len(names) - 1)]
        found = next(drawers[name], None)
        if found is None:
            del drawers[name]
            continue
        index, entry = found
        number += 1
        yield {"id": f"{name}-{index}", "task": name, "config": tasks[name]["config"], "entry": entry}


def _questions(name: str, config: Mapping[str, Any], *, seed: int, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the draw, entry) of the distinct questions of one task and split, until hardly any is new."""
    package: Any = importlib.import_module(_MODULE)
    base = _hash("seed", seed, name) % _SEED_RANGE
    seen: set[str] = set()
    data: Any = None
    num_misses = 0
    for index in itertools.count():
        if index % _CHUNK == 0:
            own = {**decode(dict(config)), "size": _CHUNK, "seed": base + index}
            data = package.create_dataset(name, **own)
        entry = data[index % _CHUNK]
        question = str(entry["question"])
        num_misses = num_misses + 1 if question in seen else 0
        if num_misses >= _MAX_MISSES:
            return
        if question in seen:
            continue
        seen.add(question)
        if split_of(name, question) == split:
            kept = {key: entry[key] for key in ("question", "answer", "metadata")}
            yield index, encode(kept)


def _hash(*parts: object) -> int:
    """64 bits, the same in every process."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def main() -> None:
    """Answers one request; what the package prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    if request["op"] == "version":
        answers.write(json.dumps({"version": version()}) + "\n")
        answers.close()
        return
    rows = draw(request["tasks"], seed=request["seed"], split=request["split"], size=request["size"])
    number = 0
    for row in rows:
        answers.write(json.dumps(row) + "\n")
        number += 1
    answers.write(json.dumps({"num_rows": number}) + "\n")
    answers.close()


if __name__ == "__main__":
    main()
