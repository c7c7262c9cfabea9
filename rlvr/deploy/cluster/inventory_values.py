"""Checks of single values of the inventory, and the ports in them.

A check returns the value, or raises ValueError with what is expected.
"""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from urllib.parse import urlsplit

from rlvr.telemetry.redaction import Redactor, got, is_secret_name

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_WORD = re.compile(r"[^-\s]\S*")
_SIZE = re.compile(r"[1-9][0-9]*[mg]")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGNMENT = re.compile(r"(?:--env|-e)?[=\s]*([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_PORT_FLAG = re.compile(r"-[46AaCfGgKkMNnqsTtVvXxYy]*p\s*(.*)")  # -p may follow flags without a value, as in -4p 2222
_PORT_OPTION = re.compile(r"(?:-o)?\s*Port(?:\s*=\s*|\s+)\"?(\d+)\"?\s*", re.IGNORECASE)
_SSH_PORT = 22
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
_TOKEN_OF_RAY = "RAY_AUTH_TOKEN"
_FILE_VARIABLES = {"HF_TOKEN": "HF_TOKEN_PATH"}  # the hub's own name for it; others: NAME_FILE


def host_name(text: str) -> str:
    """A name of a cluster or a host."""
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"must be lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit{got(text)}"
        )
    return text


def ssh_destination(text: str) -> str:
    """What ssh takes as its destination, or nothing."""
    if text and not _WORD.fullmatch(text):
        raise ValueError(f"must be one word such as ops@host; ports belong in ssh_options{got(text)}")
    return text


def image_name(text: str) -> str:
    """The name of an image, or nothing."""
    if text and not _WORD.fullmatch(text):
        raise ValueError(f"must be one word such as rlvr:gpu{got(text)}")
    return text


def memory_size(text: str) -> str:
    """A size with its unit, m or g."""
    if not _SIZE.fullmatch(text):
        raise ValueError(f"must be a whole number followed by m or g, such as 24g or 512m{got(text)}")
    return text


def absolute_path(text: str) -> str:
    """A path that can be mounted, or nothing."""
    if text and not text.startswith("/"):
        raise ValueError(f"must be an absolute path, the same on all hosts{got(text)}")
    if ":" in text or "," in text:
        raise ValueError(f"must contain no ':' and no ',', which separate mounts{got(text)}")
    return text


def address_of_host(text: str) -> str:
    """The IP address of one host, in its shortest form."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise ValueError(f"must be an IP address, such as 10.0.0.1{got(text)}") from error
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        raise ValueError(f"must be written as IPv4, {address.ipv4_mapped}{got(text)}")
    if address.is_link_local or "%" in text:
        raise ValueError(
            "must be an address that all hosts can reach, such as 10.0.0.1 or fd00::1, neither link-local nor with "
            f"an interface after '%'{got(text)}"
        )
    is_none_of_a_host = address.version == 4 and (address.is_reserved or address in _THIS_NETWORK)
    if address.is_unspecified or address.is_multicast or is_none_of_a_host:
        raise ValueError(f"must be the address of one host, such as 10.0.0.1 or fd00::1{got(text)}")
    return str(address)


def variables_without_secrets(env: Mapping[str, str]) -> Mapping[str, str]:
    """Environment variables, which are visible to every user of a host."""
    for name in env:
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of an environment variable")
    _refuse_secrets([name for name, value in env.items() if _is_secret(name, value)])
    return env


def options_without_secrets(options: Sequence[str]) -> Sequence[str]:
    """Options of `docker run`, which may set variables with `-e NAME=VALUE`."""
    found = [match for word in options if (match := _ASSIGNMENT.fullmatch(word))]
    _refuse_secrets([match[1] for match in found if _is_secret(match[1], match[2])])
    return options


def ssh_ports(options: Sequence[str], destinations: Sequence[str]) -> tuple[int, ...]:
    """The ports in options of ssh (`-p N`, `-o Port=N`, in any form that ssh takes) and in `ssh://HOST:N`, and 22.

    A port that only `~/.ssh/config` names is not found.

    >>> ssh_ports(["-p", "2222"], ["ops@a", "ssh://ops@b:40022"])
    (22, 2222, 40022)
    """
    found = {_SSH_PORT}
    for word, following in pairwise([*options, ""]):
        if flags := _PORT_FLAG.fullmatch(word):
            found |= _port(flags[1] or following)
        elif option := _PORT_OPTION.fullmatch(following if word == "-o" else word):
            found |= _port(option[1])
    for destination in destinations:
        if destination.startswith("ssh://"):
            found |= _port(_port_of_url(destination))
    return tuple(sorted(found))


def _is_secret(name: str, value: str) -> bool:
    """Whether the name is that of a secret, or the value looks like a token or a URL with a login."""
    return is_secret_name(name) or Redactor(environment={})(value) != value


def _refuse_secrets(names: Sequence[str]) -> None:
    if _TOKEN_OF_RAY in names:
        raise ValueError(
            f"{_TOKEN_OF_RAY} is not set here: `rlvr cluster up` makes the token and copies it to the hosts"
        )
    if names:
        files = ", ".join(_FILE_VARIABLES.get(name, f"{name}_FILE") for name in names)
        raise ValueError(
            f"{', '.join(names)} would be visible on command lines; this file is not for secrets. Write the value to a "
            f"file with mode 600 that the nodes can read, for example in the shared folder, and set {files} to its path"
        )


def _port_of_url(url: str) -> str:
    try:
        return str(urlsplit(url).port or "")
    except ValueError:  # ssh refuses it too
        return ""


def _port(text: str) -> set[int]:
    text = text.strip()
    is_port = text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 1 << 16
    return {int(text)} if is_port else set()
