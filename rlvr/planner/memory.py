"""Memory of each part of a run, and when it is held.

    peak of a device = what is always held + the larger of (training, generation), or their sum if they overlap
    training         = the largest of (a micro-batch, the update, a weight sync)
    a micro-batch    = what it needs throughout + the larger of (what the forward pass keeps, gradients), or their sum
                       if an earlier micro-batch has left gradients

With N parameters, T tokens of a micro-batch, L layers, hidden size H, gated width I, and query and key-value widths Q
and K, a decoder layer of the Llama family keeps for the backward pass of one token

    bfloat16 autocast   26 H + 2 (3 Q + 2 K) + 8 I      float32   24 H + 4 (3 Q + 2 K) + 16 I     bytes

(two norms in float32 with input and normed value; each matrix product its own cast of its input; queries, keys, values
and output of attention, the output twice if rows are packed; gate, activated gate, up and product), 8 H less if norms
are frozen, and 4 times the heads. Activation checkpointing keeps 4 H instead, plus one layer's whole share while it is
recomputed. The tests compare this with what autograd saves.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from rlvr.planner.architecture import Architecture
from rlvr.planner.setup import Setup

# Measured: a run's process after its imports and tokenizer, and a verifier worker. The CUDA context is an estimate.
BASE_BYTES = 480 << 20
WORKER_BYTES = 25 << 20
CUDA_CONTEXT_BYTES = 600 << 20
ADAM_BYTES = 8  # two float32 averages a parameter
ADAM_8BIT_BYTES = 2 * (1 + 4 / 256)  # two codes, and a float32 scale for each block of 256
# Bytes of float32 copies per element of the current tensor that bitsandbytes makes on a CPU; a GPU's kernel makes none.
UPDATE_BYTES = 40
# Bytes per element of an engine's logits: as computed, in float32, their log-softmax, its exp, its sum.
SAMPLING_BYTES = 18


class Phase(StrEnum):
    """When something is held."""

    ALWAYS = "always"
    GENERATION = "generation"
    TRAINING = "training"  # throughout a micro-batch
    FORWARD = "forward"  # kept for the backward pass, which frees it as gradients appear
    GRADIENTS = "gradients"  # until the update
    UPDATE = "update"
    SYNC = "sync"  # while weights are sent; there are no gradients then


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of the memory. how: the multiplication, for display."""

    name: str
    num_bytes: int
    phase: Phase
    how: str


def passing_bytes(parts: Iterable[Part], *, overlaps: bool, has_one_micro_batch: bool) -> int:
    """The peak of the parts that are not always held.

    >>> held = [Part(name="", num_bytes=b, phase=p, how="") for b, p in
    ...         ((90, Phase.ALWAYS), (4, Phase.FORWARD), (5, Phase.GRADIENTS), (3, Phase.GENERATION))]
    >>> passing_bytes(held, overlaps=False, has_one_micro_batch=True)
    5
    >>> passing_bytes(held, overlaps=True, has_one_micro_batch=False)
    12
    >>> sync = Part(name="", num_bytes=7, phase=Phase.SYNC, how="")
    >>> passing_bytes([*held, sync], overlaps=False, has_one_micro_batch=True)
    7
    """
    totals = dict.fromkeys(Phase, 0)
    for part in parts:
        totals[part.phase] += part.num_bytes
    ends = (totals[Phase.FORWARD], totals[Phase.GRADIENTS])
    micro_batch = totals[Phase.TRAINING] + (max(ends) if has_one_micro_batch else sum(ends))
    training = max(micro_batch, totals[Phase.GRADIENTS] + totals[Phase.UPDATE], totals[Phase.SYNC])
    generation = totals[Phase.GENERATION]
    return training + generation if overlaps else max(training, generation)


def learner_parts(setup: Setup, *, is_on_cpu: bool) -> list[Part]:
    """The memory of one learner: its shard of weights, gradients and states, and its whole micro-batch."""
    model, ranks = setup.architecture, setup.num_learners
    share = "" if ranks == 1 else f" / {ranks}"
    weights = f"{model.num_parameters:,} x 4{share}"
    trained = f"{setup.num_trained:,} x "
    states = ADAM_8BIT_BYTES if setup.has_8bit_states else ADAM_BYTES
    layer = f"{layer_bytes(setup):,}"
    kept = f"{4 * model.hidden:,}, and one layer's {layer}" if setup.has_checkpointing else layer
    casts = model.num_linear - model.num_head if setup.is_bfloat16 and not setup.gathers_bfloat16 else 0
    one_layer = (model.num_parameters - model.num_head) // model.layers
    whole = (2 if setup.gathers_bfloat16 else 4) * one_layer + 4 * model.num_head
    parts = [
        _part("weights", 4 * model.num_parameters / ranks, weights),
        _part("optimizer", states * setup.num_trained / ranks, f"{trained}{states:.3g}{share}"),
        _part("reference", 4 * model.num_parameters / ranks * setup.has_reference_copy, weights),
        _part("gathered layers", whole * (ranks > 1), "a layer and the head, whole", Phase.TRAINING),
        _part("bfloat16 casts", 2 * casts, f"{casts:,} x 2", Phase.TRAINING),
        _part("head's gradient", head_work(setup), f"of {model.num_head:,} numbers", Phase.TRAINING),
        _part(
            "activations",
            activations(setup),
            f"{setup.micro_tokens:,} tokens x {model.layers} layers x {kept}",
            Phase.FORWARD,
        ),
        _part("logits", logits(setup), f"of {setup.micro_targets:,} tokens x {model.vocab:,}", Phase.FORWARD),
        _part("gradients", 4 * setup.num_trained / ranks, f"{trained}4{share}", Phase.GRADIENTS),
    ]
    if setup.has_8bit_states and is_on_cpu and not setup.is_lora:
        how = f"{model.num_head:,} x {UPDATE_BYTES}, the largest tensor"
        parts.append(_part("8-bit update", UPDATE_BYTES * model.num_head, how, Phase.UPDATE))
    return [part for part in parts if part.num_bytes]


