r"""The fenced block of a completion that is its answer, in time linear in the text.

>>> block_text("Here:\n```json\n{}\n```\nDone.", "json", source=Source.AUTO)
'{}'
>>> block_text("SELECT 1", "sql", source=Source.BLOCK) is None
True
"""

from enum import StrEnum

_FENCE = "```"
_MAX_INDENT = 4


class Source(StrEnum):
    """The part of a completion that is the answer."""

    AUTO = "auto"  # the last block in the language, else the last without a language, else the whole text
    BLOCK = "block"  # the last block in the language
    WHOLE = "whole"  # the whole text


def block_text(text: str, language: str, *, source: Source) -> str | None:
    """The content of the block; None if there is none, or if the last block of the text was never closed."""
    if source is Source.WHOLE:
        return text.strip()
    blocks, is_open = _blocks(text)
    if is_open:
        return None
    tagged = [body for tag, body in blocks if tag.lower() == language]
    if tagged:
        return tagged[-1].strip()
    if source is Source.BLOCK:
        return None
    plain = [body for tag, body in blocks if not tag]
    return plain[-1].strip() if plain else text.strip()


def _blocks(text: str) -> tuple[list[tuple[str, str]], bool]:
    """The fenced blocks as (language, body), and whether the last was never closed."""
    blocks: list[tuple[str, str]] = []
    language, body_start = None, 0
    position = text.find(_FENCE)
    while position >= 0:
        line_start = text.rfind("\n", 0, position) + 1
        line_end = text.find("\n", position)
        line_end = len(text) if line_end < 0 else line_end
        is_fence = position - line_start < _MAX_INDENT and not text[line_start:position].strip()
        tag = text[position + len(_FENCE) : line_end].strip()
        if is_fence and language is None:
            language, body_start = tag, line_end + 1
        elif is_fence and language is not None and not tag:
            blocks.append((language, text[body_start:line_start]))
            language = None
        position = text.find(_FENCE, line_end)
    return blocks, language is not None
