"""Changes of environment variables that end with a context."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def environment_restored(*names: str) -> Iterator[None]:
    """Context at whose end these environment variables have the values that they have now; unset ones are removed."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
