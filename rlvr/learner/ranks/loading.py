"""Loads weights into a sharded model, so that no rank holds more than its own part if the files allow it.

a checkpoint of several learners      each rank reads its own part of each tensor
safetensors under the model's names   each rank reads its own rows of each tensor
anything else (GGUF, fused experts,   rank 0 loads the whole model on the CPU, tensor by tensor sends each rank its
a tiny policy built here)             part, and frees it
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from rlvr.config.sections.model import ModelConfig
from rlvr.errors import CheckpointError
from rlvr.learner.ranks.signs import signs_of_life
from rlvr.learner.shards import first_row, local_part
from rlvr.learner.weight_slices import WeightSlices, find_slices
from rlvr.models import lora, sharded_weights
from rlvr.models.export import read_exported
from rlvr.models.policy import load_policy, source_arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSource:
    """Where the weights of a recipe's model are read.

    folder: a checkpoint of several learners, or "". slices: None if transformers must load the model.
    """

    model: ModelConfig
    seed: int
    folder: str
    slices: WeightSlices | None

    def to_json(self) -> dict[str, Any]:
        """Values for JSON."""
        files = None if self.slices is None else dict(self.slices.files)
        return {"model": self.model.model_dump(mode="json"), "seed": self.seed, "folder": self.folder, "files": files}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "WeightSource":
        """The source that `to_json` wrote."""
        slices = None if values["files"] is None else WeightSlices(files=values["files"])
        model = ModelConfig.model_validate(values["model"])
        return cls(model=model, seed=values["seed"], folder=values["folder"], slices=slices)


def weight_source(config: ModelConfig, model: PreTrainedModel, *, seed: int) -> WeightSource:
    """Where the ranks read the weights of a recipe's model. Files of a hub name are downloaded here.

    Args: model: on the meta device, by `load_weightless`.
    """
    folder, slices = "", None
    if config.tiny is None:
        place, arguments = source_arguments(config)
        local = Path(place)
        if local.is_dir() and sharded_weights.is_sharded(local):
            folder = str(local.absolute())
        elif "gguf_file" not in arguments:
            path = str(local.absolute()) if local.is_dir() else place
            slices = find_slices(path, model, local_files_only=arguments.get("local_files_only", False))
    return WeightSource(model=config, seed=seed, folder=folder, slices=slices)


@torch.no_grad()
def load_source(model: PreTrainedModel, source: WeightSource, *, alive: Callable[[], None]) -> None:
    """Loads the weights of a source into a sharded model; adapters keep theirs. Every rank calls it.

    Raises: ConfigError or CheckpointError when they cannot be read.
    """
    if source.folder:
        load_folder(model, Path(source.folder), alive=alive)
    elif source.slices is not None:
        _read_rows(model, source.slices, alive=alive)
    else:
        plain = source.model.model_copy(update={"lora": source.model.lora.model_copy(update={"rank": 0})})
        _scatter(model, lambda: load_policy(plain, seed=source.seed).model, alive=alive)


@torch.no_grad()
def load_folder(model: PreTrainedModel, folder: Path, *, alive: Callable[[], None]) -> None:
    """Loads the weights of a checkpoint's folder into a sharded model; adapters keep theirs. Every rank calls it.

    Raises: CheckpointError when they cannot be read.
    """
    if sharded_weights.is_sharded(folder):
        own = {**dict(lora.base_weights(model)), **sharded_weights.persistent_buffers(model)}
        with signs_of_life(alive):
            sharded_weights.read_into(folder, {sharded_weights.WEIGHTS + name: own[name] for name in own})
        return
    slices = find_slices(str(folder), model, local_files_only=True)
    if slices is not None:
        _read_rows(model, slices, alive=alive)
    else:
        _scatter(model, lambda: read_exported(folder, model), alive=alive)


def _read_rows(model: PreTrainedModel, slices: WeightSlices, *, alive: Callable[[], None]) -> None:
    try:
        with slices.open() as reader:
            for name, tensor in lora.base_weights(model):
                alive()
                own, start = local_part(tensor), first_row(tensor)
                if own.numel():
                    own.copy_(reader.rows(name, start, start + len(own)))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"the weights cannot be read: {error}") from error


def _scatter(model: PreTrainedModel, whole: Callable[[], PreTrainedModel], *, alive: Callable[[], None]) -> None:
    """Rank 0 calls `whole` and sends each rank its part, tensor by tensor."""
    is_first = dist.get_rank() == 0
    with signs_of_life(alive):
        found: dict[str, Tensor] = {}
        if is_first:
            loaded = whole()
            found = dict((*loaded.named_parameters(), *loaded.named_buffers()))
            del loaded
        own = [*lora.base_weights(model), *sharded_weights.persistent_buffers(model).items()]
        for name, tensor in own:
            sent = (
                found.pop(name).detach().to(tensor.dtype) if is_first else torch.empty(tensor.shape, dtype=tensor.dtype)
            )
            if isinstance(tensor, DTensor):
                part = distribute_tensor(sent, tensor.device_mesh, tensor.placements)
                local_part(tensor).copy_(part.to_local())
            else:
                sent = sent.to(tensor.device)
                dist.broadcast(sent, src=0)
                tensor.copy_(sent)
