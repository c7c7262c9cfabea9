"""A small architecture, a set-up and devices for the tests of the planner."""

from rlvr.config.dtypes import with_dtypes
from rlvr.config.load import load_recipe
from rlvr.config.sections.learner import LearnerDtype
from rlvr.planner.architecture import Architecture
from rlvr.planner.machine import Device
from rlvr.planner.memory import Part
from rlvr.planner.setup import Lengths, Setup, setup_of

GIB = 1 << 30


# One layer of hidden 10, gated width 20, 2 heads of 5, one key-value head, 100 tokens in the vocabulary, tied.
SMALL = Architecture(
    layers=3,
    hidden=10,
    intermediate=20,
    heads=2,
    query_width=10,
    kv_width=5,
    vocab=100,
    num_parameters=4000,
    num_multiplied=4000,
    num_linear=3900,
    max_positions=512,
)


SETUP = Setup(
    architecture=SMALL,
    lengths=Lengths(prompt_mean=6, prompt_max=8, completion=4),
    num_trained=4000,
    is_bfloat16=True,
    has_8bit_states=False,
    has_checkpointing=False,
    is_packed=True,
    shares_prompts=True,
    has_reference_copy=False,
    has_reference_pass=False,
    has_proximal_pass=False,
    micro_batch_tokens=1000,
    logits_bytes=1 << 20,
    num_learners=1,
    is_compiled=False,
    is_engine_elsewhere=False,
    engine_bytes=2,
    rows_at_once=16,
    overlaps=False,
    num_workers=2,
    prompts_per_step=4,
    group_size=2,
    minibatches=1,
    num_steps=10,
    num_eval_completions=0,
    cold_start_rows=0,
    cold_start_steps=0,
)


def by_name(parts: list[Part]) -> dict[str, int]:
    return {part.name: part.num_bytes for part in parts}


def device(gibibytes: float, *, kind: str = "cpu", index: int = 0) -> Device:
    return Device(kind=kind, index=index, name=f"{kind} {index}", available_bytes=int(gibibytes * GIB))


def setup_for(*overrides: str, num_adapters: int = 0, eval_sizes: list[int] | None = None, on: str = "cpu") -> Setup:
    recipe = with_dtypes(load_recipe("tiny", list(overrides)).recipe, learner=LearnerDtype.FLOAT32)
    return setup_of(recipe, SMALL, device=on, num_adapters=num_adapters, lengths=SETUP.lengths, eval_sizes=eval_sizes)
