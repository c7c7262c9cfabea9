"""`rlvr export`: a run's checkpoint as a folder that transformers loads, or its adapters alone for peft."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from safetensors import SafetensorError

from rlvr.commands.run_checkpoint import locate_checkpoint
from rlvr.config.load import load_recipe
from rlvr.config.recipe import ModelConfig
from rlvr.errors import ConfigError, StorageError
from rlvr.models import lora, sharded_weights
from rlvr.models.export import ADAPTER_FOLDER, export_policy, write_adapter
from rlvr.models.policy import load_policy


def export_model(model: str, output: Path, *, only_adapters: bool) -> list[tuple[str, str, str]]:
    """Writes `output`; returns table rows about what it holds.

    The whole model is held in this process's memory, in float32, unless only adapters are exported.

    Args:
        model: a run directory, of which the newest intact checkpoint is taken, or a checkpoint.
        output: a folder that does not exist, or is empty.
        only_adapters: the adapters in peft's format; else the whole model, with adapters merged.

    Raises: ConfigError when there is nothing to export or `output` is in use; CheckpointError when the checkpoint is
        damaged; StorageError when `output` cannot be written.
    """
    found, recipe_path = locate_checkpoint(model)
    if recipe_path is None:
        raise ConfigError(
            f"{model!r} is neither a run directory nor a checkpoint in one (RUN/checkpoints/step_N); rlvr export reads "
            "what rlvr train wrote"
        )
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"--output {str(output)!r} exists and is not an empty folder; choose another name")
    checkpoint = Path(found)
    recipe = load_recipe(str(recipe_path)).recipe
    if only_adapters:
        if not (checkpoint / ADAPTER_FOLDER / lora.ADAPTER_CONFIG).is_file():
            raise ConfigError(
                f"checkpoint {checkpoint} has no adapters (model.lora.rank={recipe.model.lora.rank}); omit --adapters "
                "to export the whole model"
            )
        write: Callable[[Path], None] = partial(_write_adapters, checkpoint)
        content = "adapters"
    else:
        source = ModelConfig(path=str(checkpoint), trust_remote_code=recipe.model.trust_remote_code)
        policy = load_policy(source, seed=0)
        write = partial(export_policy, policy)
        content = f"{type(policy.model).__name__}, {policy.num_parameters:,} parameters, float32"
    _write_whole(write, output)
    total = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    return [("from", str(checkpoint), ""), ("content", content, f"{total:,} bytes")]


def _write_adapters(checkpoint: Path, folder: Path) -> None:
    source = checkpoint / ADAPTER_FOLDER
    folder.mkdir(parents=True)
    shutil.copy(source / lora.ADAPTER_CONFIG, folder)
    if sharded_weights.is_sharded(checkpoint):
        write_adapter(sharded_weights.read_adapters(checkpoint), folder)
    else:
        shutil.copy(source / lora.ADAPTER_WEIGHTS, folder)


def _write_whole(write: Callable[[Path], None], output: Path) -> None:
    """Writes under another name first, so that nobody finds half of it."""
    draft = output.with_name(f"{output.name}.{os.getpid()}.tmp")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write(draft)
        if output.exists():
            output.rmdir()
        draft.rename(output)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"--output {str(output)!r} could not be written: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
