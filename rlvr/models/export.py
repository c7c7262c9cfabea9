"""Writing a policy as a folder that transformers loads as it is."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from transformers import GenerationConfig

from rlvr.models import lora
from rlvr.models.policy import Policy

ADAPTER_FOLDER = "adapter"


def export_policy(
    policy: Policy, folder: Path, *, state: Mapping[str, Tensor] | None = None
) -> None:
    """config.json, model.safetensors (float32 master weights), generation config and tokenizer files in `folder`.

    Adapters are merged into the weights, and stand alone in `folder`/adapter in peft's format. Sampling settings are
    not exported: the policy was trained on its own distribution at temperature 1.

    Args: state: name -> whole tensor, for a learner whose parameters are sharded; None takes the model's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = policy.model
    model.generation_config = GenerationConfig(
        eos_token_id=list(policy.stop_token_ids),
        pad_token_id=policy.pad_token_id,
        bos_token_id=policy.tokenizer.bos_token_id,
    )
    if state is not None:  # gathered tensors of one tied weight are two: only the first is written
        own = dict((*model.named_parameters(), *model.named_buffers()))
        state = {name: tensor for name, tensor in state.items() if name in own}
    if lora.has_adapters(model):
        model.save_pretrained(folder, state_dict=lora.merged_state_dict(model, state=state))
        lora.save_adapter(model, folder / ADAPTER_FOLDER, state=state)
    else:
        model.save_pretrained(folder, state_dict=None if state is None else dict(state))
    policy.tokenizer.save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    if settings.pop("gguf_file", None) or settings.pop("name_or_path", None):
        config.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
