"""Loads a policy: a hub name, a folder, a GGUF file, `package:NAME/FILE`, or a tiny architecture built here.

All forms give the same record: a float32 causal language model of transformers, with adapters if the recipe asks for
them, and its tokenizer.
"""

import logging
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from rlvr.config.recipe import ModelConfig, TinyModel
from rlvr.errors import ConfigError
from rlvr.models import lora, sharded_weights
from rlvr.models.families import exact_attention, refuse_untrainable
from rlvr.models.locate import locate
from rlvr.storage import sealed_folders

logger = logging.getLogger(__name__)
_NOT_READ = ("optimizer.pt", "optimizer/")  # of a run's checkpoint, whose other files are checked
_SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")  # of a tiny policy


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyText:
    """A policy without its weights: its tokenizer, its stop tokens and its length limit."""

    tokenizer: PreTrainedTokenizerBase
    stop_token_ids: tuple[int, ...]
    pad_token_id: int
    max_positions: int
    num_parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A model with its tokenizer and the tokens that end a completion."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stop_token_ids: tuple[int, ...]
    pad_token_id: int

    @property
    def num_parameters(self) -> int:
        """Distinct parameters (a tied head counts once), adapters included."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def num_trained(self) -> int:
        """Parameters that the learner trains: all of them, or only the adapters."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    @property
    def is_weightless(self) -> bool:
        """Whether its parameters are on the meta device, without numbers (`load_weightless`)."""
        return any(parameter.is_meta for parameter in self.model.parameters())

    @property
    def text(self) -> PolicyText:
        """The policy without its weights."""
        return PolicyText(
            tokenizer=self.tokenizer,
            stop_token_ids=self.stop_token_ids,
            pad_token_id=self.pad_token_id,
            max_positions=self.max_positions,
            num_parameters=self.num_parameters,
        )

    @property
    def max_positions(self) -> int:
        """The longest sequence of the architecture; 2**31 if the config does not say."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or 2**31)


def load_policy(config: ModelConfig, *, seed: int) -> Policy:
    """The policy of a recipe, float32, on the CPU, in train mode.

    Args:
        seed: of the random weights of a tiny architecture and of adapters.

    Raises: ConfigError with the remedy when the model cannot be found, or adapters cannot be attached to it.
    CheckpointError when it is a checkpoint of a run and a file is damaged.
    """
    policy = _load_plain(config, seed=seed)
    if config.lora.rank:
        base_name = config.path or "tiny"
        lora.attach(policy.model, config.lora, seed=seed, base_name=base_name)
    return policy


def _load_plain(config: ModelConfig, *, seed: int) -> Policy:
    if config.tiny is not None:
        return build_tiny(config.tiny, seed=seed)
    tokenizer = load_tokenizer(config)
    attention = exact_attention(read_architecture(config))
    folder, arguments = source_arguments(config)
    if sharded_weights.is_sharded(Path(folder)):
        return _load_sharded(config, Path(folder))
    sealed_folders.require_whole(Path(folder), ignoring=_NOT_READ)
    if attention:
        arguments["attn_implementation"] = attention
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **arguments)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise _not_loaded(config, error) from error
    _without_router_losses(model)
    return _finish(_without_quantization(model), tokenizer)


def _load_sharded(config: ModelConfig, folder: Path) -> Policy:
    """A checkpoint of several learners, whole, without adapters (they are merged in it)."""
    plain = config.model_copy(update={"lora": config.lora.model_copy(update={"rank": 0})})
    policy = load_weightless(plain, seed=0)
    model = policy.model
    model._apply(lambda tensor: torch.empty_like(tensor, device="cpu") if tensor.is_meta else tensor)
    model.tie_weights()
    own = {name: parameter.detach() for name, parameter in model.named_parameters()}
    own |= sharded_weights.persistent_buffers(model)
    sharded_weights.require_same(folder, own, prefix=sharded_weights.WEIGHTS, what=type(model).__name__)
    sharded_weights.read_into(folder, {sharded_weights.WEIGHTS + name: tensor for name, tensor in own.items()})
    return policy


def load_weightless(config: ModelConfig, *, seed: int) -> Policy:
    """The policy of `load_policy` without its weights: parameters on the meta device, buffers and adapters real.

    Reads only small files, and the header of a GGUF file. A run's checkpoint is compared with its digests.

    Raises: the errors of `load_policy`.
    """
    arguments: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    generation: GenerationConfig | None = None
    if config.tiny is not None:
        architecture: PretrainedConfig = _tiny_architecture(config.tiny)
        tokenizer: PreTrainedTokenizerBase = _tiny_tokenizer(config.tiny)
    else:
        tokenizer = load_tokenizer(config)
        architecture = read_architecture(config)
        folder, files = source_arguments(config)
        sealed_folders.require_whole(Path(folder), ignoring=_NOT_READ)
        with suppress(OSError, ValueError, ImportError):  # many folders have none
            generation = GenerationConfig.from_pretrained(folder, **files)
        if attention := exact_attention(architecture):
            arguments["attn_implementation"] = attention
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(architecture, dtype=torch.float32, **arguments)
    model.tie_weights()
    if generation is not None:
        model.generation_config = generation
    _without_router_losses(model)
    policy = _finish(model, tokenizer)
    if config.lora.rank:
        lora.attach(policy.model, config.lora, seed=seed, base_name=config.path or "tiny")
    return policy


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a recipe's model, without its weights. Raises ConfigError when it cannot be found."""
    if config.tiny is not None:
        return _tiny_tokenizer(config.tiny)
    folder, arguments = source_arguments(config)
    try:
        return AutoTokenizer.from_pretrained(folder, **arguments)
    except (OSError, ValueError, ImportError) as error:
        raise _not_loaded(config, error) from error


