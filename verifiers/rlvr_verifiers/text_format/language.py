r"""The share of a text's letters in a script, from Unicode code points.

>>> script_share("2 + 2 = 4, также", "cyrillic"), script_share("12", "latin")
(1.0, None)
"""

import bisect
import re

_RANGES: dict[str, tuple[tuple[int, int], ...]] = {
    "latin": ((0x41, 0x5A), (0x61, 0x7A), (0xAA, 0xAA), (0xBA, 0xBA), (0xC0, 0xD6), (0xD8, 0xF6), (0xF8, 0x2B8),
              (0x1E00, 0x1EFF), (0x2183, 0x2184), (0x2C60, 0x2C7F), (0xA722, 0xA7FF), (0xFB00, 0xFB06),
              (0xFF21, 0xFF3A), (0xFF41, 0xFF5A)),
    "greek": ((0x370, 0x373), (0x376, 0x377), (0x37B, 0x37D), (0x37F, 0x37F), (0x386, 0x386), (0x388, 0x3FF),
              (0x1F00, 0x1FFF)),
    "cyrillic": ((0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)),
    "armenian": ((0x531, 0x58F),),
    "hebrew": ((0x5D0, 0x5F4), (0xFB1D, 0xFB4F)),
    "arabic": ((0x620, 0x6FF), (0x750, 0x77F), (0x870, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFE)),
    "devanagari": ((0x900, 0x97F), (0xA8E0, 0xA8FF)),
    "bengali": ((0x980, 0x9FF),),
    "tamil": ((0xB80, 0xBFF),),
    "telugu": ((0xC00, 0xC7F),),
    "thai": ((0xE00, 0xE7F),),
    "georgian": ((0x10A0, 0x10FF), (0x1C90, 0x1CBF), (0x2D00, 0x2D2F)),
    "hangul": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF), (0xFFA0, 0xFFDC)),
    "kana": ((0x3041, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F)),
    "han": ((0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)),
}  # fmt: skip
_UNIONS = {"japanese": ("han", "kana"), "korean": ("hangul",), "chinese": ("han",)}
SCRIPTS = (*_RANGES, *_UNIONS)
_SKIPPED = re.compile(
    r"```.*?```|\$\$[^$]*\$\$|\$[^$\n]*\$|\\\[.{0,300}?\\\]|\\\(.{0,300}?\\\)|\\[A-Za-z]+|https?://\S+", re.DOTALL
)
_MAX_CHARS = 100_000


def script_share(text: str, script: str) -> float | None:
    """The share in [0, 1] of the letters that belong to a script; None if there are no letters.

    Code blocks, formulas, LaTeX commands and addresses do not count; of a long text, only the first 100,000 characters.

    Args: script: one of `SCRIPTS`.
    """
    ranges = sorted(span for name in _UNIONS.get(script, (script,)) for span in _RANGES[name])
    starts = [first for first, _ in ranges]
    num_letters = num_inside = 0
    for letter, count in _counted(_SKIPPED.sub(" ", text[:_MAX_CHARS])).items():
        num_letters += count
        index = bisect.bisect_right(starts, ord(letter)) - 1
        if index >= 0 and ord(letter) <= ranges[index][1]:
            num_inside += count
    return num_inside / num_letters if num_letters else None


def _counted(text: str) -> dict[str, int]:
    return {letter: text.count(letter) for letter in set(text) if letter.isalpha()}
