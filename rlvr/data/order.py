"""The order of prompts: sources mixed by weight, each traversed in shuffled epochs, resumable at
any prompt.

The state is a handful of counters. Draw n depends on (seed, counters) alone, never on the time or
on who asks.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rlvr.data.seeding import stable_hash
from rlvr.errors import CheckpointError, DataError
from rlvr.records import Prompt

MAX_LONG_DRAWS = 1000  # of an endless source, one after another, before it counts as all too long


class PromptSource(Protocol):
    """A source of prompts by number."""

    @property
    def name(self) -> str:
        """Its name in metrics and prompt ids."""
        ...

    @property
    def num_rows(self) -> int | None:
        """How many prompts there are; None when endless."""
        ...

    def prompt(self, index: int) -> Prompt:
        """The prompt of that number, from 0; always the same one."""
        ...


@dataclass(slots=True)
class _Cursor:
    """Where one source stands: prompts issued, draws made (issued and skipped), and whether all
    are too long.
    """

    issued: int = 0
    drawn: int = 0
    num_too_long: int = 0
    is_dry: bool = False


class PromptStream:
    """An endless, reproducible stream of prompts.

    Sources take turns so that each one's share of what was issued stays within one prompt of its
    weight's share. A finite source repeats no row within an epoch.

    Args:
        sources: at least one. weights: positive, one a source; only their ratios matter.
        seed: decides the shuffling. shuffle: False keeps the rows of finite sources in their order.
        is_too_long: True for a prompt that must be skipped; asked once a row of a finite source.
    """

    def __init__(
        self,
        sources: Sequence[PromptSource],
        *,
        weights: Sequence[float],
        seed: int,
        shuffle: bool = True,
        is_too_long: Callable[[Prompt], bool] | None = None,
    ) -> None:
        if not sources or len(sources) != len(weights) or min(weights) <= 0:
            raise ValueError(
                f"need one positive weight a source, got {len(sources)} sources and weights "
                f"{weights!r}"
            )
        self.sources = tuple(sources)
        self._weights = tuple(weights)
        self._seed = seed
        self._shuffle = shuffle
        self._is_too_long = is_too_long
        self._cursors = [_Cursor() for _ in sources]
        self._orders: list[tuple[int, list[int]]] = [(-1, []) for _ in sources]
        self._long_rows: list[dict[int, bool]] = [{} for _ in sources]

    @property
    def num_issued(self) -> int:
        """How many prompts `take` has returned; the next issue index."""
        return sum(cursor.issued for cursor in self._cursors)

    @property
    def num_too_long(self) -> dict[str, int]:
        """Draws skipped as too long, by source; a row counts once an epoch."""
        pairs = zip(self.sources, self._cursors, strict=True)
        return {source.name: cursor.num_too_long for source, cursor in pairs}

    def take(self) -> tuple[int, Prompt]:
        """The next prompt with its global issue index, from 0.

        Raises:
            DataError: every prompt of every source is too long.
        """
        index = self.num_issued
        while True:
            which = self._next_source()
            prompt = self._draw(which)
            if prompt is None:
                self._cursors[which].is_dry = True
                continue
            self._cursors[which].issued += 1
            return index, prompt

    def state(self) -> dict[str, Any]:
        """The position as a JSON object."""
        return {
            "seed": self._seed,
            "shuffle": self._shuffle,
            "sources": [
                {
                    "name": source.name,
                    "num_rows": source.num_rows,
                    "weight": weight,
                    "issued": cursor.issued,
                    "drawn": cursor.drawn,
                    "num_too_long": cursor.num_too_long,
                    "is_dry": cursor.is_dry,
                }
                for source, weight, cursor in zip(
                    self.sources, self._weights, self._cursors, strict=True
                )
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to a stored position.

        Raises:
            CheckpointError: the state belongs to other sources, weights or another seed.
        """
        for stored, here in zip(_identity(state), _identity(self.state()), strict=True):
            if stored != here:
                raise CheckpointError(
                    f"the stored data position belongs to other data: stored {stored!r}, now "
                    f"{here!r}; resume with the "
                    "recipe and the data of the run, or start a fresh run directory"
                )
        self._cursors = [
            _Cursor(
                issued=int(item["issued"]),
                drawn=int(item["drawn"]),
                num_too_long=int(item["num_too_long"]),
                is_dry=bool(item["is_dry"]),
            )
            for item in state["sources"]
        ]

    def _next_source(self) -> int:
        """The source that lags furthest behind its share; the first of equals."""
        alive = [i for i, cursor in enumerate(self._cursors) if not cursor.is_dry]
        if not alive:
            skipped = ", ".join(f"{name}: {count}" for name, count in self.num_too_long.items())
            raise DataError(
                f"every prompt of every source is too long (skipped: {skipped}); raise "
                "data.max_prompt_tokens or "
                "shorten the prompts"
            )
        total = sum(self._weights[i] for i in alive)
        issued = sum(self._cursors[i].issued for i in alive) + 1
        return max(
            alive, key=lambda i: (self._weights[i] / total * issued - self._cursors[i].issued, -i)
        )

    def _draw(self, which: int) -> Prompt | None:
        """The next prompt of a source that is short enough; None when a whole epoch had none."""
        source, cursor = self.sources[which], self._cursors[which]
        num_rows = source.num_rows
        # Two epochs of draws always contain one whole epoch, wherever they begin.
        for _ in range(MAX_LONG_DRAWS if num_rows is None else 2 * num_rows):
            row = self._row_of(which, cursor.drawn)
            cursor.drawn += 1
            if num_rows is not None and self._long_rows[which].get(row):
                cursor.num_too_long += 1
                continue
            prompt = source.prompt(row)
            if self._is_too_long is None or self._long_rows[which].get(row) is False:
                return prompt
            is_long = self._is_too_long(prompt)
            if num_rows is not None:
                self._long_rows[which][row] = is_long
            if not is_long:
                return prompt
            cursor.num_too_long += 1
        return None

    def _row_of(self, which: int, draw: int) -> int:
        num_rows = self.sources[which].num_rows
        if num_rows is None:
            return draw
        epoch, position = divmod(draw, num_rows)
        if not self._shuffle:
            return position
        if self._orders[which][0] != epoch:
            order = list(range(num_rows))
            seed = stable_hash(self._seed, self.sources[which].name, "epoch", epoch)
            random.Random(seed).shuffle(order)
            self._orders[which] = (epoch, order)
        return self._orders[which][1][position]


def _identity(state: Mapping[str, Any]) -> list[Any]:
    sources = [(item["name"], item["num_rows"], item["weight"]) for item in state["sources"]]
    return [("seed", state["seed"]), ("shuffle", state["shuffle"]), ("sources", sources)]
