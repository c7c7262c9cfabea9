"""The order of prompts: sources mixed by weight, each traversed in shuffled epochs, resumable at
any prompt.

The state is a handful of counters, plus the prompts that were issued and are not yet trained or dropped: after a
restart these are issued again first, under their old index, so that none is lost or repeated. Draw n depends only
on (seed, counters), never on the time or the caller.
"""

import logging
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from rlvr.data.seeding import stable_hash
from rlvr.errors import DataError, OtherCheckpoint
from rlvr.records import Prompt

logger = logging.getLogger(__name__)

LONG_ADVICE = "raise data.max_prompt_tokens or shorten the prompts"
MAX_LONG_DRAWS = 1000  # consecutive draws of an endless source, before all its prompts count as too long
MAX_PASSED = 1000  # consecutive draws passed over, before the next one is accepted regardless


class Choice(StrEnum):
    """What happens to a drawn prompt of a finite source."""

    TAKE = "take"
    PASS = "pass"  # not this time
    RETIRE = "retire"  # never again


Choose = Callable[[Prompt, int], Choice]
"""Decides on a prompt and the number of its draw in its source."""


class PoolExhausted(Exception):  # noqa: N818 - not an error: every prompt was retired
    """No source has a prompt left to issue."""


@dataclass(frozen=True, slots=True)
class Issue:
    """An issued prompt: its issue index, and how many epochs of its source were complete."""

    index: int
    prompt: Prompt
    epoch: int


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

    def place(self, index: int) -> str:
        """The file and line it was read from; "" if it is generated."""
        ...


@dataclass(slots=True)
class _Cursor:
    """The position in one source: prompts issued; draws made, and how many of them were too long,
    passed over or retired; and whether it has no prompt left.
    """

    issued: int = 0
    drawn: int = 0
    num_too_long: int = 0
    num_passed: int = 0
    num_retired: int = 0
    is_dry: bool = False


