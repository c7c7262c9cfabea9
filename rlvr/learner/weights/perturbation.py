"""Perturbs weights and restores them bit for bit, for the proof that engines follow the learner."""

import math
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlvr.errors import LearnerError

_NOISE_BLOCK = 65_521  # numbers, a prime: drawn once per tensor and repeated, which is as fast as a copy
_LEAST_RMS = 0.02  # for a tensor of zeros, such as a bias, or an adapter before its first step


class Perturbation:
    """Keeps the original of the perturbed tensors, and only those, on the CPU."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._originals: dict[str, Tensor] = {}

    @property
    def is_active(self) -> bool:
        """Whether weights are perturbed at present."""
        return bool(self._originals)

    @torch.no_grad()
    def begin(self, names: Sequence[str], *, scale: float) -> None:
        """w + scale * rms(w) * noise, with repeating standard normal noise that depends only on the tensor's name.

        Raises: LearnerError when weights are already perturbed, or a name is unknown.
        """
        own = dict(self._model.named_parameters())
        unknown = [name for name in names if name not in own]
        if self.is_active or unknown:
            raise LearnerError(
                f"cannot perturb the weights {list(names)[:3]}: "
                + (f"{unknown[0]!r} is not in the model" if unknown else "others are still perturbed")
            )
        self._originals = {name: own[name].detach().to("cpu", copy=True) for name in names}
        for name in names:
            tensor = own[name]
            rms = max(_LEAST_RMS, float(tensor.norm()) / math.sqrt(tensor.numel()))
            _add_noise(tensor.view(-1), scale * rms, seed=zlib.crc32(name.encode()))

    @torch.no_grad()
    def end(self) -> None:
        """Restores everything. Does nothing when nothing is perturbed."""
        own = dict(self._model.named_parameters())
        for name, original in self._originals.items():
            own[name].copy_(original)
        self._originals = {}


def _add_noise(flat: Tensor, size: float, *, seed: int) -> None:
    generator = torch.Generator(flat.device).manual_seed(seed)
    count = min(_NOISE_BLOCK, len(flat))
    noise = torch.randn(count, generator=generator, dtype=flat.dtype, device=flat.device).mul_(size)
    whole = len(flat) // count * count
    flat[:whole].view(-1, count).add_(noise)
    flat[whole:].add_(noise[: len(flat) - whole])
