"""Right answers: those that the rows give, or those built in the usual forms until one passes."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlvr.audit.answers import field_texts, gold_texts
from rlvr.audit.forms import FORMS, Form, form_of
from rlvr.audit.rows import Row
from rlvr.audit.workers import Item
from rlvr.records import Verdict

NUM_PROBED = 4  # rows on which every usual form is tried; on others those that passed there come first
_MAX_TEXTS = 4  # gold texts of one reference
_AT_ONCE = 12
Verify = Callable[[Sequence[Item]], list[Verdict | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """A row's right answer.

    completion: the text that was tried last; "" if the reference gives none. gold: the answer in it; "" if unknown.
    form: what surrounds it, None if unknown. verdict: of the completion; None if it was left out.
    """

    row: Row
    completion: str
    gold: str
    form: Form | None
    verdict: Verdict | None

    @property
    def passed(self) -> bool:
        """Whether the right answer passes."""
        return self.verdict is not None and self.verdict.passed

    @property
    def is_unknown(self) -> bool:
        """Whether no right answer is known: the row gives none, and none that was built from an object passes."""
        return self.row.completion is None and isinstance(self.row.prompt.reference, dict) and not self.passed


def find_golds(rows: Sequence[Row], verify: Verify) -> list[Gold]:
    """The right answer of each row and its verdict."""
    given = [row for row in rows if row.completion is not None]
    answered = dict(
        zip(map(id, given), verify([Item(prompt=r.prompt, text=r.completion or "") for r in given]), strict=True)
    )
    found = {id(row): _given(row, answered[id(row)]) for row in given}
    built = [row for row in rows if row.completion is None]
    popular: Counter[Form] = Counter()
    for row in built[:NUM_PROBED]:
        found[id(row)] = gold = _built(row, FORMS, verify)
        if gold.passed and gold.form is not None:
            popular[gold.form] += 1
    first = [form for form, _ in popular.most_common()]
    rest = built[NUM_PROBED:]
    if first:
        tries = [(row, (gold_texts(row.prompt.reference) or ("",))[0]) for row in rest]
        quick = verify([Item(prompt=row.prompt, text=first[0].fill(gold)) for row, gold in tries])
        for (row, gold), verdict in zip(tries, quick, strict=True):
            found[id(row)] = Gold(row=row, completion=first[0].fill(gold), gold=gold, form=first[0], verdict=verdict)
    for row in rest:
        if id(row) not in found or not found[id(row)].passed:
            found[id(row)] = _built(row, tuple(dict.fromkeys((*first, *FORMS))), verify)
    return [found[id(row)] for row in rows]


def _given(row: Row, verdict: Verdict | None) -> Gold:
    completion = row.completion or ""
    place = form_of(completion, [text for text in gold_texts(row.prompt.reference) if text.strip()])
    form, gold = place if place is not None else (None, "")
    return Gold(row=row, completion=completion, gold=gold, form=form, verdict=verdict)


def _built(row: Row, forms: Sequence[Form], verify: Verify) -> Gold:
    """The first form in which a gold text passes; the first of all if none does."""
    texts = (*gold_texts(row.prompt.reference), *field_texts(row.prompt.reference)) or ("",)
    tries = [(text, form) for text in texts[:_MAX_TEXTS] for form in forms]
    first: Verdict | None = None
    for start in range(0, len(tries), _AT_ONCE):
        part = tries[start : start + _AT_ONCE]
        answers = verify([Item(prompt=row.prompt, text=form.fill(text)) for text, form in part])
        first = answers[0] if start == 0 else first
        for (text, form), verdict in zip(part, answers, strict=True):
            if verdict is not None and verdict.passed:
                return Gold(row=row, completion=form.fill(text), gold=text, form=form, verdict=verdict)
    text, form = tries[0]
    return Gold(row=row, completion=form.fill(text), gold=text, form=None, verdict=first)
