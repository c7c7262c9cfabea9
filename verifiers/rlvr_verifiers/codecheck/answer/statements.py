"""What the problem statement says about the accepted outputs."""

import re
from typing import Any, cast

from rlvr.records import Json
from rlvr_verifiers.codecheck.references.references import Reference, StdioReference

_KEYS = (
    "problem", "question", "question_content", "description", "statement", "prompt", "text", "content",
)  # fmt: skip
_SEVERAL = re.compile(
    r"\bany (?:valid|correct|suitable|of (?:them|these|those|the)|one of|such|possible|order)\b"
    r"|\b(?:print|output|return|find|give|report) any\b|\bin any order\b|\barbitrary order\b"
    r"|\b(?:multiple|several|many|more than one) (?:possible |valid |correct |optimal |different )*"
    r"(?:answers?|solutions?|outputs?|ways|choices|options)\b",
    re.IGNORECASE,
)


def accepts_one_of_many(row: Json, reference: Reference) -> bool:
    """Whether the statement in the row allows several outputs, while the tests accept one and there is no checker.

    >>> from rlvr_verifiers.codecheck.references.references import read_reference
    >>> row = {"inputs": ["1"], "outputs": ["2"], "problem": "If there are several answers, print any."}
    >>> accepts_one_of_many(row, read_reference(row))
    True
    """
    if not isinstance(row, dict) or not isinstance(reference, StdioReference):
        return False
    if reference.checker is not None or any(test.others for test in reference.tests):
        return False
    texts = [cast("dict[str, Any]", row).get(key) for key in _KEYS]
    return any(isinstance(text, str) and _SEVERAL.search(text) for text in texts)
