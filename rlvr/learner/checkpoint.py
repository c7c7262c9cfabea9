"""The learner's part of a checkpoint: a folder that transformers loads, the optimiser and counters beside it.

The caller writes into a folder with another name and renames it when it is whole (`rlvr.run.checkpoints`).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import load_file

from rlvr.errors import CheckpointError
from rlvr.models.export import export_policy
from rlvr.models.policy import Policy

OPTIMIZER = "optimizer.pt"
LEARNER = "learner.json"


def save(
    folder: Path, *, policy: Policy, optimizer: torch.optim.Optimizer, counters: Mapping[str, int]
) -> None:
    """Writes model, tokenizer, optimiser state and counters into `folder`."""
    export_policy(policy, folder)
    torch.save(optimizer.state_dict(), folder / OPTIMIZER)
    (folder / LEARNER).write_text(json.dumps(dict(counters), indent=2) + "\n")


def restore(folder: Path, *, policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Loads what `save` wrote into the objects given; returns the counters.

    Raises: CheckpointError when a file is missing or the weights are of another model.
    """
    try:
        counters = json.loads((folder / LEARNER).read_text())
        state = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
        weights = {}
        for file in sorted(folder.glob("model*.safetensors")):
            weights |= load_file(file)
    except (OSError, ValueError, RuntimeError, EOFError, LookupError, UnpicklingError) as error:
        raise CheckpointError(
            f"checkpoint {folder} cannot be read: {error}; choose an older one"
        ) from error
    own = dict(policy.model.named_parameters())
    wrong = [n for n, p in own.items() if n in weights and weights[n].shape != p.shape]
    missing = [n for n in own if n not in weights]
    if wrong or missing:
        raise CheckpointError(
            f"checkpoint {folder} is of another model: {len(missing)} tensors are missing and {len(wrong)} differ in "
            f"shape (first: {(missing + wrong)[0]!r}); the recipe's model section must be the one of the run"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
    optimizer.load_state_dict(state)
    return counters