def end_token_ids(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The end tokens of a policy, from its small files only; () if they cannot be read.

    Reads the files that `load_policy` reads: the generation config, the config and the tokenizer.
    """
    if config.tiny is not None:
        sources: list[Any] = [_tiny_architecture(config.tiny)]
    else:
        folder, arguments = source_arguments(config)
        sources = []
        for kind in (AutoConfig, GenerationConfig):
            # Many folders have no generation config.
            with suppress(OSError, ValueError, ImportError):
                sources.append(kind.from_pretrained(folder, **arguments))
        if not sources:
            return ()
    return _end_ids(*sources, tokenizer)


def build_tiny(config: TinyModel, *, seed: int) -> Policy:
    """A small Llama with random weights; the tokenizer knows single characters only.

    >>> tiny = build_tiny(TinyModel(layers=1, hidden_size=16, heads=2, characters="01+="), seed=0)
    >>> tiny.tokenizer.decode(tiny.tokenizer.encode("1+0=", add_special_tokens=False))
    '1+0='
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(_tiny_architecture(config))
    return _finish(model, _tiny_tokenizer(config))


def _tiny_tokenizer(config: TinyModel) -> PreTrainedTokenizerFast:
    vocab = {token: i for i, token in enumerate([*_SPECIAL_TOKENS, *config.characters])}
    base = Tokenizer(models.WordLevel(vocab=vocab, unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")  # type: ignore[assignment] # stub
    base.decoder = decoders.Fuse()  # type: ignore[assignment] # the stub declares no setter type
    base.post_processor = processors.TemplateProcessing(  # type: ignore[assignment] # the stub declares no setter type
        single="<bos> $A", special_tokens=[("<bos>", vocab["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=base, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )


def outline(config: ModelConfig) -> PreTrainedModel:
    """The recipe's model on the meta device: names and shapes, no weights. Reads a config or a GGUF file's header.

    Raises: ConfigError with the remedy when there is none.
    """
    if config.tiny is not None:
        architecture: PretrainedConfig = _tiny_architecture(config.tiny)
    else:
        architecture = read_architecture(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(architecture, trust_remote_code=config.trust_remote_code)
    model.tie_weights()
    return model


def read_architecture(config: ModelConfig) -> PretrainedConfig:
    """The architecture's config, from config.json or the header of a GGUF file.

    Raises: ConfigError when it cannot be read, or is of a family that cannot be trained (`rlvr.models.families`).
    """
    folder, arguments = source_arguments(config)
    try:
        architecture = AutoConfig.from_pretrained(folder, **arguments)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(
            f"model.path={config.path!r}: its config.json cannot be read: {_first_line(error)}. A hub name needs "
            "the network for this file of a few kilobytes; a local folder or a .gguf file needs none"
        ) from error
    refuse_untrainable(architecture, name=config.path)
    return architecture


def source_arguments(config: ModelConfig) -> tuple[str, dict[str, Any]]:
    """Folder or hub name, and the other arguments of transformers' `from_pretrained`, for a `model.path`.

    Raises: ConfigError when it does not exist.
    """
    folder, gguf = locate(config.path)
    arguments: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if gguf:
        arguments["gguf_file"] = gguf
    elif not Path(folder).is_dir() and not _can_ask_hub(folder):
        arguments["local_files_only"] = True  # otherwise each file is retried for most of a minute
    return folder, arguments


@lru_cache
def _can_ask_hub(name: str) -> bool:
    """Whether the hub answers, whatever the answer; waits at most 10 s."""
    try:
        HfApi().model_info(name, timeout=10)
    except (HfHubHTTPError, HFValidationError):
        return True
    except Exception:  # noqa: BLE001 - any HTTP library's errors, depending on the hub client
        return False
    return True


def _not_loaded(config: ModelConfig, error: BaseException) -> ConfigError:
    return ConfigError(
        f"model.path={config.path!r} could not be loaded: {_first_line(error)}. Use a hub name (needs the "
        "network), a folder with config.json and weights, a .gguf file, or package:NAME/FILE"
    )


def _tiny_architecture(config: TinyModel) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=-(-(len(_SPECIAL_TOKENS) + len(config.characters)) // 16) * 16,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=config.max_positions,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def _finish(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Policy:
    stops = _end_ids(model.generation_config, model.config, tokenizer)
    if not stops:
        raise ConfigError("the model names no end token (eos_token_id); a completion could never stop")
    _without_dropout(model)
    pad = tokenizer.pad_token_id
    return Policy(
        model=model.train(),
        tokenizer=tokenizer,
        stop_token_ids=stops,
        pad_token_id=pad if isinstance(pad, int) else stops[0],
    )


def _end_ids(*sources: Any) -> tuple[int, ...]:
    """The end tokens that any of the configs names."""
    stops: list[int] = []
    for source in sources:
        ids = getattr(source, "eos_token_id", None)
        stops.extend(ids if isinstance(ids, list) else [ids] if ids is not None else [])
    return tuple(dict.fromkeys(int(i) for i in stops))


def _without_router_losses(model: PreTrainedModel) -> None:
    text_config = model.config.get_text_config()
    if getattr(text_config, "output_router_logits", False):
        text_config.output_router_logits = False  # the load-balancing loss is not used here


def _without_dropout(model: PreTrainedModel) -> None:
    """Turns dropout off: with it the learner's log-probs differ from the engine's, and gradients between layouts."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _without_quantization(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights under a config that `save_pretrained` accepts.

    transformers marks a dequantised GGUF model as quantised and then refuses to save it.
    """
    if getattr(model.config, "quantization_config", None) is None:
        return model
    plain = model.config.to_dict()
    plain.pop("quantization_config", None)
    config = AutoConfig.for_model(plain.pop("model_type"), **plain)
    config._attn_implementation = model.config._attn_implementation
    with torch.device("meta"):
        clean = type(model)(config)
    clean.load_state_dict(model.state_dict(), assign=True)
    clean.tie_weights()
    for name, buffer in model.named_buffers():  # rotary tables are not in the state dict
        owner, _, leaf = name.rpartition(".")
        clean.get_submodule(owner).register_buffer(leaf, buffer, persistent=False)
    if model.generation_config is not None:
        clean.generation_config = model.generation_config
    return clean


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
