"""`key=value` pairs as Hydra and our own command line take them."""

import re
from collections.abc import Iterable

from pydantic import JsonValue

from rlvr.config.document.yaml_lines import plain_scalar, read_inline
from rlvr.errors import ConfigError
from rlvr.imports.records import Given

PAIR = re.compile(r"(\+\+|\+|~)?(?:--)?([A-Za-z_][\w.\-/]*(?:@[\w.]+)?)=(.*)", re.DOTALL)


def read_overrides(pairs: Iterable[str], *, place: str) -> dict[str, Given]:
    """The keys of `key=value` pairs; Hydra's `+` and `++` in front of a key are dropped.

    Raises: ConfigError for text that is no such pair.

    >>> read_overrides(["+data.seed=1", "trainer.logger=[console,wandb]"], place="x")["trainer.logger"].value
    ['console', 'wandb']
    """
    found: dict[str, Given] = {}
    for pair in pairs:
        match = PAIR.fullmatch(pair)
        if match is None:
            raise ConfigError(f"{place}: {pair!r} is no key=value, such as trainer.nnodes=2")
        found[match[2]] = Given(value=value_of(match[3]), place=place)
    return found


def value_of(text: str) -> JsonValue:
    """The value of an override: a number, a truth value, null, a list, a mapping, or text.

    >>> [value_of(text) for text in ("1e-6", "True", "null", "['a', 'b']", "~/data/x.parquet")]
    [1e-06, True, None, ['a', 'b'], '~/data/x.parquet']
    """
    stripped = text.strip()
    if stripped[:1] in {"[", "{", "'", '"'}:
        flow = re.sub(r"(\w):(?=[^\s/\\])", r"\1: ", stripped) if stripped.startswith("{") else stripped
        try:
            return read_inline(flow, path=(), override=text).values.get("value")
        except ConfigError:
            return text
    try:
        return plain_scalar(stripped)
    except ValueError:
        return text
