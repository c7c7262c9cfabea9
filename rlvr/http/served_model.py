"""Finds the requested model of an OpenAI-compatible server."""

import logging
from dataclasses import dataclass

from rlvr.errors import ConfigError, RolloutError
from rlvr.http.client import DeadlineError, JsonClient

logger = logging.getLogger(__name__)
KEY_REFUSED = frozenset({401, 403})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model of a server; max_positions is 2**31 if the server does not say."""

    name: str
    max_positions: int


async def find_model(client: JsonClient, *, name: str, alias: str, deadline_s: float = 60.0) -> ServedModel:
    """The requested model: `name` if given, else `alias` if it is served, else the only one.

    Raises: ConfigError when none or several match, with the names on the server; RolloutError when the server
        cannot be reached.
    """
    try:
        answer = await client.get("/models", deadline_s=deadline_s)
    except (DeadlineError, RolloutError) as error:
        if not name:
            raise RolloutError(f"server {client.url} does not list its models: {error}") from error
        logger.warning("%s; continuing with the given model name", error)
        return ServedModel(name=name, max_positions=2**31)
    if answer.status in KEY_REFUSED:
        raise key_refused(client, answer.message)
    listed: list[dict[str, object]] = []
    if answer.is_ok and isinstance(answer.body, dict) and isinstance(answer.body.get("data"), list):
        listed = [row for row in answer.body["data"] if isinstance(row, dict) and "id" in row]
    names = [str(row["id"]) for row in listed]
    chosen = name or (alias if alias in names else names[0] if len(names) == 1 else "")
    if not chosen:
        raise ConfigError(
            f"server {client.url} has no single match for model {alias!r}; name one "
            "(--server-model; for a verifier, its setting `model`). "
            f"It has: {', '.join(map(repr, names)) or 'no listing at /models'}"
        )
    row = next((row for row in listed if row["id"] == chosen), {})
    limit = row.get("max_model_len")
    return ServedModel(name=chosen, max_positions=limit if isinstance(limit, int) else 2**31)


def key_refused(client: JsonClient, message: str) -> ConfigError:
    """The error for a status in KEY_REFUSED."""
    return ConfigError(
        f"server {client.url} refused the key ({message}); name the environment variable that holds it "
        "(--server-key-env; for a verifier, its setting `key_env`)"
    )
