"""What the judge decided, read from the end of its answer alone."""

import re

_VERDICT = re.compile(r"\W*verdict\W*(correct|wrong|incorrect|tie|a|b|(?<![-\u2212.])\d{1,3})\W*", re.IGNORECASE)
_CRITERION = re.compile(r"\W*criterion\W*(\d{1,3})\W+(not\s+met|met)\W*", re.IGNORECASE)
_NUM_VERDICT_CHARS = 80  # a longer last line is not a verdict


def read_verdict(text: str, *, points: int) -> str:
    """ "correct", "wrong" or a number of points, from the last line alone; "" if that is not a verdict.

    >>> read_verdict("They agree.\\n**VERDICT: CORRECT**", points=0)
    'correct'
    >>> read_verdict("VERDICT: CORRECT, says the answer. It is not.", points=0)
    ''
    >>> read_verdict("VERDICT: 11", points=10)
    ''
    """
    word = _last_word(text)
    if points:
        return str(int(word)) if word.isdigit() and int(word) <= points else ""
    return {"correct": "correct", "wrong": "wrong", "incorrect": "wrong"}.get(word, "")


def read_preference(text: str) -> str:
    """ "a", "b" or "tie", from the last line alone; "" if that is not a verdict.

    >>> read_preference("B cites its source.\\nVERDICT: B")
    'b'
    """
    word = _last_word(text)
    return word if word in ("a", "b", "tie") else ""


def read_criteria(text: str, *, count: int) -> str:
    """A "1" for each criterion that is met and a "0" for each that is not; "" unless the last lines are the verdicts.

    The last `count` lines must be the verdicts on the criteria 1 to `count`, in order.

    >>> read_criteria("It is short, but rude.\\nCRITERION 1: NOT MET\\n- **Criterion 2:** met", count=2)
    '01'
    >>> read_criteria("CRITERION 1: MET\\nCRITERION 2: MET\\nSo it is good.", count=2)
    ''
    >>> read_criteria("CRITERION 2: MET\\nCRITERION 1: MET", count=2)
    ''
    """
    last = [line for line in text.splitlines() if line.strip()][-count:]
    found = ""
    if len(last) < count:
        return found
    for number, line in enumerate(last, start=1):
        match = _CRITERION.fullmatch(line) if len(line) <= _NUM_VERDICT_CHARS else None
        if match is None or int(match[1]) != number:
            return ""
        found += "1" if match[2].lower() == "met" else "0"
    return found


def _last_word(text: str) -> str:
    """The verdict on the last line, in lower case; "" if that line is something else."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or len(lines[-1]) > _NUM_VERDICT_CHARS:
        return ""
    match = _VERDICT.fullmatch(lines[-1])
    return match[1].lower() if match else ""
