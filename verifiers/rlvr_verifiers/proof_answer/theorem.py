r"""The theorem of a reference: premises and conclusion.

>>> theorem = read_theorem("p -> q, p |- q")
>>> len(theorem.premises), theorem.conclusion
(2, ('atom', 'q'))
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from rlvr.records import Json
from rlvr_verifiers.proof_answer.formulas import Formula, parse_formula, show
from rlvr_verifiers.proof_answer.validity import Undecided, counterexample, is_intuitionistic

_TURNSTILE = re.compile(r"\|-|⊢|\\vdash|∴|\\therefore")
_KEYS = {"premises", "conclusion", "logic"}
_FORM = '\'p -> q, p |- q\' or {"premises": ["p -> q", "p"], "conclusion": "q"}, with "logic" if it is not the setting'
_MAX_CHARS = 5_000


class Logic(StrEnum):
    """Which rules a derivation may use."""

    CLASSICAL = "classical"
    INTUITIONISTIC = "intuitionistic"  # without double negation elimination, excluded middle and proof by contradiction


@dataclass(frozen=True, slots=True)
class Theorem:
    """What a derivation must derive. logic: None if the setting decides."""

    premises: tuple[Formula, ...]
    conclusion: Formula
    logic: Logic | None = None

    def __str__(self) -> str:
        return f"{', '.join(map(show, self.premises))} ⊢ {show(self.conclusion)}".strip()


def read_theorem(reference: Json) -> Theorem:
    """The theorem that a reference states. Raises ValueError if it states none."""
    logic = None
    if isinstance(reference, str):
        parts = _TURNSTILE.split(reference)
        if len(parts) > 2:
            raise ValueError(f"{reference!r:.200} has several turnstiles")
        premises: list[str] = [text for text in re.split(r"[,;]", parts[0]) if text.strip()] if len(parts) == 2 else []
        conclusion = parts[-1]
    elif isinstance(reference, dict) and "conclusion" in reference and set(reference) <= _KEYS:
        conclusion, given = reference["conclusion"], reference.get("premises", [])
        if not isinstance(conclusion, str) or not isinstance(given, list):
            raise ValueError(f"{reference!r:.200} is not of the form {_FORM}")
        if not all(isinstance(text, str) for text in given):
            raise ValueError(f"the premises of {reference!r:.200} must be texts")
        premises = cast(list[str], given)
        if reference.get("logic") is not None:
            if reference["logic"] not in list(Logic):
                raise ValueError(f"logic={reference['logic']!r} is none of {', '.join(Logic)}")
            logic = Logic(str(reference["logic"]))
    else:
        raise ValueError(f"{reference!r:.200} is not of the form {_FORM}")
    if sum(map(len, premises)) + len(conclusion) > _MAX_CHARS:
        raise ValueError(f"the theorem has more than {_MAX_CHARS} characters")
    return Theorem(tuple(map(parse_formula, premises)), parse_formula(conclusion), logic)


def check_provable(theorem: Theorem, logic: Logic) -> None:
    """Raises ValueError if no derivation of the theorem exists. A search that takes too long counts as provable."""
    values = counterexample(theorem.premises, theorem.conclusion)
    if values is not None:
        shown = ", ".join(f"{name} {'true' if value else 'false'}" for name, value in values.items())
        raise ValueError(
            f"{theorem!s:.300} is not valid: it is false with {shown or 'any values'}; correct or drop the row"
        )
    if (theorem.logic or logic) is Logic.INTUITIONISTIC:
        try:
            is_provable = is_intuitionistic(theorem.premises, theorem.conclusion)
        except Undecided:
            return
        if not is_provable:
            raise ValueError(
                f"{theorem!s:.300} is valid only classically, and the logic is intuitionistic; give the row "
                '"logic": "classical", or drop it'
            )
