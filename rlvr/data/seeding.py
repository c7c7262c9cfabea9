"""Seeds that are the same in every process: never `hash()`, never the time."""

import hashlib


def stable_hash(*parts: object) -> int:
    """64 bits of blake2b over the parts, the same in every process and version of Python.

    >>> stable_hash(0, "sums", 1) == stable_hash(0, "sums", 1) != stable_hash(0, "sums", 2)
    True
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
