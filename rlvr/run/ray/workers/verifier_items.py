"""The records sent to a verifier pool and back."""

from collections.abc import Mapping
from dataclasses import dataclass

from rlvr.records import Completion, Prompt, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One pair to verify; `settled`: verdicts that the driver could give at once."""

    number: int
    prompt: Prompt
    completion: Completion
    settled: Mapping[str, Verdict]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The verdicts of an item, by check name."""

    number: int
    verdicts: Mapping[str, Verdict]
