"""The contract of a rollout engine: its shape, its completions, its weights, and its end."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import BaseModel, ValidationError

from rlvr.config.load import load_recipe
from rlvr.config.recipe import EngineDtype, EngineTraits, PluginEngine, Recipe
from rlvr.config.sections.engines import declared_traits, engine_class
from rlvr.contracts import engine_trial
from rlvr.contracts.engine_generation import GENERATION_CHECKS
from rlvr.contracts.engine_trial import EngineTrial, Factory, Problems, make_trial
from rlvr.contracts.engine_weights import WEIGHT_CHECKS, score_problems
from rlvr.errors import PluginError, RolloutError
from rlvr.protocols import RolloutEngine
from rlvr.records import Transport
from rlvr.rollout.build import engine_from, start_engine
from rlvr.rollout.context import EngineContext

# Any engine may run there, and requests of the contract fit.
_RECIPE = ("cluster.backend=ray", "data.max_prompt_tokens=32", "rollout.max_completion_tokens=32")
_METHODS = ("generate", "load_weights", "score", "health", "close")


def check_engine(engine: type[Any] | str, *, settings: Mapping[str, Any] | None = None) -> list[str]:
    """The ways in which a rollout engine breaks its contract, one sentence each; empty when there are none.

    Checked, with a tiny policy on the CPU and each way in which weights may travel to such an engine: one completion
    for each request, with as many tokens as asked for, inside the vocabulary, each with a finite log-prob that is not
    above 0; stops and the reason of the end; seeds; that a load of weights changes what it computes, and that receipt,
    canary, versions and health say so; that damaged weights are noticed; that the learner's tensors stay as they are;
    that giving up one request loses no other; that `close` may be called twice, and that nothing waits for a closed
    engine. Each clause has a deadline; an engine that hangs or blocks the event loop is reported with its method, and
    left behind in a daemon thread.

    Args:
        engine: a class as `rlvr.protocols.RolloutEngine` describes it, built as `MyEngine(config, context)` with an
            `rlvr.rollout.context.EngineContext`; or what `rollout.engine` of a recipe names, built-in engines too.
        settings: of the engine, as in a recipe; built-in engines have none.

    Runs in a thread of its own, in seconds; vLLM takes minutes.

    Raises: ConfigError, PluginError when no engine of that name is installed.
    """
    settings = settings or {}
    if isinstance(engine, str):
        recipe = load_recipe("tiny", [f"rollout.engine={engine}", *_RECIPE]).recipe
        named = recipe.rollout.engine
        if not isinstance(named, PluginEngine):
            if settings:
                return [f"settings={dict(settings)!r}: {named} has none; other keys of rollout configure it"]
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
    given = {"rollout": rollout, "model": context.model, "seed": context.seed}
    return engine_from(recipe.model_copy(update=given), context)


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


@dataclass(slots=True, kw_only=True)
class _Progress:
    """How far the check of one engine is. clause: the present one; until: when it must have ended (monotonic)."""

    clause: str = "constructor"
    until: float = field(default_factory=lambda: time.monotonic() + engine_trial.START_DEADLINE_S)
    trial: EngineTrial | None = None
    problems: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    is_hung: bool = False

    def hung(self, how: str) -> None:
        """Notes that the present clause missed its deadline; only the first time."""
        if self.is_hung:
            return
        methods = self.trial.engine.running if self.trial is not None else ["__init__"]
        waiting = " and ".join(f"`{name}`" for name in dict.fromkeys(methods)) or "it"
        self.problems.append((self.clause, f"{waiting} {how}; what comes after it was not checked"))
        self.is_hung = True


def _run(build: Callable[[EngineDtype, EngineContext], RolloutEngine], traits: EngineTraits) -> Problems:
    problems: Problems = []
    for transport in _transports(traits):
        dtype = EngineDtype.SHARED if transport is Transport.SHARED else EngineDtype.FLOAT32
        progress = _Progress()
        _watch(progress, partial(_check, progress, partial(build, dtype), traits=traits, transport=transport))
        where = f" (weights by {transport})" if traits.has_weights else ""
        problems += [f"{clause}{where}: {problem}" for clause, problem in progress.problems]
        if progress.is_hung:
            break
    return problems


def _watch(progress: _Progress, check: Callable[[], Any]) -> None:
    """Runs the check in a thread until it is done, or until a clause is past its deadline and does not react."""
    done: Future[None] = Future()

    def run() -> None:
        async def checked() -> None:
            await check()
            done.set_result(None)  # before the loop ends, which waits for tasks that ignore their cancellation

        try:
            asyncio.run(checked())
        except BaseException as error:  # noqa: BLE001 - thread boundary; raised by the caller
            if not done.done():
                done.set_exception(error)

    thread = threading.Thread(target=run, name="rlvr-check-engine", daemon=True)
    thread.start()
    while not done.done():
        left_s = progress.until + 3 * engine_trial.GRACE_S - time.monotonic()
        if left_s <= 0:
            progress.hung("blocks its thread and reacts to no cancellation")
            return
        with contextlib.suppress(TimeoutError):
            done.exception(left_s)
    thread.join(engine_trial.GRACE_S)
    done.result()


def _transports(traits: EngineTraits) -> Iterator[Transport]:
    """The ways in which such an engine may be sent weights."""
    if not traits.has_weights or traits.can_share_tensors:
        yield Transport.SHARED
    if traits.has_weights and not traits.needs_own_process:
        yield Transport.IN_PLACE_COPY
    if traits.has_weights:
        yield Transport.FILE


async def _check(progress: _Progress, factory: Factory, *, traits: EngineTraits, transport: Transport) -> None:
    """Checks one engine clause by clause."""
    try:
        trial = progress.trial = make_trial(factory, traits=traits, transport=transport)
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything; reported to its author
        progress.problems.append(("constructor", f"raised {type(error).__name__}: {error}"))
        return
    trial.is_policy_written()  # from here on
    clauses = {"start": _start, **GENERATION_CHECKS, **WEIGHT_CHECKS, "close": _close}
    try:
        for progress.clause, clause in clauses.items():
            limit_s = engine_trial.START_DEADLINE_S if clause is _start else engine_trial.DEADLINE_S
            progress.until = time.monotonic() + limit_s
            checking = asyncio.ensure_future(clause(trial))
            await asyncio.wait({checking}, timeout=limit_s)
            if not checking.done():
                progress.hung(f"did not return within {limit_s:g} s")
                await _abandon(trial, checking)
                return
            try:
                found = checking.result()
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a plugin may raise anything
                found = [f"raised {type(error).__name__}: {error}"]
            if trial.is_policy_written():
                found = [*found, "it writes to the tensors of context.policy, which are the learner's; copy them first"]
            progress.problems += [(progress.clause, problem) for problem in found]
    finally:
        trial.publication.close()


async def _abandon(trial: EngineTrial, checking: "asyncio.Future[Problems]") -> None:
    """Gives a hung engine time to end its work and its processes."""
    checking.cancel()
    await asyncio.wait({checking}, timeout=engine_trial.GRACE_S)
    await asyncio.wait({asyncio.ensure_future(trial.engine.close())}, timeout=engine_trial.GRACE_S)


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
