"""`rlvr check`: everything that `--dry-run` checks, and the run's needs. No weights are loaded.

They are those on this machine, whose speed is measured, or with `--gpus` those on a cluster that need not exist.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from rlvr.commands.audit import short_audits
from rlvr.commands.dry_run import data_rows
from rlvr.config.derived import derived_table, speed_rows
from rlvr.config.dtypes import with_dtypes
from rlvr.config.recipe import Recipe
from rlvr.config.sections.learner import LearnerDtype
from rlvr.errors import ConfigError
from rlvr.learner.weights.weights_file import FILES_AT_ONCE
from rlvr.models.dtype_speed import measure_dtypes
from rlvr.models.policy import load_tokenizer, outline
from rlvr.models.prompting import encode_prompt
from rlvr.planner.architecture import architecture_of, num_adapter_parameters
from rlvr.planner.cluster import plan_cluster
from rlvr.planner.hardware import Hardware
from rlvr.planner.machine import Device, devices, measure, torch_device
from rlvr.planner.pace import pace_of
from rlvr.planner.plan import Place, places, remedies
from rlvr.planner.remedies import candidates, changed, override
from rlvr.planner.setup import Lengths, Setup, setup_of
from rlvr.planner.table import Row, cluster_rows, memory_rows, pace_rows, warning
from rlvr.records import Prompt
from rlvr.run.launch.choose_dtypes import choose_dtypes
from rlvr.run.launch.preflight import OpenedData, opened
from rlvr.run.launch.prompt_check import check_prompts
from rlvr.run.launch.start_learner import use_threads

NUM_MEASURED = 64  # prompts per source whose tokens are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """tables: title and rows. warnings: likely problems on this machine."""

    tables: tuple[tuple[str, tuple[Row, ...]], ...]
    warnings: tuple[str, ...]


def check_recipe(recipe: Recipe, *, hardware: Hardware | None = None) -> CheckReport:
    """The report of a valid recipe.

    Args: hardware: plan for this cluster of GPUs instead of this machine.

    Raises: the errors of a real start before it loads weights (ConfigError, DataError, PluginError).
    """
    with opened(recipe) as (service, data):
        prompts = list(_sample(data))
        counts = data_rows(data)
        for label, backend, python in service.jailed:
            counts.append((f"verifier {label}", f"jailed in {backend}", f"interpreter {python}" if python else ""))
        notes = check_prompts(recipe, data).notes
        eval_sizes = [len(found) for found in data.evals.values()]
        audit_rows, audit_warnings = short_audits(recipe, data)
        counts += audit_rows
        notes = (*notes, *audit_warnings)
    model = outline(recipe.model)
    if hardware is not None:
        return _check_on(recipe, model, hardware, prompts=prompts, rows=counts, notes=notes, eval_sizes=eval_sizes)
    found = devices(recipe.learner.device)
    use_threads(recipe)
    choice = choose_dtypes(recipe, measure=lambda: measure_dtypes(model, torch_device(found[0])))
    recipe = recipe if choice is None else choice.recipe
    rows = [
        *derived_table(recipe, dtype_reason="" if choice is None else choice.reason),
        *speed_rows(recipe, device=found[0].kind),
        *counts,
    ]
    lengths = _lengths(recipe, prompts)
    setup = _setup(recipe, model, lengths, eval_sizes, device=found[0].kind)
    speed = measure(found[0], is_bfloat16=setup.is_bfloat16)
    planned = places(setup, found)
    tables = [
        (f"{recipe.name}: nothing was started", rows),
        *((place.name, memory_rows(place)) for place in planned),
        ("time, an estimate", pace_rows(pace_of(setup, speed), speed, num_steps=setup.num_steps)),
    ]
    return CheckReport(
        tables=tuple((title, tuple(found_rows)) for title, found_rows in tables),
        warnings=(
            *(note.removeprefix("warning: ") for note in notes),
            *_warnings(recipe, model, lengths, eval_sizes, planned, found),
        ),
    )


def _check_on(
    recipe: Recipe,
    model: PreTrainedModel,
    hardware: Hardware,
    *,
    prompts: Sequence[tuple[Prompt, bool]],
    rows: Sequence[Row],
    notes: Sequence[str],
    eval_sizes: Sequence[int],
) -> CheckReport:
    """The report for a cluster of GPUs, on which dtypes that are `auto` are bfloat16."""
    if not recipe.rollout.engine.traits.needs_own_process:
        raise ConfigError(
            f"--gpus plans runs whose engines have GPUs of their own, and rollout.engine={recipe.rollout.engine} works "
            "in the learner's process; add cluster.backend=ray rollout.engine=vllm"
        )
    recipe = with_dtypes(recipe, learner=LearnerDtype.BFLOAT16_AUTOCAST)
    setup = _setup(recipe, model, _lengths(recipe, prompts), eval_sizes, device="cuda")
    plan = plan_cluster(recipe, setup, hardware, files_at_once=FILES_AT_ONCE)
    tables = (
        (f"{recipe.name}: nothing was started", (*derived_table(recipe), *speed_rows(recipe, device="cuda"), *rows)),
        (f"{hardware}, an estimate", tuple(cluster_rows(plan))),
    )
    return CheckReport(tables=tables, warnings=(*(n.removeprefix("warning: ") for n in notes), *plan.problems))


def _warnings(
    recipe: Recipe,
    model: PreTrainedModel,
    lengths: Lengths,
    eval_sizes: Sequence[int],
    planned: Sequence[Place],
    found: Sequence[Device],
) -> Iterator[str]:
    learners = recipe.cluster.learners
    if found[0].kind == "cuda" and learners > len(found):
        yield f"cluster.learners={learners}, and this machine has {len(found)} GPUs: the run would not start"
    room = architecture_of(model).max_positions
    if lengths.row_max > room:
        yield (
            f"the longest prompt has {lengths.prompt_max:,} tokens, which with rollout.max_completion_tokens="
            f"{lengths.completion:,} is more than the model's {room:,} positions: such prompts are dropped"
        )
    fullest = max(planned, key=lambda place: place.excess_bytes)
    if fullest.fits:
        return
    alternatives: list[tuple[str, Setup]] = []
    for change in candidates(recipe, row_tokens=lengths.row_max, device=found[0].kind):
        other = changed(recipe, change)
        if other is not None:
            alternatives.append((override(change), _setup(other, model, lengths, eval_sizes, device=found[0].kind)))
    yield warning(fullest, remedies(fullest, found, alternatives))


def _setup(
    recipe: Recipe, model: PreTrainedModel, lengths: Lengths, eval_sizes: Sequence[int], *, device: str
) -> Setup:
    adapters = recipe.model.lora
    return setup_of(
        recipe,
        architecture_of(model),
        device=device,
        num_adapters=num_adapter_parameters(model, adapters) if adapters.rank else 0,
        lengths=lengths,
        eval_sizes=eval_sizes,
    )


def _sample(data: OpenedData) -> Iterator[tuple[Prompt, bool]]:
    """(prompt, whether it is for training) for the first prompts of each source."""
    for source in data.stream.sources:
        count = NUM_MEASURED if source.num_rows is None else min(NUM_MEASURED, source.num_rows)
        yield from ((source.prompt(i), True) for i in range(count))
    for prompts in data.evals.values():
        yield from ((prompt, False) for prompt in prompts[:NUM_MEASURED])


def _lengths(recipe: Recipe, prompts: Sequence[tuple[Prompt, bool]]) -> Lengths:
    """Lengths in tokens of the recipe's tokenizer; a run drops prompts longer than the recipe allows."""
    tokenizer = load_tokenizer(recipe.model)
    limit = recipe.data.max_prompt_tokens
    counted = [(min(limit, len(encode_prompt(p, tokenizer))), is_train) for p, is_train in prompts]
    trained = [count for count, is_train in counted if is_train]
    return Lengths(
        prompt_mean=-(-sum(trained) // len(trained)),
        prompt_max=max(count for count, _ in counted),
        completion=recipe.rollout.max_completion_tokens,
    )
