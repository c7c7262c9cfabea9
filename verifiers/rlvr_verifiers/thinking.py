r"""Separates the answer from the thinking: text inside think tags is never read as the answer.

>>> Thinking().answer_of(r"<think>\boxed{B}? No.</think>So A")
'So A'
>>> Thinking().answer_of("<think>It may be B") is None
True
"""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

ThinkTags = tuple[tuple[str, str], ...]
THINK_TAGS: ThinkTags = (("<think>", "</think>"),)
NEVER_CLOSED = "the thinking was never closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """The tags that enclose thinking.

    starts_thinking: the prompt ends inside a think tag, so that a text without a closing tag is all thinking.
    """

    think_tags: ThinkTags = THINK_TAGS
    starts_thinking: bool = False

    def answer_of(self, text: str) -> str | None:
        """The text after the last closed think tag; all of it without thinking; None if thinking was never closed."""
        start, is_closed = 0, False
        for opening, closing in self.think_tags:
            opened, closed = text.rfind(opening), text.rfind(closing)
            if opened > closed:
                return None
            if closed >= 0:
                start, is_closed = max(start, closed + len(closing)), True
        if self.starts_thinking and not is_closed:
            return None
        return text[start:] if start else text


DEFAULT_THINKING = Thinking()


class ThinkingConfig(BaseModel):
    """Settings of a verifier that reads only the text after the thinking."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    think_tags: ThinkTags = Field(
        default=THINK_TAGS, description="opening and closing tags of thinking; only what follows counts"
    )
    starts_thinking: bool = Field(
        default=False, description="the prompt opens a think tag; a text that never closes one has no answer"
    )

    @property
    def thinking(self) -> Thinking:
        """The settings as a `Thinking`."""
        return Thinking(think_tags=self.think_tags, starts_thinking=self.starts_thinking)
