"""Checks that need no weights: plugins, data, references."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rlvr.config.recipe import Backend, EngineDtype, PluginEngine, Recipe
from rlvr.config.sections.section import PluginSection
from rlvr.data.load import EvalPrompts, SourceOpener, demonstrations, open_eval, open_train, prompts_that_differ
from rlvr.data.order import LONG_ADVICE, PromptStream
from rlvr.errors import ConfigError
from rlvr.models.locate import locate
from rlvr.records import Prompt, Role
from rlvr.registry import ENGINES, VERIFIERS, build_function, find
from rlvr.run.launch.machine_checks import require_machine
from rlvr.verification.first_verdicts import require_verdicts
from rlvr.verification.service import VerifierService
from rlvr.verification.trial import load_tried

logger = logging.getLogger(__name__)

NUM_GENERATED_CHECKED = 64  # draws of an endless source whose references are checked


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLimit:
    """The longest prompt allowed, and the advice when it is exceeded."""

    is_too_long: Callable[[Prompt], bool] | None = None
    advice: str = LONG_ADVICE


@dataclass(slots=True, kw_only=True)
class OpenedData:
    """The data of a run. Which prompts are too long is known only with a tokenizer (`limit_prompts`).

    samples: one prompt for each source and sequence of chat roles, with the key of its source; a chat template must
        be able to render them.
    opener: holds the sources open; each is read once.
    """

    stream: PromptStream
    evals: EvalPrompts
    reopen: Callable[[PromptLimit], tuple[PromptStream, EvalPrompts]]
    samples: Sequence[tuple[str, Prompt]] = ()
    opener: SourceOpener | None = None

    def limit_prompts(self, limit: PromptLimit) -> None:
        """Drops prompts that are too long: training prompts when drawn, evaluation prompts now."""
        self.stream, self.evals = self.reopen(limit)


def require_engine(recipe: Recipe) -> None:
    """Imports a plugin engine, tries its settings, and compares the recipe with the traits that it declares.

    Raises: PluginError, ConfigError.
    """
    engine = recipe.rollout.engine
    if not isinstance(engine, PluginEngine):
        return
    engine.require()
    traits = engine.traits
    problems = recipe.contradictions(traits)
    needs_copy = traits.has_weights and not traits.can_share_tensors
    if recipe.rollout.engine_dtype is EngineDtype.SHARED and needs_copy:
        problems.append(
            f"rollout.engine_dtype=shared: rollout.engine={engine} keeps weights of its own; set float32 or bfloat16"
        )
    if recipe.cluster.backend is Backend.RAY and find(ENGINES, engine.name).source:
        problems.append(
            f"rollout.engine={engine}: a single file does not travel to the processes of cluster.backend=ray; put the "
            "engine into a package that is installed on each node, and name it package.module:Class"
        )
    if problems:
        raise ConfigError("\n".join(problems))


def open_data(recipe: Recipe, *, service: VerifierService) -> OpenedData:
    """The recipe's data, with every plugin built and tried, and every reference of a finite source parsed.

    Warns of an evaluation source whose prompts have another form than training's.

    Raises: PluginError, DataError, ConfigError; before torch is imported.
    """
    require_engine(recipe)
    if recipe.model.path:
        locate(recipe.model.path)
    for plugin in (recipe.algorithm.loss, recipe.algorithm.advantage):
        if isinstance(plugin, PluginSection):
            build_function(plugin.GROUP, plugin.name, plugin.settings)
    for source in (*recipe.data.train, *recipe.data.eval):
        for check in source.all_checks.values():
            if not check.is_jailed:
                load_tried(find(VERIFIERS, check.verifier))

    for warning in prompts_that_differ(recipe.data):
        logger.warning("%s", warning)

    opener = SourceOpener(recipe.data, seed=recipe.seed)

    def open_all(limit: PromptLimit) -> tuple[PromptStream, EvalPrompts]:
        seed, is_too_long, advice = recipe.seed, limit.is_too_long, limit.advice
        stream = open_train(recipe.data, seed=seed, is_too_long=is_too_long, long_advice=advice, opener=opener)
        evals = open_eval(
            recipe.data, recipe.run.eval_prompts, seed=seed, is_too_long=is_too_long, long_advice=advice, opener=opener
        )
        return stream, evals

    stream, evals = open_all(PromptLimit())
    if recipe.cold_start.steps:
        demonstrations(recipe.data.train, seed=recipe.seed)  # raises for a source that has none
    prompts: list[Prompt] = [prompt for found in evals.values() for prompt in found]
    places = dict(evals.places)
    shapes: dict[tuple[str, tuple[str, ...]], Prompt] = {}
    for number, found in enumerate(evals.values()):
        _note_shapes(shapes, f"data.eval.{number}", found)
    for number, source in enumerate(stream.sources):
        count = NUM_GENERATED_CHECKED if source.num_rows is None else source.num_rows
        for index in range(count):
            prompts.append(source.prompt(index))
            places[prompts[-1].prompt_id] = source.place(index)
        _note_shapes(shapes, f"data.train.{number}", prompts[-count:])
    distinct: dict[str, Prompt] = {}
    for prompt in prompts:
        for check in prompt.checks:
            alike = repr(replace(check, name="", reference=None, weight=1.0, role=Role.REWARD))
            if alike not in distinct:
                distinct[alike] = prompt.for_check(check.name)
    service.preflight(prompt.checks[0] for prompt in distinct.values())
    service.check_references(prompts, places=places)
    require_verdicts(service, distinct.values())
    samples = sorted(((key, prompt) for (key, _), prompt in shapes.items()), key=_training_first)
    return OpenedData(stream=stream, evals=evals, reopen=open_all, samples=samples, opener=opener)


def _note_shapes(shapes: dict[tuple[str, tuple[str, ...]], Prompt], key: str, prompts: Iterable[Prompt]) -> None:
    for prompt in prompts:
        shapes.setdefault((key, tuple(message.role for message in prompt.messages)), prompt)


def _training_first(sample: tuple[str, Prompt]) -> bool:
    return not sample[0].startswith("data.train")


@contextmanager
def opened(recipe: Recipe) -> Iterator[tuple[VerifierService, OpenedData]]:
    """Context in which the recipe's verifiers run and its data is open; both were checked.

    Raises: PluginError, DataError, ConfigError; before torch is imported.
    """
    require_machine(recipe)
    service = VerifierService(
        recipe.reward.verifier_workers,
        recipe.reward.verifier_deadline_s,
        sandbox=(recipe.sandbox.backend, recipe.sandbox.settings),
    )
    try:
        yield service, open_data(recipe, service=service)
    finally:
        service.close()
