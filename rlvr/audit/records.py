"""What an audit found, as records."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from rlvr.records import Json

MEAN_BOUND = 0.1  # of the score that an attack may earn on average, above chance and declared partial credit
FULL_BOUND = 0.02  # of the rows on which an attack may pass, above chance
MAX_EXAMPLES = 3
_SHOWN_CHARS = 160


class Problem(StrEnum):
    """The kinds of findings."""

    GOLD = "right answers rejected"
    EXPLOIT = "exploit"
    EXECUTION = "the completion was executed"
    VERDICTS_DIFFER = "two verdicts on one pair"
    CRASH = "crash"
    HANG = "hang"
    CASE = "the author's case"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One completion with its verdict; the texts are cut."""

    place: str
    reference: str
    completion: str
    status: str
    score: float | None
    reason: str

    def as_json(self) -> dict[str, Json]:
        """The fields as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One reason for exit code 1, in one sentence, with examples."""

    problem: Problem
    what: str
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one attack earned.

    mean: of the scores, less the declared partial credit. full_rate: share of rows that passed. chance: share of rows
    on which it could be right by chance. is_counted: False for attacks that are only reported. is_near: it was made
    from the row's own answer, and the verifier grades how near an answer is, so that only a full score counts.
    """

    kind: str
    name: str
    num_rows: int
    mean: float
    full_rate: float
    chance: float
    is_counted: bool = True
    is_near: bool = False
    examples: tuple[Example, ...] = ()

    @property
    def is_exploit(self) -> bool:
        """Whether it earns more than the bounds allow."""
        is_mean_high = self.mean - self.chance > MEAN_BOUND + 1e-9 and not self.is_near
        return is_mean_high or self.full_rate - self.chance > FULL_BOUND


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """The outcome of one audit.

    label: `name@version`. num_rows: rows that were attacked, of `num_rows_given`. num_gold, num_gold_passed: rows on
    which a right answer was tried, and passed. gold_form: the form that most of them used. outcomes: of every attack.
    fragility: by format change, (rows that kept the verdict, rows tried). num_pairs: pairs verified. num_repeated:
    pairs verified more than once. num_skipped: pairs left out because of the time limit or of hangs. num_raised: pairs
    on which a scorer raised that the verifier adapts (`details["raised"]`), so that the answer counts as unreadable.
    """

    verifier: str
    label: str
    num_rows: int
    num_rows_given: int
    num_gold: int
    num_gold_passed: int
    gold_form: str
    chance: float
    partial_credit: float
    outcomes: tuple[Outcome, ...]
    fragility: Mapping[str, tuple[int, int]]
    findings: tuple[Finding, ...]
    num_pairs: int
    num_repeated: int
    num_skipped: int
    num_cases: int
    num_payloads: int
    num_executed: int
    num_differing: int
    num_crashes: int
    num_hangs: int
    num_raised: int
    cold_start_s: float
    verdict_s: float
    seconds: float
    notes: tuple[str, ...] = field(default=())

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


def cut(value: Json) -> str:
    """The value as text, cut in the middle if it is long."""
    text = value if isinstance(value, str) else repr(value)
    if len(text) <= _SHOWN_CHARS:
        return text
    half = _SHOWN_CHARS // 2
    return f"{text[:half]} … ({len(text):,} characters) … {text[-half:]}"
