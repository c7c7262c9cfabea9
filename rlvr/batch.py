"""The records that hold tensors, and the Learner protocol. The lowest file that imports torch.

Column t of every [batch, seq] tensor describes token t, prompt included: losses never shift and never see packing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlvr.records import WeightsRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Denominators:
    """Global counts of one optimiser step, before any rejection: the divisors of token losses (each >= 1)."""

    num_loss_tokens: int
    num_sequences: int
    num_prompts: int

    def __add__(self, other: "Denominators") -> "Denominators":
        return Denominators(
            num_loss_tokens=self.num_loss_tokens + other.num_loss_tokens,
            num_sequences=self.num_sequences + other.num_sequences,
            num_prompts=self.num_prompts + other.num_prompts,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The data of one optimiser step.

    loss_mask: True on tokens that the policy sampled and that may carry loss.
    behavior_logprobs: nats, from the engine, 0 where loss_mask is False.
    proximal_logprobs: the learner's own, before the step; None if behavior_logprobs are the base of the ratio, or if
        there is one minibatch (then the step's own forward pass computes them).
    group_num_tokens: loss tokens of all rows of this row's group, whichever micro-batch or rank they are on.
    num_*: global denominators, counted before any rejection and over all ranks.
    """

    token_ids: Int[Tensor, "batch seq"]
    attention_mask: Bool[Tensor, "batch seq"]
    loss_mask: Bool[Tensor, "batch seq"]
    behavior_logprobs: Float[Tensor, "batch seq"]
    advantages: Float[Tensor, "batch seq"]
    group_index: Int[Tensor, " batch"]
    group_num_tokens: Int[Tensor, " batch"]
    num_loss_tokens: int
    num_sequences: int
    num_prompts: int
    proximal_logprobs: Float[Tensor, "batch seq"] | None = None
    ref_logprobs: Float[Tensor, "batch seq"] | None = None
    values: Float[Tensor, "batch seq"] | None = None
    returns: Float[Tensor, "batch seq"] | None = None

    def __post_init__(self) -> None:
        if self.loss_mask.device.type != "cpu":
            return  # a copy of rows that were checked on the host; to read them the host would wait for the device
        if bool((self.loss_mask & ~self.attention_mask).any()):
            raise ValueError("loss_mask is True on padding: a token outside attention_mask cannot carry loss")
        if bool(self.loss_mask[:, :1].any()):
            raise ValueError("loss_mask is True on the first token, which no earlier token predicts")

    @property
    def denominators(self) -> Denominators:
        """The three counts as one record."""
        return Denominators(
            num_loss_tokens=max(1, self.num_loss_tokens),
            num_sequences=max(1, self.num_sequences),
            num_prompts=max(1, self.num_prompts),
        )

    def rows(self, index: Int[Tensor, " rows"]) -> "Batch":
        """The chosen rows, cut to their longest, with the same global denominators."""
        width = max(1, int(self.attention_mask[index].sum(1).max()))
        chosen = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                chosen[f.name] = value[index, :width] if value.dim() == 2 else value[index]
        return replace(self, **chosen)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device; the host does not wait for the copy."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: on_device(v, device) for k, v in moved.items() if isinstance(v, Tensor)})


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. From the host to a GPU through pinned memory, so that the host does not wait."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossOutput:
    """The loss of some rows as a numerator: divide by `Denominators` once per optimiser step.

    loss_sum: scalar with gradient. metrics: name -> (sum, count), so that micro-batches and ranks add up; scalars on
        the device, which nobody waits for before the backward pass is under way.
    """

    loss_sum: Float[Tensor, ""]
    metrics: Mapping[str, tuple[float | Tensor, float | Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """The result of an optimiser step; `metrics` are `area/name` -> number. skipped: its gradient was not finite."""

    metrics: Mapping[str, float]
    skipped: bool = False


@runtime_checkable
class Learner(Protocol):
    """Trains the policy. `step` = `accumulate` + `apply`; several accumulate calls before one apply are one step."""

    def annotate(self, batch: Batch) -> Batch:
        """The batch with proximal and reference log-probs if the algorithm needs them; else unchanged."""
        ...

    def accumulate(self, batch: Batch) -> None:
        """Adds the un-normalised gradient of these rows."""
        ...

    def apply(self, denominators: Denominators) -> StepReport:
        """Divides by the denominators, clips, steps the optimiser. Raises LearnerError past the non-finite budget."""
        ...

    def step(self, batch: Batch) -> StepReport:
        """All minibatches of one training step."""
        ...

    def publish(self) -> WeightsRef:
        """A reference by which engines load the current weights, under the next version if they changed."""
        ...

    def start_save(self, folder: Path) -> None:
        """Writes weights, optimiser and counters to a folder; what remains to be written is written while it trains.

        Raises: CheckpointError when an earlier save failed.
        """
        ...

    def is_saved(self, *, waits: bool) -> bool:
        """Whether everything is written. Args: waits: until it is. Raises CheckpointError when it could not be."""
        ...

    def restore(self, folder: Path) -> None:
        """Restores a checkpoint of `start_save`. Raises CheckpointError."""
        ...


@runtime_checkable
class ProvableLearner(Learner, Protocol):
    """A learner whose weights can be perturbed, so that engines can prove that they follow it."""

    def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """For each row the log-probs (nats, temperature 1) of its tokens but the first, each row in its own shape."""
        ...

    def tensor_groups(self, *, most: int) -> Mapping[str, tuple[str, ...]]:
        """All trained tensors in about `most` groups; see `rlvr.learner.weights.perturbation`."""
        ...

    def perturb(self, names: Sequence[str], *, scale: float) -> None:
        """Adds noise of `scale` times each tensor's root mean square; `publish` then gives a trial (version below 0).

        Raises: LearnerError when weights are already perturbed.
        """
        ...

    def unperturb(self) -> None:
        """Restores the weights before `perturb`, bit for bit, under their version. Safe when nothing is perturbed."""
        ...
