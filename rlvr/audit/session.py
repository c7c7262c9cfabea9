"""The verdicts of one audit: which pairs were verified, and what each answered the first time and later."""

import itertools
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from rlvr.audit.records import Example, cut
from rlvr.audit.workers import Answers, Item, has_hung, is_lost, verdicts
from rlvr.records import Status, Verdict

_SCORE_DIFFERENCE = 1e-9
_SHUFFLE_SEED = 7
_MOST_REPEATED = 1500  # pairs that earned something, and as many of all


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One verified pair with its verdict."""

    item: Item
    verdict: Verdict

    def example(self, *, reason: str = "") -> Example:
        """The pair for people."""
        return Example(
            place=self.item.prompt.prompt_id,
            reference=cut(self.item.prompt.reference),
            completion=cut(self.item.text),
            status=self.verdict.status.value,
            score=self.verdict.score,
            reason=cut(reason or self.verdict.reason),
        )


@dataclass(slots=True, kw_only=True)
class Session:
    """Verifies items with `first`, and remembers them, so that they can be repeated.

    Args:
        second: a worker with another hash seed; None if there is none.
        time_limit_s: seconds after which no further item is started.
        tell: shows progress.
    """

    first: Answers
    second: Answers | None
    time_limit_s: float
    tell: Callable[[str], None]
    asked: list[Asked] = field(default_factory=list[Asked])
    num_skipped: int = 0
    num_hangs: int = 0
    start_s: float = field(default_factory=time.monotonic)

    def verify(
        self, items: Sequence[Item], *, what: str = "", share: float = 1.0, at_least: int = 0
    ) -> list[Verdict | None]:
        """The verdict of each item; None for those left out because of hangs or the time limit.

        Args: share: of the time that is left. at_least: number of items that the time limit does not leave out.
        """
        until_s = self._until(share)
        tell = (lambda done: self.tell(f"{what} {done:,}/{len(items):,}")) if what else None
        found = verdicts(self.first, items, until_s=until_s, at_least=at_least, tell=tell)
        hung = [index for index, verdict in enumerate(found) if verdict is not None and has_hung(verdict)]
        if hung:
            self._confirm(items, found, hung[0], until_s)
        for item, verdict in zip(items, found, strict=True):
            if verdict is None:
                self.num_skipped += 1
                continue
            self.num_hangs += has_hung(verdict)
            self.asked.append(Asked(item=item, verdict=verdict))
        return found

    def _confirm(self, items: Sequence[Item], found: list[Verdict | None], index: int, until_s: float) -> None:
        """Tries an item that hung again, alone in a fresh worker; if it answers, the items left out are tried too."""
        found[index] = again = verdicts(self.first, [items[index]], until_s=float("inf"))[0]
        if again is not None and not has_hung(again):
            left = [i for i, verdict in enumerate(found) if verdict is None or has_hung(verdict)]
            answers = verdicts(self.first, [items[i] for i in left], until_s=until_s)
            for i, verdict in zip(left, answers, strict=True):
                found[i] = verdict

    def repeat(self) -> tuple[list[tuple[Asked, Verdict]], int]:
        """(pairs that got another verdict, with that; how many were repeated).

        Repeats in reverse order in the same worker, and in random order in the one with another hash seed.
        """
        able = [asked for asked in self.asked if not is_lost(asked.verdict) and not asked.item.is_alone]
        shuffled = able.copy()
        random.Random(_SHUFFLE_SEED).shuffle(shuffled)
        paid = [asked for asked in able if asked.verdict.score != 0.0]
        chosen = {id(asked) for asked in (*paid[:_MOST_REPEATED], *shuffled[:_MOST_REPEATED])}
        again = [asked for asked in able if id(asked) in chosen]
        shuffled = [asked for asked in shuffled if id(asked) in chosen]
        passes = [(self.first, again[::-1])]
        if self.second is not None:
            passes.append((self.second, shuffled))
        until_s = self._until(1.0)
        with ThreadPoolExecutor(len(passes)) as threads:
            answers = threads.map(lambda one: verdicts(one[0], [a.item for a in one[1]], until_s=until_s), passes)
        different: list[tuple[Asked, Verdict]] = []
        num_repeated = 0
        for (_, order), found in zip(passes, answers, strict=True):
            for asked, verdict in zip(order, found, strict=True):
                if verdict is None or is_lost(verdict):
                    continue
                num_repeated += 1
                if _differ(asked.verdict, verdict):
                    different.append((asked, verdict))
        return different, num_repeated

    def _until(self, share: float) -> float:
        now = time.monotonic()
        return now + share * max(0.0, self.start_s + self.time_limit_s - now)

    def errors(self) -> list[Asked]:
        """The pairs for which the verifier raised an exception."""
        return [asked for asked in self.asked if asked.verdict.status is Status.ERROR and not is_lost(asked.verdict)]

    def lost(self, cause: str) -> list[Asked]:
        """The pairs that hung ("timeout") or killed the worker ("crash")."""
        return [asked for asked in self.asked if asked.verdict.details.get("cause") == cause]

    def mean_s(self) -> float:
        """Seconds of one verdict, on average over items that were not expected to hang."""
        times = [
            asked.verdict.seconds for asked in self.asked if not asked.item.is_alone and not is_lost(asked.verdict)
        ]
        return sum(times) / max(1, len(times))


def _differ(first: Verdict, second: Verdict) -> bool:
    if first.status is not second.status:
        return True
    return abs((first.score or 0.0) - (second.score or 0.0)) > _SCORE_DIFFERENCE


def evenly(count: int, most: int) -> list[int]:
    """At most `most` indices below `count`, evenly spaced, in order.

    >>> evenly(10, 4)
    [0, 2, 5, 7]
    """
    if count <= most:
        return list(range(count))
    return list(dict.fromkeys(itertools.islice((index * count // most for index in range(most)), most)))
