"""The families of procedural problems: sums, sorting digits, countdown.

A family defines the canonical key of each problem, words it, and may demonstrate an (imperfect) answer.
"""

import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rlvr.errors import ConfigError
from rlvr.records import Json

Key = tuple[int, ...]

_MAX_ENUMERATED = 200_000
_MAX_REJECTED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem; `key` is the same for all its wordings, `fields` are the values that templates
    may name.
    """

    key: str
    prompt: str
    reference: Json = field(repr=False)
    fields: Mapping[str, Json]


class Settings(BaseModel):
    """Settings of a generator; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Generator(Protocol):
    """A family of problems."""

    name: ClassVar[str]
    Settings: ClassVar[type[BaseModel]]

    def keys(self) -> list[Key] | None:
        """All problems if they can be enumerated; None if there are too many."""
        ...

    def draw_key(self, rng: random.Random) -> Key:
        """A random problem of any split."""
        ...

    def render(self, key: Key, rng: random.Random) -> Problem:
        """The problem in words; `rng` decides what the key does not, such as the order of the numbers."""
        ...


@runtime_checkable
class Demonstrator(Protocol):
    """A generator that can also show an answer, for the cold start."""

    def demonstrate(self, problem: Problem, rng: random.Random) -> str:
        """The answer of an imperfect demonstrator."""
        ...


class SumsSettings(Settings):
    """Both summands lie in low..high."""

    low: int = Field(default=10, ge=0)
    high: int = Field(default=49, ge=0)

    @model_validator(mode="after")
    def _order(self) -> "SumsSettings":
        if self.high < self.low:
            raise ValueError(f"high={self.high} is below low={self.low}")
        return self


class Sums:
    """Addition of two whole numbers; the key is the unordered pair."""

    name: ClassVar[str] = "sums"
    Settings: ClassVar[type[BaseModel]] = SumsSettings

    def __init__(self, settings: SumsSettings) -> None:
        self._settings = settings

    def keys(self) -> list[Key] | None:
        """All unordered pairs, or None if the range is too wide."""
        low, high = self._settings.low, self._settings.high
        if math.comb(high - low + 2, 2) > _MAX_ENUMERATED:
            return None
        return list(itertools.combinations_with_replacement(range(low, high + 1), 2))

    def draw_key(self, rng: random.Random) -> Key:
        """A random unordered pair."""
        low, high = self._settings.low, self._settings.high
        return tuple(sorted((rng.randint(low, high), rng.randint(low, high))))

    def render(self, key: Key, rng: random.Random) -> Problem:
        """The pair in a random order."""
        a, b = key if rng.random() < 0.5 else key[::-1]
        prompt = f"What is {a} + {b}? Reply with only the number."
        return Problem(key=key_text(key), prompt=prompt, reference=str(a + b), fields={"a": a, "b": b})


class SortDigitsSettings(Settings):
    """length digits; sloppy_rate: how often the demonstrator errs."""

    length: int = Field(default=5, ge=3, le=10)
    sloppy_rate: float = Field(default=0.6, ge=0.0, le=1.0)


class SortDigits:
    """Sort digits, "52413:" -> "12345"; at least three are distinct, and the key is their
    multiset.
    """

    name: ClassVar[str] = "sort_digits"
    Settings: ClassVar[type[BaseModel]] = SortDigitsSettings

    def __init__(self, settings: SortDigitsSettings) -> None:
        self._settings = settings

    def keys(self) -> list[Key] | None:
        """All multisets with at least three distinct digits."""
        multisets = itertools.combinations_with_replacement(range(10), self._settings.length)
        return [digits for digits in multisets if len(set(digits)) >= 3]

    def draw_key(self, rng: random.Random) -> Key:
        """A random multiset; unused in practice, because all can be enumerated."""
        while True:
            digits = tuple(sorted(rng.randrange(10) for _ in range(self._settings.length)))
            if len(set(digits)) >= 3:
                return digits

    def render(self, key: Key, rng: random.Random) -> Problem:
        """The digits in a random order, which may already be sorted."""
        digits = list(key)
        rng.shuffle(digits)
        text = "".join(map(str, digits))
        reference = "".join(map(str, key))
        return Problem(key=key_text(key), prompt=f"{text}:", reference=reference, fields={"digits": text})

    def demonstrate(self, problem: Problem, rng: random.Random) -> str:
        """The sorted digits; at sloppy_rate the two largest unequal ones are swapped.

        The mistake is always the same, so that imitation learns it and only a verifier can correct it.
        """
        digits = list(str(problem.reference))
        if rng.random() < self._settings.sloppy_rate:
            last = len(digits) - 1
            below = max(i for i in range(last) if digits[i] != digits[last])
            digits[below], digits[last] = digits[last], digits[below]
        return "".join(digits)


