"""Removes secrets from text before it reaches a log or an error message."""

import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from pydantic import ValidationError

_SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|_KEY(?:_|$)", re.IGNORECASE
)
_TOKEN_FILE = "RAY_AUTH_TOKEN_PATH"
_NO_SECRET = re.compile(  # a setting, a number of tokens, or the file that holds the secret
    r"TOKENIZERS_PARALLELISM|\w*(?:MAX|MIN|NUM)_(?:\w+_)?TOKENS\w*|\w+_(?:PATH|FILE)|GOOGLE_APPLICATION_CREDENTIALS",
    re.IGNORECASE,
)
_SHORTEST = 6  # characters: shorter values would blank out ordinary text
_LOGIN = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")
_BEARER = re.compile(r"(?i)(?<=bearer )[A-Za-z0-9._~+/=-]{8,}")
_KNOWN = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,})")
_MASK = "[redacted]"
_MOST_CHARS = 60  # of a value in a message
_MOST_READ = 1000
_SECRET = r"(?:TOKEN|KEY|PASSWORD|PASSWD|SECRET|CREDENTIALS?)(?:_\w*)?"
_SECRET_KEY = re.compile(rf"(?i)\w*{_SECRET}")
_ASSIGNED = re.compile(rf"(?i)(?<![\w])(\w*?{_SECRET}['\"]?\s*[=:]\s*)(?!null\b)(?:'[^']*'|\"[^\"]*\"|[^\s'\",}}]+)")


class Redactor:
    """Replaces the values of secret variables, Ray's token, logins in URLs and well-known forms of tokens.

    Variables are secret by their name (TOKEN, SECRET, PASSWORD, ...) or because they are listed. Their values are those
    at the time when the redactor is made.
    """

    def __init__(self, names: Collection[str] = (), environment: Mapping[str, str] | None = None) -> None:
        given = os.environ if environment is None else environment
        found = {
            value
            for name, value in given.items()
            if (name in names or is_secret_name(name)) and len(value) >= _SHORTEST
        }
        if text := _ray_token(given):
            found.add(text)
        longest_first = sorted(found, key=len, reverse=True)
        self._values = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        """The text without secrets.

        >>> Redactor(environment={"HF_TOKEN": "abcdefgh"})("https://user:pass@host abcdefgh")
        'https://[redacted]@host [redacted]'
        """
        if self._values is not None:
            text = self._values.sub(_MASK, text)
        for pattern in (_LOGIN, _BEARER, _KNOWN):
            text = pattern.sub(_MASK, text)
        return text


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of this name probably holds a secret.

    >>> is_secret_name("OPENAI_API_KEY"), is_secret_name("HF_TOKEN_PATH"), is_secret_name("NCCL_DEBUG")
    (True, False, False)
    """
    return bool(_SECRET_NAME.search(name)) and not _NO_SECRET.fullmatch(name)


def got(value: object, path: Iterable[str | int] = ()) -> str:
    """The end of an error message about a value: what was written instead.

    Mappings and nested lists are only named, because a secret may be anywhere in them; of a value whose path has a key
    `env` or the name of a secret, nothing is shown.

    Args:
        path: the keys and positions that lead to the value.

    >>> got("many", ("slots",)), got({"HF_TOKEN": "x"}, ("env",)), got(12345, ("env", "HF_TOKEN")), got(None)
    (" (got 'many')", ' (got a mapping)', '', ' (got nothing)')
    """
    if value is None:
        return " (got nothing)"
    if isinstance(value, Mapping):
        return " (got a mapping)"
    is_list = isinstance(value, list | tuple)
    is_nested = is_list and any(isinstance(item, Mapping | list | tuple) for item in cast(Iterable[object], value))
    if is_nested or any(is_hidden(str(part)) for part in path):
        return " (got a list)" if is_list else ""
    text = without_secrets(repr(value)[:_MOST_READ])
    return f" (got {text if len(text) <= _MOST_CHARS else text[:_MOST_CHARS] + '...'})"


def is_hidden(key: str) -> bool:
    """Whether messages show no value of this key, which holds environment variables or a secret.

    >>> is_hidden("env"), is_hidden("api_key"), is_hidden("max_new_tokens")
    (True, True, False)
    """
    return key == "env" or bool(_SECRET_KEY.fullmatch(key))


def without_secrets(text: str) -> str:
    """What a user wrote, such as `key=value`, without values of secrets.

    >>> without_secrets("cluster.env.HF_TOKEN=abc"), without_secrets("run.steps=3")
    ('cluster.env.HF_TOKEN=[redacted]', 'run.steps=3')
    """
    return _ASSIGNED.sub(r"\1[redacted]", Redactor()(text))


def faults(error: "ValidationError") -> str:
    """What is wrong with the settings of a plugin, without the secrets among them."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}"
        f"{'' if e['type'] == 'missing' else got(e['input'], e['loc'])}"
        for e in error.errors()
    )


def _ray_token(environment: Mapping[str, str]) -> str:
    """The token in the file that Ray reads; "" if there is none, or this process may not read it."""
    try:
        text = Path(environment[_TOKEN_FILE]).read_text(encoding="utf-8").strip()
    except (KeyError, OSError, UnicodeDecodeError):
        return ""
    return text if len(text) >= _SHORTEST else ""
