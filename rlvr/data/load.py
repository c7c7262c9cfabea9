"""Opens the recipe's data section: the training stream, the fixed evaluation sets, the demonstrations."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence

from rlvr.config.recipe import DataConfig, DataSource, source_name
from rlvr.data.order import LONG_ADVICE, PromptStream
from rlvr.data.rows import FiniteRows, GeneratedRows
from rlvr.data.seeding import stable_hash
from rlvr.data.sources import FileReader, open_source
from rlvr.data.templates import build_prompt, check_chosen_verifiers, check_formats
from rlvr.errors import ConfigError, DataError
from rlvr.records import Prompt

logger = logging.getLogger(__name__)

_RENDERING = ("template", "system_prompt", "prompt_format", "assistant_prefix")
_MAX_SHOWN = 80  # characters of a value in a warning
TooLong = Callable[[Prompt], bool]
# Consecutive draws without a new prompt, after which an evaluation set counts as complete.
_MAX_REPEATS = 2000


class OpenedSource:
    """A source of the recipe with its rows, ready to yield prompts."""

    def __init__(self, config: DataSource, *, seed: int, reader: FileReader | None = None) -> None:
        self.config = config
        self.name = source_name(config)
        self.rows: FiniteRows | GeneratedRows = open_source(config, seed=seed, reader=reader)
        check_formats(config, self.rows)  # a wrong format is found now, not at the first step
        check_chosen_verifiers(config, self.rows)
        build_prompt(config, self.rows.row(0))

    @property
    def num_rows(self) -> int | None:
        """How many prompts there are; None when endless."""
        return self.rows.num_rows

    def prompt(self, index: int) -> Prompt:
        """The prompt of that row or draw."""
        return build_prompt(self.config, self.rows.row(index))

    def place(self, index: int) -> str:
        """The file and line of that row; "" for a draw of a generator."""
        return self.rows.row(index).where


class SourceOpener:
    """Opens the sources of a recipe, each once; a file that several of them name is read once."""

    def __init__(self, config: DataConfig, *, seed: int) -> None:
        self._seed = seed
        self._reader = FileReader([*config.train, *config.eval])
        self._opened: list[OpenedSource] = []

    def open(self, config: DataSource) -> OpenedSource:
        """The source, opened when it is first asked for. Raises: DataError, ConfigError."""
        for source in self._opened:
            if source.config == config:
                return source
        self._opened.append(OpenedSource(config, seed=self._seed, reader=self._reader))
        return self._opened[-1]


class EvalPrompts(dict[str, list[Prompt]]):
    """The prompts of each evaluation by name.

    num_too_long: how many were dropped. places: the file and line of each prompt read from a file, by prompt id.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, str] = {}
        self.num_too_long: dict[str, int] = {}


def open_train(
    config: DataConfig,
    *,
    seed: int,
    is_too_long: TooLong | None = None,
    long_advice: str = LONG_ADVICE,
    opener: SourceOpener | None = None,
) -> PromptStream:
    """The stream of training prompts.

    Args:
        long_advice: what to do when every prompt is too long.
        opener: keeps the sources open for later calls.

    Raises:
        DataError: a source cannot be used. ConfigError: a source is configured wrongly, or two
        share a name.
    """
    names = [source_name(source) for source in config.train]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"data.train: two sources share the name {twice[0]!r}; set data.train.N.name")
    opener = opener or SourceOpener(config, seed=seed)
    return PromptStream(
        [opener.open(source) for source in config.train],
        weights=[source.weight for source in config.train],
        seed=seed,
        shuffle=config.shuffle,
        is_too_long=is_too_long,
        long_advice=long_advice,
    )


def open_eval(
    config: DataConfig,
    num_prompts: int,
    *,
    seed: int,
    is_too_long: TooLong | None = None,
    long_advice: str = LONG_ADVICE,
    opener: SourceOpener | None = None,
) -> EvalPrompts:
    """The fixed prompts of each evaluation: the first distinct rows, or distinct draws of a generator.

    Args:
        num_prompts: maximum per source; a smaller source gives all its prompts. A row that repeats the prompt and the
            reference of an earlier one is left out.
        opener: keeps the sources open for later calls.

    Raises:
        DataError: a source cannot be used or has only prompts that are too long. ConfigError: it is
        configured wrongly.
    """
    found = EvalPrompts()
    opener = opener or SourceOpener(config, seed=seed)
    for source_config in config.eval:
        source = opener.open(source_config)
        prompts, num_long, num_twice = _first_distinct(source, num_prompts, is_too_long, found.places)
        if not prompts:
            raise DataError(f"evaluation {source.name!r}: all {num_long} prompts are too long; {long_advice}")
        if num_long:
            logger.warning(
                "evaluation %r: %d prompts are too long and were dropped; to keep them, %s",
                source.name,
                num_long,
                long_advice,
            )
        if num_twice and is_too_long is None:  # else it was logged when the data was first opened
            logger.warning(
                "evaluation %r: %d rows repeat the prompt and the reference of an earlier row and were dropped: "
                "repeats add no information and would make the interval too narrow",
                source.name,
                num_twice,
            )
        found[source.name] = prompts
        found.num_too_long[source.name] = num_long
    return found


