"""Writing a policy as a folder that transformers loads as it is."""

import json
from pathlib import Path

from transformers import GenerationConfig

from rlvr.models.policy import Policy


def export_policy(policy: Policy, folder: Path) -> None:
    """config.json, model.safetensors (float32 master weights), generation config and tokenizer files in `folder`.

    Sampling settings are not exported: the policy was trained on its own distribution at temperature 1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = policy.model
    model.generation_config = GenerationConfig(
        eos_token_id=list(policy.stop_token_ids),
        pad_token_id=policy.pad_token_id,
        bos_token_id=policy.tokenizer.bos_token_id,
    )
    model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    if settings.pop("gguf_file", None) or settings.pop("name_or_path", None):
        config.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
