"""Which rollout engine generates, and what a run must know about it: one record of traits on each kind.

Only `rlvr.rollout.build` chooses by the kind of an engine; everything else that depends on it asks its traits.
"""

from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, ClassVar, cast

from pydantic import BeforeValidator, Discriminator, Tag

from rlvr.config.sections.section import PluginSection, names_plugin
from rlvr.errors import PluginError
from rlvr.registry import ENGINES, check_settings, closest, find, list_plugins, load
from rlvr.telemetry.redaction import got


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTraits:
    """What a run asks about an engine. The defaults are those of a plugin engine that declares nothing.

    has_weights: it computes with the policy's weights; else there is nothing to send, to verify or to hold in memory.
    can_share_tensors: `rollout.engine_dtype: shared` lets it read the learner's own tensors.
    has_learner_arithmetic: in the learner's dtype its log-probs differ from the learner's by rounding alone.
    needs_own_process: it cannot live in the learner's process, so it needs `cluster.backend: ray`.
    loads_while_generating: `load_weights` freezes open requests; else it waits for them to end.
    is_deterministic: equal prompt, seed and sampling give an equal completion.
    takes_adapters: it can be sent LoRA adapters alone. takes_vllm_arguments: `rollout.engine_args` are for it.
    takes_broadcasts: it can be sent weights without a file (`cluster.weight_transport`).
    """

    has_weights: bool = True
    can_share_tensors: bool = False
    has_learner_arithmetic: bool = False
    needs_own_process: bool = False
    loads_while_generating: bool = False
    is_deterministic: bool = True
    takes_adapters: bool = False
    takes_vllm_arguments: bool = False
    takes_broadcasts: bool = False


_BUILT_IN_ONLY = ("takes_adapters", "takes_vllm_arguments", "takes_broadcasts")
DECLARABLE = tuple(f.name for f in fields(EngineTraits) if f.name not in _BUILT_IN_ONLY)


class EngineKind(StrEnum):
    """The engines of rlvr."""

    TRANSFORMERS = "transformers"  # in the learner's process, or behind Ray
    VLLM = "vllm"  # behind Ray; needs the extra `vllm`
    TOY = "toy"  # uniform tokens, for tests of everything around it

    @property
    def traits(self) -> EngineTraits:
        """What a run must know about the engine."""
        return _TRAITS[self]


_TRAITS = {
    EngineKind.TRANSFORMERS: EngineTraits(can_share_tensors=True, has_learner_arithmetic=True),
    EngineKind.VLLM: EngineTraits(
        needs_own_process=True,
        loads_while_generating=True,
        is_deterministic=False,
        takes_adapters=True,
        takes_vllm_arguments=True,
        takes_broadcasts=True,
    ),
    EngineKind.TOY: EngineTraits(has_weights=False),
}


class PluginEngine(PluginSection):
    """A rollout engine of another package.

    name: an entry point of `rlvr.engines`, `package.module:Class` or `path/file.py:Class`.
    settings: of that class, the fields of its `Config`.
    """

    GROUP: ClassVar[str] = ENGINES

    def __str__(self) -> str:
        return self.name

    @property
    def traits(self) -> EngineTraits:
        """What its class declares; imports it. Raises PluginError as `engine_class`."""
        return declared_traits(engine_class(self.name))

    def require(self) -> None:
        """Imports the class and tries the settings. Raises PluginError that lists what is wrong."""
        check_settings(find(ENGINES, self.name), engine_class(self.name), self.settings)


@cache
def engine_class(name: str) -> type[Any]:
    """The class of a plugin engine, imported once. Raises PluginError when it is not installed or fails to load."""
    return load(find(ENGINES, name))


def declared_traits(engine: type[Any]) -> EngineTraits:
    """The traits that a class of engines declares as class attributes, with defaults for the rest.

    Raises: PluginError for one that is not a bool, or that only the engines of rlvr may have.
    """
    found: dict[str, bool] = {}
    for field in fields(EngineTraits):
        value: object = getattr(engine, field.name, field.default)
        if not isinstance(value, bool):
            raise PluginError(f"engine {engine.__name__}: {field.name}={value!r} must be a bool")
        if value and field.name in _BUILT_IN_ONLY:
            raise PluginError(
                f"engine {engine.__name__}: {field.name} cannot be declared by a plugin; it may declare "
                f"{', '.join(DECLARABLE)}"
            )
        found[field.name] = value
    return EngineTraits(**found)


def _folded(value: Any) -> Any:
    """`{kind: toy}` as `toy`, and the name of a plugin as its section. Raises ValueError for an unknown name."""
    if isinstance(value, EngineKind | PluginEngine):
        return value
    if isinstance(value, str):
        return _named(value)
    if not isinstance(value, dict):
        raise ValueError(f"must be {_forms()}{got(value)}")
    mapping = cast(dict[str, Any], value)
    kind = mapping.get("kind")
    if kind == "plugin":
        return mapping
    if not isinstance(kind, str):
        raise ValueError(f"must be {_forms()}{got(kind if mapping.keys() == {'kind'} else mapping)}")
    folded = _named(kind)
    rest = {key: inner for key, inner in mapping.items() if key != "kind"}
    if rest and isinstance(folded, EngineKind):
        raise ValueError(
            f"{kind} has no settings here, but {', '.join(rest)} is given; other keys of rollout are its settings"
        )
    return folded if isinstance(folded, EngineKind) else {**folded, **rest}


def _named(name: str) -> Any:
    kinds: list[str] = [kind.value for kind in EngineKind]
    if name in kinds:
        return EngineKind(name)
    if names_plugin(name, ENGINES):
        return {"kind": "plugin", "name": name}
    near = closest(name, [*kinds, *_installed()])
    hint = f"; did you mean {near!r}?" if near else ""
    raise ValueError(f"must be {_forms()}{hint}{got(name)}")


def _installed() -> list[str]:
    return sorted({entry.name for entry in list_plugins(ENGINES)})


def _forms() -> str:
    """Every form in which a recipe may name an engine."""
    *names, last = (repr(known) for known in (*(kind.value for kind in EngineKind), *_installed()))
    return (
        f"an engine's name ({', '.join(names)} or {last}), package.module:Class or path/file.py:Class, or a mapping "
        "with one of these as its kind and the engine's settings as further keys"
    )


def _arm(value: Any) -> str:
    return "built_in" if isinstance(value, EngineKind) else "plugin"


EngineConfig = Annotated[
    Annotated[EngineKind, Tag("built_in")] | Annotated[PluginEngine, Tag("plugin")],
    Discriminator(_arm),
    BeforeValidator(_folded),
]
