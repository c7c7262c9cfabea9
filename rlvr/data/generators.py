"""Procedural problems: endless, seeded, and split so that train, dev and test never share a
problem.

Draw i of a split is a pure function of (seed, split, i). A problem belongs to a split by a stable
hash of its canonical key alone, so the splits stay disjoint whatever the settings of the two sources.
"""

import difflib
import random
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from rlvr.data.problems import Countdown, Demonstrator, Generator, Key, Problem, SortDigits, Sums, key_text
from rlvr.data.seeding import stable_hash
from rlvr.errors import ConfigError
from rlvr.records import Json

TEST_SHARE = 0.20
DEV_SHARE = 0.16
SPLITS = ("train", "dev", "test")
_MAX_REJECTED = 10_000


GENERATORS: dict[str, type[Any]] = {kind.name: kind for kind in (Sums, SortDigits, Countdown)}


class ProblemDraws:
    """The draws of one split of one generator.

    If all problems can be enumerated they are cycled through, reshuffled each epoch: no problem repeats before
    all have been drawn. Otherwise train draws are independent, while dev and test draws skip earlier draws.
    """

    def __init__(self, generator: Generator, *, split: str, seed: int) -> None:
        self.generator = generator
        self._split = split
        self._seed = seed
        keys = generator.keys()
        self._keys = None if keys is None else [k for k in keys if split_of(generator.name, k) == split]
        self._order: tuple[int, list[int]] = (-1, [])
        self._distinct: list[Key] = []
        self._distinct_seen: set[Key] = set()
        self._num_tried = 0
        if self._keys is not None and not self._keys:
            raise ConfigError(
                f"generator {generator.name!r} has no problem in split {split!r} with these settings; widen them"
            )

    @property
    def can_demonstrate(self) -> bool:
        """Whether the generator has demonstrations."""
        return isinstance(self.generator, Demonstrator)

    def problem(self, index: int) -> Problem:
        """The problem of draw `index`."""
        return self.generator.render(self._key(index), self._rng("render", index))

    def demonstration(self, index: int) -> str:
        """An imperfect answer to draw `index`. Raises ConfigError if the generator has none."""
        if not isinstance(self.generator, Demonstrator):
            raise ConfigError(f"generator {self.generator.name!r} has no demonstrations")
        return self.generator.demonstrate(self.problem(index), self._rng("demonstrate", index))

    def _rng(self, purpose: str, index: int) -> random.Random:
        return random.Random(stable_hash(self._seed, self._split, purpose, index))

    def _key(self, index: int) -> Key:
        if self._keys is not None:
            epoch, position = divmod(index, len(self._keys))
            if self._order[0] != epoch:
                order = list(range(len(self._keys)))
                self._rng("epoch", epoch).shuffle(order)
                self._order = (epoch, order)
            return self._keys[self._order[1][position]]
        if self._split == "train":
            return self._drawn(self._rng("draw", index))
        return self._distinct_key(index)

    def _drawn(self, rng: random.Random) -> Key:
        for _ in range(_MAX_REJECTED):
            key = self.generator.draw_key(rng)
            if split_of(self.generator.name, key) == self._split:
                return key
        raise ConfigError(
            f"generator {self.generator.name!r} finds no problem in split {self._split!r} with "
            "these settings; widen them"
        )

    def _distinct_key(self, index: int) -> Key:
        misses = 0
        while len(self._distinct) <= index and misses < _MAX_REJECTED:
            key = self._drawn(self._rng("draw", self._num_tried))
            self._num_tried += 1
            if key in self._distinct_seen:
                misses += 1
                continue
            misses = 0
            self._distinct_seen.add(key)
            self._distinct.append(key)
        return self._distinct[index % len(self._distinct)]


def open_generator(name: str, *, settings: Mapping[str, Json], split: str, seed: int) -> ProblemDraws:
    """The draws of a registered generator.

    Raises:
        ConfigError: unknown generator, split or setting, or settings that leave a split without
        problems.
    """
    if name not in GENERATORS:
        close = difflib.get_close_matches(name, GENERATORS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"generator {name!r} does not exist. There are: {', '.join(sorted(GENERATORS))}.{hint}")
    if split not in SPLITS:
        raise ConfigError(f"generator {name!r} has no split {split!r}; it has {', '.join(SPLITS)}")
    kind = GENERATORS[name]
    try:
        checked = kind.Settings.model_validate(dict(settings))
    except ValidationError as error:
        known = ", ".join(kind.Settings.model_fields)
        faults = "; ".join(_fault(detail) for detail in error.errors())
        raise ConfigError(f"generator {name!r}: {faults}. Settings there are: {known}") from error
    return ProblemDraws(kind(checked), split=split, seed=seed)


def split_of(name: str, key: Key) -> str:
    """The split of a problem, a function of its key alone.

    >>> split_of("sums", (10, 10)) == split_of("sums", (10, 10))
    True
    """
    share = stable_hash("split", name, key_text(key)) / 2**64
    if share < TEST_SHARE:
        return "test"
    return "dev" if share < TEST_SHARE + DEV_SHARE else "train"


def _fault(detail: Any) -> str:
    where = ".".join(map(str, detail["loc"])) or "settings"
    return f"{where}={detail['input']!r}: {detail['msg']}" if detail["loc"] else detail["msg"]
