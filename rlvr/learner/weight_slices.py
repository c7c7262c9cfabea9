"""Reads parts of a model's weights straight from safetensors files, so that nobody holds the whole model.

It works where the files name the tensors as the model does, in the same shapes: most architectures. Others (experts
that transformers fuses while loading, other prefixes, quantised files, GGUF, .bin) need transformers' own loader.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from rlvr.models import lora
from rlvr.models.sharded_weights import persistent_buffers


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSlices:
    """files: name of each tensor of the plain architecture -> the file that holds it, under the same name."""

    files: Mapping[str, str]

    def open(self) -> "SliceReader":
        """A reader of these files; a context manager."""
        return SliceReader(self.files)


class SliceReader:
    """Reads rows of tensors; files stay open until the end of the context."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files
        self._open: dict[str, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "SliceReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of a tensor, on the CPU, in the file's dtype. Raises OSError, SafetensorError."""
        file = self._files[name]
        if file not in self._open:
            self._open[file] = self._stack.enter_context(safe_open(file, framework="pt"))
        return self._open[file].get_slice(name)[start:stop]


def find_slices(path: str, model: PreTrainedModel, *, local_files_only: bool) -> WeightSlices | None:
    """Where the tensors of `model` (its adapters aside) are in the files of a folder or hub name; None if not as such.

    Files of a hub name are downloaded. Only their headers are read.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in lora.base_weights(model)}
    if getattr(model.config, "quantization_config", None) is not None or persistent_buffers(model):
        return None
    if any(isinstance(change, WeightConverter) for change in get_model_conversion_mapping(model, add_legacy=False)):
        return None
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - set(wanted)
    try:
        found: dict[str, str] = {}
        for file in _files(path, local_files_only=local_files_only):
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - it is no mapping
                    if name in tied:
                        return None  # transformers compares the two, and unties them if they differ
                    if name in wanted and tuple(opened.get_slice(name).get_shape()) == wanted[name]:
                        found[name] = file
    except (OSError, ValueError, SafetensorError):
        return None  # transformers' loader then says what is wrong
    return WeightSlices(files=found) if set(found) == set(wanted) else None


def _files(path: str, *, local_files_only: bool) -> list[str]:
    """The safetensors files of a folder or hub name. Raises OSError when there are none."""

    def local(name: str) -> str | None:
        return cached_file(path, name, local_files_only=local_files_only, _raise_exceptions_for_missing_entries=False)

    one = local(SAFE_WEIGHTS_NAME)
    if one is not None:
        return [one]
    index = local(SAFE_WEIGHTS_INDEX_NAME)
    if index is None:
        raise FileNotFoundError(f"{path} has no {SAFE_WEIGHTS_NAME}")
    names = sorted(set(json.loads(Path(index).read_text())["weight_map"].values()))
    return [str(cached_file(path, name, local_files_only=local_files_only)) for name in names]
