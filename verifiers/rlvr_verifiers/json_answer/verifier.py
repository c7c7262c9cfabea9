"""`json_schema`: whether a completion's JSON follows a schema and, where a value is expected, equals it."""

import json
from enum import StrEnum
from typing import Any, ClassVar, cast

from pydantic import BaseModel, Field, field_validator

from rlvr.plugin import VerifierContext, verdict
from rlvr.protocols import Execution
from rlvr.records import Completion, FinishReason, Json, Prompt, Status, Verdict
from rlvr_verifiers.blocks import Source, block_text
from rlvr_verifiers.json_answer.comparison import equal
from rlvr_verifiers.json_answer.reading import NotJson, depth_of, parse_json
from rlvr_verifiers.json_answer.schemas import Schema, parse_schema
from rlvr_verifiers.thinking import NEVER_CLOSED, ThinkingConfig

_MAX_CACHED = 500
_SHOWN_CHARS = 500
_MAX_TEXT_CHARS = 2_000_000
_KEYS = {"schema", "value"}


class Compare(StrEnum):
    """How the JSON is compared with the expected value."""

    EXACT = "exact"  # equal
    SUBSET = "subset"  # objects may have further keys
    NONE = "none"  # not at all


class JsonSchemaConfig(ThinkingConfig):
    """Which JSON `json_schema` reads, and how it compares it."""

    answer_schema: dict[str, Any] | None = Field(
        None, alias="schema", description="one schema for all rows; the reference is then the expected value, or null"
    )
    source: Source = Field(
        Source.AUTO,
        description="where the JSON is: `block` (the last ```json block), `whole` (the whole text), `auto` (a block if "
        "there is one)",
    )
    compare: Compare = Field(
        Compare.EXACT, description="how the JSON is compared with the expected value: `exact`, `subset` or `none`"
    )
    tolerance: float = Field(0.0, ge=0.0, description="absolute tolerance for numbers of the expected value")
    max_chars: int = Field(100_000, ge=1, le=1_000_000, description="characters of the JSON; longer ones are not read")
    max_depth: int = Field(64, ge=1, le=100, description="nesting of the JSON; deeper ones are not read")

    @field_validator("answer_schema")
    @classmethod
    def _check_schema(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        if schema is not None:
            parse_schema(schema)
        return schema


class JsonSchemaVerifier:
    """Validates the last JSON block, or the whole text, against a schema and compares it with a value."""

    name: ClassVar[str] = "json_schema"
    version: ClassVar[str] = "1"
    execution: ClassVar[Execution] = Execution.PROCESS
    Config: ClassVar[type[BaseModel]] = JsonSchemaConfig

    def __init__(self, config: JsonSchemaConfig, context: VerifierContext) -> None:
        self.config = config
        self.context = context
        self._thinking = config.thinking
        self._schema = None if config.answer_schema is None else parse_schema(config.answer_schema)

    def parse_reference(self, reference: Json) -> None:
        """Raises ValueError for a schema with what is not supported, or an expected value that does not fit it."""
        schema, has_value, value = self._parts(reference)
        if not has_value:
            return
        if depth_of(value, self.config.max_depth) > self.config.max_depth:
            raise ValueError(f"the expected value is nested deeper than {self.config.max_depth}")
        problem = schema.problem(value)
        if problem and self.config.compare is Compare.EXACT:
            raise ValueError(f"the expected value does not follow the schema: {problem}")

    def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
        """PASS if the JSON is valid and equals the expected value, where there is one; UNPARSED if there is no JSON."""
        schema, has_value, expected = self._parts(prompt.reference)
        text = self._thinking.answer_of(completion.text)
        if text is None:
            return verdict(self, Status.UNPARSED, NEVER_CLOSED)
        if len(text) > _MAX_TEXT_CHARS:
            return verdict(self, Status.UNPARSED, f"the completion has more than {_MAX_TEXT_CHARS:,} characters")
        found = block_text(text, "json", source=self.config.source)
        if found is None or (not found and completion.finish_reason is not FinishReason.STOP):
            return verdict(self, Status.UNPARSED, "there is no complete ```json block")
        if len(found) > self.config.max_chars:
            reason = f"the JSON has {len(found):,} characters; {self.config.max_chars:,} are allowed"
            return verdict(self, Status.UNPARSED, reason)
        shown = found[:_SHOWN_CHARS]
        try:
            value = parse_json(found, max_depth=self.config.max_depth)
        except NotJson as error:
            return verdict(self, Status.UNPARSED, str(error), extracted=shown)
        problem = schema.problem(value)
        if problem:
            return verdict(self, Status.FAIL, problem, extracted=shown, details={"mismatch": "schema"})
        if has_value:
            is_subset = self.config.compare is Compare.SUBSET
            if not equal(value, expected, subset=is_subset, tolerance=self.config.tolerance):
                relation = "lacks something of" if is_subset else "does not equal"
                reason = f"the JSON follows the schema and {relation} the expected value"
                return verdict(self, Status.FAIL, reason, extracted=shown, details={"mismatch": "value"})
        return verdict(self, Status.PASS, "the JSON is as required", extracted=shown)

    def _parts(self, reference: Json) -> tuple[Schema, bool, Json]:
        """(schema, whether a value is expected, that value). Raises ValueError."""
        compares = self.config.compare is not Compare.NONE
        if self._schema is not None:
            return self._schema, compares and reference is not None, reference
        if not isinstance(reference, dict) or "schema" not in reference or not set(cast("Any", reference)) <= _KEYS:
            raise ValueError(
                f'{reference!r:.200} is not of the form {{"schema": {{...}}, "value": ...}}; or set `schema`'
            )
        fields = cast("dict[str, Json]", reference)
        return self._parsed(fields["schema"]), compares and "value" in fields, fields.get("value")

    def _parsed(self, schema: Json) -> Schema:
        key = json.dumps(schema)
        cache = self.context.cache
        if key not in cache:
            if len(cache) >= _MAX_CACHED:
                cache.clear()
            cache[key] = parse_schema(schema)
        return cache[key]