def prompts_that_differ(config: DataConfig) -> list[str]:
    """A warning for each key that an evaluation source omits and that all of `data.train` set to another value.

    The evaluation prompt then differs from the training prompts. A key that is written out in the evaluation source is
    intended, and one train source rendered alike is enough.
    """
    found: list[str] = []
    for index, source in enumerate(config.eval):
        for key in _RENDERING:
            value = getattr(source, key)
            is_alone = all(getattr(train, key) != value for train in config.train)
            if is_alone and key not in source.model_fields_set:
                given = getattr(config.train[0], key)
                found.append(
                    f"data.eval.{index} ({source_name(source)}) has no {key}, and data.train.0 has "
                    f"{_shown(given)}: evaluation prompts differ from training prompts. Write the same {key} "
                    f"there, or {key}: {_shown(value)} if this is intended"
                )
    return found


def _shown(value: str) -> str:
    """The value in YAML, cut if long."""
    text = json.dumps(str(value), ensure_ascii=False)
    return text if len(text) <= _MAX_SHOWN else f'{text[:_MAX_SHOWN]}..."'


def demonstrations(train: Sequence[DataSource], *, seed: int) -> Iterator[tuple[Prompt, str]]:
    """Endless pairs of a training prompt and a demonstrated answer, mixed by weight, for the cold
    start.

    The problems come from the training splits, in another order than in RL.

    Raises:
        ConfigError: a source has no demonstrations; raised at the call, not at the first pair.
    """
    seed = stable_hash(seed, "cold_start")
    for source in train:
        rows = open_source(source, seed=seed) if source.source.startswith("generator:") else None
        if rows is None or not isinstance(rows, GeneratedRows) or not rows.draws.can_demonstrate:
            raise ConfigError(
                f"cold_start.steps > 0, but source {source.source!r} has no demonstrations; use a "
                "generator that has them "
                "(generator:sort_digits), or set cold_start.steps=0"
            )
    return _demonstrated([_Demonstrated(source, seed=seed) for source in train], train, seed)


def summary(stream: PromptStream, evals: EvalPrompts | None = None) -> list[tuple[str, str, str, str]]:
    """Rows of the start-up table: source, part, rows, too long so far."""
    long = stream.num_too_long
    table = [
        (source.name, "train", "endless" if source.num_rows is None else str(source.num_rows), str(long[source.name]))
        for source in stream.sources
    ]
    for name, prompts in (evals or {}).items():
        dropped = evals.num_too_long.get(name, 0) if evals is not None else 0
        table.append((name, "eval", str(len(prompts)), str(dropped)))
    return table


class _Demonstrated(OpenedSource):
    """An opened generator that remembers the draw number, so that `answer` can find it."""

    def __init__(self, config: DataSource, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        self.last = -1

    def prompt(self, index: int) -> Prompt:
        """The prompt of that draw, remembered for `answer`."""
        self.last = index
        return super().prompt(index)

    def answer(self) -> str:
        """The demonstrated answer to the last prompt."""
        assert isinstance(self.rows, GeneratedRows)  # checked by demonstrations()
        return self.rows.draws.demonstration(self.last)


def _demonstrated(sources: list[_Demonstrated], train: Sequence[DataSource], seed: int) -> Iterator[tuple[Prompt, str]]:
    stream = PromptStream(sources, weights=[source.weight for source in train], seed=seed)
    by_name = {source.name: source for source in sources}
    while True:
        issue = stream.take()
        stream.settle(issue.index)
        yield issue.prompt, by_name[issue.prompt.source].answer()


def _first_distinct(
    source: OpenedSource, num_prompts: int, is_too_long: TooLong | None, places: dict[str, str]
) -> tuple[list[Prompt], int, int]:
    """(prompts, how many were too long, how many rows of a finite source repeated an earlier one)."""
    prompts: list[Prompt] = []
    keys: set[str] = set()
    num_long = num_repeats = num_twice = index = 0
    end = source.num_rows
    while len(prompts) < num_prompts and (end is None or index < end) and num_repeats < _MAX_REPEATS:
        row = source.rows.row(index)
        index += 1
        prompt = None if end is None else build_prompt(source.config, row)
        key = row.key if prompt is None else _content(prompt)
        if key in keys:
            num_repeats += end is None
            num_twice += end is not None
            continue
        keys.add(key)
        prompt = prompt or build_prompt(source.config, row)
        if is_too_long is not None and is_too_long(prompt):
            num_long += 1
            num_repeats += end is None  # an endless source of long prompts must end too
            continue
        num_repeats = 0
        if row.where:
            places[prompt.prompt_id] = row.where
        prompts.append(prompt)
    return prompts, num_long, num_twice


def _content(prompt: Prompt) -> str:
    """The prompt and the reference as a key that is equal for repeated questions."""
    reference = json.dumps(prompt.checks[0].reference, sort_keys=True, default=str)
    return repr((prompt.messages, prompt.text, prompt.assistant_prefix, reference))
