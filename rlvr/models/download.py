"""Brings the files of a model from the hub onto this machine, so that a slow network is not taken for a hung start."""

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.file_download import repo_folder_name

from rlvr.config.sections.model import ModelConfig
from rlvr.errors import ConfigError
from rlvr.models.locate import locate

logger = logging.getLogger(__name__)
_ANSWER_S = 10.0
_SMALL = (".json", ".model", ".txt", ".jinja", ".py", ".tiktoken")
_WEIGHTS = (re.compile(r"model(-\d+-of-\d+)?\.safetensors"), re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin"))


class ModelDownload:
    """The download of a recipe's model, and how far it has got; nothing to do for a model that is not on the hub."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._name = ""

    def run(self) -> None:
        """Returns when every file that `load_policy` reads is here.

        Never fails: without the network, or without access, `load_policy` says what is missing.
        """
        self._name = name = hub_name(self._config)
        if not name or constants.HF_HUB_OFFLINE:
            return
        try:
            found = HfApi().model_info(name, timeout=_ANSWER_S)
            files = files_to_read(file.rfilename for file in found.siblings or ())
            snapshot_download(name, allow_patterns=files)
        except Exception as error:  # noqa: BLE001 - those of any HTTP library, depending on the hub client
            logger.debug("%s was not downloaded ahead: %s", name, error)

    def num_bytes(self) -> int:
        """The size of the model's files in this machine's cache, unfinished ones included."""
        if not self._name:
            return 0
        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=self._name, repo_type="model") / "blobs"
        total = 0
        for file in folder.glob("*"):
            try:
                total += file.stat().st_size
            except OSError:  # finished, and renamed, a moment ago
                continue
        return total


def hub_name(config: ModelConfig) -> str:
    """The name of the recipe's model on the hub; "" for any other."""
    if config.tiny is not None:
        return ""
    try:
        folder, gguf = locate(config.path)
    except ConfigError:
        return ""
    return "" if gguf or Path(folder).is_dir() else folder


def files_to_read(names: Iterable[str]) -> list[str]:
    """Those files of a repository that are read: the small ones, and one set of weights as transformers chooses it.

    >>> files_to_read(["config.json", "model.safetensors", "consolidated.safetensors", "onnx/model.onnx"])
    ['config.json', 'model.safetensors']
    """
    top = [name for name in names if "/" not in name]
    small = [name for name in top if name.endswith(_SMALL)]
    for pattern in _WEIGHTS:
        if weights := [name for name in top if pattern.fullmatch(name)]:
            return small + weights
    return small
