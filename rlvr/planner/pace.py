"""Seconds and tokens of a training step, from FLOPs and a short measurement of the device.

    a pass over n tokens      2 n P FLOPs forward, 4 n P backward (2 n P if only adapters are trained), P the
                              parameters that a token is multiplied with; 2 n P more if activations are recomputed
    attention                 4 L Q FLOPs forward for each pair of a token and one before it, twice that backward
    one token of R rows       the larger of reading the weights once and 2 R P FLOPs; and for each layer the time of
                              OPERATIONS calls
    a completion              the time of ROW_CALLS calls when it is generated, and again when it is trained

Every completion is assumed to reach its limit, so these are upper bounds for a policy that stops earlier.
"""

from dataclasses import dataclass

from rlvr.planner.machine import Speed
from rlvr.planner.setup import Setup

# Kernels that transformers calls in one decoder layer for one token, plus Python overhead, in units of a small
# product's time.
OPERATIONS = 60
# Python's overhead per completion, in the same units: its request, verdict and record; its place in a batch. It is
# most of a tiny model's step, and negligible for a large one.
ROW_CALLS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds and tokens of one training step and of the whole run."""

    generated_tokens: int
    learner_tokens: int
    generation_s: float
    training_s: float
    total_s: float

    @property
    def step_s(self) -> float:
        """Generation and training, one after the other."""
        return self.generation_s + self.training_s


def pace_of(setup: Setup, speed: Speed) -> Pace:
    """The pace on a device of this speed, the learners' work divided over their number."""
    rows = setup.rows_per_step
    learner_tokens = setup.tokens_of(prompts=setup.prompts_per_step)
    generation_s = decode_s(setup, speed, rows=rows, prompts=setup.prompts_per_step)
    per_token = pass_flops(setup) * learner_tokens + attention_flops(setup) * rows
    training_s = per_token / (speed.flops * speed.attained * setup.num_learners)
    training_s += rows * ROW_CALLS * speed.call_s
    evaluated = setup.num_eval_completions
    total_s = setup.num_steps * (generation_s + training_s)
    if evaluated:
        total_s += decode_s(setup, speed, rows=evaluated, prompts=evaluated)
    cold_tokens = setup.cold_start_rows * setup.lengths.row_max
    cold_flops = cold_tokens * setup.architecture.num_multiplied * (4 if setup.is_lora else 6)
    total_s += setup.cold_start_steps * cold_flops / (speed.flops * speed.attained * setup.num_learners)
    return Pace(
        generated_tokens=rows * setup.lengths.completion,
        learner_tokens=learner_tokens,
        generation_s=generation_s,
        training_s=training_s,
        total_s=total_s,
    )


def pass_flops(setup: Setup) -> int:
    """FLOPs of all passes of a step over one token, without attention."""
    forward = 2 * setup.architecture.num_multiplied
    passes = 2 if setup.is_lora else 3  # forward; gradients of activations; gradients of weights
    passes += setup.has_checkpointing + setup.has_reference_pass + setup.has_proximal_pass
    return forward * passes


def attention_flops(setup: Setup) -> float:
    """FLOPs of attention of one completion over all earlier tokens, forward and backward."""
    model, lengths = setup.architecture, setup.lengths
    own = lengths.completion if setup.shares_prompts else lengths.prompt_mean + lengths.completion
    before = lengths.prompt_mean if setup.shares_prompts else 0
    pairs = own * before + own * own / 2
    return 3 * 4 * model.layers * model.query_width * pairs


def decode_s(setup: Setup, speed: Speed, *, rows: int, prompts: int) -> float:
    """Seconds to generate `rows` completions at full length, in waves of at most `rows_at_once`."""
    model, lengths = setup.architecture, setup.lengths
    waves = -(-rows // setup.rows_at_once)
    at_once = rows / waves
    number = 2 if setup.engine_bytes == 2 or setup.is_bfloat16 else 4
    reading = number * model.num_multiplied / speed.bytes
    arithmetic = 2 * at_once * model.num_multiplied / speed.flops
    token_s = max(reading, arithmetic) + model.layers * OPERATIONS * speed.call_s
    prefill = 2 * prompts * lengths.prompt_mean * model.num_multiplied / (speed.flops * speed.attained)
    handling = rows * ROW_CALLS * speed.call_s
    return prefill + waves * lengths.completion * token_s + handling