class CountdownSettings(Settings):
    """min_numbers..max_numbers numbers, each in 1..max_number; the target lies in
    min_target..max_target.
    """

    min_numbers: int = Field(default=3, ge=2, le=6)
    max_numbers: int = Field(default=4, ge=2, le=6)
    max_number: int = Field(default=99, ge=2)
    min_target: int = Field(default=10, ge=1)
    max_target: int = Field(default=100, ge=1)

    @model_validator(mode="after")
    def _order(self) -> "CountdownSettings":
        if self.max_numbers < self.min_numbers:
            raise ValueError(f"max_numbers={self.max_numbers} is below min_numbers={self.min_numbers}")
        if self.max_target < self.min_target:
            raise ValueError(f"max_target={self.max_target} is below min_target={self.min_target}")
        return self


class Countdown:
    """Reach a target using each number once (TinyZero's task); solvable, because an expression is
    drawn first.

    The key is the sorted numbers and then the target.
    """

    name: ClassVar[str] = "countdown"
    Settings: ClassVar[type[BaseModel]] = CountdownSettings

    def __init__(self, settings: CountdownSettings) -> None:
        self._settings = settings

    def keys(self) -> list[Key] | None:
        """None: there are too many to enumerate."""
        return None

    def draw_key(self, rng: random.Random) -> Key:
        """Numbers and a target that some expression over all of them reaches."""
        settings = self._settings
        for _ in range(_MAX_REJECTED):
            count = rng.randint(settings.min_numbers, settings.max_numbers)
            numbers = [rng.randint(1, settings.max_number) for _ in range(count)]
            target = _combine(numbers, rng)
            if settings.min_target <= target <= settings.max_target:
                return (*sorted(numbers), target)
        raise ConfigError(
            "generator 'countdown': no problem found with a target in "
            f"{settings.min_target}..{settings.max_target} "
            f"from numbers up to {settings.max_number}; widen the range of targets"
        )

    def render(self, key: Key, rng: random.Random) -> Problem:
        """TinyZero's wording, with the numbers in a random order."""
        numbers, target = list(key[:-1]), key[-1]
        rng.shuffle(numbers)
        prompt = (
            f"Using the numbers {numbers}, create an equation that equals {target}. You can use "
            "basic arithmetic "
            "operations (+, -, *, /) and each number can only be used once. Show your work in "
            "<think> </think> tags. "
            "And return the final answer in <answer> </answer> tags, for example <answer> (1 + 2) "
            "/ 3 </answer>."
        )
        reference = {"numbers": numbers, "target": target}
        fields = {"numbers": str(numbers), "target": target}
        return Problem(key=key_text(key), prompt=prompt, reference=reference, fields=fields)


def key_text(key: Key) -> str:
    """The key as text, for hashing and comparing."""
    return ",".join(map(str, key))


def _combine(numbers: list[int], rng: random.Random) -> int:
    """The value of a random expression that uses every number once; intermediate values are
    positive and whole.
    """
    values = list(numbers)
    rng.shuffle(values)
    while len(values) > 1:
        b, a = values.pop(), values.pop()
        options = [a + b, a * b]
        if a != b:
            options.append(abs(a - b))
        if max(a, b) % min(a, b) == 0:
            options.append(max(a, b) // min(a, b))
        values.append(rng.choice(options))
        rng.shuffle(values)
    return values[0]
