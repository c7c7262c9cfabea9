"""The model section: the policy, and the adapters that are trained in place of its weights."""

from pydantic import Field, model_validator

from rlvr.config.sections.section import NonNegativeInt, Positive, PositiveInt, Section

ALL_LINEAR = "all-linear"
MAX_TINY_PARAMETERS = 1_000_000_000  # 4 GB of float32; larger models have weights to load


class TinyModel(Section):
    """A small Llama with random weights and a character tokenizer, built in a second; for tests and laptops."""

    layers: PositiveInt = 2
    hidden_size: PositiveInt = 128
    heads: PositiveInt = 4
    intermediate_size: PositiveInt = 384
    max_positions: PositiveInt = 256
    characters: str = "0123456789+-*/=:() "

    @model_validator(mode="after")
    def _check(self) -> "TinyModel":
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size={self.hidden_size} is not divisible by heads={self.heads}")
        if self.num_parameters > MAX_TINY_PARAMETERS:
            raise ValueError(
                f"tiny would have {self.num_parameters:,} parameters, at most {MAX_TINY_PARAMETERS:,} are built: lower "
                "layers, hidden_size or intermediate_size, or name a model in path"
            )
        if len(set(self.characters)) != len(self.characters) or not self.characters:
            raise ValueError(f"characters={self.characters!r} must be distinct and not empty")
        return self

    @property
    def num_parameters(self) -> int:
        """Parameters of the layers and the embedding, without the norms."""
        per_layer = 4 * self.hidden_size**2 + 3 * self.hidden_size * self.intermediate_size
        return self.layers * per_layer + len(self.characters) * self.hidden_size


class LoraConfig(Section):
    """Low-rank adapters on the linear layers, trained in place of the weights; rank 0 trains all weights.

    target_modules: names of the layers, or `all-linear` (the head is left out).
    sends_alone: vLLM engines get the base once and then only the adapters, up to rank 512; otherwise whole weights with
        the adapters merged. A sync moves few bytes, but vLLM generates more slowly (on a CPU a third as fast).
    """

    rank: NonNegativeInt = 0
    alpha: Positive = 32.0
    target_modules: list[str] = Field(default_factory=lambda: [ALL_LINEAR], min_length=1)
    sends_alone: bool = False

    @model_validator(mode="after")
    def _check(self) -> "LoraConfig":
        if ALL_LINEAR in self.target_modules and len(self.target_modules) > 1:
            raise ValueError(
                f"target_modules={self.target_modules!r}: {ALL_LINEAR!r} must be the only entry; it is every "
                "linear layer but the head"
            )
        return self


class ModelConfig(Section):
    """The policy: `path` (hub name, folder, file.gguf, or package:NAME/FILE) or `tiny`, exactly one."""

    path: str = ""
    tiny: TinyModel | None = None
    trust_remote_code: bool = False
    lora: LoraConfig = LoraConfig()

    @model_validator(mode="after")
    def _one(self) -> "ModelConfig":
        if bool(self.path) == (self.tiny is not None):
            raise ValueError(
                "set exactly one of model.path (a hub name, a folder, a GGUF file or package:NAME/FILE) and model.tiny"
            )
        return self
