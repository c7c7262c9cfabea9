"""The contract of a rollout engine: its shape, its completions, its weights, and its end."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from pydantic import BaseModel, ValidationError

from rlvr.config.load import load_recipe
from rlvr.config.recipe import EngineDtype, EngineTraits, PluginEngine, Recipe
from rlvr.config.sections.engines import declared_traits, engine_class
from rlvr.contracts.engine_generation import GENERATION_CHECKS
from rlvr.contracts.engine_trial import EngineTrial, Factory, Problems, make_trial, within
from rlvr.contracts.engine_weights import WEIGHT_CHECKS, score_problems
from rlvr.errors import PluginError, RolloutError
from rlvr.protocols import RolloutEngine
from rlvr.records import Transport
from rlvr.rollout.build import engine_from, start_engine
from rlvr.rollout.context import EngineContext

_METHODS = ("generate", "load_weights", "score", "health", "close")


def check_engine(engine: type[Any] | str, *, settings: Mapping[str, Any] | None = None) -> list[str]:
    """The ways in which a rollout engine breaks its contract, one sentence each; empty when there are none.

    Checked, with a tiny policy on the CPU and each way in which weights may travel to such an engine: one completion
    for each request, with as many tokens as asked for, inside the vocabulary, each with a finite log-prob that is not
    above 0; stops and the reason of the end; seeds; that a load of weights changes what it computes, and that receipt,
    canary, versions and health say so; that damaged weights are noticed; that giving up one request loses no other;
    that `close` may be called twice, and that nothing waits for a closed engine.

    Args:
        engine: a class as `rlvr.protocols.RolloutEngine` describes it, built as `MyEngine(config, context)` with an
            `rlvr.rollout.context.EngineContext`; or what `rollout.engine` of a recipe names.
        settings: of the engine, as in a recipe.

    Must not be called within a running event loop. Takes seconds.
    """
    settings = settings or {}
    if isinstance(engine, str):
        recipe = load_recipe("tiny", [f"rollout.engine={engine}"]).recipe
        named = recipe.rollout.engine
        if not isinstance(named, PluginEngine):
            return _run(partial(_built_in, recipe), named.traits)
        engine = engine_class(named.name)
    problems = _shape_problems(engine)
    if problems:
        return problems
    loaded: Any = engine
    try:
        config = loaded.Config(**settings)
    except ValidationError as error:
        return [f"settings={dict(settings)!r} do not fit Config: {error}"]

    def build(dtype: EngineDtype, context: EngineContext) -> RolloutEngine:
        return loaded(config, context)

    return _run(build, declared_traits(engine))


def _built_in(recipe: Recipe, dtype: EngineDtype, context: EngineContext) -> RolloutEngine:
    rollout = recipe.rollout.model_copy(update={"engine_dtype": dtype})
    return engine_from(recipe.model_copy(update={"rollout": rollout}), context)


def _shape_problems(engine: type[Any]) -> Problems:
    """What is missing before anything can run."""
    problems: Problems = []
    config: Any = getattr(engine, "Config", None)
    if not (isinstance(config, type) and issubclass(config, BaseModel)):
        problems.append(f"Config={config!r} is no pydantic model")
    elif config.model_config.get("extra") != "forbid":
        problems.append('Config must have model_config = ConfigDict(extra="forbid", frozen=True)')
    problems += [f"there is no method {method}" for method in _METHODS if not callable(getattr(engine, method, None))]
    try:
        declared_traits(engine)
    except PluginError as error:
        problems.append(str(error))
    return problems


def _run(build: Callable[[EngineDtype, EngineContext], RolloutEngine], traits: EngineTraits) -> Problems:
    problems: Problems = []
    for transport in _transports(traits):
        dtype = EngineDtype.SHARED if transport is Transport.SHARED else EngineDtype.FLOAT32
        found = asyncio.run(_check(partial(build, dtype), traits=traits, transport=transport))
        where = f" (weights by {transport})" if traits.has_weights else ""
        problems += [f"{title}{where}: {problem}" for title, problem in found]
    return problems


def _transports(traits: EngineTraits) -> Iterator[Transport]:
    """The ways in which such an engine may be sent weights."""
    if not traits.has_weights or traits.can_share_tensors:
        yield Transport.SHARED
    if traits.has_weights and not traits.needs_own_process:
        yield Transport.IN_PLACE_COPY
    if traits.has_weights:
        yield Transport.FILE


async def _check(factory: Factory, *, traits: EngineTraits, transport: Transport) -> list[tuple[str, str]]:
    """(clause, problem) of one engine."""
    try:
        trial = make_trial(factory, traits=traits, transport=transport)
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything; reported to its author
        return [("constructor", f"raised {type(error).__name__}: {error}")]
    problems: list[tuple[str, str]] = []
    try:
        for title, check in {
            "start": _start,
            **GENERATION_CHECKS,
            **WEIGHT_CHECKS,
            "close": _close,
        }.items():
            try:
                found = await within(check(trial))
            except TimeoutError:
                problems.append((title, "hangs; nothing that comes after it was checked"))
                break
            except Exception as error:  # noqa: BLE001 - a plugin may raise anything; reported to its author
                found = [f"raised {type(error).__name__}: {error}"]
            problems += [(title, problem) for problem in found]
    finally:
        trial.publication.close()
    return problems


async def _start(trial: EngineTrial) -> Problems:
    """Starts an engine that has a `start`, and loads the first weights, as a run does."""
    await start_engine(trial.engine)
    problems: Problems = []
    if trial.traits.has_weights and not trial.traits.needs_own_process:  # it was given the policy
        problems = await score_problems(trial)
        if problems:
            problems = ["before its first load it must compute with the policy that it was given"]
    try:
        await trial.load(trial.publish())
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything; reported to its author
        problems.append(f"the first load of weights raised {type(error).__name__}: {error}")
    return problems


async def _close(trial: EngineTrial) -> Problems:
    """`close` may come while requests are open, and twice; then requests are refused."""
    generating = asyncio.ensure_future(trial.generate(trial.group()))
    await asyncio.sleep(0)
    await trial.engine.close()
    problems: Problems = []
    try:
        await generating  # all of them, or RolloutError
    except RolloutError:
        pass
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything; reported to its author
        problems.append(f"an open request fails with {type(error).__name__} and not RolloutError")
    try:
        await trial.engine.close()
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything; reported to its author
        problems.append(f"a second close raised {type(error).__name__}: {error}")
    try:
        await trial.generate([trial.request()])
    except RolloutError:
        return problems
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything; reported to its author
        return [*problems, f"a closed engine raises {type(error).__name__} and not RolloutError"]
    return [*problems, "a closed engine still generates; it must raise RolloutError"]
