"""What every section of the recipe is made of."""

from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

MOST = (
    1_000_000_000  # of anything that is counted; more is a slip, and overflows somewhere behind it
)
MOST_SECONDS = 1e7  # four months; clocks of the system take no more than 292 years in nanoseconds

PositiveInt = Annotated[int, Field(ge=1, le=MOST)]
NonNegativeInt = Annotated[int, Field(ge=0, le=MOST)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]
Seconds = Annotated[float, Field(gt=0.0, le=MOST_SECONDS)]


class Section(BaseModel):
    """A part of the recipe: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )


class PluginSection(Section):
    """A function of another package. In a recipe `kind` may be its name, with its settings beside it.

    name: an entry point of `GROUP`, `package.module:function` or `path/file.py:function`.
    """

    GROUP: ClassVar[str]
    kind: Literal["plugin"] = "plugin"
    name: str
    settings: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])


def kind_or_mapping(default: str) -> BeforeValidator:
    """Lets a union be written short: `advantage: rloo` is `{kind: rloo}`, and a mapping without kind is `default`."""

    def expand(value: Any) -> Any:
        if isinstance(value, str):
            return {"kind": value}
        if isinstance(value, dict) and "kind" not in value:
            return {"kind": default, **cast(dict[str, Any], value)}
        return cast(object, value)

    return BeforeValidator(expand)
