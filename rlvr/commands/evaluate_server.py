"""`rlvr eval --server`: the policy is served elsewhere; only its tokenizer, the data and the verifiers are local."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from rlvr.config.recipe import ModelConfig, Recipe
from rlvr.errors import ConfigError
from rlvr.http.client import JsonClient
from rlvr.http.served_model import ServedModel, find_model
from rlvr.models.policy import PolicyText, load_tokenizer, outline
from rlvr.rollout.server_engine import ServerEngine
from rlvr.run.launch.preflight import OpenedData
from rlvr.run.launch.run import prompt_limit
from rlvr.verification.service import VerifierService


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerChoice:
    """A server named on the command line.

    url: the base, with `/v1`. model: its name there; "" asks the server. key_env: the environment variable with the
    key; "" sends none. max_open: number of concurrent requests.
    """

    url: str
    model: str = ""
    key_env: str = ""
    max_open: int = 64

    def client(self) -> JsonClient:
        """A connection. Raises ConfigError when the URL or the key cannot be used."""
        key = ""
        if self.key_env:
            key = os.environ.get(self.key_env, "").strip()
            if not key:
                raise ConfigError(
                    f"--server-key-env: the environment variable {self.key_env!r} is empty or not set; it must hold "
                    "the server's key"
                )
        return JsonClient(self.url, key=key, max_open=self.max_open)


def server_choice(url: str | None, *, model: str, key_env: str, max_open: int) -> ServerChoice | None:
    """The server named on the command line, or None. Raises ConfigError for options that need one."""
    if url is not None:
        return ServerChoice(url=url, model=model, key_env=key_env, max_open=max_open)
    if model or key_env:
        raise ConfigError("--server-model and --server-key-env go with --server URL")
    return None


def text_of(config: ModelConfig, *, served: ServedModel) -> PolicyText:
    """Facts about the served policy without its weights; its length limit is the lower of the model's and server's.

    Raises: ConfigError when MODEL has no local tokenizer or config.
    """
    tokenizer = load_tokenizer(config)
    shape = outline(config)
    ends = tokenizer.eos_token_id
    stops = getattr(shape.config, "eos_token_id", None)
    found = [*(stops if isinstance(stops, list) else [stops]), ends]
    stop_token_ids = tuple(dict.fromkeys(int(i) for i in found if isinstance(i, int)))
    if not stop_token_ids:
        raise ConfigError(f"model {config.path!r} has no end token (eos_token_id)")
    pad = tokenizer.pad_token_id
    positions = int(getattr(shape.config, "max_position_embeddings", None) or 2**31)
    return PolicyText(
        tokenizer=tokenizer,
        stop_token_ids=stop_token_ids,
        pad_token_id=pad if isinstance(pad, int) else stop_token_ids[0],
        max_positions=min(positions, served.max_positions),
        num_parameters=sum(parameter.numel() for parameter in shape.parameters()),
    )


@asynccontextmanager
async def served(
    recipe: Recipe, *, choice: ServerChoice, alias: str, data: OpenedData, service: VerifierService
) -> AsyncIterator[tuple[ServerEngine, VerifierService, PolicyText]]:
    """Context in which the server generates for the evaluation sets; prompts that are too long are dropped from `data`.

    Args: alias: MODEL on the command line, which may also be the model's name on the server.

    Raises: ConfigError when URL, key or model cannot be used, RolloutError when the server cannot be reached.
    """
    client = choice.client()
    try:
        found = await find_model(client, name=choice.model, alias=alias)
        text = text_of(recipe.model, served=found)
        data.limit_prompts(prompt_limit(text=text, recipe=recipe))
        engine = ServerEngine(
            client,
            model=found.name,
            tokenizer=text.tokenizer,
            stop_token_ids=text.stop_token_ids,
            prompts={p.prompt_id: p for prompts in data.evals.values() for p in prompts},
        )
        yield engine, service, text
    finally:
        await asyncio.to_thread(client.close)