def engine_parts(setup: Setup, *, shares_learner: bool) -> list[Part]:
    """The memory of generation. Args: shares_learner: whether the learner's weights are already on this device."""
    model, rows = setup.architecture, setup.rows_at_once
    width = setup.engine_bytes or (0 if shares_learner else 4)
    in_bfloat16 = setup.engine_bytes == 2
    parts: list[Part] = []
    if width:
        parts.append(_part("engine's weights", width * model.num_parameters, f"{model.num_parameters:,} x {width}"))
    elif setup.is_bfloat16:
        parts.append(_part("engine's casts", 2 * model.num_linear, f"{model.num_linear:,} x 2", Phase.GENERATION))
    # Under autocast keys leave the rotary embedding in float32, and values are bfloat16.
    key, value = (2, 2) if in_bfloat16 else (4, 2) if setup.is_bfloat16 else (4, 4)
    per_token = model.layers * model.kv_width * (key + value)
    parts.append(
        _part(
            "key-value cache",
            rows * setup.lengths.row_max * per_token,
            f"{rows:,} rows x {setup.lengths.row_max:,} tokens x {per_token:,}",
            Phase.GENERATION,
        )
    )
    parts.append(
        _part(
            "sampling",
            rows * model.vocab * SAMPLING_BYTES,
            f"{rows:,} rows x {model.vocab:,} x {SAMPLING_BYTES}",
            Phase.GENERATION,
        )
    )
    number = 2 if in_bfloat16 else 4
    live = number * (6 * model.hidden + 3 * model.intermediate + model.query_width + 2 * model.kv_width)
    prompts = rows * setup.lengths.prompt_max
    parts.append(_part("prompts", prompts * live, f"{prompts:,} tokens x {live:,}", Phase.GENERATION))
    return [part for part in parts if part.num_bytes]


def layer_bytes(setup: Setup) -> int:
    """Bytes that one layer keeps per token for the backward pass."""
    model: Architecture = setup.architecture
    hidden, wide, keys = model.hidden, model.query_width, model.kv_width
    outputs = 2 if setup.is_packed else 1
    if setup.is_bfloat16:
        total = 26 * hidden + 2 * (wide + 2 * keys + outputs * wide) + 8 * model.intermediate
    else:
        total = 24 * hidden + 4 * (wide + 2 * keys + outputs * wide) + 16 * model.intermediate
    return total + 4 * model.heads - (8 * hidden if setup.is_lora else 0)


def activations(setup: Setup) -> int:
    """Bytes that a micro-batch keeps for the backward pass; a shared prompt's keys and values once per completion."""
    model, tokens = setup.architecture, setup.micro_tokens
    one_layer = tokens * layer_bytes(setup)
    if setup.shares_prompts:
        number = 2 if setup.is_bfloat16 else 4
        one_layer += setup.micro_rows * setup.lengths.prompt_mean * 2 * model.kv_width * number
    if setup.has_checkpointing:
        return model.layers * tokens * 4 * model.hidden + one_layer
    return model.layers * one_layer


def logits(setup: Setup) -> int:
    """The head's block of logits: of all targets, or as many as `logits_memory_mb` allows in float32."""
    vocab = setup.architecture.vocab
    rows = min(setup.micro_targets, max(1, setup.logits_bytes // (4 * vocab)))
    return rows * vocab * (2 if setup.is_bfloat16 else 4)


def head_work(setup: Setup) -> int:
    """The cast of the head's matrix, and its gradient as computed and in float32; a frozen head has no gradient."""
    narrow = 2 if setup.is_bfloat16 else 0
    gradient = 0 if setup.is_lora else (narrow or 4) + 4
    return setup.architecture.num_head * (narrow + gradient)


def _part(name: str, num_bytes: float, how: str, phase: Phase = Phase.ALWAYS) -> Part:
    return Part(name=name, num_bytes=round(num_bytes), phase=phase, how=how)
