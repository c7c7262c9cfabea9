"""Removes secrets from text before it reaches a log."""

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY", re.IGNORECASE)
_TOKEN_FILE = "RAY_AUTH_TOKEN_PATH"
_NO_SECRET = ("TOKENIZERS_PARALLELISM", _TOKEN_FILE)
_SHORTEST = 6  # characters: shorter values would blank out ordinary text
_LOGIN = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")
_BEARER = re.compile(r"(?i)(?<=bearer )[A-Za-z0-9._~+/=-]{8,}")
_KNOWN = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,})")
_MASK = "[redacted]"


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
            if (name in names or (_SECRET_NAME.search(name) and name not in _NO_SECRET)) and len(value) >= _SHORTEST
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


def _ray_token(environment: Mapping[str, str]) -> str:
    """The token in the file that Ray reads; "" if there is none, or this process may not read it."""
    try:
        text = Path(environment[_TOKEN_FILE]).read_text(encoding="utf-8").strip()
    except (KeyError, OSError, UnicodeDecodeError):
        return ""
    return text if len(text) >= _SHORTEST else ""
