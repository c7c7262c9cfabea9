"""Perturbs weights and restores them bit for bit, for the proof that engines follow the learner.

Groups of tensors are perturbed together, as small as the budget of the proof allows, covering all:

every tensor alone                              while there are few; the two of an adapter always together
each layer's attention, MLP and norms           else; tensors outside the layers alone, as always
whole layers, then bundles of them              else; and with them each kind of tensor in all layers at once,
                                                since stale copies are mostly of one kind (a fused one, a norm)
"""

import math
import re
import zlib
from collections.abc import Container, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from rlvr.errors import LearnerError
from rlvr.learner.shards import first_number, local_part

_NOISE_BLOCK = 65_521  # numbers, a prime: drawn once per tensor and repeated, which is as fast as a copy
_LEAST_RMS = 0.02  # for a tensor of zeros, such as a bias, or an adapter before its first step
_LAYER = re.compile(r"^(?P<stem>.*?)\.(?P<layer>\d+)\.(?P<rest>.+)$")
_ADAPTER = ".lora_"  # the two matrices of one layer: the first alone has no effect while the second is zero
_NUMBER = re.compile(r"\.\d+\.")


class Perturbation:
    """Keeps the original of the perturbed tensors, and only those, on the CPU; of sharded ones this rank's part.

    The noise does not depend on the number of ranks. On a sharded model every rank makes the same calls.
    """

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
        require_perturbable(names, own, is_active=self.is_active)
        self._originals = {name: local_part(own[name]).detach().to("cpu", copy=True) for name in names}
        for name in names:
            part = local_part(own[name].detach())
            size = scale * max(_LEAST_RMS, _rms(own[name]))
            _add_noise(
                part, size, seed=zlib.crc32(name.encode()), first=first_number(own[name]), total=own[name].numel()
            )

    @torch.no_grad()
    def end(self) -> None:
        """Restores everything. Does nothing when nothing is perturbed."""
        own = dict(self._model.named_parameters())
        for name, original in self._originals.items():
            local_part(own[name].detach()).copy_(original)
        self._originals = {}


def require_perturbable(names: Sequence[str], known: Container[str], *, is_active: bool) -> None:
    """Raises LearnerError when weights are already perturbed, or a name is unknown."""
    unknown = [name for name in names if name not in known]
    if is_active or unknown:
        raise LearnerError(
            f"cannot perturb the weights {list(names)[:3]}: "
            + (f"{unknown[0]!r} is not in the model" if unknown else "others are still perturbed")
        )


def tensor_groups(names: Sequence[str], *, most: int) -> dict[str, tuple[str, ...]]:
    """Names of tensors by the name of their group: about `most` groups, which cover every name.

    >>> names = ["embed.weight", "layers.0.attn.q.weight", "layers.0.attn.k.weight", "layers.0.mlp.up.weight"]
    >>> list(tensor_groups(names, most=4)) == names
    True
    >>> tensor_groups(names, most=3)["layers.0 attention"]
    ('layers.0.attn.q.weight', 'layers.0.attn.k.weight')
    >>> tensor_groups(["q.lora_A.default.weight", "q.lora_B.default.weight"], most=9)
    {'q': ('q.lora_A.default.weight', 'q.lora_B.default.weight')}
    """
    pairs: dict[str, list[str]] = {}
    for name in names:
        pairs.setdefault(name.partition(_ADAPTER)[0], []).append(name)
    if len(pairs) < len(names):
        groups = tensor_groups(list(pairs), most=most)
        return {group: tuple(name for layer in layers for name in pairs[layer]) for group, layers in groups.items()}
    if len(names) <= most:
        return {name: (name,) for name in names}
    outside: dict[str, list[str]] = {}
    parts: dict[str, list[str]] = {}
    layers: dict[str, list[str]] = {}
    leaves: dict[str, list[str]] = {}
    kinds: dict[str, list[str]] = {}
    for name in names:
        found = _LAYER.match(name)
        if found is None:
            outside.setdefault(name, []).append(name)
            continue
        layer = f"{found['stem']}.{found['layer']}"
        kind = _kind(found["rest"])
        leaf = _NUMBER.sub(".*.", found["rest"])
        parts.setdefault(f"{layer} {kind}", []).append(name)
        layers.setdefault(layer, []).append(name)
        leaves.setdefault(f"{found['stem']}.*.{leaf}", []).append(name)
        kinds.setdefault(f"{found['stem']}.* {kind}", []).append(name)
    if len(outside) + len(parts) <= most:
        return _frozen(outside | parts)
    across = leaves if len(outside) + len(leaves) <= most // 2 else kinds
    room = max(1, most - len(outside) - len(across))
    return _frozen(outside | _bundled(layers, room) | across)


def _rms(tensor: Tensor) -> float:
    """The root mean square of all numbers, to four digits, so that it does not depend on the order of summation."""
    total = local_part(tensor.detach()).double().square().sum()
    if isinstance(tensor, DTensor):
        dist.all_reduce(total, group=tensor.device_mesh.get_group())
    return float(f"{math.sqrt(float(total) / tensor.numel()):.3e}")


def _add_noise(part: Tensor, size: float, *, seed: int, first: int, total: int) -> None:
    """Args: first: position of the part's first number in the whole tensor of `total` numbers."""
    flat = part.view(-1)
    if not len(flat):
        return
    generator = torch.Generator(flat.device).manual_seed(seed)
    count = min(_NOISE_BLOCK, total)
    noise = torch.randn(count, generator=generator, dtype=flat.dtype, device=flat.device).mul_(size)
    noise = noise.roll(-(first % count))
    whole = len(flat) // count * count
    flat[:whole].view(-1, count).add_(noise)
    flat[whole:].add_(noise[: len(flat) - whole])


def _kind(rest: str) -> str:
    if "norm" in rest or "ln_" in rest:
        return "norms"
    return "attention" if "attn" in rest or "attention" in rest else "mlp"


def _bundled(layers: Mapping[str, Sequence[str]], count: int) -> dict[str, list[str]]:
    """Neighbouring layers in at most `count` bundles of about equal size."""
    names = list(layers)
    size = -(-len(names) // count)
    bundles: dict[str, list[str]] = {}
    for start in range(0, len(names), size):
        chosen = names[start : start + size]
        title = chosen[0] if len(chosen) == 1 else f"{chosen[0]} to {chosen[-1]}"
        bundles[title] = [name for layer in chosen for name in layers[layer]]
    return bundles


def _frozen(groups: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    return {title: tuple(names) for title, names in groups.items()}
