"""The base class and field types of every section."""

from importlib.metadata import entry_points
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

# Upper limit of every count; a larger one is a typo, and overflows later.
MOST = 1_000_000_000
MOST_SECONDS = 1e7  # four months; system clocks hold at most 292 years in nanoseconds

PositiveInt = Annotated[int, Field(ge=1, le=MOST)]
NonNegativeInt = Annotated[int, Field(ge=0, le=MOST)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]
Seconds = Annotated[float, Field(gt=0.0, le=MOST_SECONDS)]

# Marks a field that may change on resume, with all keys below it: how long, how often or how fast, never what is
# learned or from which data.
MAY_CHANGE_ON_RESUME: Final = "may_change_on_resume"
T = TypeVar("T")
Changeable = Annotated[T, MAY_CHANGE_ON_RESUME]


class Section(BaseModel):
    """A part of the recipe: immutable; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


def names_plugin(kind: str, group: str) -> bool:
    """Whether it is `package.module:attribute`, or an entry point of the group in an installed package."""
    return ":" in kind or kind in entry_points(group=group).names


class PluginSection(Section):
    """A function or class of another package. In a recipe `kind` may be its name, with its settings as further keys.

    name: an entry point of `GROUP`, `package.module:attribute` or `path/file.py:attribute`.
    """

    GROUP: ClassVar[str]
    kind: Literal["plugin"] = "plugin"
    name: str
    settings: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])


def kind_or_mapping(default: str) -> BeforeValidator:
    """Accepts the short form of a union: `advantage: rloo` is `{kind: rloo}`, a mapping without kind is `default`."""

    def expand(value: Any) -> Any:
        if isinstance(value, str):
            return {"kind": value}
        if isinstance(value, dict) and "kind" not in value:
            return {"kind": default, **cast(dict[str, Any], value)}
        return cast(object, value)

    return BeforeValidator(expand)
