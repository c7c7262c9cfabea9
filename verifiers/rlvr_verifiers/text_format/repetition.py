"""The share of a text's n-grams that repeat earlier ones.

>>> repeated_share("a b c d e f", 3), repeated_share("go go go go go go", 3)
(0.0, 0.75)
"""

import re

_MAX_CHARS = 200_000
_WORD = re.compile(r"[^\W\d_]+|\d+|[^\w\s]|_")
_WITHOUT_SPACES = re.compile(r"([\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0e7f])")


def words_of(text: str) -> list[str]:
    """Words, numbers and single marks in lower case; each character of scripts without spaces is a word."""
    return _WORD.findall(_WITHOUT_SPACES.sub(r" \1 ", text[-_MAX_CHARS:].lower()))


def repeated_share(text: str, size: int) -> float:
    """1 - distinct / all n-grams, in [0, 1); 0 for a text with fewer words than one n-gram.

    Only the end of a text of more than 200,000 characters counts.
    """
    words = words_of(text)
    count = len(words) - size + 1
    if count < 1:
        return 0.0
    return 1.0 - len({tuple(words[start : start + size]) for start in range(count)}) / count
