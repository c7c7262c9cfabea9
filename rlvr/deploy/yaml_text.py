"""YAML that every parser reads alike, and comments that no value can end."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

# Words that no YAML parser, of version 1.1 or 1.2, takes for a number, a date or a boolean.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*(?:[./-][A-Za-z0-9_]+)*")
_WIDTH = 120


class _Dumper(yaml.SafeDumper):
    """Quotes every string that is not a plain word, and writes scripts as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if "\n" in text:
        style = "|"
    else:
        style = None if _PLAIN.fullmatch(text) and len(text) > 1 else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _string)


def yaml_file(documents: Sequence[Mapping[str, Any] | list[Any]], *, comments: Iterable[str]) -> str:
    """The text of a YAML file with comment lines at its top."""
    parts = [yaml.dump(_plain(document), Dumper=_Dumper, sort_keys=False, width=_WIDTH) for document in documents]
    return comment_block(comments) + "---\n".join(parts)


def _plain(document: Mapping[str, Any] | list[Any]) -> dict[str, Any] | list[Any]:
    return document if isinstance(document, list) else dict(document)


def comment_block(lines: Iterable[str]) -> str:
    """Lines that begin with `#`; a line break or another control character in one is shown, not written."""
    return "".join(f"# {one_line(line)}".rstrip() + "\n" for line in lines)


def one_line(text: str) -> str:
    """The text with control characters and line separators escaped.

    >>> one_line("a\\nb")
    'a\\\\nb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def dollars_doubled(text: str) -> str:
    """The text where `$` begins a substitution, in compose files and in `env` of Kubernetes.

    >>> dollars_doubled("$HOME $(id)")
    '$$HOME $$(id)'
    """
    return text.replace("$", "$$")