class PromptStream:
    """An endless, reproducible stream of prompts.

    Sources alternate so that each one's share of the issued prompts stays within one prompt of its
    weight's share. A finite source repeats no row within an epoch.

    Args:
        sources: at least one. weights: positive, one per source; only their ratios matter.
        seed: of the shuffling. shuffle: False keeps the rows of finite sources in their order.
        is_too_long: True for a prompt that must be skipped; called once per row of a finite source.
        long_advice: what to do when every prompt is too long.
    """

    def __init__(
        self,
        sources: Sequence[PromptSource],
        *,
        weights: Sequence[float],
        seed: int,
        shuffle: bool = True,
        is_too_long: Callable[[Prompt], bool] | None = None,
        long_advice: str = LONG_ADVICE,
    ) -> None:
        if not sources or len(sources) != len(weights) or min(weights) <= 0:
            raise ValueError(f"need one positive weight per source, got {len(sources)} sources and weights {weights!r}")
        self.sources = tuple(sources)
        self._weights = tuple(weights)
        self._seed = seed
        self._shuffle = shuffle
        self._is_too_long = is_too_long
        self._long_advice = long_advice
        self._choose: Choose | None = None
        self._cursors = [_Cursor() for _ in sources]
        self._orders: list[tuple[int, list[int]]] = [(-1, []) for _ in sources]
        self._long_rows: list[dict[int, bool]] = [{} for _ in sources]
        self._open: dict[int, tuple[int, int]] = {}  # issue index -> (source, draw)
        self._again: deque[int] = deque()  # open issues that are issued again before anything new

    def choose_by(self, choose: Choose) -> None:
        """Lets `choose` decide on each drawn prompt of a finite source; endless sources repeat none."""
        self._choose = choose

    @property
    def num_issued(self) -> int:
        """How many prompts were issued; the index of the next new one."""
        return sum(cursor.issued for cursor in self._cursors)

    @property
    def num_too_long(self) -> dict[str, int]:
        """Draws skipped as too long, by source; a row counts once per epoch."""
        pairs = zip(self.sources, self._cursors, strict=True)
        return {source.name: cursor.num_too_long for source, cursor in pairs}

    @property
    def num_passed(self) -> int:
        """Draws that were passed over, or whose prompt was retired."""
        return sum(cursor.num_passed + cursor.num_retired for cursor in self._cursors)

    def take(self) -> Issue:
        """The next prompt with its issue index, from 0; after `restore` open issues come first.

        Raises:
            DataError: every prompt of every source is too long.
            PoolExhausted: none is left because prompts were retired.
        """
        if self._again:
            index = self._again.popleft()
            which, draw = self._open[index]
            prompt = self.sources[which].prompt(self._row_of(which, draw))
            return Issue(index, prompt, self._epoch(which, draw))
        index = self.num_issued
        while True:
            which = self._next_source()
            found = self._draw(which)
            if found is None:
                self._cursors[which].is_dry = True
                self._report_dry(which)
                continue
            draw, prompt = found
            self._cursors[which].issued += 1
            self._open[index] = (which, draw)
            return Issue(index, prompt, self._epoch(which, draw))

    def is_exhausted(self) -> bool:
        """Whether `take` would raise PoolExhausted. The prompt found here is the next one taken."""
        if self._choose is None or self._again:
            return False
        try:
            issue = self.take()
        except PoolExhausted:
            return True
        self._again.appendleft(issue.index)
        return False

    def settle(self, index: int) -> None:
        """Records that the prompt of this issue was trained or dropped, so that it is not issued again."""
        del self._open[index]

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
                    "num_passed": cursor.num_passed,
                    "num_retired": cursor.num_retired,
                    "is_dry": cursor.is_dry,
                }
                for source, weight, cursor in zip(self.sources, self._weights, self._cursors, strict=True)
            ],
            "open": [
                {"index": index, "source": self.sources[which].name, "draw": draw}
                for index, (which, draw) in sorted(self._open.items())
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a stored position.

        Raises:
            OtherCheckpoint: the state belongs to other sources, weights or another seed.
        """
        for stored, here in zip(_identity(state), _identity(self.state()), strict=True):
            if stored != here:
                raise OtherCheckpoint(
                    f"the stored data position belongs to other data: stored {stored!r}, now "
                    f"{here!r}; resume with the "
                    "recipe and the data of the run, or start a fresh run directory"
                )
        counters = ("issued", "drawn", "num_too_long", "num_passed", "num_retired")
        self._cursors = [
            _Cursor(**{key: int(item[key]) for key in counters}, is_dry=bool(item["is_dry"]))
            for item in state["sources"]
        ]
        number = {source.name: i for i, source in enumerate(self.sources)}
        self._open = {int(item["index"]): (number[item["source"]], int(item["draw"])) for item in state["open"]}
        self._again = deque(sorted(self._open))

    def _next_source(self) -> int:
        """The source that lags furthest behind its share; the first of equals."""
        alive = [i for i, cursor in enumerate(self._cursors) if not cursor.is_dry]
        if not alive:
            if any(cursor.num_retired for cursor in self._cursors):
                raise PoolExhausted
            skipped = ", ".join(self._skipped(i) for i in range(len(self.sources)))
            raise DataError(f"every prompt of every source is too long (skipped: {skipped}); {self._long_advice}")
        total = sum(self._weights[i] for i in alive)
        issued = sum(self._cursors[i].issued for i in alive) + 1
        return max(alive, key=lambda i: (self._weights[i] / total * issued - self._cursors[i].issued, -i))

    def _skipped(self, which: int) -> str:
        """How many different prompts of a source were too long."""
        source = self.sources[which]
        rows = self._long_rows[which]
        count = self._cursors[which].num_too_long if source.num_rows is None else sum(rows.values())
        return f"{source.name}: {count}"

    def _draw(self, which: int) -> tuple[int, Prompt] | None:
        """The next draw that may be issued, and its prompt; None when a whole epoch had none."""
        source, cursor = self.sources[which], self._cursors[which]
        num_rows = source.num_rows
        # Two epochs of draws always contain one whole epoch, wherever they begin.
        patience = MAX_LONG_DRAWS if num_rows is None else 2 * num_rows
        # Consecutive; a prompt that is passed over now may be taken in the next epoch.
        num_gone = num_passed = 0
        while num_gone < patience:
            draw = cursor.drawn
            cursor.drawn += 1
            prompt = self._short_prompt(which, draw)
            if prompt is None:
                cursor.num_too_long += 1
                num_gone += 1
                continue
            choice = Choice.TAKE
            if self._choose is not None and num_rows is not None:
                choice = self._choose(prompt, draw)
            if choice is Choice.RETIRE:
                cursor.num_retired += 1
                num_gone += 1
            elif choice is Choice.PASS and num_passed < MAX_PASSED:
                cursor.num_passed += 1
                num_passed += 1
                num_gone = 0
            else:
                return draw, prompt
        return None

    def _short_prompt(self, which: int, draw: int) -> Prompt | None:
        """The prompt of a draw, None when it is too long."""
        source, known = self.sources[which], self._long_rows[which]
        row = self._row_of(which, draw)
        if known.get(row):
            return None
        prompt = source.prompt(row)
        if self._is_too_long is None or known.get(row) is False:
            return prompt
        is_long = self._is_too_long(prompt)
        if source.num_rows is not None:
            known[row] = is_long
        return None if is_long else prompt

    def _report_dry(self, which: int) -> None:
        cursor = self._cursors[which]
        why = "was retired or is too long" if cursor.num_retired else "is too long"
        logger.warning("source %r: every prompt of it %s; it leaves the mix", self.sources[which].name, why)

    def _epoch(self, which: int, draw: int) -> int:
        num_rows = self.sources[which].num_rows
        return 0 if num_rows is None else draw // num_rows

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
